//! Carries a job from its start in the backend to its end.

use std::future::Future;
use std::sync::Arc;

use beam_model::pipeline::Pipeline;
use runner_core::backend::{
    JobInvocation, MetricResults, Outcome, PipelineResult, PortablePipelineRunner, ResumedJob,
};
use runner_core::fault::Fault;
use runner_core::options::PipelineOptions;

use super::journal::WrittenDown;
use super::{Job, Registry};
use crate::artifact_staging::JobArtifacts;

/// Starts the job and returns at once. The job ends whatever the backend does, panic included.
pub(crate) fn supervise(
    job: Arc<Job>,
    registry: Arc<Registry>,
    backend: Arc<dyn PortablePipelineRunner>,
    invocation: JobInvocation,
    artifacts: Arc<JobArtifacts>,
) {
    let running = {
        let job = Arc::clone(&job);
        async move {
            let result = backend.run(invocation).await;
            see_through(&job, result).await
        }
    };
    tokio::spawn(async move {
        let (outcome, metrics) = unbroken(&job, running).await;
        artifacts.release();
        end(&job, &registry, outcome, metrics);
    });
}

/// Takes up the jobs that were written down by an earlier server, those that have ended included. One whose backend is
/// not here stays written down, for a server that has it.
pub(crate) async fn resume_all(
    written_down: Vec<WrittenDown>,
    registry: &Arc<Registry>,
    backend: &Arc<dyn PortablePipelineRunner>,
) {
    let mut ended = Vec::new();
    for written in written_down {
        let (name, note) = (written.description.backend.clone(), written.note.clone());
        let job = Arc::new(Job::restore(written));
        if job.state().is_terminal() {
            ended.push(job);
            continue;
        }
        let resumed = ResumedJob {
            job_id: job.id().to_owned(),
            job_name: job.name().to_owned(),
            pipeline: Pipeline::clone(job.pipeline()),
            options: PipelineOptions::new(job.options().clone()),
            note,
            listener: job.listener(),
        };
        let Some(result) = backend.resume(&name, resumed).await else {
            tracing::warn!(
                job = job.id(),
                backend = name,
                "a job of an earlier server is left alone: its backend is not set up here"
            );
            continue;
        };
        tracing::info!(
            job = job.id(),
            name = job.name(),
            backend = name,
            "job of an earlier server found again"
        );
        job.ask_again(result.as_ref());
        registry.restore(Arc::clone(&job));
        let registry = Arc::clone(registry);
        tokio::spawn(async move {
            let watched = Arc::clone(&job);
            let running = async move { see_through(&watched, result).await };
            let (outcome, metrics) = unbroken(&job, running).await;
            end(&job, &registry, outcome, metrics);
        });
    }
    ended.sort_by_key(|job| job.ended());
    for job in ended {
        registry.restore(Arc::clone(&job));
        registry.job_ended(&job);
    }
}

type End = (Outcome, MetricResults);

async fn see_through(job: &Job, result: Arc<dyn PipelineResult>) -> End {
    job.has_started(Arc::clone(&result));
    let outcome = result.finished().await;
    (outcome, result.metrics())
}

/// What `running` says in the end, or that it broke down.
async fn unbroken(job: &Job, running: impl Future<Output = End> + Send + 'static) -> End {
    match tokio::spawn(running).await {
        Ok(end) => end,
        Err(broken) => {
            tracing::error!(job = job.id(), "the backend broke down: {broken}");
            job.cancel();
            let text = format!("a fault of the server ended the job: {broken}; the server's log has more");
            (Outcome::Failed(Fault::runner(text)), MetricResults::default())
        }
    }
}

fn end(job: &Job, registry: &Arc<Registry>, outcome: Outcome, metrics: MetricResults) {
    log_end(job, &outcome);
    job.has_ended(outcome, metrics);
    registry.job_ended(job);
}

fn log_end(job: &Job, outcome: &Outcome) {
    match outcome {
        Outcome::Done | Outcome::Cancelled | Outcome::Drained => {
            tracing::info!(job = job.id(), ?outcome, "job ended");
        }
        Outcome::Failed(fault) => {
            tracing::warn!(job = job.id(), blame = ?fault.blame, "job failed: {fault}");
        }
    }
}
