//! A worker of a worker pool that has no job yet. To start an SDK takes long (that written in Python needs more than a
//! second of a core for its imports), so the pools of a job are asked for such workers when it has ended, and the next
//! job on the same pool finds them connected. They know nothing of any job before they are leased to one, and go
//! with it: what a job has left in a process is never seen by another.

use std::sync::Arc;
use std::time::Duration;

use beam_model::fn_execution::InstructionRequest;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Outbox, OutboxStream, WorkerSession};
use crate::bundle::JobContext;
use crate::environment::{EnvironmentSpec, WorkerPool};
use crate::server::Shared;

/// Instructions are few and small.
const CONTROL_MESSAGES: usize = 16;

/// How a worker is reached before it is known what for.
pub(crate) struct Presence {
    /// Set when the control stream is there.
    pub(crate) connected: CancellationToken,
    /// Set when the worker can do no more work, whoever wanted that.
    pub(crate) gone: CancellationToken,
    pub(crate) control: Arc<Outbox<InstructionRequest>>,
}

impl Presence {
    /// Of a worker that is about to be started.
    pub(crate) fn new() -> Self {
        let gone = CancellationToken::new();
        let control = Arc::new(Outbox::new(CONTROL_MESSAGES, gone.clone()));
        Self { connected: CancellationToken::new(), gone, control }
    }
}

pub(crate) struct Standby {
    pub(crate) id: String,
    pub(crate) pool: WorkerPool,
    /// When it has to be connected.
    pub(crate) deadline: Instant,
    presence: Presence,
    /// What it is once it has a job.
    leased: SetOnce<Arc<WorkerSession>>,
}

/// What has become of a standby.
pub(crate) enum Fate<'a> {
    Leased(&'a Arc<WorkerSession>),
    Gone,
}

impl Standby {
    pub(super) fn new(id: String, pool: WorkerPool, deadline: Instant) -> Self {
        Self { id, pool, deadline, presence: Presence::new(), leased: SetOnce::new() }
    }

    /// The instructions that it will get; `None` if it has its control stream already.
    pub(crate) fn connect(&self) -> Option<OutboxStream<InstructionRequest>> {
        let instructions = self.presence.control.attach()?;
        self.presence.connected.cancel();
        Some(instructions)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.presence.connected.is_cancelled()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.presence.gone.is_cancelled()
    }

    /// It does not live any more.
    pub(crate) fn end(&self, why: &str) {
        tracing::debug!(worker = %self.id, why, "a worker that stood by is gone");
        self.presence.gone.cancel();
        // See `begin`: whoever comes second sees what the first has set.
        if let Some(worker) = self.leased.get() {
            worker.end(why);
        }
    }

    /// The same worker with a job.
    pub(super) fn session(
        &self,
        job: Arc<JobContext>,
        environment: Arc<EnvironmentSpec>,
    ) -> Arc<WorkerSession> {
        let Presence { connected, gone, control } = &self.presence;
        let presence =
            Presence { connected: connected.clone(), gone: gone.clone(), control: control.clone() };
        Arc::new(WorkerSession::with(self.id.clone(), presence, job, environment))
    }

    /// From now on what it says is said to the session.
    pub(super) fn begin(&self, worker: &Arc<WorkerSession>) {
        // A standby is leased once only.
        self.leased.set(worker.clone()).ok();
        if self.is_gone() {
            worker.end("was lost while it stood by");
        }
    }

    pub(crate) async fn fate(&self) -> Fate<'_> {
        tokio::select! {
            biased;
            worker = self.leased.wait() => Fate::Leased(worker),
            () = self.presence.gone.cancelled() => Fate::Gone,
        }
    }

    /// Starts it, and has it stand by for `time` at most.
    pub(super) async fn attend(self: Arc<Self>, time: Duration, shared: Arc<Shared>) {
        let standbys = &shared.registry.standbys;
        let started = self.pool.start_worker(&self.id, &shared.endpoint);
        let failure = match tokio::time::timeout_at(self.deadline, started).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some("did not answer StartWorker in time".to_owned()),
        };
        if let Some(failure) = failure {
            self.end(&failure);
        }
        let why = tokio::select! {
            fate = self.fate() => match fate {
                // It ends as any other worker of the job.
                Fate::Leased(_) => return,
                Fate::Gone => "is gone",
            },
            () = standbys.closing() => "is not needed any more",
            () = self.time_out(time) => "was not needed in time",
        };
        // If it is not there any more it has been leased just now.
        if standbys.forget(&self) {
            self.end(why);
            // Nobody waits for a worker that has no job: how its end goes is of no interest.
            self.pool.stop_worker(&self.id, shared.config.worker_stop_timeout).await.ok();
        }
    }

    /// Waits until it has not connected in time, or has stood by for long enough.
    async fn time_out(&self, time: Duration) {
        let connected = self.presence.connected.cancelled();
        if tokio::time::timeout_at(self.deadline, connected).await.is_ok() {
            tokio::time::sleep(time).await;
        }
    }
}
