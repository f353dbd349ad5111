//! How a job is ended before its time: cancelled, or drained by Flink's *stop with savepoint*.

use std::time::Duration;

use runner_core::backend::Importance;
use tokio::time::{Instant, sleep};

use super::note::Note;
use super::{Context, Wish};
use crate::flink::options::DrainTo;
use crate::flink::rest::StopRequest;

/// A request that was not heard is repeated that often.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);
/// How often a job that has ended is asked for its savepoint, which Flink has told of by then but for an accident.
const LAST_TRIES: u32 = 10;
/// So much longer each time; none before the first.
const BETWEEN_LAST_TRIES: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Stop {
    cancel: Asked,
    drain: Drain,
}

#[derive(Debug, Default)]
enum Asked {
    #[default]
    Not,
    /// It was not heard.
    Again(Instant),
    Heard,
}

#[derive(Debug, Default)]
enum Drain {
    #[default]
    Not,
    Again(Instant),
    /// Flink is at it; the id to ask with.
    Underway(String),
    /// It has a savepoint.
    Done,
    /// It was refused, once and for all.
    Refused,
}

impl Stop {
    /// Of a job for which Flink was asked for a savepoint before.
    pub(super) fn underway(request_id: String) -> Self {
        Self { drain: Drain::Underway(request_id), ..Self::default() }
    }

    /// Whether the job was drained.
    pub(super) fn has_drained(&self) -> bool {
        match self.drain {
            Drain::Underway(_) | Drain::Done => true,
            Drain::Not | Drain::Again(_) | Drain::Refused => false,
        }
    }

    /// The job has ended: where its savepoint is, if it has one, may not have been told yet.
    pub(super) async fn see_the_savepoint(&mut self, context: &Context) {
        let mut tries = 0;
        while matches!(self.drain, Drain::Underway(_)) && tries < LAST_TRIES {
            sleep(BETWEEN_LAST_TRIES * tries).await;
            self.drain(context).await;
            tries += 1;
        }
    }

    /// Does what is wished, as far as it is not done yet.
    pub(super) async fn go_on(&mut self, context: &Context, wish: Wish) {
        match wish {
            Wish::GoOn => {}
            Wish::Drain => self.drain(context).await,
            Wish::Cancel => self.cancel(context).await,
        }
    }

    async fn cancel(&mut self, context: &Context) {
        match self.cancel {
            Asked::Heard => return,
            Asked::Again(at) if Instant::now() < at => return,
            Asked::Not | Asked::Again(_) => {}
        }
        self.cancel = match context.rest.cancel(&context.flink_job_id).await {
            Ok(()) => Asked::Heard,
            // 409: it has ended already. What it has ended as is seen next.
            Err(error) if error.is_passing() => Asked::Again(Instant::now() + BETWEEN_TRIES),
            Err(error) => {
                tracing::debug!("a job that is to be cancelled: {error}");
                Asked::Again(Instant::now() + BETWEEN_TRIES)
            }
        };
    }

    async fn drain(&mut self, context: &Context) {
        let Context { rest, settings, flink_job_id, listener, .. } = context;
        match &self.drain {
            Drain::Not => {}
            Drain::Again(at) if Instant::now() >= *at => {}
            Drain::Again(_) | Drain::Done | Drain::Refused => return,
            Drain::Underway(request) => {
                let Ok(progress) = rest.stop_progress(flink_job_id, request).await else { return };
                match progress.result() {
                    None => {}
                    Some(Ok(savepoint)) => {
                        let text = format!("stopped; the savepoint is {savepoint}");
                        listener.message(Importance::Basic, text);
                        self.drain = Drain::Done;
                    }
                    Some(Err(why)) => self.refuse(context, &why),
                }
                return;
            }
        }
        let request = StopRequest {
            drain: settings.drain == DrainTo::End,
            target_directory: settings.savepoint_target.clone(),
        };
        match rest.stop(flink_job_id, &request).await {
            Ok(request_id) => {
                let text = "Flink stops the job with a savepoint".to_owned();
                listener.message(Importance::Detailed, text);
                Note::stop_asked(context, request_id.clone()).write(context);
                self.drain = Drain::Underway(request_id);
            }
            Err(error) if error.is_passing() => {
                self.drain = Drain::Again(Instant::now() + BETWEEN_TRIES);
            }
            Err(error) => self.refuse(context, &error.to_string()),
        }
    }

    /// The job runs on, and says why.
    fn refuse(&mut self, context: &Context, why: &str) {
        let text = format!("the job is not drained and runs on: {why}");
        context.listener.message(Importance::Warning, text);
        self.drain = Drain::Refused;
    }
}
