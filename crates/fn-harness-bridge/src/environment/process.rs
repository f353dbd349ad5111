//! `beam:env:process:v1`: a command on this machine, run once for each worker.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::ProcessPayload;
use runner_core::ports::{LogSeverity, WorkerLog};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Launcher;
use crate::server::Shared;
use crate::worker::WorkerSession;

/// How long a process may take to end of itself once its streams are closed: a harness that ends so
/// has sent its last log lines.
const GRACE: Duration = Duration::from_millis(500);
/// How long the last lines may take to come through the pipes of a process that has ended. Children
/// that it left behind may hold the pipes open for ever.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(200);
/// How long it may take to clear up after a process.
const CLEAR_UP_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct ProcessCommand {
    payload: ProcessPayload,
}

/// A worker's process and the task that waits for it.
pub(crate) struct RunningProcess {
    stop: CancellationToken,
    watcher: JoinHandle<()>,
}

impl ProcessCommand {
    pub(super) fn launcher(payload: ProcessPayload) -> Launcher {
        if payload.command.is_empty() {
            return Launcher::Unsupported("names no command".to_owned());
        }
        Launcher::Process(Self { payload })
    }

    pub(super) fn command(&self) -> &str {
        &self.payload.command
    }

    /// Errors: what is wrong, to follow "worker … of environment …".
    pub(super) fn start(
        &self,
        worker: Arc<WorkerSession>,
        shared: &Shared,
    ) -> Result<RunningProcess, String> {
        let mut command = Command::new(&self.payload.command);
        command.args(boot_arguments(&worker.id, shared)).envs(&self.payload.env);
        RunningProcess::spawn(command, worker, shared, None).map_err(|error| {
            format!(
                "could not be started: {error}. The command must be one executable file, without \
                 arguments, on the machine where the runner runs"
            )
        })
    }
}

/// What boot programs of SDKs take (the container contract).
pub(super) fn boot_arguments(worker_id: &str, shared: &Shared) -> [String; 5] {
    let url = shared.endpoint.url();
    [
        format!("--id={worker_id}"),
        format!("--provision_endpoint={url}"),
        format!("--control_endpoint={url}"),
        format!("--logging_endpoint={url}"),
        format!("--artifact_endpoint={url}"),
    ]
}

impl RunningProcess {
    /// `after`: is run once it has ended, however it has.
    pub(super) fn spawn(
        mut command: Command,
        worker: Arc<WorkerSession>,
        shared: &Shared,
        after: Option<Command>,
    ) -> std::io::Result<Self> {
        for variable in &shared.config.not_for_workers {
            command.env_remove(variable);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let lines = [
            child.stdout.take().map(|pipe| tokio::spawn(forward(pipe, worker.clone()))),
            child.stderr.take().map(|pipe| tokio::spawn(forward(pipe, worker.clone()))),
        ];
        let stop = CancellationToken::new();
        let watching = watch(child, worker, stop.clone(), lines);
        let watcher = tokio::spawn(async move {
            watching.await;
            if let Some(after) = after {
                clear_up(after).await;
            }
        });
        Ok(Self { stop, watcher })
    }

    /// Ends the process and its children: by itself, else by SIGTERM, else by SIGKILL.
    pub(super) async fn stop(self, timeout: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(timeout, self.watcher).await.is_err() {
            tracing::warn!("a worker process does not end even when it is killed");
        }
    }
}

async fn watch(
    mut child: Child,
    worker: Arc<WorkerSession>,
    stop: CancellationToken,
    lines: [Option<JoinHandle<()>>; 2],
) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let status = tokio::select! {
        status = child.wait() => status,
        () = stop.cancelled() => end(&mut child, group).await,
    };
    // What it has left behind must not outlive it.
    signal(group, Signal::KILL);
    for reader in lines.into_iter().flatten() {
        tokio::time::timeout(LAST_LINES_TIMEOUT, reader).await.ok();
    }
    let status = status.map_or_else(|error| format!("cannot be waited for: {error}"), describe);
    worker.exited(status.clone());
    worker.end(status);
}

/// That there is nothing left to clear up is no failure.
async fn clear_up(mut command: Command) {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    if tokio::time::timeout(CLEAR_UP_TIMEOUT, quiet.status()).await.is_err() {
        tracing::warn!(?command, "does not end; what it was to clear up may be left");
    }
}

/// Makes the process end, more and more firmly.
async fn end(child: &mut Child, group: Option<Pid>) -> std::io::Result<ExitStatus> {
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return status;
    }
    signal(group, Signal::TERM);
    if let Ok(status) = tokio::time::timeout(GRACE, child.wait()).await {
        return status;
    }
    signal(group, Signal::KILL);
    child.wait().await
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // An error means that there is nobody left.
        kill_process_group(group, signal).ok();
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}

/// Hands on what the process writes to one of its outputs, line by line. Both outputs are Info: an SDK
/// harness prints its ordinary log lines to its standard error.
async fn forward(pipe: impl AsyncRead + Unpin, worker: Arc<WorkerSession>) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        worker.recent_lines.push(text);
        worker.job.logs.log(WorkerLog::new(&worker.id, LogSeverity::Info, text.to_owned()));
    }
}
