//! One job, from `Run` on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use beam_model::job_management::{self, JobInfo, JobStateEvent};
use beam_model::pipeline::Pipeline;
use prost_types::Struct;
use runner_core::backend::{Importance, JobListener, MetricResults, Outcome, PipelineResult};

use super::events::{EventCursor, JobEvents};
use super::journal::{Description, Journal, WrittenDown};
use super::metrics_size::{self, Fitting};
use super::{JobDescription, JobState};
use crate::error::JobServiceError;

/// A job that has been run: what it is, how far it is, and how to reach it.
pub(crate) struct Job {
    id: String,
    preparation_id: String,
    name: String,
    options: Struct,
    pipeline: Arc<Pipeline>,
    started: SystemTime,
    events: Arc<JobEvents>,
    phase: Mutex<Phase>,
}

/// What of the backend there is to speak to.
enum Phase {
    /// Nothing yet; the wish to cancel is kept.
    Starting {
        cancel: bool,
    },
    Running(Arc<dyn PipelineResult>),
    Ended(MetricResults),
}

/// A job as the binary shows it.
#[derive(Clone, Debug)]
pub struct JobSnapshot {
    pub id: String,
    pub name: String,
    pub state: JobState,
    pub started: SystemTime,
    /// When it ended, if it has.
    pub ended: Option<SystemTime>,
    /// While it runs on a backend that counts them.
    pub bundles_committed: Option<u64>,
}

impl JobSnapshot {
    /// How long it has run, or did.
    pub fn elapsed(&self) -> Duration {
        let end = self.ended.unwrap_or_else(SystemTime::now);
        end.duration_since(self.started).unwrap_or_default()
    }
}

impl Job {
    /// One that has just come. With a journal it is written down from now on.
    pub(crate) fn new(description: JobDescription, journal: Option<Journal>) -> Self {
        let JobDescription { id, preparation_id, name, options, pipeline } = description;
        let events = Arc::new(JobEvents::new(journal));
        events.move_to(JobState::Starting);
        let phase = Mutex::new(Phase::Starting { cancel: false });
        Self { id, preparation_id, name, options, pipeline, started: SystemTime::now(), events, phase }
    }

