//! `beam:env:external:v1`: someone else's worker pool, asked to start workers. LOOPBACK is one that
//! runs in the process of the pipeline's author.

use std::sync::Arc;
use std::time::Duration;

use beam_model::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use beam_model::fn_execution::{StartWorkerRequest, StopWorkerRequest};
use beam_model::pipeline::ExternalPayload;
use tonic::Code;
use tonic::transport::Channel;

use super::Launcher;
use crate::{dial, server};

/// One that is named in the same way, down to its parameters, is the same.
#[derive(Clone)]
pub(crate) struct WorkerPool {
    payload: Arc<ExternalPayload>,
    channel: Channel,
}

/// The pool has not answered in time.
pub(crate) struct NoAnswer;

impl PartialEq for WorkerPool {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload
    }
}

impl WorkerPool {
    pub(super) fn launcher(payload: ExternalPayload) -> Launcher {
        let url = payload.endpoint.as_ref().map(|endpoint| endpoint.url.clone()).unwrap_or_default();
        if url.is_empty() {
            return Launcher::Unsupported("names no endpoint of a worker pool".to_owned());
        }
        match dial::endpoint(&url) {
            Ok(endpoint) => {
                Launcher::External(Self { payload: Arc::new(payload), channel: endpoint.connect_lazy() })
            }
            Err(error) => {
                Launcher::Unsupported(format!("has an endpoint {url:?} that is no address: {error}"))
            }
        }
    }

    /// The one that listens there.
    #[cfg(test)]
    pub(crate) fn at(address: &str) -> Self {
        use beam_model::pipeline::ApiServiceDescriptor;

        let endpoint = Some(ApiServiceDescriptor { url: address.to_owned(), authentication: None });
        match Self::launcher(ExternalPayload { endpoint, ..Default::default() }) {
            Launcher::External(pool) => pool,
            Launcher::Process(_) | Launcher::Container(_) | Launcher::Unsupported(_) => {
                panic!("{address} is no address")
            }
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        self.payload.endpoint.as_ref().map_or("", |endpoint| &endpoint.url)
    }

    fn client(&self) -> BeamFnExternalWorkerPoolClient<Channel> {
        BeamFnExternalWorkerPoolClient::new(self.channel.clone())
    }

    /// Errors: what the pool did instead, to follow "the worker pool … ".
    pub(crate) async fn start_worker(
        &self,
        worker_id: &str,
        endpoint: &server::Endpoint,
    ) -> Result<(), String> {
        let request = StartWorkerRequest {
            worker_id: worker_id.to_owned(),
            control_endpoint: Some(endpoint.descriptor()),
            logging_endpoint: Some(endpoint.descriptor()),
            artifact_endpoint: Some(endpoint.descriptor()),
            provision_endpoint: Some(endpoint.descriptor()),
            params: self.payload.params.clone(),
        };
        match self.client().start_worker(request).await {
            Ok(response) if response.get_ref().error.is_empty() => Ok(()),
            Ok(response) => Err(format!("refused to start it: {}", response.into_inner().error)),
            Err(status) if status.code() == Code::Unavailable => Err(format!(
                "cannot be reached at {}: {}. For LOOPBACK, the program that submitted the pipeline must \
                 still be running on a machine that this address means the same on; for EXTERNAL, start \
                 the worker pool there",
                self.endpoint(),
                dial::root_cause(&status)
            )),
            Err(status) => Err(format!("failed with {:?}: {}", status.code(), status.message())),
        }
    }

    /// Asks the pool to stop the worker. Its streams are closed already, so that a worker which only
    /// waits for that has begun to end; failures are of no consequence.
    pub(crate) async fn stop_worker(&self, worker_id: &str, timeout: Duration) -> Result<(), NoAnswer> {
        let request = StopWorkerRequest { worker_id: worker_id.to_owned() };
        let stopped = tokio::time::timeout(timeout, self.client().stop_worker(request)).await;
        if let Err(status) = stopped.map_err(|_| NoAnswer)? {
            tracing::debug!(worker_id, %status, "StopWorker failed");
        }
        Ok(())
    }
}
