//! The Job API: passed through, or answered with the least that a client accepts.

use std::sync::Arc;

use beam_model::fn_execution::beam_fn_external_worker_pool_client::BeamFnExternalWorkerPoolClient;
use beam_model::job_management::job_message::MessageImportance;
use beam_model::job_management::job_messages_response::Response as MessageOrState;
use beam_model::job_management::job_service_client::JobServiceClient;
use beam_model::job_management::job_service_server::JobService;
use beam_model::job_management::job_state::Enum as State;
use beam_model::job_management::{
    CancelJobRequest, CancelJobResponse, DescribePipelineOptionsRequest, DescribePipelineOptionsResponse,
    DrainJobRequest, DrainJobResponse, GetJobMetricsRequest, GetJobMetricsResponse, GetJobPipelineRequest,
    GetJobPipelineResponse, GetJobStateRequest, GetJobsRequest, GetJobsResponse, JobMessage,
    JobMessagesRequest, JobMessagesResponse, JobStateEvent, PrepareJobRequest, PrepareJobResponse,
    RunJobRequest, RunJobResponse,
};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};

use super::endpoints::redirect_pool;
use super::replay::{Progress, Replay};
use super::{Answers, Floor, Job, RecordedJob, channel};

impl Floor {
    fn upstream(&self) -> Result<JobServiceClient<tonic::transport::Channel>, Status> {
        let upstream = self.upstream.clone();
        let upstream = upstream.ok_or_else(|| Status::failed_precondition("no server to record from"))?;
        Ok(JobServiceClient::new(upstream)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX))
    }

    async fn prepare_recorded(&self, mut request: PrepareJobRequest) -> Result<PrepareJobResponse, Status> {
        let pipeline = request.pipeline.as_mut().ok_or_else(|| Status::invalid_argument("no pipeline"))?;
        let pool = redirect_pool(pipeline, &self.url).map_err(Status::invalid_argument)?;
        let response = self.upstream()?.prepare(request).await?.into_inner();
        let upstream = self.upstream.clone().ok_or_else(|| Status::internal("no server to record from"))?;
        self.set_job(Job::Recorded(Arc::new(RecordedJob {
            upstream,
            pool: worker_pool(&pool)?,
            recorder: Default::default(),
            recording: self.recording.clone(),
        })));
        Ok(response)
    }
}

/// Errors: `address` is none.
fn worker_pool(address: &str) -> Result<BeamFnExternalWorkerPoolClient<tonic::transport::Channel>, Status> {
    let channel =
        channel(address).map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?;
    Ok(BeamFnExternalWorkerPoolClient::new(channel))
}

#[tonic::async_trait]
impl JobService for Floor {
    async fn describe_pipeline_options(
        &self,
        _: Request<DescribePipelineOptionsRequest>,
    ) -> Result<Response<DescribePipelineOptionsResponse>, Status> {
        Ok(Response::new(DescribePipelineOptionsResponse::default()))
    }

    async fn prepare(
        &self,
        request: Request<PrepareJobRequest>,
    ) -> Result<Response<PrepareJobResponse>, Status> {
        let mut request = request.into_inner();
        let Some(recording) = self.recording() else {
            return Ok(Response::new(self.prepare_recorded(request).await?));
        };
        let pipeline = request.pipeline.as_mut().ok_or_else(|| Status::invalid_argument("no pipeline"))?;
        let pool = redirect_pool(pipeline, &self.url).map_err(Status::invalid_argument)?;
        let id = self.next_id();
        self.set_job(Job::Replayed(Arc::new(Replay::new(id.clone(), recording, worker_pool(&pool)?))));
        // Without an endpoint for artifacts the client stages none.
        Ok(Response::new(PrepareJobResponse { preparation_id: id, ..Default::default() }))
    }

    async fn run(&self, request: Request<RunJobRequest>) -> Result<Response<RunJobResponse>, Status> {
        match self.job()? {
            Job::Recorded(_) => self.upstream()?.run(request.into_inner()).await,
            Job::Replayed(job) => {
                let job_id = job.id.clone();
                tokio::spawn(job.run(self.url.clone()));
                Ok(Response::new(RunJobResponse { job_id }))
            }
        }
    }

    type GetStateStreamStream = Answers<JobStateEvent>;

    async fn get_state_stream(
        &self,
        request: Request<GetJobStateRequest>,
    ) -> Result<Response<Self::GetStateStreamStream>, Status> {
        match self.job()? {
            Job::Recorded(job) => {
                let states = self.upstream()?.get_state_stream(request.into_inner()).await?.into_inner();
                Ok(Response::new(Box::pin(states.map(move |event| {
                    let event = event?;
                    if event.state() == State::Done {
                        job.finish()?;
                    }
                    Ok(event)
                }))))
            }
            Job::Replayed(job) => {
                let states = job.progress_stream().map(|progress| Ok(state_event(&progress)));
                Ok(Response::new(Box::pin(states)))
            }
        }
    }

    type GetMessageStreamStream = Answers<JobMessagesResponse>;

    async fn get_message_stream(
        &self,
        request: Request<JobMessagesRequest>,
    ) -> Result<Response<Self::GetMessageStreamStream>, Status> {
        match self.job()? {
            Job::Recorded(_) => {
                let messages = self.upstream()?.get_message_stream(request.into_inner()).await?;
                Ok(messages.map(|messages| Box::pin(messages) as Answers<_>))
            }
            Job::Replayed(job) => {
                let messages = job.progress_stream().filter_map(|progress| error_of(progress).map(Ok));
                Ok(Response::new(Box::pin(messages)))
            }
        }
    }

    async fn get_state(
        &self,
        request: Request<GetJobStateRequest>,
    ) -> Result<Response<JobStateEvent>, Status> {
        match self.job()? {
            Job::Recorded(_) => self.upstream()?.get_state(request.into_inner()).await,
            Job::Replayed(job) => Ok(Response::new(state_event(&job.progress()))),
        }
    }

    async fn get_job_metrics(
        &self,
        _: Request<GetJobMetricsRequest>,
    ) -> Result<Response<GetJobMetricsResponse>, Status> {
        Ok(Response::new(GetJobMetricsResponse::default()))
    }

    async fn get_jobs(&self, _: Request<GetJobsRequest>) -> Result<Response<GetJobsResponse>, Status> {
        Err(not_here())
    }

    async fn get_pipeline(
        &self,
        _: Request<GetJobPipelineRequest>,
    ) -> Result<Response<GetJobPipelineResponse>, Status> {
        Err(not_here())
    }

    async fn cancel(&self, _: Request<CancelJobRequest>) -> Result<Response<CancelJobResponse>, Status> {
        Err(not_here())
    }

    async fn drain(&self, _: Request<DrainJobRequest>) -> Result<Response<DrainJobResponse>, Status> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("a floor is only measured")
}

fn state_event(progress: &Progress) -> JobStateEvent {
    let state = match progress {
        Progress::Prepared => State::Stopped,
        Progress::Done => State::Done,
        Progress::Failed(_) => State::Failed,
    };
    JobStateEvent { state: state.into(), timestamp: None }
}

fn error_of(progress: Progress) -> Option<JobMessagesResponse> {
    let Progress::Failed(message_text) = progress else { return None };
    let message = JobMessage {
        message_text,
        importance: MessageImportance::JobMessageError.into(),
        ..Default::default()
    };
    Some(JobMessagesResponse { response: Some(MessageOrState::MessageResponse(message)) })
}
