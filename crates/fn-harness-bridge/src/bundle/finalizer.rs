//! `FinalizeBundle`: the worker is told that its bundle is committed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::{FinalizeBundleRequest, InstructionRequest};
use runner_core::fault::Fault;
use runner_core::ports::Finalizer;

use crate::worker::WorkerSession;

pub(super) struct BundleFinalizer {
    worker: Arc<WorkerSession>,
    /// That of the `ProcessBundle`.
    bundle: String,
    timeout: Duration,
}

impl BundleFinalizer {
    pub(super) fn new(worker: Arc<WorkerSession>, bundle: String, timeout: Duration) -> Self {
        Self { worker, bundle, timeout }
    }
}

#[async_trait]
impl Finalizer for BundleFinalizer {
    async fn finalize(self: Box<Self>) -> Result<(), Fault> {
        let Self { worker, bundle, timeout } = *self;
        let instruction = worker.next_instruction("finalize");
        let answer = worker.expect_answer(&instruction);
        let request = InstructionRequest {
            instruction_id: instruction.clone(),
            request: Some(Request::FinalizeBundle(FinalizeBundleRequest { instruction_id: bundle })),
        };
        if worker.control.send(request).await.is_err() {
            return Err(worker.fault().await);
        }
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) if answer.error.is_empty() => Ok(()),
            Ok(Ok(answer)) => Err(Fault::user(answer.error).fatal()),
            Ok(Err(_)) => Err(worker.fault().await),
            Err(_) => {
                worker.take_answer(&instruction);
                let seconds = timeout.as_secs();
                Err(worker.describe(&format!("did not finalize a bundle within {seconds} s")))
            }
        }
    }
}
