//! What can go wrong between here and a Flink cluster.

use std::path::PathBuf;

use runner_core::fault::Fault;

use super::causes;
use super::rest::AccessError;
use super::runner_jars::DownloadError;

#[derive(Debug, thiserror::Error)]
pub enum FlinkError {
    #[error(
        "{given:?} is no address of a Flink cluster: give HOST:PORT of its REST endpoint, e.g. flink-jobmanager:8081, or a URL, e.g. \
         https://gateway/flink{more}"
    )]
    Address { given: String, more: &'static str },
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Whatever is there is not to be talked to so: it is not trusted, or does not trust, or talks otherwise.
    #[error("Flink at {master} is not reached: {reason}")]
    NotReached { master: String, reason: String },
    /// No whole answer: the cluster is away, or too slow.
    #[error("Flink at {master} does not answer {request}: {reason}")]
    Unreachable { master: String, request: String, reason: String },
    /// An answer that is an error.
    #[error("Flink at {master} refuses {request} with status {status}: {reason}")]
    Refused { master: String, request: String, status: u16, reason: String },
    #[error("Flink at {master} answers {request} with something that is no answer to it: {reason}")]
    NotUnderstood { master: String, request: String, reason: String },
    #[error("the Flink runner jar {path} cannot be read: {source} (see --flink-runner-jar)")]
    RunnerJarUnreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is no Flink runner jar of Beam's: {reason} (see --flink-runner-jar)")]
    NotARunnerJar { path: PathBuf, reason: String },
    #[error(
        "the cluster at {master} runs Flink {version}, and no runner jar for it was given, only {given}: start the \
         server with --flink-runner-jar, and Beam's Flink {version} job server jar{otherwise}"
    )]
    NoRunnerJar { master: String, version: String, given: String, otherwise: String },
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("Flink at {master} started the job under an id of its own, {started}, and was told to end it")]
    OtherJob { master: String, started: String },
    #[error("the job's jar cannot be written: {0}")]
    Jar(#[from] std::io::Error),
    #[error("a step on the job's way to Flink broke off, which is a defect of Beamline: {0}")]
    Broken(#[from] tokio::task::JoinError),
    #[error("the pipeline cannot be written as JSON: {0}")]
    Json(String),
    #[error("{0}")]
    Artifact(Fault),
}

impl FlinkError {
    /// Whether the same request may succeed a little later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            // Files were in order when the server started: somebody replaces them.
            FlinkError::Unreachable { .. } | FlinkError::Access(_) => true,
            // No leader yet, or one behind a proxy that has none.
            FlinkError::Refused { status, .. } => matches!(status, 502..=504),
            FlinkError::Address { .. }
            | FlinkError::NotReached { .. }
            | FlinkError::NotUnderstood { .. }
            | FlinkError::RunnerJarUnreadable { .. }
            | FlinkError::NotARunnerJar { .. }
            | FlinkError::NoRunnerJar { .. }
            | FlinkError::Download(_)
            | FlinkError::OtherJob { .. }
            | FlinkError::Jar(_)
            | FlinkError::Broken(_)
            | FlinkError::Json(_)
            | FlinkError::Artifact(_) => false,
        }
    }

    /// The same, with what a user can do about it where that is known.
    pub(super) fn explained(self) -> Self {
        const UNLIKE_CODERS: &str = "Cannot union inputs of different types";
        match self {
            FlinkError::Refused { master, request, status, reason } if reason.contains(UNLIKE_CODERS) => {
                let reason = format!(
                    "a Flatten has inputs of unlike coders, which Flink's portable runner cannot join here; the job runs on \
                     backend native, or with .with_output_types() that are alike. {reason}"
                );
                FlinkError::Refused { master, request, status, reason }
            }
            FlinkError::Refused { master, request, status, reason } => {
                let root = causes::root(&reason);
                let reason = if root == reason.trim() {
                    root
                } else {
                    format!("{root}\n\nThe whole of it:\n{reason}")
                };
                FlinkError::Refused { master, request, status, reason }
            }
            other => other,
        }
    }

    /// Whether Flink knows nothing of what was asked for.
    pub(super) fn is_not_found(&self) -> bool {
        // As Flink answers for the status of a job: it is an error of its own server to it, with status 500.
        const NO_SUCH_JOB: &str = "FlinkJobNotFoundException";
        match self {
            FlinkError::Refused { status, reason, .. } => *status == 404 || reason.contains(NO_SUCH_JOB),
            _ => false,
        }
    }

    /// As the job's failure.
    pub(super) fn into_fault(self) -> Fault {
        match self {
            FlinkError::Artifact(fault) => fault,
            FlinkError::Jar(_) | FlinkError::Broken(_) | FlinkError::Json(_) => {
                Fault::runner(self.to_string())
            }
            FlinkError::Address { .. }
            | FlinkError::Access(_)
            | FlinkError::NotReached { .. }
            | FlinkError::Unreachable { .. }
            | FlinkError::Refused { .. }
            | FlinkError::NotUnderstood { .. }
            | FlinkError::RunnerJarUnreadable { .. }
            | FlinkError::NotARunnerJar { .. }
            | FlinkError::NoRunnerJar { .. }
            | FlinkError::Download(_)
            | FlinkError::OtherJob { .. } => Fault::environment(self.to_string()).fatal(),
        }
    }
}

/// The error with all that caused it: the outermost alone says only that something failed.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}
