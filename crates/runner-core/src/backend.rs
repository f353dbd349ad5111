//! What "a backend" means: something that takes a prepared pipeline and runs it.
//!
//! The job service sees only these traits, so that it cannot tell a native run from one on Flink.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use beam_model::pipeline::{MonitoringInfo, Pipeline};

use crate::fault::Fault;
use crate::options::PipelineOptions;
use crate::ports::ArtifactSource;

/// A backend. One serves all jobs of a server.
#[async_trait]
pub trait PortablePipelineRunner: Send + Sync {
    /// The backend's name as users write it, e.g. `native`.
    fn name(&self) -> &'static str;

    /// The options that a pipeline author may give for one job; the answer to
    /// `DescribePipelineOptions`. The Python client drops every flag that is not described.
    fn pipeline_options(&self) -> Vec<PipelineOption>;

    /// Checks the whole pipeline at once and names every part that cannot be run.
    fn prepare(&self, pipeline: &Pipeline, options: &PipelineOptions) -> Result<(), Refusal>;

    /// Starts the job and returns at once; all that follows comes through the invocation's listener
    /// and the result.
    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult>;

    /// The name of the backend on which a job with these options goes on when this process ends; `None` if it ends
    /// with it. Such a job is written down, to be [resumed](Self::resume).
    fn outlives_server(&self, _options: &PipelineOptions) -> Option<&'static str> {
        None
    }

    /// Goes on with a job that [`Self::run`] was given by another process, on the backend that
    /// [`Self::outlives_server`] named then. `None`: there is no such backend here, and the job stays as it is.
    async fn resume(&self, _backend: &str, _job: ResumedJob) -> Option<Arc<dyn PipelineResult>> {
        None
    }
}

/// One job as handed to a backend.
pub struct JobInvocation {
    /// Unique among all jobs of all servers; never the preparation id.
    pub job_id: String,
    /// What the user calls the job.
    pub job_name: String,
    /// The pipeline, its environments' dependencies already rewritten to the staged artifacts.
    pub pipeline: Pipeline,
    pub options: PipelineOptions,
    pub artifacts: Arc<dyn ArtifactSource>,
    pub listener: Arc<dyn JobListener>,
}

/// A job of a process that is no more, as its backend may need to know it.
pub struct ResumedJob {
    /// As in its [`JobInvocation`], and so are name, pipeline and options.
    pub job_id: String,
    pub job_name: String,
    pub pipeline: Pipeline,
    pub options: PipelineOptions,
    /// The last [`JobListener::note`].
    pub note: Option<String>,
    /// What it tells comes after all that was told before.
    pub listener: Arc<dyn JobListener>,
}

/// How a backend tells what its job is doing.
pub trait JobListener: Send + Sync {
    /// Workers are up, or about to be, and elements will move.
    fn running(&self);
    /// A line for the people who watch the job.
    fn message(&self, importance: Importance, text: String);
    /// What the backend wants to be told if it has to [resume](PortablePipelineRunner::resume) the job. The last one
    /// counts. Written down before this returns, but for jobs that nobody resumes.
    fn note(&self, _note: String) {}
}

/// `JobMessage.MessageImportance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Importance {
    Debug,
    Detailed,
    Basic,
    Warning,
    Error,
}

/// A job that has been started.
#[async_trait]
pub trait PipelineResult: Send + Sync {
    /// Asks the job to stop without finishing its work. Asking twice changes nothing.
    fn cancel(&self);
    /// Asks the job to take no new input and to finish what it has.
    fn drain(&self) -> Result<(), Fault>;
    fn metrics(&self) -> MetricResults;
    /// How many bundles are committed so far, if the backend counts them.
    fn bundles_committed(&self) -> Option<u64> {
        None
    }
    /// Waits until the job would go on without this process, or is over; the answer is whether it would.
    async fn handed_over(&self) -> bool {
        false
    }
    /// Waits for the end: workers stopped, temporary files gone. May be awaited by many.
    async fn finished(&self) -> Outcome;
}

/// The metrics of a job, both ways of counting. Final once the job has finished.
#[derive(Clone, Debug, Default)]
pub struct MetricResults {
    /// Of all bundles, those that failed or still run included.
    pub attempted: Vec<MonitoringInfo>,
    /// Of committed bundles alone.
    pub committed: Vec<MonitoringInfo>,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    Done,
    Cancelled,
    Drained,
    Failed(Fault),
}

/// One entry of `DescribePipelineOptions`.
#[derive(Clone, Debug)]
pub struct PipelineOption {
    pub name: &'static str,
    pub kind: OptionKind,
    pub description: &'static str,
    pub default: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    String,
    Boolean,
    Integer,
}

/// Why a pipeline is not accepted: every fault and every unsupported part of it.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    /// Parts that break a rule of the model, e.g. a transform that reads a PCollection nobody made.
    pub invalid: Vec<Objection>,
    /// Parts that are good Beam, but that this backend cannot run.
    pub unsupported: Vec<Objection>,
}

/// One fault of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// The user's name of the transform, or the id of another component (`PCollection x`, `coder c`).
    pub place: String,
    pub reason: String,
}

impl Refusal {
    pub fn is_empty(&self) -> bool {
        self.invalid.is_empty() && self.unsupported.is_empty()
    }

    pub fn invalid(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.invalid.push(Objection { place: place.into(), reason: reason.into() });
    }

    pub fn unsupported(&mut self, place: impl Into<String>, reason: impl Into<String>) {
        self.unsupported.push(Objection { place: place.into(), reason: reason.into() });
    }

    /// `Ok` if nothing is wrong.
    pub fn into_result(self) -> Result<(), Refusal> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, title: &str, objections: &[Objection]| -> fmt::Result {
            if objections.is_empty() {
                return Ok(());
            }
            write!(f, "{title}")?;
            for Objection { place, reason } in objections {
                write!(f, "\n  {place}: {reason}")?;
            }
            Ok(())
        };
        write(f, "the pipeline is not valid:", &self.invalid)?;
        if !self.invalid.is_empty() && !self.unsupported.is_empty() {
            writeln!(f)?;
        }
        write(f, "the pipeline asks for what this backend cannot run yet:", &self.unsupported)
    }
}
