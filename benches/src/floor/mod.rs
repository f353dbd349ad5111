//! The floor of a whole job: the time that its client and worker need by themselves.
//!
//! A job server that plans nothing and computes nothing. The first job it is given passes through to a
//! Beamline server; what that server tells the worker is recorded ([`recording`]). Every later job must
//! be the same one, and has the same instructions, elements and state played to its worker from memory
//! ([`replay`]), each as soon as the worker has answered what came before it when it was recorded. All
//! that can be left out is: options, artifacts, metrics, progress. No runner that gives a job these
//! bundles can end it sooner.
//!
//! Without a server to record from, a job has no bundles: it is DONE when it is run, and its time is
//! what the client takes to hand over a job.
//!
//! One job at a time, on one worker, in an EXTERNAL (or LOOPBACK) environment.

mod endpoints;
mod job_service;
mod recording;
mod replay;
mod worker_pool;
mod worker_services;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beam_model::fn_execution::beam_fn_control_server::BeamFnControlServer;
use beam_model::fn_execution::beam_fn_data_server::BeamFnDataServer;
use beam_model::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use beam_model::fn_execution::beam_fn_external_worker_pool_server::BeamFnExternalWorkerPoolServer;
use beam_model::fn_execution::beam_fn_state_server::BeamFnStateServer;
use beam_model::job_management::job_service_server::JobServiceServer;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use recording::{Recorder, Recording};
use replay::Replay;

/// As wide as Beamline's own, so that a large job is not slower here for want of a window.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Empty until a job was recorded.
type Slot = Arc<Mutex<Option<Arc<Recording>>>>;

/// The answers of one call.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What all services share.
struct Floor {
    /// Where they are reached.
    url: String,
    /// The server that is recorded.
    upstream: Option<Channel>,
    recording: Slot,
    job: Mutex<Option<Job>>,
    jobs: AtomicUsize,
}

#[derive(Clone)]
enum Job {
    Recorded(Arc<RecordedJob>),
    Replayed(Arc<Replay>),
}

/// The job that passes through.
struct RecordedJob {
    upstream: Channel,
    pool: BeamFnExternalWorkerPoolClient<Channel>,
    recorder: Mutex<Recorder>,
    recording: Slot,
}

impl RecordedJob {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called with the job's end: from now on jobs are replayed.
    fn finish(&self) -> Result<(), Status> {
        let recording =
            std::mem::take(&mut *self.recorder()).finish().map_err(Status::failed_precondition)?;
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(recording));
        Ok(())
    }
}

/// Serves until the listener fails. `upstream` is the `host:port` of the Beamline server to record; without
/// it jobs have no bundles.
///
/// Errors: the listener's, and an `upstream` that is no address.
pub async fn serve(listener: TcpListener, upstream: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let upstream = upstream.map(channel).transpose()?;
    let recording = upstream.is_none().then(Arc::default);
    let url = listener.local_addr()?.to_string();
    let recording = Arc::new(Mutex::new(recording));
    let shared =
        Arc::new(Floor { url, upstream, recording, job: Mutex::default(), jobs: AtomicUsize::new(0) });
    macro_rules! service {
        ($server:ident) => {
            $server::from_arc(shared.clone())
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX)
        };
    }
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service!(JobServiceServer))
        .add_service(service!(BeamFnExternalWorkerPoolServer))
        .add_service(service!(BeamFnControlServer))
        .add_service(service!(BeamFnDataServer))
        .add_service(service!(BeamFnStateServer))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// Connects at the first call.
fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_lazy())
}

impl Floor {
    fn job(&self) -> Result<Job, Status> {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        job.ok_or_else(|| Status::failed_precondition("no job was prepared here"))
    }

    fn set_job(&self, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
    }

    fn next_id(&self) -> String {
        format!("floor-{}", self.jobs.fetch_add(1, Ordering::Relaxed))
    }

    fn recording(&self) -> Option<Arc<Recording>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
