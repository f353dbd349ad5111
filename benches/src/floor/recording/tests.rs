use beam_model::fn_execution::process_bundle_split_response::ChannelSplit;
use beam_model::fn_execution::{
    ProcessBundleProgressRequest, ProcessBundleRequest, ProcessBundleSplitResponse, StateGetRequest,
    state_request,
};

use super::*;

fn bundle(id: &str) -> InstructionRequest {
    let request = Some(Instruction::ProcessBundle(ProcessBundleRequest::default()));
    InstructionRequest { instruction_id: id.to_owned(), request }
}

fn answer(id: &str) -> InstructionResponse {
    InstructionResponse { instruction_id: id.to_owned(), ..Default::default() }
}

#[test]
fn a_step_waits_for_the_answers_that_it_waited_for_when_it_was_recorded() {
    let mut recorder = Recorder::default();
    recorder.instruction(&bundle("1"));
    recorder.elements(&Elements::default());
    recorder.answer(&answer("1"));
    recorder.instruction(&bundle("2"));
    let recording = recorder.finish().unwrap();
    let after: Vec<_> = recording.steps.iter().map(|step| step.after).collect();
    assert_eq!(after, [0, 0, 1]);
    assert_eq!(recording.instructions, 2);
}

#[test]
fn asking_for_progress_is_no_part_of_the_job() {
    let mut recorder = Recorder::default();
    let request = Some(Instruction::ProcessBundleProgress(ProcessBundleProgressRequest::default()));
    recorder.instruction(&InstructionRequest { instruction_id: "p".to_owned(), request });
    recorder.answer(&answer("p"));
    recorder.instruction(&bundle("1"));
    let recording = recorder.finish().unwrap();
    assert_eq!(recording.steps.len(), 1);
    assert_eq!(recording.steps[0].after, 0);
}

#[test]
fn a_job_whose_replay_would_be_other_work_is_refused() {
    let mut split = Recorder::default();
    let channel_splits = vec![ChannelSplit::default()];
    let response =
        Answer::ProcessBundleSplit(ProcessBundleSplitResponse { channel_splits, ..Default::default() });
    split.answer(&InstructionResponse { response: Some(response), ..answer("s") });
    assert!(split.finish().is_err_and(|why| why.contains("split")));

    let mut failed = Recorder::default();
    failed.answer(&InstructionResponse { error: "ValueError".to_owned(), ..answer("1") });
    assert!(failed.finish().is_err());

    let mut two = Recorder::default();
    two.worker_started();
    two.worker_started();
    assert!(two.finish().is_err_and(|why| why.contains("workers")));
}

#[test]
fn state_is_remembered_by_what_was_asked_not_by_the_id_of_the_request() {
    let get = |id: &str, bundle: &str| StateRequest {
        id: id.to_owned(),
        instruction_id: bundle.to_owned(),
        state_key: None,
        request: Some(state_request::Request::Get(StateGetRequest::default())),
    };
    let mut recorder = Recorder::default();
    recorder.state_request(&get("7", "1"));
    recorder.state_response(&StateResponse { id: "7".to_owned(), error: "x".to_owned(), response: None });
    let recording = recorder.finish().unwrap();
    let again = recording.state(&get("9", "1")).unwrap();
    assert_eq!((again.id.as_str(), again.error.as_str()), ("9", "x"));
    assert!(recording.state(&get("9", "2")).is_none());
}
