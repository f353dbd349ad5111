//! `JobService`, one RPC a file.

mod cancel;
mod describe_pipeline_options;
mod drain;
mod get_job_metrics;
mod get_jobs;
mod get_message_stream;
mod get_pipeline;
mod get_state;
mod get_state_stream;
mod prepare;
mod run;

use std::sync::Arc;

use beam_model::job_management::job_service_server::JobService;
use beam_model::job_management::*;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::service::Shared;

#[derive(Clone)]
pub(crate) struct JobRpcs {
    shared: Arc<Shared>,
}

impl JobRpcs {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl JobService for JobRpcs {
    type GetStateStreamStream = BoxStream<'static, Result<JobStateEvent, Status>>;
    type GetMessageStreamStream = BoxStream<'static, Result<JobMessagesResponse, Status>>;

    async fn prepare(&self, request: Request<PrepareJobRequest>) -> Answer<PrepareJobResponse> {
        Ok(Response::new(prepare::prepare(&self.shared, request.into_inner()).await?))
    }

    async fn run(&self, request: Request<RunJobRequest>) -> Answer<RunJobResponse> {
        Ok(Response::new(run::run(&self.shared, request.into_inner()).await?))
    }

    async fn get_jobs(&self, _: Request<GetJobsRequest>) -> Answer<GetJobsResponse> {
        Ok(Response::new(get_jobs::get_jobs(&self.shared)))
    }

    async fn get_state(&self, request: Request<GetJobStateRequest>) -> Answer<JobStateEvent> {
        Ok(Response::new(get_state::get_state(&self.shared, &request.into_inner())?))
    }

    async fn get_pipeline(&self, request: Request<GetJobPipelineRequest>) -> Answer<GetJobPipelineResponse> {
        Ok(Response::new(get_pipeline::get_pipeline(&self.shared, &request.into_inner())?))
    }

    async fn cancel(&self, request: Request<CancelJobRequest>) -> Answer<CancelJobResponse> {
        Ok(Response::new(cancel::cancel(&self.shared, &request.into_inner())?))
    }

    async fn drain(&self, request: Request<DrainJobRequest>) -> Answer<DrainJobResponse> {
        Ok(Response::new(drain::drain(&self.shared, &request.into_inner())?))
    }

    async fn get_state_stream(
        &self,
        request: Request<GetJobStateRequest>,
    ) -> Answer<Self::GetStateStreamStream> {
        Ok(Response::new(get_state_stream::get_state_stream(&self.shared, &request.into_inner())?))
    }

    async fn get_message_stream(
        &self,
        request: Request<JobMessagesRequest>,
    ) -> Answer<Self::GetMessageStreamStream> {
        Ok(Response::new(get_message_stream::get_message_stream(&self.shared, &request.into_inner())?))
    }

    async fn get_job_metrics(&self, request: Request<GetJobMetricsRequest>) -> Answer<GetJobMetricsResponse> {
        let reader = get_job_metrics::Reader::of(request.metadata());
        Ok(Response::new(get_job_metrics::get_job_metrics(&self.shared, &request.into_inner(), reader)?))
    }

    async fn describe_pipeline_options(
        &self,
        _: Request<DescribePipelineOptionsRequest>,
    ) -> Answer<DescribePipelineOptionsResponse> {
        Ok(Response::new(describe_pipeline_options::describe_pipeline_options(&self.shared)))
    }
}
