//! All backends of a server behind one port: each job says which one runs it, or leaves it to the server.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::MetricResults;
use runner_core::backend::{
    JobInvocation, OptionKind, Outcome, PipelineOption, PipelineResult, PortablePipelineRunner, Refusal,
    ResumedJob,
};
use runner_core::fault::Fault;
use runner_core::options::PipelineOptions;

use crate::EnvironmentOverrides;

const BACKEND: &str = "backend";

type Backend = Arc<dyn PortablePipelineRunner>;

/// Some backends, of which one is for jobs that do not choose.
pub struct BackendChoice {
    default: Backend,
    others: Vec<Backend>,
    overrides: EnvironmentOverrides,
}

impl BackendChoice {
    pub fn new(default: Backend, others: Vec<Backend>) -> Self {
        Self { default, others, overrides: EnvironmentOverrides::default() }
    }

    /// The same; environments of all pipelines are overridden before any backend sees them.
    #[must_use]
    pub fn with_overrides(self, overrides: EnvironmentOverrides) -> Self {
        Self { overrides, ..self }
    }

    fn all(&self) -> impl Iterator<Item = &Backend> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// The backend that the job asks for; the error says which there are.
    fn chosen(&self, options: &PipelineOptions) -> Result<&Backend, String> {
        let Some(name) = options.string(BACKEND) else { return Ok(&self.default) };
        self.all().find(|backend| backend.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.all().map(|backend| backend.name()).collect();
            format!(
                "--{BACKEND}={name} is none of this server's, which are: {}{}",
                names.join(", "),
                if name == "flink" { "; start it with --flink-master" } else { "" }
            )
        })
    }
}

#[async_trait]
impl PortablePipelineRunner for BackendChoice {
    fn name(&self) -> &'static str {
        self.default.name()
    }

    fn pipeline_options(&self) -> Vec<PipelineOption> {
        let own = PipelineOption {
            name: BACKEND,
            kind: OptionKind::String,
            description: "What runs the job: native, or flink if the server has it. Not given: the server's choice.",
            default: "",
        };
        let mut seen = BTreeSet::new();
        let theirs = self.all().flat_map(|backend| backend.pipeline_options());
        std::iter::once(own).chain(theirs).filter(|option| seen.insert(option.name)).collect()
    }

    fn prepare(&self, pipeline: &Pipeline, options: &PipelineOptions) -> Result<(), Refusal> {
        let mut pipeline = Cow::Borrowed(pipeline);
        if !self.overrides.is_empty() {
            self.overrides.apply(pipeline.to_mut());
        }
        match self.chosen(options) {
            Ok(backend) => backend.prepare(&pipeline, options),
            Err(reason) => {
                let mut refusal = Refusal::default();
                refusal.invalid("pipeline options", reason);
                Err(refusal)
            }
        }
    }

    async fn run(&self, mut invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        self.overrides.apply(&mut invocation.pipeline);
        match self.chosen(&invocation.options) {
            Ok(backend) => backend.run(invocation).await,
            // Nobody can run what was not prepared.
            Err(reason) => Arc::new(NeverRun(Fault::user(reason).fatal())),
        }
    }

    fn outlives_server(&self, options: &PipelineOptions) -> Option<&'static str> {
        self.chosen(options).ok()?.outlives_server(options)
    }

    async fn resume(&self, backend: &str, job: ResumedJob) -> Option<Arc<dyn PipelineResult>> {
        self.all().find(|one| one.name() == backend)?.resume(backend, job).await
    }
}

/// A job that could not begin.
struct NeverRun(Fault);

#[async_trait]
impl PipelineResult for NeverRun {
    fn cancel(&self) {}

    fn drain(&self) -> Result<(), Fault> {
        Err(self.0.clone())
    }

    fn metrics(&self) -> MetricResults {
        MetricResults::default()
    }

    async fn finished(&self) -> Outcome {
        Outcome::Failed(self.0.clone())
    }
}
