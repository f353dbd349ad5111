//! A bundle while a worker has it: where its output goes and what is still missing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beam_model::fn_execution::instruction_response::Response;
use beam_model::fn_execution::{InstructionResponse, ProcessBundleResponse, elements};
use runner_core::fault::Fault;
use runner_core::meters::Meters;
use runner_core::ports::{OutputReceiver, StateHandler, TimerBlock};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::timers::TimerFamily;

pub(crate) struct ActiveBundle {
    pub(crate) state: Arc<dyn StateHandler>,
    outputs: Arc<dyn OutputReceiver>,
    meters: Arc<Meters>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// What the end of has not been seen.
    open: BTreeSet<OutputStream>,
    response: Option<ProcessBundleResponse>,
    /// When the first was there of the response and the end of all output.
    finishing: Option<Instant>,
    /// Messages of output so far.
    received: u64,
    /// The last word of the worker on whether it is processing elements, rather than waiting for more of them or beginning or
    /// ending the bundle (`ProcessBundleProgressResponse.consuming_received_data`).
    consuming: Option<bool>,
    /// Taken when the bundle has ended, one way or another.
    ending: Option<oneshot::Sender<Ending>>,
}

/// What a worker writes during a bundle and marks the end of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OutputStream {
    /// The elements for a data sink.
    Sink(String),
    /// The timers of a family that are set and cleared. Ended also if there are none.
    Timers(TimerFamily),
}

/// How a bundle ended on its worker.
pub(crate) enum Ending {
    /// The worker has answered and all output is there. By `finishing` it had processed all it was going to.
    Done {
        response: ProcessBundleResponse,
        finishing: Instant,
    },
    /// The worker's `InstructionResponse` has this error.
    Failed(String),
    /// The output was not accepted.
    Refused(Fault),
    WorkerGone,
}

impl ActiveBundle {
    pub(crate) fn new(
        streams: BTreeSet<OutputStream>,
        state: Arc<dyn StateHandler>,
        outputs: Arc<dyn OutputReceiver>,
        meters: Arc<Meters>,
    ) -> (Arc<Self>, oneshot::Receiver<Ending>) {
        let (sender, receiver) = oneshot::channel();
        let progress = Progress {
            open: streams,
            response: None,
            finishing: None,
            received: 0,
            consuming: None,
            ending: Some(sender),
        };
        (Arc::new(Self { state, outputs, meters, progress: Mutex::new(progress) }), receiver)
    }

    /// Ends once the worker has answered and then been silent for `limit`, though it has not marked the end
    /// of all its output. Says so, to follow "worker X …".
    pub(crate) async fn silent_after_answer(&self, limit: Duration) -> String {
        let mut before = None;
        loop {
            tokio::time::sleep(limit).await;
            let progress = self.progress();
            let answered = progress.response.is_some().then_some(progress.received);
            if answered.is_some() && answered == before {
                let open = &progress.open;
                return format!(
                    "answered a bundle and then, for {} s, did not mark the end of its output: {open:?}",
                    limit.as_secs()
                );
            }
            before = answered;
        }
    }

    /// Takes what the worker wrote to a sink.
    ///
    /// Errors: the worker broke the protocol; how, to follow "worker X …".
    pub(crate) fn receive(&self, data: elements::Data) -> Result<(), String> {
        let elements::Data { instruction_id, transform_id, data, is_last } = data;
        let stream = OutputStream::Sink(transform_id.clone());
        self.meters.from_workers.bytes.add(data.len() as u64);
        let taken = self.take(stream, is_last, || match data.is_empty() {
            true => Ok(()),
            false => self.outputs.receive(&transform_id, data),
        });
        taken.map_err(|Unexpected| {
            format!(
                "sent data for transform {transform_id:?} of instruction {instruction_id}, which is none of \
                 its sinks, or after it had marked the end of that sink's data"
            )
        })
    }

