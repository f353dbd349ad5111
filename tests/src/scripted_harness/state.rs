//! Asking the runner for state, from the thread of a bundle.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use beam_model::fn_execution::state_key::{BagUserState, IterableSideInput, MultimapSideInput, Type};
use beam_model::fn_execution::state_request::Request;
use beam_model::fn_execution::state_response::Response;
use beam_model::fn_execution::{
    StateAppendRequest, StateClearRequest, StateGetRequest, StateKey, StateRequest, StateResponse,
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Where a bundle asks for state.
pub(super) trait StateAccess: Send + Sync {
    /// All pages of a key's value.
    fn get(&self, instruction: &str, key: &Type) -> Result<Vec<u8>, String>;
    fn append(&self, instruction: &str, key: &Type, data: &[u8]) -> Result<(), String>;
    fn clear(&self, instruction: &str, key: &Type) -> Result<(), String>;
}

/// One worker's state stream.
pub(super) struct StateClient {
    requests: mpsc::UnboundedSender<StateRequest>,
    /// Nothing once the worker is gone.
    waiting: Mutex<Option<HashMap<String, oneshot::Sender<StateResponse>>>>,
    asked: AtomicU64,
}

impl StateClient {
    pub(super) fn new(requests: mpsc::UnboundedSender<StateRequest>) -> Self {
        Self { requests, waiting: Mutex::new(Some(HashMap::new())), asked: AtomicU64::new(0) }
    }

    pub(super) fn answered(&self, response: StateResponse) {
        if let Some(waiting) = self.waiting.lock().unwrap().as_mut().and_then(|all| all.remove(&response.id))
        {
            waiting.send(response).ok();
        }
    }

    /// The worker is gone: nothing will be answered any more.
    pub(super) fn close(&self) {
        self.waiting.lock().unwrap().take();
    }

    fn ask(&self, instruction: &str, key: &Type, request: Request) -> Result<Option<Response>, String> {
        let id = self.asked.fetch_add(1, Ordering::SeqCst).to_string();
        let (sender, response) = oneshot::channel();
        // Who asks later than that would wait for ever.
        let mut waiting = self.waiting.lock().unwrap();
        waiting.as_mut().ok_or("the state stream has ended")?.insert(id.clone(), sender);
        drop(waiting);
        let request = StateRequest {
            id,
            instruction_id: instruction.to_owned(),
            state_key: Some(StateKey { r#type: Some(key.clone()) }),
            request: Some(request),
        };
        self.requests.send(request).map_err(|_| "the state stream is closed".to_owned())?;
        let response = response.blocking_recv().map_err(|_| "the state stream has ended".to_owned())?;
        if response.error.is_empty() { Ok(response.response) } else { Err(response.error) }
    }
}

impl StateAccess for StateClient {
    fn get(&self, instruction: &str, key: &Type) -> Result<Vec<u8>, String> {
        let mut value = Vec::new();
        let mut continuation_token = Bytes::new();
        loop {
            let get = Request::Get(StateGetRequest { continuation_token });
            let Some(Response::Get(page)) = self.ask(instruction, key, get)? else {
                return Err("the runner answered a get with something else".to_owned());
            };
            value.extend_from_slice(&page.data);
            if page.continuation_token.is_empty() {
                return Ok(value);
            }
            continuation_token = page.continuation_token;
        }
    }

    fn append(&self, instruction: &str, key: &Type, data: &[u8]) -> Result<(), String> {
        let data = Bytes::copy_from_slice(data);
        self.ask(instruction, key, Request::Append(StateAppendRequest { data })).map(drop)
    }

    fn clear(&self, instruction: &str, key: &Type) -> Result<(), String> {
        self.ask(instruction, key, Request::Clear(StateClearRequest {})).map(drop)
    }
}

pub(super) fn iterable(transform_id: &str, side_input_id: &str, window: Bytes) -> Type {
    Type::IterableSideInput(IterableSideInput {
        transform_id: transform_id.to_owned(),
        side_input_id: side_input_id.to_owned(),
        window,
    })
}

pub(super) fn multimap(transform_id: &str, side_input_id: &str, window: Bytes, key: &[u8]) -> Type {
    Type::MultimapSideInput(MultimapSideInput {
        transform_id: transform_id.to_owned(),
        side_input_id: side_input_id.to_owned(),
        window,
        key: Bytes::copy_from_slice(key),
    })
}

pub(super) fn bag(transform_id: &str, state_id: &str, window: Bytes, key: &[u8]) -> Type {
    Type::BagUserState(BagUserState {
        transform_id: transform_id.to_owned(),
        user_state_id: state_id.to_owned(),
        window,
        key: Bytes::copy_from_slice(key),
    })
}
