use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use beam_model::coders::{Coder, varint, windowed_value};
use beam_model::fn_execution::ProcessBundleDescriptor;
use bytes::Bytes;
use proptest::prelude::*;

use super::interval;
use crate::engine::MAX_ATTEMPTS;
use crate::fault::{Blame, Fault};
use crate::plan::MapStage;
use crate::ports::{BundleResult, RemoteBundle, StageBundleFactory, StageSpec};
use crate::runner_transforms::group_by_key::Window;
use crate::runner_transforms::map_windows;

/// Maps an interval window of ten to the hundred that it is in, in the reverse order of the questions; or
/// answers with these blocks.
#[derive(Default)]
struct Worker {
    blocks: Option<Vec<Bytes>>,
    failures: u32,
    attempts: AtomicU32,
}

#[async_trait]
impl StageBundleFactory for Worker {
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        assert_eq!(bundle.instruction, format!("map-attempt-{attempt}"));
        if attempt <= self.failures {
            return Err(Fault::environment("gone"));
        }
        let [input] = bundle.inputs.try_into().ok().unwrap();
        assert_eq!(input.transform_id, "fn/read/windows");
        let blocks = match &self.blocks {
            Some(blocks) => blocks.clone(),
            None => input.blocks.map(|block| answers(&block.unwrap())).collect(),
        };
        for block in blocks {
            bundle.outputs.receive("fn/write/windows", block)?;
        }
        Ok(BundleResult::default())
    }
}

fn answers(mut questions: &[u8]) -> Bytes {
    let mut answers = Vec::new();
    while !questions.is_empty() {
        let header = windowed_value::read_header(&Coder::GlobalWindow, questions).unwrap().header_len;
        let (nonce, len) = varint::read_prefixed(&questions[header..]).unwrap();
        let start = header + len;
        let end = start + Coder::IntervalWindow.skip(&questions[start..]).unwrap();
        let hundreds = (0..10).map(|n| n * 100);
        let of = hundreds.filter(|start_of| {
            (0..10).any(|n| interval(start_of + n * 10, start_of + n * 10 + 10) == questions[start..end])
        });
        let side: Vec<_> = of.map(|start| interval(start, start + 100)).collect();
        let mut one = questions[..header].to_vec();
        varint::write_prefixed(&mut one, nonce);
        answers.push([one, side.concat()].concat());
        questions = &questions[end..];
    }
    answers.reverse();
    answers.concat().into()
}

fn map(worker: &Worker, windows: Vec<Window>) -> Result<HashMap<Window, Window>, Fault> {
    let spec = StageSpec {
        name: "mapping".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor { id: "map".to_owned(), ..Default::default() },
    };
    let stage = MapStage {
        spec: Arc::new(spec),
        source: "fn/read/windows".to_owned(),
        side_window_coder: Coder::IntervalWindow,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(map_windows::map(&stage, worker, windows))
}

fn tens() -> Vec<Window> {
    [30, 120, 190, 0].map(|start| interval(start, start + 10).into()).into()
}

#[test]
fn each_window_has_its_own_answer() {
    let mapped = map(&Worker { failures: MAX_ATTEMPTS - 1, ..Worker::default() }, tens()).unwrap();
    let expected = [(30, 0), (120, 100), (190, 100), (0, 0)];
    let expected = expected.map(|(main, side)| (interval(main, main + 10), interval(side, side + 100)));
    assert_eq!(mapped, expected.map(|(main, side)| (main.into(), side.into())).into());
}

#[test]
fn nothing_is_mapped_without_a_worker() {
    let unused = Worker { failures: u32::MAX, ..Worker::default() };
    assert!(map(&unused, Vec::new()).unwrap().is_empty());
    assert_eq!(unused.attempts.load(Ordering::Relaxed), 0);
    assert_eq!(map(&unused, tens()).unwrap_err().message, "gone");
    assert_eq!(unused.attempts.load(Ordering::Relaxed), MAX_ATTEMPTS);
}

fn good() -> Bytes {
    answers(&crate::runner_transforms::ask_windows::questions(&tens(), |out, window| {
        out.extend_from_slice(window);
    }))
}

#[test]
fn answers_that_are_none() {
    let good = good();
    let one = good.len() / tens().len();
    // The last question is answered first; its nonce ends before the window, which has 10 bytes.
    let mut unknown_nonce = good.to_vec();
    unknown_nonce[one - 11] = 9;
    for bad in [Vec::new(), vec![good.slice(one..)], vec![good.slice(..one - 1)], vec![unknown_nonce.into()]]
    {
        let bad = Worker { blocks: Some(bad), ..Worker::default() };
        let fault = map(&bad, tens()).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment);
        assert!(fault.message.contains("mapping"), "{fault}");
    }
    let halves = Some(vec![good.slice(..2 * one), good.slice(2 * one..)]);
    assert_eq!(map(&Worker { blocks: halves, ..Worker::default() }, tens()).unwrap().len(), 4);
}

proptest! {
    #[test]
    fn changed_answers_do_not_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = good().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(1 + cut.index(bytes.len()));
        let worker = Worker { blocks: Some(vec![bytes.into()]), ..Worker::default() };
        if let Err(fault) = map(&worker, tens()) {
            prop_assert_eq!(fault.blame, Blame::Environment);
        }
    }
}
