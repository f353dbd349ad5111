//! The Flink backend: a job becomes a *portable jar*, and a Flink cluster runs it.
//!
//! No JVM is needed here. The way of a job: [`supported`] refuses what Beam's Flink runner cannot do, [`jar`] packs
//! pipeline, options and artifacts behind the runner, [`rest`] uploads and starts it, and [`job`] watches it to its
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
mod supported;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::{JobInvocation, PipelineOption, PipelineResult, PortablePipelineRunner, Refusal};
use runner_core::graph::QueryablePipeline;
use runner_core::options::PipelineOptions;

pub use error::FlinkError;
use jar::RunnerJar;
use options::FlinkSettings;
use rest::Master;

/// Has Flink clusters run jobs.
pub struct FlinkRunner {
    config: Arc<FlinkConfig>,
}

/// What the server was told.
#[derive(Clone, Debug, Default)]
pub struct FlinkConfig {
    /// HOST:PORT of the REST endpoint of the cluster for jobs that do not name one.
    pub master: Option<String>,
    /// Beam's runner jars, each for a version of Flink. One that does not say its version is for all.
    pub runner_jars: Vec<PathBuf>,
    /// Where a job's own files are put together before they are uploaded.
    pub temp_dir: PathBuf,
    pub patience: Patience,
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
    /// The address is none, or a jar is no runner jar.
    pub fn new(config: FlinkConfig) -> Result<Self, FlinkError> {
        if let Some(master) = &config.master {
            Master::parse(master)?;
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
        if self.config.runner_jars.is_empty() {
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
        if let Err(more) = pipeline {
            refusal.invalid.extend(more.invalid);
            refusal.unsupported.extend(more.unsupported);
        }
        refusal.into_result()
    }

    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        job::start(Arc::clone(&self.config), invocation)
    }
}
