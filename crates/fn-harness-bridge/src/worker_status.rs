//! `BeamFnWorkerStatus`: asks a worker what it is doing, e.g. for a dump of its threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use beam_model::fn_execution::beam_fn_worker_status_server::BeamFnWorkerStatus;
use beam_model::fn_execution::{WorkerStatusRequest, WorkerStatusResponse};
use runner_core::fault::Fault;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use crate::error::BridgeError;
use crate::server::Shared;
use crate::worker::{OutboxStream, WorkerSession};

/// The questions to a worker that it has not answered yet.
#[derive(Default)]
pub(crate) struct StatusQueries {
    asked: AtomicU64,
    waiting: Mutex<HashMap<String, oneshot::Sender<WorkerStatusResponse>>>,
}

pub(crate) struct WorkerStatusService {
    shared: Arc<Shared>,
}

impl WorkerStatusService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BeamFnWorkerStatus for WorkerStatusService {
    type WorkerStatusStream = OutboxStream<WorkerStatusRequest>;

    async fn worker_status(
        &self,
        request: Request<Streaming<WorkerStatusResponse>>,
    ) -> Result<Response<Self::WorkerStatusStream>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        let Some(requests) = worker.status_requests.attach() else {
            return Err(BridgeError::StreamTaken { worker: worker.id.clone(), stream: "status" }.into());
        };
        tokio::spawn(async move {
            let mut responses = request.into_inner();
            loop {
                let response = tokio::select! {
                    () = worker.finished.cancelled() => return,
                    response = responses.message() => response,
                };
                // A worker may do without, and its other streams tell whether it lives.
                let Ok(Some(response)) = response else { return };
                if let Some(waiting) = worker.status_queries.take(&response.id) {
                    // An error here means that nobody waits for it any more.
                    waiting.send(response).ok();
                }
            }
        });
        Ok(Response::new(requests))
    }
}

impl StatusQueries {
    fn add(&self) -> (String, oneshot::Receiver<WorkerStatusResponse>) {
        let id = self.asked.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), sender);
        (id, receiver)
    }

    fn take(&self, id: &str) -> Option<oneshot::Sender<WorkerStatusResponse>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// The worker's own words on what it is doing.
pub(crate) async fn query(worker: &WorkerSession, timeout: Duration) -> Result<String, Fault> {
    let (id, response) = worker.status_queries.add();
    let ask = async {
        worker.status_requests.send(WorkerStatusRequest { id: id.clone() }).await.ok()?;
        response.await.ok()
    };
    let answer = tokio::time::timeout(timeout, ask).await;
    worker.status_queries.take(&id);
    match answer {
        Ok(Some(response)) if response.error.is_empty() => Ok(response.status_info),
        Ok(Some(response)) => Err(worker.describe(&format!("could not tell its status: {}", response.error))),
        Ok(None) => Err(worker.fault().await),
        Err(_) => Err(worker.describe("does not tell its status; not every SDK harness does")),
    }
}
