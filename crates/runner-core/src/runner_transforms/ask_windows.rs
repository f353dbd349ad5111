//! Asks an SDK about windows: one bundle of a stage that reads `KV<nonce, question>` and writes
//! `KV<nonce, answer>`. The nonce of a question is its index.

use std::sync::{Arc, Mutex, PoisonError};

use beam_model::coders::{Coder, CoderError, varint, windowed_value};
use bytes::Bytes;

use super::impulse_element;
use crate::engine::MAX_ATTEMPTS;
use crate::fault::{Fault, Retry};
use crate::ports::{
    BundleInput, BundleRequests, ElementCount, OutputReceiver, RemoteBundle, StageBundleFactory, StageSpec,
    StateHandler, StateKey, StatePage, TimerBlock,
};

/// Questions as the stage reads them; `write` appends one.
pub(super) fn questions<T>(asked: &[T], write: impl Fn(&mut Vec<u8>, &T)) -> Bytes {
    // A windowed value in the global window: what is before an Impulse's empty value.
    let impulse = impulse_element();
    let header = &impulse[..impulse.len() - 1];
    let mut out = Vec::new();
    for (index, question) in asked.iter().enumerate() {
        out.extend_from_slice(header);
        varint::write_prefixed(&mut out, &(index as u64).to_be_bytes());
        write(&mut out, question);
    }
    out.into()
}

/// Reads the beginning of an answer: to which question it is, and what follows.
pub(super) fn answer(encoded: &[u8]) -> Result<(usize, &[u8]), CoderError> {
    let bad = CoderError::Malformed { what: "windows", reason: "the nonce is not the one sent" };
    let header = windowed_value::read_header(&Coder::GlobalWindow, encoded)?;
    let rest = &encoded[header.header_len..];
    let (nonce, len) = varint::read_prefixed(rest)?;
    let Some(index) = nonce.try_into().ok().and_then(|it| usize::try_from(u64::from_be_bytes(it)).ok())
    else {
        return Err(bad);
    };
    Ok((index, &rest[len..]))
}

/// Runs the bundle, as often as any is tried, and returns what it wrote.
pub(super) async fn ask(
    spec: &StageSpec,
    source: &str,
    factory: &dyn StageBundleFactory,
    questions: Bytes,
) -> Result<Vec<Bytes>, Fault> {
    let mut attempt = 1;
    loop {
        let output = Arc::new(Output { blocks: Mutex::default(), stage: spec.name.clone() });
        let bundle = RemoteBundle {
            instruction: format!("{}-attempt-{attempt}", spec.descriptor.id),
            inputs: vec![BundleInput {
                transform_id: source.to_owned(),
                blocks: Box::new(std::iter::once(Ok(questions.clone()))),
                elements: ElementCount::default(),
            }],
            timers: Vec::new(),
            state: Arc::new(NoState { stage: spec.name.clone() }),
            outputs: output.clone(),
            requests: BundleRequests::none(),
            side_inputs_version: None,
        };
        match factory.process(bundle).await {
            Ok(_) => return Ok(output.blocks()),
            Err(fault) if fault.retry == Retry::Never || attempt >= MAX_ATTEMPTS => return Err(fault),
            Err(_) => attempt += 1,
        }
    }
}

struct Output {
    blocks: Mutex<Vec<Bytes>>,
    stage: String,
}

impl Output {
    fn blocks(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.blocks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OutputReceiver for Output {
    fn receive(&self, _transform_id: &str, block: Bytes) -> Result<(), Fault> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        Ok(())
    }

    fn receive_timers(&self, _timers: TimerBlock) -> Result<(), Fault> {
        Err(Fault::environment(format!("{}: a worker set a timer, though there is none", self.stage)))
    }
}

/// A function of windows has neither state nor side inputs.
struct NoState {
    stage: String,
}

impl NoState {
    fn refuse<T>(&self) -> Result<T, Fault> {
        Err(Fault::environment(format!("{}: a worker asked for state, though there is none", self.stage)))
    }
}

impl StateHandler for NoState {
    fn get(&self, _: &StateKey, _: &Bytes) -> Result<StatePage, Fault> {
        self.refuse()
    }
    fn append(&self, _: &StateKey, _: Bytes) -> Result<(), Fault> {
        self.refuse()
    }
    fn clear(&self, _: &StateKey) -> Result<(), Fault> {
        self.refuse()
    }
}
