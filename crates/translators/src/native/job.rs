//! One running job.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use fn_harness_bridge::{FnHarnessBridge, JobWorkers};
use runner_core::backend::{Importance, JobInvocation, JobListener, MetricResults, Outcome, PipelineResult};
use runner_core::executor::{Clock, Execution, Progress, Wish, run};
use runner_core::fault::Fault;
use runner_core::plan::{PlanGrain, plan_pipeline};
use runner_core::ports::Storage;
use tokio::sync::watch;

use super::NativeConfig;
use super::logs::MessagesFromLogs;
use super::options::{JobSettings, for_workers};

struct NativeJob {
    progress: Arc<Progress>,
    wish: watch::Sender<Wish>,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[async_trait]
impl PipelineResult for NativeJob {
    fn cancel(&self) {
        self.wish.send_replace(Wish::Cancel);
    }

    fn drain(&self) -> Result<(), Fault> {
        // A wish to cancel is not taken back.
        self.wish.send_modify(|wish| *wish = (*wish).max(Wish::Drain));
        Ok(())
    }

    fn metrics(&self) -> MetricResults {
        self.progress.metrics.lock().unwrap_or_else(PoisonError::into_inner).results()
    }

    fn bundles_committed(&self) -> Option<u64> {
        Some(self.progress.bundles_committed.load(Ordering::Relaxed))
    }

    async fn finished(&self) -> Outcome {
        crate::outcome_of(self.outcome.clone()).await
    }
}

/// Starts the job in a task of its own.
pub(super) fn start(
    bridge: &FnHarnessBridge,
    config: &NativeConfig,
    storage: Arc<dyn Storage>,
    invocation: JobInvocation,
) -> Arc<dyn PipelineResult> {
    let progress = Arc::new(Progress { meters: bridge.meters().clone(), ..Progress::default() });
    let (wish, wished) = watch::channel(Wish::GoOn);
    let (ended, outcome) = watch::channel(None);
    let job = NativeJob { progress: progress.clone(), wish, outcome };
    let (bridge, config) = (bridge.clone(), config.clone());
    tokio::spawn(async move {
        let outcome = execute(&bridge, &config, storage, invocation, progress, wished).await;
        ended.send_replace(Some(outcome));
    });
    Arc::new(job)
}

async fn execute(
    bridge: &FnHarnessBridge,
    config: &NativeConfig,
    storage: Arc<dyn Storage>,
    invocation: JobInvocation,
    progress: Arc<Progress>,
    wish: watch::Receiver<Wish>,
) -> Outcome {
    let settings = match JobSettings::read(&invocation.options, config) {
        Ok(settings) => settings,
        Err(reason) => return Outcome::Failed(Fault::user(reason)),
    };
    let grain = grain_of(bridge, &settings, &invocation.pipeline);
    let plan = match plan_pipeline(&invocation.pipeline, grain) {
        Ok(plan) => Arc::new(plan),
        Err(error) => return Outcome::Failed(Fault::user(error.to_string())),
    };
    let environments = invocation.pipeline.components.map(|c| c.environments).unwrap_or_default();
    let logs =
        MessagesFromLogs { listener: invocation.listener.clone(), names: plan.transform_names.clone() };
    let workers = bridge.job(JobWorkers {
        job_id: invocation.job_id,
        job_name: invocation.job_name,
        pipeline_options: for_workers(&invocation.options, &plan).as_struct().clone(),
        environments,
        workers_per_environment: settings.workers,
        artifacts: invocation.artifacts,
        logs: Arc::new(logs),
    });
    invocation.listener.running();
    let spilled_before = storage.budget().spilled();
    let execution = Execution {
        plan,
        workers: workers.clone(),
        policy: settings.policy.within(config.memory_limit),
        inject: settings.inject,
        progress: progress.clone(),
        storage: storage.clone(),
        wish,
        clock: Clock::Machine,
        last_timers: settings.last_timers,
    };
    let outcome = run(execution).await;
    workers.close().await;
    let spilled = storage.budget().spilled().saturating_sub(spilled_before);
    report(&progress, spilled, invocation.listener.as_ref());
    outcome
}

/// Where no two bundles run at once there need not be two.
fn grain_of(bridge: &FnHarnessBridge, settings: &JobSettings, pipeline: &Pipeline) -> PlanGrain {
    let mut environments = pipeline.components.iter().flat_map(|components| &components.environments);
    let one_by_one =
        environments.all(|(id, environment)| bridge.parallelism(id, environment, settings.workers) <= 1);
    match settings.grain {
        PlanGrain::Default if one_by_one => PlanGrain::Coarse,
        grain => grain,
    }
}

/// `spilled`: bytes of all jobs that went from memory to disk while this one ran.
fn report(progress: &Progress, spilled: u64, listener: &dyn JobListener) {
    for warning in progress.warnings.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        listener.message(Importance::Warning, warning);
    }
    let committed = progress.bundles_committed.load(Ordering::Relaxed);
    let failed = progress.bundles_failed.load(Ordering::Relaxed);
    let text = format!("{committed} bundles committed, {failed} attempts failed");
    listener.message(Importance::Detailed, text);
    if spilled > 0 {
        let text = format!("{spilled} bytes that did not fit in memory were written to disk");
        tracing::info!("while a job ran {text}");
        listener.message(Importance::Detailed, text);
    }
}
