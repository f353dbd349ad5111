//! Control, data and state, to the worker: passed through, or played.

use std::sync::Arc;

use beam_model::fn_execution::beam_fn_control_client::BeamFnControlClient;
use beam_model::fn_execution::beam_fn_control_server::BeamFnControl;
use beam_model::fn_execution::beam_fn_data_client::BeamFnDataClient;
use beam_model::fn_execution::beam_fn_data_server::BeamFnData;
use beam_model::fn_execution::beam_fn_state_client::BeamFnStateClient;
use beam_model::fn_execution::beam_fn_state_server::BeamFnState;
use beam_model::fn_execution::instruction_request::Request as Instruction;
use beam_model::fn_execution::{
    Elements, GetProcessBundleDescriptorRequest, InstructionRequest, InstructionResponse,
    ProcessBundleDescriptor, StateAppendResponse, StateClearResponse, StateRequest, StateResponse,
    state_request, state_response,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::endpoints::redirect_bundles;
use super::recording::Recording;
use super::replay::Replay;
use super::{Answers, Floor, Job, RecordedJob};

#[tonic::async_trait]
impl BeamFnControl for Floor {
    type ControlStream = Answers<InstructionRequest>;

    async fn control(
        &self,
        request: Request<Streaming<InstructionResponse>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        match self.job()? {
            Job::Recorded(job) => {
                let onward = pass(&job, request, |job, answer| job.recorder().answer(answer));
                let mut client = BeamFnControlClient::new(job.upstream.clone())
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX);
                let instructions = client.control(onward).await?.into_inner();
                let url = self.url.clone();
                Ok(Response::new(Box::pin(instructions.map(move |instruction| {
                    let mut instruction = instruction?;
                    redirect_registered(&mut instruction, &url)?;
                    job.recorder().instruction(&instruction);
                    Ok(instruction)
                }))))
            }
            Job::Replayed(job) => {
                let instructions = job.control_stream()?;
                tokio::spawn(read_answers(job, request.into_inner()));
                Ok(Response::new(Box::pin(instructions.map(Ok))))
            }
        }
    }

    async fn get_process_bundle_descriptor(
        &self,
        request: Request<GetProcessBundleDescriptorRequest>,
    ) -> Result<Response<ProcessBundleDescriptor>, Status> {
        match self.job()? {
            Job::Recorded(job) => {
                let mut client = BeamFnControlClient::new(job.upstream.clone());
                let answer = client.get_process_bundle_descriptor(same_worker(request)).await?;
                let mut descriptor = answer.into_inner();
                redirect_bundles(&mut descriptor, &self.url).map_err(malformed)?;
                job.recorder().descriptor(&descriptor);
                Ok(Response::new(descriptor))
            }
            Job::Replayed(job) => {
                let id = &request.get_ref().process_bundle_descriptor_id;
                let descriptor = job.recording.descriptors.get(id).cloned();
                let descriptor = descriptor.ok_or_else(|| Status::not_found(format!("descriptor {id}")))?;
                Ok(Response::new(descriptor))
            }
        }
    }
}

#[tonic::async_trait]
impl BeamFnData for Floor {
    type DataStream = Answers<Elements>;

    async fn data(
        &self,
        request: Request<Streaming<Elements>>,
    ) -> Result<Response<Self::DataStream>, Status> {
        match self.job()? {
            Job::Recorded(job) => {
                let onward = pass(&job, request, |_, _| {});
                let mut client = BeamFnDataClient::new(job.upstream.clone())
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX);
                let elements = client.data(onward).await?.into_inner();
                Ok(Response::new(Box::pin(elements.map(move |elements| {
                    let elements = elements?;
                    job.recorder().elements(&elements);
                    Ok(elements)
                }))))
            }
            Job::Replayed(job) => {
                // The worker's output is what was recorded as somebody's input.
                let mut output = request.into_inner();
                tokio::spawn(async move { while let Ok(Some(_)) = output.message().await {} });
                Ok(Response::new(Box::pin(job.data_stream()?.map(Ok))))
            }
        }
    }
}

#[tonic::async_trait]
impl BeamFnState for Floor {
    type StateStream = Answers<StateResponse>;

    async fn state(
        &self,
        request: Request<Streaming<StateRequest>>,
    ) -> Result<Response<Self::StateStream>, Status> {
        match self.job()? {
            Job::Recorded(job) => {
                let onward = pass(&job, request, |job, request| job.recorder().state_request(request));
                let mut client = BeamFnStateClient::new(job.upstream.clone())
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX);
                let answers = client.state(onward).await?.into_inner();
                Ok(Response::new(Box::pin(answers.map(move |answer| {
                    let answer = answer?;
                    job.recorder().state_response(&answer);
                    Ok(answer)
                }))))
            }
            Job::Replayed(job) => {
                let asked =
                    futures::StreamExt::take_until(request.into_inner(), Box::pin(job.clone().ended()));
                Ok(Response::new(Box::pin(asked.map(move |request| Ok(remember(&job.recording, &request?))))))
            }
        }
    }
}

/// The worker's stream, seen by `see` on its way to the runner.
fn pass<T: Send + 'static, See: Fn(&RecordedJob, &T) + Send + 'static>(
    job: &Arc<RecordedJob>,
    request: Request<Streaming<T>>,
    see: See,
) -> Request<impl Stream<Item = T> + Send + use<T, See>> {
    let job = job.clone();
    same_worker(request).map(|messages| {
        messages.map_while(Result::ok).map(move |message| {
            see(&job, &message);
            message
        })
    })
}

/// A call that the runner takes for the worker's own.
fn same_worker<T>(request: Request<T>) -> Request<T> {
    let id = request.metadata().get("worker_id").cloned();
    let mut onward = Request::new(request.into_inner());
    if let Some(id) = id {
        onward.metadata_mut().insert("worker_id", id);
    }
    onward
}

fn redirect_registered(instruction: &mut InstructionRequest, url: &str) -> Result<(), Status> {
    if let Some(Instruction::Register(register)) = &mut instruction.request {
        for descriptor in &mut register.process_bundle_descriptor {
            redirect_bundles(descriptor, url).map_err(malformed)?;
        }
    }
    Ok(())
}

fn malformed(error: prost::DecodeError) -> Status {
    Status::internal(format!("the runner sent a malformed descriptor: {error}"))
}

async fn read_answers(job: Arc<Replay>, mut answers: Streaming<InstructionResponse>) {
    while let Ok(Some(answer)) = answers.message().await {
        job.answered(answer);
    }
    job.worker_gone();
}

/// Writes need no memory.
fn remember(recording: &Recording, request: &StateRequest) -> StateResponse {
    let id = request.id.clone();
    let response = match &request.request {
        Some(state_request::Request::Append(_)) => {
            state_response::Response::Append(StateAppendResponse::default())
        }
        Some(state_request::Request::Clear(_)) => {
            state_response::Response::Clear(StateClearResponse::default())
        }
        Some(state_request::Request::Get(_)) | None => {
            return recording.state(request).unwrap_or_else(|| {
                let error = format!("not asked when the job was recorded: {request:?}");
                StateResponse { id, error, response: None }
            });
        }
    };
    StateResponse { id, error: String::new(), response: Some(response) }
}
