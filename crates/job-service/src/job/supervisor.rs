//! Carries a job from its start in the backend to its end.

use std::sync::Arc;

use runner_core::backend::{JobInvocation, MetricResults, Outcome, PortablePipelineRunner};
use runner_core::fault::Fault;

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
    tokio::spawn(async move {
        let running = tokio::spawn(run(Arc::clone(&job), backend, invocation));
        let (outcome, metrics) = match running.await {
            Ok(end) => end,
            Err(broken) => {
                tracing::error!(job = job.id(), "the backend broke down: {broken}");
                job.cancel();
                let text =
                    format!("a fault of the server ended the job: {broken}; the server's log has more");
                (Outcome::Failed(Fault::runner(text)), MetricResults::default())
            }
        };
        artifacts.release();
        log_end(&job, &outcome);
        job.has_ended(outcome, metrics);
        registry.job_ended(&job);
    });
}

async fn run(
    job: Arc<Job>,
    backend: Arc<dyn PortablePipelineRunner>,
    invocation: JobInvocation,
) -> (Outcome, MetricResults) {
    let result = backend.run(invocation).await;
    job.has_started(Arc::clone(&result));
    let outcome = result.finished().await;
    (outcome, result.metrics())
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
