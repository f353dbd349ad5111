use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use beam_model::coders::{Coder, varint};
use beam_model::fn_execution::ProcessBundleDescriptor;
use bytes::Bytes;
use proptest::prelude::*;

use super::interval;
use crate::engine::MAX_ATTEMPTS;
use crate::fault::{Blame, Fault};
use crate::plan::MergeStage;
use crate::ports::{BundleResult, RemoteBundle, StageBundleFactory, StageSpec, StateKey};
use crate::runner_transforms::group_by_key::Merged;
use crate::runner_transforms::{impulse_element, merge_windows};

/// Answers with the given blocks, after so many failures.
struct Worker {
    blocks: Vec<Bytes>,
    failures: u32,
    fault: Fault,
    attempts: AtomicU32,
}

#[async_trait]
impl StageBundleFactory for Worker {
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(bundle.instruction, format!("merge-attempt-{attempt}"));
        assert!(bundle.state.get(&StateKey::Runner { key: Bytes::new() }, &Bytes::new()).is_err());
        for block in &self.blocks {
            bundle.outputs.receive("fn/write/windows", block.clone())?;
        }
        if attempt <= self.failures { Err(self.fault.clone()) } else { Ok(BundleResult::default()) }
    }
}

fn worker(blocks: Vec<Bytes>, failures: u32, fault: Fault) -> Worker {
    Worker { blocks, failures, fault, attempts: AtomicU32::new(0) }
}

type Result_ = Result<HashMap<Vec<Box<[u8]>>, Merged>, Fault>;

fn merge(worker: &Worker, sets: Vec<Vec<Box<[u8]>>>) -> Result_ {
    let spec = StageSpec {
        name: "merge".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor { id: "merge".to_owned(), ..Default::default() },
    };
    let stage = MergeStage { spec: Arc::new(spec), source: "fn/read/windows".to_owned() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(merge_windows::merge(&stage, worker, &Coder::IntervalWindow, sets))
}

fn boxed(start: i64, end: i64) -> Box<[u8]> {
    interval(start, end).into()
}

fn iterable(items: &[Vec<u8>]) -> Vec<u8> {
    [&(items.len() as u32).to_be_bytes()[..], &items.concat()].concat()
}

/// What an SDK answers: the nonce, windows that stay, and merged windows each with its parts.
fn answer(nonce: &[u8], unmerged: &[Vec<u8>], merged: &[(Vec<u8>, Vec<Vec<u8>>)]) -> Vec<u8> {
    let impulse = impulse_element();
    let mut bytes = impulse[..impulse.len() - 1].to_vec();
    varint::write_prefixed(&mut bytes, nonce);
    bytes.extend(iterable(unmerged));
    let merged: Vec<_> = merged.iter().map(|(to, parts)| [to.clone(), iterable(parts)].concat()).collect();
    bytes.extend(iterable(&merged));
    bytes
}

fn two_sets() -> Vec<Vec<Box<[u8]>>> {
    vec![vec![boxed(0, 1), boxed(2, 3)], vec![boxed(0, 1), boxed(4, 5), boxed(6, 7)]]
}

fn good_answers() -> Vec<u8> {
    let second = answer(
        &1_u64.to_be_bytes(),
        &[interval(6, 7)],
        &[(interval(0, 5), vec![interval(0, 1), interval(4, 5)])],
    );
    let first = answer(&0_u64.to_be_bytes(), &[interval(0, 1), interval(2, 3)], &[]);
    [second, first].concat()
}

#[test]
fn sets_are_merged_each_for_itself() {
    let merged = merge(&worker(vec![good_answers().into()], 0, Fault::user("")), two_sets()).unwrap();
    let [one, two] = two_sets().try_into().unwrap();
    assert!(merged[&one].is_empty());
    let whole = boxed(0, 5);
    assert_eq!(merged[&two], HashMap::from([(boxed(0, 1), whole.clone()), (boxed(4, 5), whole)]));
}

#[test]
fn nothing_is_merged_without_a_worker() {
    let unused = worker(Vec::new(), u32::MAX, Fault::user("not asked"));
    assert!(merge(&unused, Vec::new()).unwrap().is_empty());
    assert_eq!(unused.attempts.into_inner(), 0);
}

#[test]
fn failures_are_tried_again_and_the_output_of_failures_is_forgotten() {
    let flaky = worker(vec![good_answers().into()], MAX_ATTEMPTS - 1, Fault::environment("gone"));
    assert_eq!(merge(&flaky, two_sets()).unwrap().len(), 2);
    assert_eq!(flaky.attempts.into_inner(), MAX_ATTEMPTS);
    let broken = worker(Vec::new(), u32::MAX, Fault::user("boom"));
    assert_eq!(merge(&broken, two_sets()).unwrap_err().message, "boom");
    assert_eq!(broken.attempts.into_inner(), MAX_ATTEMPTS);
    let fatal = worker(Vec::new(), u32::MAX, Fault::user("boom").fatal());
    merge(&fatal, two_sets()).unwrap_err();
    assert_eq!(fatal.attempts.into_inner(), 1);
}

#[test]
fn answers_that_are_none() {
    let huge = {
        let mut bytes = answer(&0_u64.to_be_bytes(), &[], &[]);
        let len = bytes.len();
        bytes[len - 8..len - 4].copy_from_slice(&i32::MAX.to_be_bytes());
        bytes
    };
    let unknown_nonce = answer(&7_u64.to_be_bytes(), &[], &[]);
    let short_nonce = answer(b"x", &[], &[]);
    let cut = good_answers()[..40].to_vec();
    for bad in [huge, unknown_nonce, short_nonce, cut] {
        let fault = merge(&worker(vec![bad.into()], 0, Fault::user("")), two_sets()).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment);
        assert!(fault.message.contains("merge"), "{fault}");
    }
}

proptest! {
    #[test]
    fn changed_answers_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = good_answers();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(1 + cut.index(bytes.len()));
        if let Err(fault) = merge(&worker(vec![bytes.into()], 0, Fault::user("")), two_sets()) {
            prop_assert_eq!(fault.blame, Blame::Environment);
        }
    }
}
