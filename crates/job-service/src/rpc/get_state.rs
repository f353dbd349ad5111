//! `GetState`: the state of a job, and since when it has it.

use beam_model::job_management::{GetJobStateRequest, JobStateEvent};

use crate::error::JobServiceError;
use crate::service::Shared;

pub(super) fn get_state(
    shared: &Shared,
    request: &GetJobStateRequest,
) -> Result<JobStateEvent, JobServiceError> {
    Ok(shared.registry.job(&request.job_id)?.state_event())
}
