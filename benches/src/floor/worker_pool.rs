//! The pool that the recorded runner asks for workers: it hands on to the client's own.

use beam_model::fn_execution::beam_fn_external_worker_pool_server::BeamFnExternalWorkerPool;
use beam_model::fn_execution::{
    StartWorkerRequest, StartWorkerResponse, StopWorkerRequest, StopWorkerResponse,
};
use beam_model::pipeline::ApiServiceDescriptor;
use tonic::{Request, Response, Status};

use super::{Floor, Job};

#[tonic::async_trait]
impl BeamFnExternalWorkerPool for Floor {
    async fn start_worker(
        &self,
        request: Request<StartWorkerRequest>,
    ) -> Result<Response<StartWorkerResponse>, Status> {
        let Job::Recorded(job) = self.job()? else {
            return Err(Status::failed_precondition("a replayed job has no runner to ask for workers"));
        };
        job.recorder().worker_started();
        let mut request = request.into_inner();
        // Logs, artifacts and provisioning are no part of a floor: those go to the runner directly.
        request.control_endpoint = Some(ApiServiceDescriptor { url: self.url.clone(), authentication: None });
        job.pool.clone().start_worker(request).await
    }

    async fn stop_worker(
        &self,
        request: Request<StopWorkerRequest>,
    ) -> Result<Response<StopWorkerResponse>, Status> {
        let Job::Recorded(job) = self.job()? else {
            return Err(Status::failed_precondition("a replayed job has no runner to stop workers"));
        };
        job.pool.clone().stop_worker(request.into_inner()).await
    }
}
