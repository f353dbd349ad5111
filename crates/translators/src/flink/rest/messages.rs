//! Requests and answers of Flink's REST API (1.18 to 2.x), each with the fields that are read here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `GET /config`.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterConfig {
    /// e.g. `1.19.3`.
    #[serde(rename = "flink-version")]
    pub(crate) flink_version: String,
    /// `web.refresh-interval`, in milliseconds: how old answers may be that are about a job's graph, which are its details,
    /// exceptions and accumulators.
    #[serde(rename = "refresh-interval", default)]
    refresh_interval: Option<u64>,
}

impl ClusterConfig {
    /// If it says so.
    pub(crate) fn refresh_interval(&self) -> Option<Duration> {
        self.refresh_interval.map(Duration::from_millis)
    }
}

/// One setting of `GET /jobmanager/config`, which has those that differ from Flink's own.
#[derive(Debug, Deserialize)]
pub(crate) struct Setting {
    key: String,
    #[serde(default)]
    value: String,
}

/// Whether each class of Flink is that of the cluster, even if a job brings one of the same name.
pub(crate) fn prefers_own_flink(settings: &[Setting]) -> bool {
    const FIRST_OF_ALL: &str = "classloader.parent-first-patterns.default";
    let first = settings.iter().find(|setting| setting.key == FIRST_OF_ALL);
    first.is_none_or(|first| {
        first
            .value
            .split([';', ','])
            .any(|pattern| matches!(pattern.trim(), "org.apache.flink." | "org.apache.flink"))
    })
}

/// `GET /overview`.
#[derive(Debug, Deserialize)]
pub(crate) struct Overview {
    pub(crate) taskmanagers: u64,
    #[serde(rename = "slots-total")]
    pub(crate) slots_total: u64,
    #[serde(rename = "slots-available")]
    pub(crate) slots_available: u64,
}

/// `POST /jars/upload`.
#[derive(Debug, Deserialize)]
pub(crate) struct Uploaded {
    pub(crate) filename: String,
}

/// `GET /jars`.
#[derive(Debug, Deserialize)]
pub(crate) struct Jars {
    pub(crate) files: Vec<JarFile>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct JarFile {
    pub(crate) id: String,
    /// As it was called when it was uploaded.
    pub(crate) name: String,
}

/// Body of `POST /jars/:id/run`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunRequest {
    pub(crate) entry_class: &'static str,
    /// The id that the job is to have: a request whose answer was lost can be repeated without a second job.
    pub(crate) job_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) savepoint_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allow_non_restored_state: Option<bool>,
}

/// The answer to it.
#[derive(Debug, Deserialize)]
pub(crate) struct Started {
    pub(crate) jobid: String,
}

/// `GET /jobs/:id/status`, which is of this moment, unlike [`JobDetails`].
#[derive(Debug, Deserialize)]
pub(crate) struct JobStatus {
    pub(crate) status: FlinkJobState,
}

/// `GET /jobs/overview`: all jobs of the cluster, as they are at this moment.
#[derive(Debug, Deserialize)]
pub(crate) struct JobsOverview {
    #[serde(default)]
    pub(crate) jobs: Vec<JobOverview>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct JobOverview {
    pub(crate) jid: String,
    /// How many of its tasks are in each state, in small letters.
    #[serde(default)]
    tasks: BTreeMap<String, u64>,
}

impl JobOverview {
    /// Whether a TaskManager has, or had, a task of it.
    pub(crate) fn is_placed(&self) -> bool {
        let placed = ["deploying", "initializing", "running", "finished", "reconciling"];
        placed.iter().any(|state| self.tasks.get(*state).is_some_and(|tasks| *tasks > 0))
    }
}

/// `GET /jobs/:id`. It may be as old as [`ClusterConfig::refresh_interval`].
#[derive(Debug, Deserialize)]
pub(crate) struct JobDetails {
    pub(crate) state: FlinkJobState,
    /// When the job last came into each state, in milliseconds since 1970; 0 for never.
    #[serde(default)]
    pub(crate) timestamps: BTreeMap<String, i64>,
    #[serde(default)]
    pub(crate) vertices: Vec<Vertex>,
}

impl JobDetails {
    /// When the job was last restarted; `None` if it never was.
    pub(crate) fn last_restart(&self) -> Option<i64> {
        self.timestamps.get("RESTARTING").copied().filter(|time| *time > 0)
    }
}

/// One operator of a job.
#[derive(Debug, Deserialize)]
pub(crate) struct Vertex {
    #[serde(default)]
    pub(crate) parallelism: u64,
}

/// Flink's `JobStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum FlinkJobState {
    Initializing,
    Created,
    Running,
    Failing,
    Failed,
    Cancelling,
    Canceled,
    Finished,
    Restarting,
    Suspended,
    Reconciling,
    /// One that this program does not know yet; surely not an end.
    #[serde(other)]
    Other,
}

