//! What a runner said to the worker of one job, and after which of the worker's answers.

use std::collections::{BTreeMap, HashMap, HashSet};

use beam_model::fn_execution::instruction_request::Request as Instruction;
use beam_model::fn_execution::instruction_response::Response as Answer;
use beam_model::fn_execution::{
    Elements, InstructionRequest, InstructionResponse, ProcessBundleDescriptor, StateRequest, StateResponse,
};
use prost::Message;

/// Bundles, ready to be given to another worker.
#[derive(Default)]
pub(super) struct Recording {
    pub(super) steps: Vec<Step>,
    /// How many answers the worker owes when all steps are done.
    pub(super) instructions: usize,
    /// Those that the worker fetched, by id.
    pub(super) descriptors: BTreeMap<String, ProcessBundleDescriptor>,
    states: HashMap<Vec<u8>, StateResponse>,
}

/// One message to the worker.
#[derive(Clone)]
pub(super) struct Step {
    /// How many instructions were answered before it was sent.
    pub(super) after: usize,
    pub(super) message: ToWorker,
}

#[derive(Clone)]
pub(super) enum ToWorker {
    Instruction(Box<InstructionRequest>),
    Elements(Elements),
}

impl Recording {
    /// What the runner answered to this request, if it was ever asked.
    pub(super) fn state(&self, request: &StateRequest) -> Option<StateResponse> {
        let answer = self.states.get(&state_key(request)).cloned()?;
        Some(StateResponse { id: request.id.clone(), ..answer })
    }
}

/// The request without its id, which is as the worker pleases.
fn state_key(request: &StateRequest) -> Vec<u8> {
    StateRequest { id: String::new(), ..request.clone() }.encode_to_vec()
}

/// A recording in the making.
#[derive(Default)]
pub(super) struct Recorder {
    recording: Recording,
    workers: usize,
    unanswered: HashSet<String>,
    answered: usize,
    asked: HashMap<String, Vec<u8>>,
    /// Why the recording is of no use.
    fault: Option<String>,
}

impl Recorder {
    pub(super) fn worker_started(&mut self) {
        self.workers += 1;
        if self.workers > 1 {
            self.spoil("the job had several workers: let the server have --sdk-worker-parallelism 1");
        }
    }

    /// What only asks how a bundle is doing is not part of the job.
    pub(super) fn instruction(&mut self, request: &InstructionRequest) {
        match &request.request {
            Some(
                Instruction::Register(_) | Instruction::ProcessBundle(_) | Instruction::FinalizeBundle(_),
            ) => {
                self.unanswered.insert(request.instruction_id.clone());
                self.recording.instructions += 1;
                self.step(ToWorker::Instruction(Box::new(request.clone())));
            }
            Some(
                Instruction::ProcessBundleProgress(_)
                | Instruction::ProcessBundleSplit(_)
                | Instruction::MonitoringInfos(_)
                | Instruction::HarnessMonitoringInfos(_)
                | Instruction::SampleData(_),
            )
            | None => {}
        }
    }

    pub(super) fn answer(&mut self, response: &InstructionResponse) {
        if self.unanswered.remove(&response.instruction_id) {
            self.answered += 1;
        }
        if let Some(Answer::ProcessBundleSplit(split)) = &response.response
            && !(split.channel_splits.is_empty() && split.residual_roots.is_empty())
        {
            self.spoil("a bundle was split, and its replay would not be the same work");
        }
        if !response.error.is_empty() {
            self.spoil("a bundle failed");
        }
    }

    pub(super) fn elements(&mut self, elements: &Elements) {
        self.step(ToWorker::Elements(elements.clone()));
    }

    pub(super) fn descriptor(&mut self, descriptor: &ProcessBundleDescriptor) {
        self.recording.descriptors.insert(descriptor.id.clone(), descriptor.clone());
    }

    pub(super) fn state_request(&mut self, request: &StateRequest) {
        self.asked.insert(request.id.clone(), state_key(request));
    }

    pub(super) fn state_response(&mut self, response: &StateResponse) {
        if let Some(key) = self.asked.remove(&response.id) {
            // A state that changes within a bundle is asked for once: the worker keeps it from then on.
            self.recording.states.entry(key).or_insert_with(|| response.clone());
        }
    }

    /// Errors: why this cannot be replayed.
    pub(super) fn finish(self) -> Result<Recording, String> {
        match self.fault {
            Some(why) => Err(format!("the recording cannot be replayed: {why}")),
            None => Ok(self.recording),
        }
    }

    fn step(&mut self, message: ToWorker) {
        self.recording.steps.push(Step { after: self.answered, message });
    }

    fn spoil(&mut self, why: &str) {
        self.fault.get_or_insert_with(|| why.to_owned());
    }
}

#[cfg(test)]
mod tests;
