//! What workers need besides work: their files, and somewhere to log.

use std::io::Read;
use std::time::SystemTime;

use beam_model::pipeline::ArtifactInformation;

use crate::fault::Fault;

/// The staged files of one job.
pub trait ArtifactSource: Send + Sync {
    /// Opens a staged artifact of this job, as named in its environments' dependencies. Those have the
    /// type `beam:artifact:type:file:v1` and a path that begins with the job's id and a slash.
    ///
    /// Errors: the artifact is none of this job's.
    fn open(&self, artifact: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault>;
}

/// Takes the log lines of a job's workers. Must not block.
pub trait WorkerLogSink: Send + Sync {
    fn log(&self, entry: WorkerLog);
}

/// A `LogEntry`.
#[derive(Clone, Debug)]
pub struct WorkerLog {
    pub severity: LogSeverity,
    pub time: SystemTime,
    pub message: String,
    /// The stack trace that belongs to the message, or empty.
    pub trace: String,
    pub worker_id: String,
    /// The instruction during which it was logged, or empty.
    pub instruction_id: String,
    /// The id of the transform that logged it, or empty.
    pub transform_id: String,
    /// Where in the code, e.g. `file.py:12`, or empty.
    pub location: String,
    pub thread: String,
}

impl WorkerLog {
    /// What is said now, by the worker or of it, with nothing more known.
    pub fn new(worker_id: &str, severity: LogSeverity, message: String) -> Self {
        Self {
            severity,
            time: SystemTime::now(),
            message,
            trace: String::new(),
            worker_id: worker_id.to_owned(),
            instruction_id: String::new(),
            transform_id: String::new(),
            location: String::new(),
            thread: String::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogSeverity {
    Unspecified,
    Trace,
    Debug,
    Info,
    Notice,
    Warn,
    Error,
    Critical,
}