impl FlinkJobState {
    /// In Flink's words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FlinkJobState::Initializing => "INITIALIZING",
            FlinkJobState::Created => "CREATED",
            FlinkJobState::Running => "RUNNING",
            FlinkJobState::Failing => "FAILING",
            FlinkJobState::Failed => "FAILED",
            FlinkJobState::Cancelling => "CANCELLING",
            FlinkJobState::Canceled => "CANCELED",
            FlinkJobState::Finished => "FINISHED",
            FlinkJobState::Restarting => "RESTARTING",
            FlinkJobState::Suspended => "SUSPENDED",
            FlinkJobState::Reconciling => "RECONCILING",
            FlinkJobState::Other => "in a state that is not known here",
        }
    }

    /// If no other comes after it.
    pub(crate) fn end(self) -> Option<End> {
        match self {
            FlinkJobState::Finished => Some(End::Finished),
            FlinkJobState::Canceled => Some(End::Canceled),
            FlinkJobState::Failed => Some(End::Failed),
            FlinkJobState::Initializing
            | FlinkJobState::Created
            | FlinkJobState::Running
            | FlinkJobState::Failing
            | FlinkJobState::Cancelling
            | FlinkJobState::Restarting
            | FlinkJobState::Suspended
            | FlinkJobState::Reconciling
            | FlinkJobState::Other => None,
        }
    }
}

/// A state that is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Canceled,
    Failed,
}

/// `GET /jobs/:id/exceptions`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct JobExceptions {
    /// The stack trace of what ended the job; null if nothing did.
    #[serde(default, rename = "root-exception")]
    pub(crate) root: Option<String>,
    #[serde(default, rename = "exceptionHistory")]
    pub(crate) history: ExceptionHistory,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ExceptionHistory {
    /// Newest first.
    #[serde(default)]
    pub(crate) entries: Vec<ExceptionEntry>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExceptionEntry {
    #[serde(default)]
    pub(crate) stacktrace: String,
    /// Flink's name of the task, which names Beam's transforms; null for what no task threw.
    #[serde(default, rename = "taskName")]
    pub(crate) task_name: Option<String>,
}

/// `GET /jobs/:id/accumulators`.
#[derive(Debug, Deserialize)]
pub(crate) struct Accumulators {
    #[serde(default, rename = "user-task-accumulators")]
    pub(crate) of_tasks: Vec<Accumulator>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Accumulator {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
}

/// Body of `POST /jobs/:id/stop`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StopRequest {
    /// Whether all windows close and all timers fire before the end.
    pub(crate) drain: bool,
    /// Where the savepoint goes; the cluster's own folder if there is none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_directory: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Triggered {
    #[serde(rename = "request-id")]
    pub(crate) request_id: String,
}

/// `GET /jobs/:id/savepoints/:request`.
#[derive(Debug, Deserialize)]
pub(crate) struct StopProgress {
    status: StopStatus,
    #[serde(default)]
    operation: Option<StopOperation>,
}

#[derive(Debug, Deserialize)]
struct StopStatus {
    id: String,
}

#[derive(Debug, Deserialize)]
struct StopOperation {
    #[serde(default)]
    location: Option<String>,
    #[serde(default, rename = "failure-cause")]
    failure_cause: Option<FailureCause>,
}

#[derive(Debug, Deserialize)]
struct FailureCause {
    #[serde(default, rename = "stack-trace")]
    stack_trace: String,
}

impl StopProgress {
    /// `None` while Flink is at it; then the savepoint, or why there is none.
    pub(crate) fn result(&self) -> Option<Result<String, String>> {
        if self.status.id != "COMPLETED" {
            return None;
        }
        let operation = self.operation.as_ref()?;
        match (&operation.location, &operation.failure_cause) {
            (Some(location), _) => Some(Ok(location.clone())),
            (None, Some(cause)) => Some(Err(cause.stack_trace.clone())),
            (None, None) => None,
        }
    }
}

/// What Flink says when it refuses.
#[derive(Debug, Deserialize)]
pub(super) struct Errors {
    #[serde(default)]
    pub(super) errors: Vec<String>,
}
