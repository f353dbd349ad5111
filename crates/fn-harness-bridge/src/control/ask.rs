//! Instructions that are no bundle: sent, and their answer waited for.

use std::time::Duration;

use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::{InstructionRequest, InstructionResponse};

use crate::worker::WorkerSession;

/// Why a worker has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    WorkerGone,
    /// Not in time.
    Late,
}

/// Has the worker do what `request` says. `name` becomes part of the instruction's id. The answer may hold an
/// error of the worker's.
pub(crate) async fn ask(
    worker: &WorkerSession,
    name: &str,
    request: Request,
    limit: Duration,
) -> Result<InstructionResponse, NoAnswer> {
    let instruction_id = worker.next_instruction(name);
    let answer = worker.expect_answer(&instruction_id);
    let _forget = Forget { worker, instruction: &instruction_id };
    let request = InstructionRequest { instruction_id: instruction_id.clone(), request: Some(request) };
    let ask = async {
        worker.control.send(request).await.map_err(|_| NoAnswer::WorkerGone)?;
        answer.await.map_err(|_| NoAnswer::WorkerGone)
    };
    tokio::time::timeout(limit, ask).await.unwrap_or(Err(NoAnswer::Late))
}

/// Whatever comes of a question, nobody waits for its answer afterwards.
struct Forget<'a> {
    worker: &'a WorkerSession,
    instruction: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.worker.take_answer(self.instruction);
    }
}
