//! `BeamFnState`: what workers ask while a bundle runs, answered by the bundle's `StateHandler`.

mod key;

use std::pin::Pin;
use std::sync::Arc;

use beam_model::fn_execution::beam_fn_state_server::BeamFnState;
use beam_model::fn_execution::state_request::Request as Ask;
use beam_model::fn_execution::state_response::Response as Answer;
use beam_model::fn_execution::{
    StateAppendResponse, StateClearResponse, StateGetResponse, StateRequest, StateResponse,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::bundle::ActiveBundle;
use crate::server::Shared;
use crate::worker::WorkerSession;

pub(crate) struct StateService {
    shared: Arc<Shared>,
}

impl StateService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BeamFnState for StateService {
    type StateStream = Pin<Box<dyn Stream<Item = Result<StateResponse, Status>> + Send>>;

    /// Answers are made where requests are read, one after the other, unless they may have to be read from a disk: else a
    /// handler only looks things up, and a worker that does not read its answers is not read from.
    async fn state(
        &self,
        request: Request<Streaming<StateRequest>>,
    ) -> Result<Response<Self::StateStream>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        let requests = request.into_inner();
        Ok(Response::new(Box::pin(requests.then(move |request| {
            let worker = worker.clone();
            async move { take(worker, request?).await }
        }))))
    }
}

async fn take(worker: Arc<WorkerSession>, request: StateRequest) -> Result<StateResponse, Status> {
    let waits = |bundle: Arc<ActiveBundle>| bundle.state.may_wait();
    if !worker.bundle(&request.instruction_id).is_some_and(waits) {
        return Ok(respond(&worker, request));
    }
    let answered = tokio::task::spawn_blocking(move || respond(&worker, request)).await;
    answered.map_err(|error| Status::internal(format!("a state request could not be answered: {error}")))
}

fn respond(worker: &WorkerSession, request: StateRequest) -> StateResponse {
    let id = request.id.clone();
    match answer(worker, request) {
        Ok(answer) => StateResponse { id, error: String::new(), response: Some(answer) },
        Err(error) => StateResponse { id, error, response: None },
    }
}

fn answer(worker: &WorkerSession, request: StateRequest) -> Result<Answer, String> {
    let StateRequest { instruction_id, state_key, request, .. } = request;
    let bundle = worker
        .bundle(&instruction_id)
        .ok_or_else(|| format!("instruction {instruction_id:?} is not running: it has no state"))?;
    let key = key::read(state_key)?;
    let answer = match request {
        Some(Ask::Get(get)) => bundle.state.get(&key, &get.continuation_token).map(|page| {
            Answer::Get(StateGetResponse { continuation_token: page.continuation, data: page.data })
        }),
        Some(Ask::Append(append)) => {
            bundle.state.append(&key, append.data).map(|()| Answer::Append(StateAppendResponse {}))
        }
        Some(Ask::Clear(_)) => bundle.state.clear(&key).map(|()| Answer::Clear(StateClearResponse {})),
        None => return Err("the state request asks for nothing that is known here".to_owned()),
    };
    answer.map_err(|fault| fault.message)
}
