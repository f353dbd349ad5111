//! One job on a cluster, from its jar to its end.

mod slots;
mod stop;
mod submission;
mod watching;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::{Importance, JobInvocation, JobListener, MetricResults, Outcome, PipelineResult};
use runner_core::fault::Fault;
use runner_core::graph::QueryablePipeline;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::options::FlinkSettings;
use super::rest::FlinkRest;
use super::{FlinkConfig, Patience, supported};

/// What is wished of a job. Later ones go before earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    Drain,
    Cancel,
}

struct FlinkJob {
    metrics: Arc<Mutex<MetricResults>>,
    wish: watch::Sender<Wish>,
    outcome: watch::Receiver<Option<Outcome>>,
    can_drain: bool,
}

#[async_trait]
impl PipelineResult for FlinkJob {
    fn cancel(&self) {
        self.wish.send_replace(Wish::Cancel);
    }

    fn drain(&self) -> Result<(), Fault> {
        if !self.can_drain {
            let text = "Flink can drain streaming jobs alone; this one ends by itself when its input does";
            return Err(Fault::user(text).fatal());
        }
        // A wish to cancel is not taken back.
        self.wish.send_modify(|wish| *wish = (*wish).max(Wish::Drain));
        Ok(())
    }

    fn metrics(&self) -> MetricResults {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn finished(&self) -> Outcome {
        crate::outcome_of(self.outcome.clone()).await
    }
}

/// What all steps of a job need.
struct Context {
    rest: FlinkRest,
    settings: FlinkSettings,
    patience: Patience,
    listener: Arc<dyn JobListener>,
    /// What the job is called in the cluster.
    flink_job_id: String,
    /// Transform id → the user's name.
    transform_names: BTreeMap<String, String>,
    traces: Mutex<Traces>,
    metrics: Arc<Mutex<MetricResults>>,
}

/// What the submission may have left in the cluster.
#[derive(Debug, Default)]
struct Traces {
    jar_id: Option<String>,
    /// Flink was asked to start the job.
    start_asked: bool,
}

impl Context {
    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the job in a task of its own.
pub(super) fn start(config: Arc<FlinkConfig>, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
    let metrics = Arc::<Mutex<MetricResults>>::default();
    let (wish, wished) = watch::channel(Wish::GoOn);
    let (ended, outcome) = watch::channel(None);
    let settings = FlinkSettings::read(&invocation.options, &config);
    let (can_drain, warnings) = match (&settings, QueryablePipeline::new(&invocation.pipeline)) {
        (Ok(settings), Ok(pipeline)) => {
            (supported::is_streaming(&pipeline, settings), supported::warnings(&pipeline, settings))
        }
        // Prepare has read both; they are the same.
        (Err(_), _) | (_, Err(_)) => (false, Vec::new()),
    };
    let job = FlinkJob { metrics: Arc::clone(&metrics), wish, outcome, can_drain };
    tokio::spawn(async move {
        for warning in warnings {
            invocation.listener.message(Importance::Warning, warning);
        }
        let outcome = match settings {
            Ok(settings) => {
                let context = Context {
                    rest: FlinkRest::new(settings.master.clone()),
                    settings,
                    patience: config.patience.clone(),
                    listener: Arc::clone(&invocation.listener),
                    flink_job_id: flink_job_id(&invocation.job_id),
                    metrics,
                    transform_names: transform_names(&invocation.pipeline),
                    traces: Mutex::default(),
                };
                run(&context, &config, invocation, wished).await
            }
            // Prepare has read them; they are the same.
            Err(reason) => Outcome::Failed(Fault::user(reason)),
        };
        ended.send_replace(Some(outcome));
    });
    Arc::new(job)
}

fn transform_names(pipeline: &Pipeline) -> BTreeMap<String, String> {
    let transforms = pipeline.components.iter().flat_map(|components| &components.transforms);
    let named = transforms.filter(|(_, transform)| !transform.unique_name.is_empty());
    named.map(|(id, transform)| (id.clone(), transform.unique_name.clone())).collect()
}

async fn run(
    context: &Context,
    config: &FlinkConfig,
    invocation: JobInvocation,
    mut wished: watch::Receiver<Wish>,
) -> Outcome {
    let submitted = {
        let mut wished = wished.clone();
        let cancelled = async move {
            if wished.wait_for(|wish| *wish == Wish::Cancel).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            submitted = submission::submit(context, config, invocation) => submitted,
            () = cancelled => {
                submission::withdraw(context).await;
                return Outcome::Cancelled;
            }
        }
    };
    match submitted {
        Ok(()) => watching::watch(context, &mut wished).await,
        Err(fault) => Outcome::Failed(fault),
    }
}

/// Flink names jobs by 32 hexadecimal digits. Those are made of our name for the job, so that each leads to the other.
fn flink_job_id(job_id: &str) -> String {
    const BYTES: usize = 16;
    Sha256::digest(job_id).iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}
