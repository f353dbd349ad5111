//! The Flink backend: a job becomes a *portable jar*, and a Flink cluster runs it.
//!
//! No JVM is needed here. The way of a job: [`supported`] refuses what Beam's Flink runner cannot do,
//! [`runner_jars`] has the runner for the cluster, [`jar`] packs pipeline, options and artifacts behind it, [`rest`] uploads and starts it, and [`job`] watches it to its
//! end, with [`causes`] and [`metrics`] read out of what Flink says. Workers are then the business of Flink's
//! TaskManagers, which start them or dial their pools.
//!
//! What this does not do: run anything itself, or talk to workers.

mod causes;
mod error;
mod jar;
mod job;
mod json;
mod metrics;
mod options;
mod rest;
mod runner_jars;
mod supported;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::{
    JobInvocation, PipelineOption, PipelineResult, PortablePipelineRunner, Refusal, ResumedJob,
};
use runner_core::graph::QueryablePipeline;
use runner_core::options::PipelineOptions;

pub use error::FlinkError;
use jar::RunnerJar;
pub use job::flink_job_id;
use options::FlinkSettings;
use rest::Master;
pub use rest::{AccessError, ClientIdentity, ClusterAccess};
pub use runner_jars::{DownloadError, Downloads, MAVEN_CENTRAL};

/// Has Flink clusters run jobs.
pub struct FlinkRunner {
    config: Arc<FlinkConfig>,
}

/// What the server was told.
#[derive(Clone, Debug, Default)]
pub struct FlinkConfig {
    /// HOST:PORT, or the URL, of the REST endpoint of the cluster for jobs that do not name one.
    pub master: Option<String>,
    pub access: ClusterAccess,
    /// Beam's runner jars, each for a version of Flink. One that does not say its version is for all.
    pub runner_jars: Vec<PathBuf>,
    /// How those are had that were not given; `None`: not at all.
    pub downloads: Option<Downloads>,
    /// Where a job's own files are put together before they are uploaded.
    pub temp_dir: PathBuf,
    pub patience: Patience,
    /// For jobs that do not say.
    pub jobs: JobsOnFlink,
}

impl FlinkConfig {
    /// The server's own cluster.
    fn own_master(&self) -> Result<Option<Master>, FlinkError> {
        self.master.as_deref().map(Master::parse).transpose()
    }
}

/// Who has a job that runs in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobsOnFlink {
    /// The server, which watches it to its end.
    #[default]
    Attached,
    /// Flink alone. To the server, and its client, it is done as soon as it runs.
    Detached,
}

/// How long a cluster may be of no use before a job fails over it.
#[derive(Clone, Debug)]
pub struct Patience {
    /// One that does not answer when a job comes: it may just be starting.
    pub submitting: Duration,
    /// One that has the job and does not answer: a JobManager may be moved to another machine.
    pub running: Duration,
    /// One that does not know the job: a JobManager that has become the leader has to read its jobs first.
    pub job_unknown: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            submitting: Duration::from_secs(90),
            running: Duration::from_secs(300),
            job_unknown: Duration::from_secs(30),
        }
    }
}

impl FlinkRunner {
    /// # Errors
    /// The address is none, a file for access to it is of no use, a jar is no runner jar, or none could ever be downloaded.
    pub fn new(config: FlinkConfig) -> Result<Self, FlinkError> {
        config.access.check(config.own_master()?.as_ref())?;
        if let Some(downloads) = &config.downloads {
            downloads.check()?;
        }
        for path in &config.runner_jars {
            let jar = RunnerJar::open(path)?;
            tracing::info!(jar = %path.display(), flink = jar.flink_version(), "Flink runner jar");
        }
        Ok(Self { config: Arc::new(config) })
    }
}

#[async_trait]
impl PortablePipelineRunner for FlinkRunner {
    fn name(&self) -> &'static str {
        "flink"
    }

    fn pipeline_options(&self) -> Vec<PipelineOption> {
        options::describe()
    }

    fn prepare(&self, pipeline: &Pipeline, options: &PipelineOptions) -> Result<(), Refusal> {
        let mut refusal = Refusal::default();
        let settings = FlinkSettings::read(options, &self.config);
        if self.config.runner_jars.is_empty() && self.config.downloads.is_none() {
            let reason = "the server has no runner jar for Flink: start it with --flink-runner-jar";
            refusal.invalid("pipeline options", reason);
        }
        let pipeline = QueryablePipeline::new(pipeline);
        match (&settings, &pipeline) {
            (Ok(settings), Ok(pipeline)) => {
                refusal.unsupported.extend(supported::unsupported(pipeline, settings).unsupported);
            }
            (Err(reason), _) => refusal.invalid("pipeline options", reason.as_str()),
            (Ok(_), Err(_)) => {}
        }
        if settings.as_ref().is_ok_and(|settings| settings.jobs == JobsOnFlink::Detached)
            && options.string("environment_type") == Some("LOOPBACK")
        {
            let reason = "a detached job goes on without its client, in which --environment_type=LOOPBACK would have it run";
            refusal.invalid("pipeline options", reason);
        }
        if let Err(more) = pipeline {
            refusal.invalid.extend(more.invalid);
            refusal.unsupported.extend(more.unsupported);
        }
        refusal.into_result()
    }

    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        job::start(Arc::clone(&self.config), invocation)
    }

    fn outlives_server(&self, _: &PipelineOptions) -> Option<&'static str> {
        Some(self.name())
    }

    async fn resume(&self, backend: &str, job: ResumedJob) -> Option<Arc<dyn PipelineResult>> {
        (backend == self.name()).then(|| job::resume(&self.config, job))
    }
}
