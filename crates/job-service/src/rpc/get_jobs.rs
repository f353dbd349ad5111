//! `GetJobs`: all jobs that are known, oldest first.

use beam_model::job_management::GetJobsResponse;

use crate::service::Shared;

pub(super) fn get_jobs(shared: &Shared) -> GetJobsResponse {
    GetJobsResponse { job_info: shared.registry.jobs().iter().map(|job| job.info()).collect() }
}
