//! `BeamFnData`: elements to and from workers, one stream for each worker, or for each bundle that it runs at once.

mod buffers;
mod outbound;
mod receiving;
mod sending;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use beam_model::fn_execution::beam_fn_data_server::SERVICE_NAME;
use beam_model::fn_execution::{Elements, elements};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{self, HeaderMap};
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::server::NamedService;

use crate::error::BridgeError;
use crate::server::Shared;
use crate::worker::{OutboxStream, WorkerSession};
use buffers::Buffers;
use receiving::Messages;
use sending::Sending;

pub(crate) use outbound::{Blocks, FeedError, feed};

/// The metadata key by which a worker says which of its streams this is.
const DATA_STREAM_ID: &str = "data_stream_id";
/// The one method of the service, after its name.
const METHOD: &str = "/Data";

/// The service. Nearly all bytes of a job go through here, so it reads and writes its messages itself: what is generated
/// would copy each on its way out, and take new memory for every one.
#[derive(Clone)]
pub(crate) struct DataService {
    shared: Arc<Shared>,
    buffers: Arc<Buffers>,
}

impl DataService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, buffers: Arc::default() }
    }

    /// Begins to read a worker's stream; returns what it is sent.
    fn data(&self, headers: HeaderMap, body: Body) -> Result<OutboxStream<Elements>, Status> {
        let metadata = MetadataMap::from_headers(headers);
        let worker = self.shared.registry.worker(&metadata)?;
        let name = metadata.get(DATA_STREAM_ID).and_then(|name| name.to_str().ok()).unwrap_or_default();
        let Some(frames) = worker.data.attach(name) else {
            return Err(BridgeError::StreamTaken { worker: worker.id.clone(), stream: "data" }.into());
        };
        tokio::spawn(read_elements(worker, Messages::new(body, self.buffers.clone())));
        Ok(frames)
    }

    fn answer(&self, request: http::Request<Body>) -> http::Response<Body> {
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        if method != Some(METHOD) {
            return Status::unimplemented("BeamFnData has no such method").into_http();
        }
        let (parts, body) = request.into_parts();
        match self.data(parts.headers, body) {
            Ok(frames) => {
                let mut response = http::Response::new(Body::new(Sending::new(frames)));
                response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
                response
            }
            Err(status) => status.into_http(),
        }
    }
}

impl NamedService for DataService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for DataService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = self.answer(request);
        Box::pin(std::future::ready(Ok(response)))
    }
}

/// Hands a worker's output to its bundles for as long as its data stream lasts. The stream is not
/// opened again, so its end is the worker's.
async fn read_elements(worker: Arc<WorkerSession>, mut messages: Messages) {
    loop {
        let message = tokio::select! {
            () = worker.finished.cancelled() => return,
            message = messages.next() => message,
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
        worker.bundle(&data.instruction_id).is_some_and(|bundle| bundle.may_wait(data))
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
