//! `BeamFnControl`: instructions to workers, their answers, and the descriptors they ask for.

mod ask;
mod descriptor;
mod harness_metrics;
mod sampled;
mod short_ids;

use std::sync::Arc;

use beam_model::fn_execution::beam_fn_control_server::BeamFnControl;
use beam_model::fn_execution::{
    GetProcessBundleDescriptorRequest, InstructionRequest, InstructionResponse, ProcessBundleDescriptor,
    RegisterRequest, instruction_request, instruction_response,
};
use beam_model::pipeline::ApiServiceDescriptor;
use prost::Message;
use runner_core::ports::StageSpec;
use tonic::{Request, Response, Status, Streaming};

use crate::bundle::ActiveBundle;
use crate::error::BridgeError;
use crate::server::Shared;
use crate::worker::{Fate, OutboxStream, Standby, WorkerSession};

pub(crate) use ask::{NoAnswer, ask};
pub(crate) use harness_metrics::harness_monitoring_infos;
pub(crate) use short_ids::{ShortIds, monitoring_infos};

pub(crate) struct ControlService {
    shared: Arc<Shared>,
}

impl ControlService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BeamFnControl for ControlService {
    type ControlStream = OutboxStream<InstructionRequest>;

    async fn control(
        &self,
        request: Request<Streaming<InstructionResponse>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let taken = |id: &str| BridgeError::StreamTaken { worker: id.to_owned(), stream: "control" };
        if let Some(standby) = self.shared.registry.standby(request.metadata()) {
            let instructions = standby.connect().ok_or_else(|| taken(&standby.id))?;
            tracing::debug!(worker = %standby.id, "worker stands by");
            tokio::spawn(wait_for_job(standby, request.into_inner()));
            return Ok(Response::new(instructions));
        }
        let worker = self.shared.registry.worker(request.metadata())?;
        let instructions = worker.control.attach().ok_or_else(|| taken(&worker.id))?;
        tracing::debug!(worker = %worker.id, "worker is connected");
        worker.connected.cancel();
        tokio::spawn(read_answers(worker, request.into_inner()));
        Ok(Response::new(instructions))
    }

    async fn get_process_bundle_descriptor(
        &self,
        request: Request<GetProcessBundleDescriptorRequest>,
    ) -> Result<Response<ProcessBundleDescriptor>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        let id = request.into_inner().process_bundle_descriptor_id;
        let stage = worker.job.stage(&id);
        let stage = stage.ok_or_else(|| BridgeError::UnknownDescriptor { job: worker.job.id.clone(), id })?;
        Ok(Response::new(descriptor::for_worker(&worker, &stage, &self.shared.endpoint.descriptor())?))
    }
}

/// Descriptors of more bytes than this are left to be asked for one by one.
const REGISTERED_BYTES: usize = 1 << 20;

/// Tells a worker of the stages it may get, before it asks: that saves it a call for each. `None`: there
/// are none, or so many that most would be sent in vain. The protocol calls this way deprecated, but every
/// SDK takes it, or ignores it and asks.
pub(crate) fn register(
    worker: &WorkerSession,
    stages: &[Arc<StageSpec>],
    endpoint: &ApiServiceDescriptor,
) -> Option<InstructionRequest> {
    let descriptors = stages.iter().map(|stage| descriptor::for_worker(worker, stage, endpoint).ok());
    let process_bundle_descriptor: Vec<_> = descriptors.collect::<Option<_>>()?;
    let request = RegisterRequest { process_bundle_descriptor };
    let fits = !stages.is_empty() && request.encoded_len() <= REGISTERED_BYTES;
    fits.then(|| InstructionRequest {
        instruction_id: "register".to_owned(),
        request: Some(instruction_request::Request::Register(request)),
    })
}

/// The worker has nothing to say before it has a job.
async fn wait_for_job(standby: Arc<Standby>, mut answers: Streaming<InstructionResponse>) {
    let unasked = tokio::select! {
        biased;
        fate = standby.fate() => match fate {
            Fate::Leased(worker) => return read_answers(worker.clone(), answers).await,
            Fate::Gone => return,
        },
        unasked = answers.message() => unasked,
    };
    standby.end(match unasked {
        Ok(Some(_)) => "answered what it was not asked",
        Ok(None) => "ended its control stream",
        Err(_) => "lost its control stream",
    });
}

/// Hands out a worker's answers for as long as its control stream lasts. Its end is the worker's.
async fn read_answers(worker: Arc<WorkerSession>, mut answers: Streaming<InstructionResponse>) {
    loop {
        let message = tokio::select! {
            () = worker.finished.cancelled() => return,
            message = answers.message() => message,
        };
        let handed_out = match message {
            Ok(Some(answer)) => take(&worker, answer).await,
            Ok(None) => Err("ended its control stream".to_owned()),
            Err(status) => Err(format!("lost its control stream ({})", status.message())),
        };
        if let Err(why) = handed_out {
            worker.end(why);
            return;
        }
    }
}

/// Hands out an answer where that may wait for a disk, if there is output in it that may have to.
async fn take(worker: &Arc<WorkerSession>, answer: InstructionResponse) -> Result<(), String> {
    let data = match &answer.response {
        Some(instruction_response::Response::ProcessBundle(response)) => response.elements.as_ref(),
        _ => None,
    };
    let mut data = data.into_iter().flat_map(|elements| &elements.data);
    let waits = |bundle: Arc<ActiveBundle>| data.any(|data| bundle.may_wait(data));
    if !worker.bundle(&answer.instruction_id).is_some_and(waits) {
        return hand_out(worker, answer);
    }
    let worker = worker.clone();
    let handed_out = tokio::task::spawn_blocking(move || hand_out(&worker, answer));
    handed_out.await.unwrap_or_else(|error| Err(format!("answered what could not be taken in ({error})")))
}

fn hand_out(worker: &WorkerSession, answer: InstructionResponse) -> Result<(), String> {
    if let Some(bundle) = worker.bundle(&answer.instruction_id) {
        return bundle.answer(answer);
    }
    match worker.take_answer(&answer.instruction_id) {
        // An error here means that nobody waits for it any more.
        Some(waiting) => drop(waiting.send(answer)),
        None => tracing::debug!(
            worker = %worker.id,
            instruction = %answer.instruction_id,
            "an answer came that nobody waits for"
        ),
    }
    Ok(())
}
