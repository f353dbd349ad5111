//! All backends of a server behind one port: each job says which one runs it, or leaves it to the server.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::MetricResults;
use runner_core::backend::{
    JobInvocation, OptionKind, Outcome, PipelineOption, PipelineResult, PortablePipelineRunner, Refusal,
};
use runner_core::fault::Fault;
use runner_core::options::PipelineOptions;

const BACKEND: &str = "backend";

type Backend = Arc<dyn PortablePipelineRunner>;

/// Some backends, of which one is for jobs that do not choose.
pub struct BackendChoice {
    default: Backend,
    others: Vec<Backend>,
}

impl BackendChoice {
    pub fn new(default: Backend, others: Vec<Backend>) -> Self {
        Self { default, others }
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
                if name == "flink" { "; start it with --flink-runner-jar" } else { "" }
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
        match self.chosen(options) {
            Ok(backend) => backend.prepare(pipeline, options),
            Err(reason) => {
                let mut refusal = Refusal::default();
                refusal.invalid("pipeline options", reason);
                Err(refusal)
            }
        }
    }

    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        match self.chosen(&invocation.options) {
            Ok(backend) => backend.run(invocation).await,
            // Nobody can run what was not prepared.
            Err(reason) => Arc::new(NeverRun(Fault::user(reason).fatal())),
        }
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
