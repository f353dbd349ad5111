//! A bundle while a worker has it: where its output goes and what is still missing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beam_model::fn_execution::instruction_response::Response;
use beam_model::fn_execution::{InstructionResponse, ProcessBundleResponse, elements};
use runner_core::fault::Fault;
use runner_core::ports::{OutputReceiver, StateHandler};
use tokio::sync::oneshot;

pub(crate) struct ActiveBundle {
    pub(crate) state: Arc<dyn StateHandler>,
    outputs: Arc<dyn OutputReceiver>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Sinks whose last element has not been seen.
    open_sinks: BTreeSet<String>,
    response: Option<ProcessBundleResponse>,
    /// Taken when the bundle has ended, one way or another.
    ending: Option<oneshot::Sender<Ending>>,
}

/// How a bundle ended on its worker.
pub(crate) enum Ending {
    /// The worker has answered and all output is there.
    Done(ProcessBundleResponse),
    /// The worker's `InstructionResponse` has this error.
    Failed(String),
    /// The output was not accepted.
    Refused(Fault),
    WorkerGone,
}

impl ActiveBundle {
    pub(crate) fn new(
        sinks: BTreeSet<String>,
        state: Arc<dyn StateHandler>,
        outputs: Arc<dyn OutputReceiver>,
    ) -> (Arc<Self>, oneshot::Receiver<Ending>) {
        let (sender, receiver) = oneshot::channel();
        let progress = Progress { open_sinks: sinks, response: None, ending: Some(sender) };
        (Arc::new(Self { state, outputs, progress: Mutex::new(progress) }), receiver)
    }

    /// Takes what the worker wrote to a sink.
    ///
    /// Errors: the worker broke the protocol; how, to follow "worker X …".
    pub(crate) fn receive(&self, data: elements::Data) -> Result<(), String> {
        let progress = self.progress();
        if progress.ending.is_none() {
            return Ok(());
        }
        if !progress.open_sinks.contains(&data.transform_id) {
            return Err(format!(
                "sent data for transform {:?} of instruction {}, which is none of its sinks, or after it \
                 had marked the end of that sink's data",
                data.transform_id, data.instruction_id
            ));
        }
        // Not held while the receiver works: the worker's answer must not have to wait for it.
        drop(progress);
        if !data.data.is_empty()
            && let Err(fault) = self.outputs.receive(&data.transform_id, data.data)
        {
            self.progress().end(Ending::Refused(fault));
            return Ok(());
        }
        if data.is_last {
            let mut progress = self.progress();
            progress.open_sinks.remove(&data.transform_id);
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
        for data in response.elements.take().into_iter().flat_map(|elements| elements.data) {
            self.receive(data)?;
        }
        let mut progress = self.progress();
        progress.response = Some(response);
        progress.end_if_complete();
        Ok(())
    }

    pub(crate) fn worker_gone(&self) {
        self.progress().end(Ending::WorkerGone);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn end_if_complete(&mut self) {
        if self.open_sinks.is_empty()
            && let Some(response) = self.response.take()
        {
            self.end(Ending::Done(response));
        }
    }

    fn end(&mut self, ending: Ending) {
        if let Some(sender) = self.ending.take() {
            // An error here means that the bundle was given up meanwhile.
            sender.send(ending).ok();
        }
    }
}
