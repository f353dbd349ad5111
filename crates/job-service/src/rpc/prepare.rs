//! `Prepare`: the backend judges the pipeline; if it is good, it is kept until `Run`.

use std::sync::Arc;

use beam_model::job_management::{PrepareJobRequest, PrepareJobResponse};
use beam_model::pipeline::ApiServiceDescriptor;
use runner_core::options::PipelineOptions;

use crate::error::JobServiceError;
use crate::ids;
use crate::job::Preparation;
use crate::service::Shared;

pub(super) async fn prepare(
    shared: &Arc<Shared>,
    request: PrepareJobRequest,
) -> Result<PrepareJobResponse, JobServiceError> {
    let pipeline = request.pipeline.ok_or(JobServiceError::Missing("pipeline"))?;
    let options = PipelineOptions::new(request.pipeline_options.unwrap_or_default());
    let job_name = job_name(&options, request.job_name);

    // On a thread of its own: a large pipeline takes a while, and a fault in judging it is not the end of
    // the server.
    let backend = Arc::clone(&shared.backend);
    let judging = tokio::task::spawn_blocking(move || {
        let verdict = backend.prepare(&pipeline, &options);
        (verdict, pipeline, options)
    });
    let (verdict, pipeline, options) = judging.await.map_err(|error| JobServiceError::Internal {
        doing: "checked the pipeline",
        reason: error.to_string(),
    })?;
    verdict.map_err(|refusal| {
        tracing::info!(job_name, "pipeline refused: {refusal}");
        JobServiceError::Refused(refusal)
    })?;

    let id = format!("prepared-{}", ids::unique());
    let preparation = Arc::new(Preparation::new(id.clone(), ids::unique(), job_name, pipeline, options));
    let staging_session_token = preparation.staging_token.clone();
    shared.registry.add_preparation(preparation)?;
    let url = shared.config.artifact_endpoint.clone();
    let artifact_staging_endpoint =
        (!url.is_empty()).then_some(ApiServiceDescriptor { url, authentication: None });
    Ok(PrepareJobResponse { preparation_id: id, artifact_staging_endpoint, staging_session_token })
}

/// The name that the user gave, which is in the options: Python's `Prepare.job_name` is always `job`.
fn job_name(options: &PipelineOptions, requested: String) -> String {
    match options.string("job_name") {
        Some(name) => name.to_owned(),
        None if requested.is_empty() => "job".to_owned(),
        None => requested,
    }
}
