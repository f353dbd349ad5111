//! One job that is played from memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beam_model::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use beam_model::fn_execution::{Elements, InstructionRequest, InstructionResponse, StartWorkerRequest};
use beam_model::pipeline::ApiServiceDescriptor;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::Status;
use tonic::transport::Channel;

use super::recording::{Recording, ToWorker};

/// The longest job that is measured takes seconds; a worker that is stuck must not keep its client for ever.
const JOB_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Progress {
    Prepared,
    Done,
    Failed(String),
}

pub(super) struct Replay {
    pub(super) id: String,
    pub(super) recording: Arc<Recording>,
    pool: BeamFnExternalWorkerPoolClient<Channel>,
    progress: watch::Sender<Progress>,
    player: Mutex<Player>,
}

/// Where the job is. Channels have no bound: all that goes through them is in memory anyway.
struct Player {
    next_step: usize,
    answered: usize,
    /// None when the job has ended; the streams end with that, and with them the worker.
    control: Option<mpsc::UnboundedSender<InstructionRequest>>,
    data: Option<mpsc::UnboundedSender<Elements>>,
    control_stream: Option<mpsc::UnboundedReceiver<InstructionRequest>>,
    data_stream: Option<mpsc::UnboundedReceiver<Elements>>,
}

impl Replay {
    pub(super) fn new(
        id: String,
        recording: Arc<Recording>,
        pool: BeamFnExternalWorkerPoolClient<Channel>,
    ) -> Self {
        let (control, control_stream) = mpsc::unbounded_channel();
        let (data, data_stream) = mpsc::unbounded_channel();
        let player = Player {
            next_step: 0,
            answered: 0,
            control: Some(control),
            data: Some(data),
            control_stream: Some(control_stream),
            data_stream: Some(data_stream),
        };
        let progress = watch::Sender::new(Progress::Prepared);
        Self { id, recording, pool, progress, player: Mutex::new(player) }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// What is now, and the end.
    pub(super) fn progress_stream(&self) -> ReceiverStream<Progress> {
        let (sender, receiver) = mpsc::channel(2);
        let mut progress = self.progress.subscribe();
        tokio::spawn(async move {
            let now = progress.borrow().clone();
            let ended = now != Progress::Prepared;
            // Errors mean that the client has stopped listening, or that the server ends.
            sender.send(now).await.ok();
            let end = progress.wait_for(|progress| !ended && *progress != Progress::Prepared);
            if !ended && let Ok(end) = end.await.map(|end| end.clone()) {
                sender.send(end).await.ok();
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Waits until the job is over, so that streams end with it.
    pub(super) async fn ended(self: Arc<Self>) {
        let mut progress = self.progress.subscribe();
        // The sender is our own.
        progress.wait_for(|progress| *progress != Progress::Prepared).await.ok();
    }

    fn player(&self) -> MutexGuard<'_, Player> {
        self.player.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the worker, and gives the job up after [`JOB_TIMEOUT`]; the rest follows from what the worker
    /// says.
    pub(super) async fn run(self: Arc<Self>, control_url: String) {
        self.play();
        if self.progress() != Progress::Prepared {
            return;
        }
        let endpoint = Some(ApiServiceDescriptor { url: control_url, authentication: None });
        let worker_id = self.id.clone();
        let request = StartWorkerRequest { worker_id, control_endpoint: endpoint, ..Default::default() };
        match self.pool.clone().start_worker(request).await {
            Ok(response) if response.get_ref().error.is_empty() => {}
            Ok(response) => self.end(Progress::Failed(response.into_inner().error)),
            Err(status) => self.end(Progress::Failed(format!("StartWorker: {}", status.message()))),
        }
        let mut progress = self.progress.subscribe();
        let ended = progress.wait_for(|progress| *progress != Progress::Prepared);
        if tokio::time::timeout(JOB_TIMEOUT, ended).await.is_err() {
            self.end(Progress::Failed(format!("not done after {} s", JOB_TIMEOUT.as_secs())));
        }
    }

    /// Errors: the stream is open already.
    pub(super) fn control_stream(&self) -> Result<UnboundedReceiverStream<InstructionRequest>, Status> {
        let stream = self.player().control_stream.take();
        stream
            .map(UnboundedReceiverStream::new)
            .ok_or_else(|| Status::already_exists("a second control stream"))
    }

    /// Errors: the stream is open already.
    pub(super) fn data_stream(&self) -> Result<UnboundedReceiverStream<Elements>, Status> {
        let stream = self.player().data_stream.take();
        stream.map(UnboundedReceiverStream::new).ok_or_else(|| Status::already_exists("a second data stream"))
    }

    pub(super) fn answered(&self, response: InstructionResponse) {
        if response.error.is_empty() {
            self.player().answered += 1;
            self.play();
        } else {
            self.end(Progress::Failed(response.error));
        }
    }

    /// Of no consequence once the job has ended.
    pub(super) fn worker_gone(&self) {
        self.end(Progress::Failed("the worker left in the middle of the job".to_owned()));
    }

    /// Sends what may be sent by now.
    fn play(&self) {
        let mut player = self.player();
        while let Some(step) = self.recording.steps.get(player.next_step)
            && step.after <= player.answered
        {
            player.next_step += 1;
            // Nobody to receive it means that the worker is gone, which is noticed elsewhere.
            match &step.message {
                ToWorker::Instruction(request) => {
                    player.control.as_ref().map(|control| control.send((**request).clone()).ok());
                }
                ToWorker::Elements(elements) => {
                    player.data.as_ref().map(|data| data.send(elements.clone()).ok());
                }
            }
        }
        let done =
            player.next_step == self.recording.steps.len() && player.answered == self.recording.instructions;
        drop(player);
        if done {
            self.end(Progress::Done);
        }
    }

    /// The first end counts.
    fn end(&self, progress: Progress) {
        self.progress.send_if_modified(|current| {
            let first = *current == Progress::Prepared;
            if first {
                *current = progress;
            }
            first
        });
        let mut player = self.player();
        player.control = None;
        player.data = None;
    }
}