    /// One of a server that is no more.
    pub(crate) fn restore(written: WrittenDown) -> Self {
        let WrittenDown { description, events, metrics, journal, .. } = written;
        let Description { job_id, preparation_id, job_name, options, pipeline, started, .. } = description;
        let phase = match metrics {
            Some(metrics) => {
                Phase::Ended(MetricResults { attempted: metrics.attempted, committed: metrics.committed })
            }
            None => Phase::Starting { cancel: false },
        };
        Self {
            id: job_id,
            preparation_id,
            name: job_name,
            options: options.unwrap_or_default(),
            pipeline: Arc::new(pipeline.unwrap_or_default()),
            started: started.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or_else(SystemTime::now),
            events: Arc::new(JobEvents::restore(events, journal)),
            phase: Mutex::new(phase),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn options(&self) -> &Struct {
        &self.options
    }

    pub(crate) fn preparation_id(&self) -> &str {
        &self.preparation_id
    }

    pub(crate) fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    pub(crate) fn state(&self) -> JobState {
        self.events.job_state()
    }

    pub(crate) fn state_event(&self) -> JobStateEvent {
        self.events.state()
    }

    pub(crate) fn events(&self) -> EventCursor {
        self.events.cursor()
    }

    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    pub(crate) fn ended(&self) -> Option<SystemTime> {
        self.events.ended()
    }

    /// Removes what was written down of it.
    pub(crate) fn forget(&self) {
        self.events.forget();
    }

    /// Waits until the job would go on without this process; `false` if it would not.
    pub(crate) async fn handed_over(&self) -> bool {
        if !self.events.are_written_down() {
            return false;
        }
        let result = match &*self.phase() {
            Phase::Running(result) => Arc::clone(result),
            Phase::Starting { .. } | Phase::Ended(_) => return false,
        };
        result.handed_over().await
    }

    /// What the backend tells its news to. It holds the job's events alone, so that a backend that keeps
    /// it does not keep the job.
    pub(crate) fn listener(&self) -> Arc<dyn JobListener> {
        Arc::new(Listener { events: Arc::clone(&self.events) })
    }

    pub(crate) fn info(&self) -> JobInfo {
        JobInfo {
            job_id: self.id.clone(),
            job_name: self.name.clone(),
            pipeline_options: Some(self.options.clone()),
            state: self.state().to_proto().into(),
        }
    }

    pub(crate) fn snapshot(&self) -> JobSnapshot {
        let bundles_committed = match &*self.phase() {
            Phase::Running(result) => result.bundles_committed(),
            Phase::Starting { .. } | Phase::Ended(_) => None,
        };
        JobSnapshot {
            id: self.id.clone(),
            name: self.name.clone(),
            state: self.state(),
            started: self.started,
            ended: self.events.ended(),
            bundles_committed,
        }
    }

    /// Those of the moment while the job runs, the final ones afterwards; not more than clients take.
    pub(crate) fn metrics(&self) -> MetricResults {
        let result = match &*self.phase() {
            Phase::Starting { .. } => return MetricResults::default(),
            Phase::Running(result) => Arc::clone(result),
            Phase::Ended(metrics) => return metrics.clone(),
        };
        metrics_size::fit(result.metrics()).metrics
    }

    /// Asks the job to stop, and tells its state. Changes nothing for a job that has ended.
    pub(crate) fn cancel(&self) -> JobState {
        let state = self.events.move_to(JobState::Cancelling);
        if state != JobState::Cancelling {
            return state;
        }
        let result = match &mut *self.phase() {
            Phase::Starting { cancel } => {
                *cancel = true;
                None
            }
            Phase::Running(result) => Some(Arc::clone(result)),
            Phase::Ended(_) => None,
        };
        if let Some(result) = result {
            result.cancel();
        }
        state
    }

    /// Asks the job to finish with what it has, and tells its state.
    pub(crate) fn drain(&self) -> Result<JobState, JobServiceError> {
        let state = self.state();
        match state {
            JobState::Draining => return Ok(state),
            JobState::Starting | JobState::Running => {}
            JobState::Stopped
            | JobState::Drained
            | JobState::Cancelling
            | JobState::Cancelled
            | JobState::Failed
            | JobState::Done => {
                return Err(JobServiceError::NothingToDrain { job_id: self.id.clone(), state });
            }
        }
        let result = match &*self.phase() {
            Phase::Running(result) => Arc::clone(result),
            Phase::Starting { .. } | Phase::Ended(_) => {
                return Err(JobServiceError::NothingToDrain { job_id: self.id.clone(), state });
            }
        };
        result.drain().map_err(|fault| JobServiceError::CannotDrain { job_id: self.id.clone(), fault })?;
        Ok(self.events.move_to(JobState::Draining))
    }

    /// Tells the backend, which has taken the job up again, what was asked for before.
    pub(super) fn ask_again(&self, result: &dyn PipelineResult) {
        match self.state() {
            JobState::Cancelling => result.cancel(),
            JobState::Draining => {
                if let Err(fault) = result.drain() {
                    self.events.message(Importance::Warning, format!("the job is not drained: {fault}"));
                }
            }
            JobState::Stopped
            | JobState::Starting
            | JobState::Running
            | JobState::Drained
            | JobState::Cancelled
            | JobState::Failed
            | JobState::Done => {}
        }
    }

    /// The backend has started the job.
    pub(super) fn has_started(&self, result: Arc<dyn PipelineResult>) {
        let cancel = {
            let mut phase = self.phase();
            let cancel = matches!(*phase, Phase::Starting { cancel: true });
            *phase = Phase::Running(Arc::clone(&result));
            cancel
        };
        if cancel {
            result.cancel();
        }
    }

    /// The backend is done with the job, clean-up included. The metrics are in place before anyone sees
    /// the terminal state: clients fetch them once, right after it.
    pub(super) fn has_ended(&self, outcome: Outcome, metrics: MetricResults) {
        let Fitting { metrics, left_out } = metrics_size::fit(metrics);
        if self.events.are_written_down() {
            self.events.metrics(job_management::MetricResults {
                attempted: metrics.attempted.clone(),
                committed: metrics.committed.clone(),
            });
        }
        *self.phase() = Phase::Ended(metrics);
        if let Some(left_out) = left_out {
            self.events.message(Importance::Warning, left_out);
        }
        let (state, message) = match outcome {
            Outcome::Done => (JobState::Done, None),
            Outcome::Cancelled => (JobState::Cancelled, None),
            Outcome::Drained => (JobState::Drained, None),
            Outcome::Failed(fault) => (JobState::Failed, Some((Importance::Error, fault.message))),
        };
        self.events.end(state, message);
    }

    pub(crate) async fn wait_for_end(&self) {
        self.events.wait_for_end().await;
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Listener {
    events: Arc<JobEvents>,
}

impl JobListener for Listener {
    fn running(&self) {
        self.events.move_to(JobState::Running);
    }

    fn message(&self, importance: Importance, text: String) {
        self.events.message(importance, text);
    }

    fn note(&self, note: String) {
        self.events.note(note);
    }
}
