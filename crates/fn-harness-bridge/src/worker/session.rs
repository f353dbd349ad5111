//! One worker as the runner sees it, from before it is started until after it is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use beam_model::fn_execution::{InstructionRequest, InstructionResponse, WorkerStatusRequest};
use runner_core::fault::Fault;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::standby::Presence;
use super::{DataStreams, Outbox, RecentLines, Turns};
use crate::bundle::{ActiveBundle, JobContext};
use crate::control::ShortIds;
use crate::environment::EnvironmentSpec;
use crate::worker_status::StatusQueries;

/// A process is reaped within milliseconds of its streams' end; this is for a machine under load.
const EXIT_STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// A worker and its streams. It begins, connects, and is gone: once gone it never comes back, another
/// with another id takes its place.
pub(crate) struct WorkerSession {
    pub(crate) id: String,
    pub(crate) job: Arc<JobContext>,
    pub(crate) environment: Arc<EnvironmentSpec>,
    /// Set when the control stream is there.
    pub(crate) connected: CancellationToken,
    /// Set when the worker can do no more work, whoever wanted that.
    pub(crate) gone: CancellationToken,
    /// Set when nothing of the worker is left; its logging stream ends then at the latest.
    pub(crate) finished: CancellationToken,
    pub(crate) control: Arc<Outbox<InstructionRequest>>,
    pub(crate) data: DataStreams,
    pub(crate) status_requests: Outbox<WorkerStatusRequest>,
    pub(crate) status_queries: StatusQueries,
    pub(crate) recent_lines: RecentLines,
    pub(crate) logging: LoggingState,
    pub(crate) short_ids: ShortIds,
    pub(crate) turns: Turns,
    why_gone: OnceLock<String>,
    exit: Exit,
    bundles: Mutex<HashMap<String, Arc<ActiveBundle>>>,
    answers: Mutex<HashMap<String, oneshot::Sender<InstructionResponse>>>,
    instructions: AtomicU64,
    /// Whether it has asked for, and so been told, the job's pipeline options.
    provisioned: AtomicBool,
}

/// Whether there is a logging stream to wait for.
#[derive(Default)]
pub(crate) struct LoggingState {
    pub(crate) opened: CancellationToken,
    pub(crate) ended: CancellationToken,
}

#[derive(Default)]
struct Exit {
    status: OnceLock<String>,
    known: CancellationToken,
}

impl WorkerSession {
    /// Of a worker that is about to be started for the job.
    pub(crate) fn new(id: String, job: Arc<JobContext>, environment: Arc<EnvironmentSpec>) -> Self {
        Self::with(id, Presence::new(), job, environment)
    }

    /// Of a worker that may be there already.
    pub(super) fn with(
        id: String,
        presence: Presence,
        job: Arc<JobContext>,
        environment: Arc<EnvironmentSpec>,
    ) -> Self {
        let Presence { connected, gone, control } = presence;
        let finished = CancellationToken::new();
        Self {
            id,
            job,
            environment,
            connected,
            finished: finished.clone(),
            control,
            data: DataStreams::new(gone.clone()),
            status_requests: Outbox::new(1, finished.clone()),
            gone,
            status_queries: StatusQueries::default(),
            recent_lines: RecentLines::default(),
            logging: LoggingState::default(),
            short_ids: ShortIds::default(),
            turns: Turns::default(),
            why_gone: OnceLock::new(),
            exit: Exit::default(),
            bundles: Mutex::default(),
            answers: Mutex::default(),
            instructions: AtomicU64::new(0),
            provisioned: AtomicBool::new(false),
        }
    }

    /// The worker has been told the pipeline options.
    pub(crate) fn provision(&self) {
        self.provisioned.store(true, Ordering::Relaxed);
    }

