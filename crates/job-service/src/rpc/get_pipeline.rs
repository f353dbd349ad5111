//! `GetPipeline`: the pipeline as it was handed to the backend.

use beam_model::job_management::{GetJobPipelineRequest, GetJobPipelineResponse};
use beam_model::pipeline::Pipeline;

use crate::error::JobServiceError;
use crate::service::Shared;

pub(super) fn get_pipeline(
    shared: &Shared,
    request: &GetJobPipelineRequest,
) -> Result<GetJobPipelineResponse, JobServiceError> {
    let job = shared.registry.job(&request.job_id)?;
    Ok(GetJobPipelineResponse { pipeline: Some(Pipeline::clone(job.pipeline())) })
}