    /// Takes timers that the worker set or cleared. Errors as for [`Self::receive`].
    pub(crate) fn receive_timers(&self, timers: elements::Timers) -> Result<(), String> {
        let elements::Timers { instruction_id, transform_id, timer_family_id, timers, is_last } = timers;
        let family = TimerFamily { transform_id, family_id: timer_family_id };
        self.meters.from_workers.bytes.add(timers.len() as u64);
        let taken = self.take(OutputStream::Timers(family.clone()), is_last, || {
            let TimerFamily { transform_id, family_id } = family.clone();
            match timers.is_empty() {
                true => Ok(()),
                false => self.outputs.receive_timers(TimerBlock { transform_id, family_id, timers }),
            }
        });
        let TimerFamily { transform_id, family_id } = &family;
        taken.map_err(|Unexpected| {
            format!(
                "sent timers of family {family_id:?} of transform {transform_id:?} of instruction \
                 {instruction_id}, which has no such family, or after it had marked the end of that \
                 family's timers"
            )
        })
    }

    /// Hands on a part of an open stream, and closes the stream if the part is its last.
    fn take(
        &self,
        stream: OutputStream,
        is_last: bool,
        hand_on: impl FnOnce() -> Result<(), Fault>,
    ) -> Result<(), Unexpected> {
        let mut progress = self.progress();
        progress.received += 1;
        if progress.ending.is_none() {
            return Ok(());
        }
        if !progress.open.contains(&stream) {
            return Err(Unexpected);
        }
        // Not held while the receiver works: the worker's answer must not have to wait for it.
        drop(progress);
        if let Err(fault) = hand_on() {
            self.progress().end(Ending::Refused(fault));
            return Ok(());
        }
        if is_last {
            let mut progress = self.progress();
            progress.open.remove(&stream);
            if progress.open.is_empty() {
                progress.finishing.get_or_insert_with(Instant::now);
            }
            progress.end_if_complete();
        }
        Ok(())
    }

    /// Takes the worker's answer to `ProcessBundle`. Errors as for [`Self::receive`].
    pub(crate) fn answer(&self, answer: InstructionResponse) -> Result<(), String> {
        if !answer.error.is_empty() {
            self.progress().end(Ending::Failed(answer.error));
            return Ok(());
        }
        let Some(Response::ProcessBundle(mut response)) = answer.response else {
            return Err(format!(
                "answered instruction {}, a ProcessBundle, with something else",
                answer.instruction_id
            ));
        };
        if let Some(elements) = response.elements.take() {
            elements.data.into_iter().try_for_each(|data| self.receive(data))?;
            elements.timers.into_iter().try_for_each(|timers| self.receive_timers(timers))?;
        }
        let mut progress = self.progress();
        progress.response = Some(response);
        progress.finishing.get_or_insert_with(Instant::now);
        progress.end_if_complete();
        Ok(())
    }

    /// Whether it may take long now to [receive](Self::receive) this.
    pub(crate) fn may_wait(&self, data: &elements::Data) -> bool {
        self.outputs.may_wait(&data.transform_id, data.data.len() as u64)
    }

    /// What the worker says of itself, if it says so.
    pub(super) fn consuming(&self) -> Option<bool> {
        self.progress().consuming
    }

    pub(super) fn set_consuming(&self, consuming: Option<bool>) {
        self.progress().consuming = consuming;
    }

    pub(crate) fn worker_gone(&self) {
        self.progress().end(Ending::WorkerGone);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a stream that is not open.
struct Unexpected;

impl Progress {
    fn end_if_complete(&mut self) {
        if self.open.is_empty()
            && let Some(response) = self.response.take()
        {
            let finishing = self.finishing.unwrap_or_else(Instant::now);
            self.end(Ending::Done { response, finishing });
        }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(sender) = self.ending.take() {
            // An error here means that the bundle was given up meanwhile.
            sender.send(ending).ok();
        }
    }
}
