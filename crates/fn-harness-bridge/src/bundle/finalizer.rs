//! `FinalizeBundle`: the worker is told that its bundle is committed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use beam_model::fn_execution::FinalizeBundleRequest;
use beam_model::fn_execution::instruction_request::Request;
use runner_core::fault::Fault;
use runner_core::ports::Finalizer;

use crate::control::{NoAnswer, ask};
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
        let request = Request::FinalizeBundle(FinalizeBundleRequest { instruction_id: bundle });
        match ask(&worker, "finalize", request, timeout).await {
            Ok(answer) if answer.error.is_empty() => Ok(()),
            Ok(answer) => Err(Fault::user(answer.error).fatal()),
            Err(NoAnswer::WorkerGone) => Err(worker.fault().await),
            Err(NoAnswer::Late) => {
                let seconds = timeout.as_secs();
                Err(worker.describe(&format!("did not finalize a bundle within {seconds} s")))
            }
        }
    }
}
