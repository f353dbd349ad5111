//! Processing-time timers of a stage that gets nothing more.
//!
//! There is nothing left to wait for, so all that are set fire at once. What those set fires in a next turn, which
//! comes when as much time again has passed as since the end of the input: who waits for something outside the
//! pipeline has it, and who sets a timer for ever does not fill its output with firings. After a limit there is one
//! turn more; then the rest is given up. See docs/decisions/0008-last-processing-time-timers.md.

use std::time::Duration;

use beam_model::time::{EventTime, ProcessingTime};

use super::{Engine, EngineAction};
use crate::backend::Outcome;
use crate::fault::Fault;
use crate::plan::{Node, NodeId};

/// How long turns go on if nothing else is said.
pub const LAST_TIMERS: Duration = Duration::from_secs(60);
/// From the end of the input to the second turn, in milliseconds.
const FIRST_WAIT: i64 = 10;
/// Beyond so many doublings it is the limit that counts.
const MOST_DOUBLINGS: u32 = 40;

/// Which timers fire now, whatever their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Those that were set before this many others.
    pub(super) set_before: u64,
    /// Also those whose key has an earlier one that must wait.
    pub(super) last: bool,
}

/// What is to be done with the timers that are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Fire(Turn),
    Wait(ProcessingTime),
    GiveUp,
}

/// The turns of one stage, by the machine's clock.
#[derive(Debug)]
pub(super) struct LastTurns {
    /// When the input was at its end.
    since: ProcessingTime,
    waits: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Turn(Turn),
    /// Until the next one.
    Wait(ProcessingTime),
}

impl LastTurns {
    /// `set`: how many timers have been set so far.
    pub(super) fn new(now: ProcessingTime, set: u64) -> Self {
        Self { since: now, waits: 0, state: State::Turn(Turn { set_before: set, last: false }) }
    }

    /// `fires`: whether some timer that is set fires in a turn.
    pub(super) fn next(
        &mut self,
        now: ProcessingTime,
        limit: Duration,
        set: u64,
        fires: impl Fn(Turn) -> bool,
    ) -> Next {
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let end = self.since.saturating_add(limit);
        match self.state {
            State::Turn(turn) if fires(turn) => Next::Fire(turn),
            State::Turn(turn) if turn.last => Next::GiveUp,
            State::Turn(_) => {
                self.waits += 1;
                let wait = FIRST_WAIT.saturating_mul(1 << self.waits.min(MOST_DOUBLINGS));
                let until = self.since.saturating_add(wait).min(end);
                self.state = State::Wait(until);
                Next::Wait(until)
            }
            State::Wait(until) if now < until => Next::Wait(until),
            State::Wait(until) => {
                let turn = Turn { set_before: set, last: until >= end };
                self.state = State::Turn(turn);
                Next::Fire(turn)
            }
        }
    }
}

impl<B: Clone> Engine<B> {
    /// Looks at all stages that have nothing but processing-time timers to do any more.
    pub(super) fn take_last_turns(&mut self) {
        let (now, limit) = (self.clock.wall(), self.last_timers);
        let mut given_up = Vec::new();
        for (id, stage) in &mut self.stages {
            match stage.last_turn(now, limit) {
                Some(Next::Wait(until)) => self.clock.stage_waits(*id, until),
                Some(Next::GiveUp) => given_up.push(*id),
                Some(Next::Fire(_)) | None => {}
            }
        }
        for id in given_up {
            self.give_up_timers(id);
        }
        self.settle();
    }

    /// Who drains a job wants it to end with what there is; else it is not known whether all is done.
    fn give_up_timers(&mut self, id: NodeId) {
        if !self.draining {
            self.end(Outcome::Failed(Fault::user(self.why_given_up(id)).fatal()));
            return;
        }
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let count = stage.drop_processing_timers();
        self.actions.push(EngineAction::TimersDropped { node: id, count });
        self.changed.insert(id);
    }

    fn why_given_up(&self, id: NodeId) -> String {
        let name = match &self.plan.nodes[id.0] {
            Node::Stage(stage) => match &stage.keyed {
                Some(keyed) => self.plan.transform_names.get(&keyed.transform).unwrap_or(&stage.spec.name),
                None => &stage.spec.name,
            },
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::GroupByKey { .. }
            | Node::AwaitSideInputs { .. }
            | Node::Flatten { .. }
            | Node::Redistribute { .. } => "",
        };
        format!(
            "{name} goes on setting processing-time timers {} s after the end of its input, so that the job cannot \
             end; have it set none when nothing is left to do, give it more time (--last_timers_seconds), or \
             drain the job, which leaves them out",
            self.last_timers.as_secs()
        )
    }
}

/// Whether a stage with this watermark gets nothing more.
pub(super) fn is_over(watermark: EventTime) -> bool {
    watermark == EventTime::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    #[test]
    fn each_turn_comes_after_twice_the_time_and_the_last_one_at_the_limit() {
        let mut turns = LastTurns::new(ProcessingTime::from_millis(1000), 7);
        let turn = Turn { set_before: 7, last: false };
        let at = |turns: &mut LastTurns, now: i64, fires: bool| {
            turns.next(ProcessingTime::from_millis(now), LIMIT, 9, |_| fires)
        };
        assert_eq!(at(&mut turns, 1001, true), Next::Fire(turn));
        for until in [1020, 1040, 1080] {
            assert_eq!(at(&mut turns, 1002, false), Next::Wait(ProcessingTime::from_millis(until)));
            assert_eq!(at(&mut turns, until - 1, true), Next::Wait(ProcessingTime::from_millis(until)));
            let turn = Turn { set_before: 9, last: false };
            assert_eq!(at(&mut turns, until, true), Next::Fire(turn));
        }
        assert_eq!(at(&mut turns, 1080, false), Next::Wait(ProcessingTime::from_millis(1100)));
        let last = Turn { set_before: 9, last: true };
        assert_eq!(at(&mut turns, 1100, true), Next::Fire(last));
        assert_eq!(at(&mut turns, 1200, true), Next::Fire(last));
        assert_eq!(at(&mut turns, 1200, false), Next::GiveUp);
    }
}