    /// Whether it uses what it has read of side inputs in the global window for all later bundles of a
    /// descriptor. Python workers do, but for those whose pipeline options forbid it; a worker that is a thread
    /// of the pipeline's author is never told of options.
    pub(crate) fn keeps_side_inputs(&self) -> bool {
        self.environment.is_python && !self.provisioned.load(Ordering::Relaxed)
    }

    /// Whether it has asked for anything before it was given work, which a worker without a job could not be told.
    pub(crate) fn asks_first(&self) -> bool {
        self.provisioned.load(Ordering::Relaxed) || self.logging.opened.is_cancelled()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Ends the worker's work: its streams end well, its bundles fail. The first reason stays. `why`
    /// completes the sentence "worker X …".
    pub(crate) fn end(&self, why: impl Into<String>) {
        let why = why.into();
        if self.why_gone.set(why).is_err() {
            return;
        }
        tracing::debug!(worker = %self.id, why = self.why_gone.get(), "worker is gone");
        self.gone.cancel();
        let bundles = std::mem::take(&mut *self.bundles.lock().unwrap_or_else(PoisonError::into_inner));
        for bundle in bundles.into_values() {
            bundle.worker_gone();
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes how the worker's process ended, for [`Self::fault`].
    pub(crate) fn exited(&self, status: String) {
        if self.exit.status.set(status).is_ok() {
            self.exit.known.cancel();
        }
    }

    /// The failure of whatever the worker, now gone, was doing.
    pub(crate) async fn fault(&self) -> Fault {
        let mut ending = self.why_gone.get().cloned().unwrap_or_else(|| "is gone".to_owned());
        if self.environment.has_process() {
            // The streams break before the process is reaped.
            tokio::time::timeout(EXIT_STATUS_TIMEOUT, self.exit.known.cancelled()).await.ok();
            match self.exit.status.get() {
                Some(status) if !ending.contains(status) => {
                    ending = format!("{ending}; its process {status}")
                }
                Some(_) | None => {}
            }
        }
        self.describe(&ending)
    }

    /// A failure of this worker, with all that is known of it.
    pub(crate) fn describe(&self, ending: &str) -> Fault {
        let Self { id, environment, recent_lines, .. } = self;
        Fault::environment(format!("worker {id} of {environment} {ending}. {}", recent_lines.describe()))
    }

    /// An id for an instruction, never used before on this worker.
    pub(crate) fn next_instruction(&self, name: &str) -> String {
        format!("{}-{name}", self.instructions.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the instruction was given to this worker at some time. It may be over long since.
    pub(crate) fn knows_instruction(&self, id: &str) -> bool {
        let number = id.split_once('-').and_then(|(number, _)| number.parse::<u64>().ok());
        number.is_some_and(|number| number < self.instructions.load(Ordering::Relaxed))
    }

    /// Has the bundle get what the worker sends for `instruction`. False: the worker is gone.
    pub(crate) fn add_bundle(&self, instruction: &str, bundle: Arc<ActiveBundle>) -> bool {
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: `end` first cancels, then takes the bundles there are.
        if self.is_gone() {
            return false;
        }
        bundles.insert(instruction.to_owned(), bundle);
        true
    }

    pub(crate) fn remove_bundle(&self, instruction: &str) {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner).remove(instruction);
    }

    pub(crate) fn bundle(&self, instruction: &str) -> Option<Arc<ActiveBundle>> {
        self.bundles.lock().unwrap_or_else(PoisonError::into_inner).get(instruction).cloned()
    }

    /// The answer to an instruction that is no bundle, once it comes; an error if the worker is gone.
    pub(crate) fn expect_answer(&self, instruction: &str) -> oneshot::Receiver<InstructionResponse> {
        let (sender, receiver) = oneshot::channel();
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_gone() {
            answers.insert(instruction.to_owned(), sender);
        }
        receiver
    }

    pub(crate) fn take_answer(&self, instruction: &str) -> Option<oneshot::Sender<InstructionResponse>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).remove(instruction)
    }
}
