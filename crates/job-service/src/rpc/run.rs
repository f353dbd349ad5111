//! `Run`: a preparation becomes a job.

use std::sync::Arc;
use std::time::SystemTime;

use beam_model::job_management::{RunJobRequest, RunJobResponse};
use beam_model::pipeline::Pipeline;
use runner_core::backend::JobInvocation;

use crate::artifact_staging::{JobArtifacts, StagedArtifacts};
use crate::error::{JobServiceError, StagingError};
use crate::ids;
use crate::job::{Description, Job, JobDescription, Journal, Preparation, Staging, supervise};
use crate::service::Shared;

pub(super) async fn run(
    shared: &Arc<Shared>,
    request: RunJobRequest,
) -> Result<RunJobResponse, JobServiceError> {
    let preparation = shared.registry.preparation(&request.preparation_id)?;
    let staged = staged_artifacts(shared, &preparation).await?;

    let job_id = ids::job_id(&preparation.job_name);
    let mut pipeline = preparation.pipeline.clone();
    if let Some(components) = &mut pipeline.components {
        staged.rewrite(&mut components.environments, &job_id);
    }
    let artifacts = Arc::new(JobArtifacts::new(job_id.clone(), &staged));
    let description = JobDescription {
        id: job_id.clone(),
        preparation_id: preparation.id.clone(),
        name: preparation.job_name.clone(),
        options: preparation.options.as_struct().clone(),
        pipeline: Arc::new(pipeline.clone()),
    };
    let journal = begin_journal(shared, &description, &preparation).await?;
    let job = Arc::new(Job::new(description, journal));
    let invocation = JobInvocation {
        job_id: job_id.clone(),
        job_name: preparation.job_name.clone(),
        pipeline,
        options: preparation.options.clone(),
        artifacts: Arc::clone(&artifacts) as _,
        listener: job.listener(),
    };
    if let Err(error) = shared.registry.add_job(Arc::clone(&job)) {
        job.forget();
        return Err(error);
    }
    tracing::info!(job = job_id, name = preparation.job_name, "job started");
    supervise(job, Arc::clone(&shared.registry), Arc::clone(&shared.backend), invocation, artifacts);
    Ok(RunJobResponse { job_id })
}

/// The journal of a job that goes on when the server ends, if journals are kept.
async fn begin_journal(
    shared: &Arc<Shared>,
    job: &JobDescription,
    preparation: &Preparation,
) -> Result<Option<Journal>, JobServiceError> {
    let Some(journals) = &shared.journals else { return Ok(None) };
    let Some(backend) = shared.backend.outlives_server(&preparation.options) else { return Ok(None) };
    let description = Description {
        job_id: job.id.clone(),
        preparation_id: job.preparation_id.clone(),
        job_name: job.name.clone(),
        backend: backend.to_owned(),
        options: Some(job.options.clone()),
        pipeline: Some(Pipeline::clone(&job.pipeline)),
        started: Some(SystemTime::now().into()),
    };
    let journals = Arc::clone(journals);
    // It waits for a disk.
    let begun = tokio::task::spawn_blocking(move || journals.begin(&description)).await;
    let begun = begun.map_err(std::io::Error::other).and_then(|begun| begun);
    begun.map(Some).map_err(|error| JobServiceError::Internal {
        doing: "wrote the job down, which is to go on when the server ends,",
        reason: error.to_string(),
    })
}

/// What the client staged; if it staged nothing, what can be had without it.
async fn staged_artifacts(
    shared: &Arc<Shared>,
    preparation: &Arc<Preparation>,
) -> Result<Arc<StagedArtifacts>, JobServiceError> {
    match preparation.staging().await {
        Staging::Staged(artifacts) => Ok(artifacts),
        Staging::Failed(error) => Err(StagingError::Failed(Box::new(error)).into()),
        Staging::NotBegun | Staging::Busy => {
            let (store, preparation) = (Arc::clone(&shared.store), Arc::clone(preparation));
            let storing = tokio::task::spawn_blocking(move || match &preparation.pipeline.components {
                Some(components) => StagedArtifacts::without_client(&components.environments, &store),
                None => Ok(StagedArtifacts::default()),
            });
            let staged = storing.await.map_err(|error| JobServiceError::Internal {
                doing: "stored embedded artifacts",
                reason: error.to_string(),
            })??;
            Ok(Arc::new(staged))
        }
    }
}
