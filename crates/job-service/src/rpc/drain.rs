//! `Drain`: asks a job to take no new input and finish what it has.

use beam_model::job_management::{DrainJobRequest, DrainJobResponse};

use crate::error::JobServiceError;
use crate::service::Shared;

pub(super) fn drain(shared: &Shared, request: &DrainJobRequest) -> Result<DrainJobResponse, JobServiceError> {
    let state = shared.registry.job(&request.job_id)?.drain()?;
    Ok(DrainJobResponse { state: state.to_proto().into() })
}
