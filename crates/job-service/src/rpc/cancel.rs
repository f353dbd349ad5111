//! `Cancel`: asks a job to stop, and answers with its state at once.

use beam_model::job_management::{CancelJobRequest, CancelJobResponse};

use crate::error::JobServiceError;
use crate::service::Shared;

pub(super) fn cancel(
    shared: &Shared,
    request: &CancelJobRequest,
) -> Result<CancelJobResponse, JobServiceError> {
    let state = shared.registry.job(&request.job_id)?.cancel();
    Ok(CancelJobResponse { state: state.to_proto().into() })
}
