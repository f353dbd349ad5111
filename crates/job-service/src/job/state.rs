//! The states of a job and the moves between them.

use std::fmt;

use beam_model::job_management::job_state;

/// `JobState.Enum`, as far as a job here can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    Stopped,
    Starting,
    Running,
    Draining,
    Drained,
    Cancelling,
    Cancelled,
    Failed,
    Done,
}

impl JobState {
    /// Every state there is.
    pub const ALL: [Self; 9] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Drained,
        Self::Cancelling,
        Self::Cancelled,
        Self::Failed,
        Self::Done,
    ];

    /// The legal moves. A job that is asked to cancel or drain may still end in any way: it may have
    /// been done already, or fail over the request.
    pub(crate) fn may_become(self, next: JobState) -> bool {
        use JobState::*;
        match self {
            Stopped => matches!(next, Starting),
            Starting => matches!(next, Running | Draining | Cancelling | Failed),
            Running => matches!(next, Done | Draining | Cancelling | Failed),
            Draining => matches!(next, Drained | Done | Cancelling | Failed),
            Cancelling => matches!(next, Cancelled | Drained | Done | Failed),
            Drained | Cancelled | Failed | Done => false,
        }
    }

    /// The state in which a job must have been to end in this one, if it was not yet.
    pub(crate) fn on_the_way_to(self) -> Option<JobState> {
        use JobState::*;
        match self {
            Cancelled => Some(Cancelling),
            Drained => Some(Draining),
            Done => Some(Running),
            Stopped | Starting | Running | Draining | Cancelling | Failed => None,
        }
    }

    pub fn is_terminal(self) -> bool {
        use JobState::*;
        match self {
            Drained | Cancelled | Failed | Done => true,
            Stopped | Starting | Running | Draining | Cancelling => false,
        }
    }

    /// `None` for a state that no job here can have.
    pub(crate) fn from_proto(state: job_state::Enum) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.to_proto() == state)
    }

    pub(crate) fn to_proto(self) -> job_state::Enum {
        match self {
            JobState::Stopped => job_state::Enum::Stopped,
            JobState::Starting => job_state::Enum::Starting,
            JobState::Running => job_state::Enum::Running,
            JobState::Draining => job_state::Enum::Draining,
            JobState::Drained => job_state::Enum::Drained,
            JobState::Cancelling => job_state::Enum::Cancelling,
            JobState::Cancelled => job_state::Enum::Cancelled,
            JobState::Failed => job_state::Enum::Failed,
            JobState::Done => job_state::Enum::Done,
        }
    }
}

/// Beam's name of the state, e.g. `RUNNING`.
impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_proto().as_str_name())
    }
}

#[cfg(test)]
mod tests {
    use super::JobState::{self, *};

    #[test]
    fn nothing_follows_an_end_and_everything_else_can_end() {
        for state in JobState::ALL {
            let next: Vec<_> = JobState::ALL.into_iter().filter(|&next| state.may_become(next)).collect();
            assert_eq!(next.is_empty(), state.is_terminal(), "{state} → {next:?}");
            assert!(!state.may_become(state), "{state}");
        }
    }

    #[test]
    fn every_end_is_reached_from_every_state_of_a_started_job() {
        for state in JobState::ALL.into_iter().filter(|s| !s.is_terminal() && *s != Stopped) {
            for end in JobState::ALL.into_iter().filter(|s| s.is_terminal()) {
                let direct = state.may_become(end);
                let by_way = end.on_the_way_to().is_some_and(|m| state.may_become(m) && m.may_become(end));
                assert!(direct || by_way, "{state} → {end}");
            }
        }
    }
}
