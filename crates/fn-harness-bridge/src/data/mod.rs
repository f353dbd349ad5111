//! `BeamFnData`: elements to and from workers, one stream for each worker, or for each bundle that it runs at once.

mod outbound;

use std::sync::Arc;

use beam_model::fn_execution::beam_fn_data_server::BeamFnData;
use beam_model::fn_execution::{Elements, elements};
use tonic::{Request, Response, Status, Streaming};

use crate::error::BridgeError;
use crate::server::Shared;
use crate::worker::{OutboxStream, WorkerSession};

pub(crate) use outbound::{Blocks, FeedError, feed};

/// The metadata key by which a worker says which of its streams this is.
const DATA_STREAM_ID: &str = "data_stream_id";

pub(crate) struct DataService {
    shared: Arc<Shared>,
}

impl DataService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BeamFnData for DataService {
    type DataStream = OutboxStream<Elements>;

    async fn data(
        &self,
        request: Request<Streaming<Elements>>,
    ) -> Result<Response<Self::DataStream>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        let name =
            request.metadata().get(DATA_STREAM_ID).and_then(|name| name.to_str().ok()).unwrap_or_default();
        let Some(frames) = worker.data.attach(name) else {
            return Err(BridgeError::StreamTaken { worker: worker.id.clone(), stream: "data" }.into());
        };
        tokio::spawn(read_elements(worker, request.into_inner()));
        Ok(Response::new(frames))
    }
}

/// Hands a worker's output to its bundles for as long as its data stream lasts. The stream is not
/// opened again, so its end is the worker's.
async fn read_elements(worker: Arc<WorkerSession>, mut frames: Streaming<Elements>) {
    loop {
        let message = tokio::select! {
            () = worker.finished.cancelled() => return,
            message = frames.message() => message,
        };
        let received = match message {
            Ok(Some(frame)) => take(&worker, frame).await,
            Ok(None) => Err("ended its data stream".to_owned()),
            Err(status) => Err(format!("lost its data stream ({})", status.message())),
        };
        if let Err(why) = received {
            worker.end(why);
            return;
        }
    }
}

/// Receives a frame where that may wait for a disk, if it may have to. The worker's next frame is not read before: so a worker
/// that writes faster than the disk is held back.
async fn take(worker: &Arc<WorkerSession>, frame: Elements) -> Result<(), String> {
    let waits = |data: &elements::Data| {
        worker.bundle(&data.instruction_id).is_some_and(|bundle| bundle.may_wait(data.data.len()))
    };
    if !frame.data.iter().any(waits) {
        return receive(worker, frame);
    }
    let worker = worker.clone();
    let received = tokio::task::spawn_blocking(move || receive(&worker, frame));
    received.await.unwrap_or_else(|error| Err(format!("sent data that could not be taken in ({error})")))
}

/// Errors: the worker broke the protocol; how, to follow "worker X …".
fn receive(worker: &WorkerSession, frame: Elements) -> Result<(), String> {
    for data in frame.data {
        match worker.bundle(&data.instruction_id) {
            Some(bundle) => bundle.receive(data)?,
            None => late(worker, "data", &data.instruction_id)?,
        }
    }
    for timers in frame.timers {
        match worker.bundle(&timers.instruction_id) {
            Some(bundle) => bundle.receive_timers(timers)?,
            None => late(worker, "timers", &timers.instruction_id)?,
        }
    }
    Ok(())
}

/// Output of a bundle that is over, e.g. because it failed, is of no use; of one that never was, a fault.
fn late(worker: &WorkerSession, what: &str, instruction: &str) -> Result<(), String> {
    if !worker.knows_instruction(instruction) {
        return Err(format!("sent {what} for instruction {instruction:?}, which it was never given"));
    }
    tracing::debug!(worker = %worker.id, %instruction, "{what} of a bundle that is over");
    Ok(())
}
