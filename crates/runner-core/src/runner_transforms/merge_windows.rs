//! Asks an SDK to merge windows: `beam:transform:merge_windows:v1`.
//!
//! One bundle merges all sets of windows of a GroupByKey. The nonce of a set is its index.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use beam_model::coders::{Coder, CoderError, varint};
use bytes::Bytes;

use super::group_by_key::{Merged, Window};
use super::{impulse_element, malformed};
use crate::engine::MAX_ATTEMPTS;
use crate::fault::{Fault, Retry};
use crate::plan::MergeStage;
use crate::ports::{
    BundleInput, BundleRequests, OutputReceiver, RemoteBundle, StageBundleFactory, StateHandler, StateKey,
    StatePage, TimerBlock,
};

/// How each set of windows is merged; tried as often as any bundle.
pub async fn merge(
    stage: &MergeStage,
    factory: &dyn StageBundleFactory,
    window_coder: &Coder,
    sets: Vec<Vec<Window>>,
) -> Result<HashMap<Vec<Window>, Merged>, Fault> {
    if sets.is_empty() {
        return Ok(HashMap::new());
    }
    let input = request(&sets);
    let mut attempt = 1;
    loop {
        let output = Arc::new(Output::default());
        let bundle = RemoteBundle {
            instruction: format!("{}-attempt-{attempt}", stage.spec.descriptor.id),
            inputs: vec![BundleInput {
                transform_id: stage.source.clone(),
                blocks: Box::new(std::iter::once(Ok(input.clone()))),
                elements: None,
            }],
            timers: Vec::new(),
            state: Arc::new(NoState),
            outputs: output.clone(),
            requests: BundleRequests::none(),
        };
        match factory.process(bundle).await {
            Ok(_) => {
                return response(&output.blocks(), window_coder, sets)
                    .map_err(|error| malformed(&stage.spec.name, error));
            }
            Err(fault) if fault.retry == Retry::Never || attempt >= MAX_ATTEMPTS => return Err(fault),
            Err(_) => attempt += 1,
        }
    }
}

fn request(sets: &[Vec<Window>]) -> Bytes {
    // A windowed value in the global window: what is before an Impulse's empty value.
    let impulse = impulse_element();
    let header = &impulse[..impulse.len() - 1];
    let mut out = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        out.extend_from_slice(header);
        varint::write_prefixed(&mut out, &(index as u64).to_be_bytes());
        write_iterable(&mut out, set);
    }
    out.into()
}

fn write_iterable(out: &mut Vec<u8>, windows: &[Window]) {
    out.extend_from_slice(&(windows.len() as u32).to_be_bytes());
    windows.iter().for_each(|window| out.extend_from_slice(window));
}

fn response(
    blocks: &[Bytes],
    window_coder: &Coder,
    sets: Vec<Vec<Window>>,
) -> Result<HashMap<Vec<Window>, Merged>, CoderError> {
    let mut merged: Vec<Merged> = vec![Merged::new(); sets.len()];
    for block in blocks {
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            rest = read_one(rest, window_coder, &mut merged)?;
        }
    }
    Ok(sets.into_iter().zip(merged).collect())
}

/// Reads one answer off the front and returns what follows it.
fn read_one<'a>(
    encoded: &'a [u8],
    window_coder: &Coder,
    merged: &mut [Merged],
) -> Result<&'a [u8], CoderError> {
    const WHAT: &str = "merged windows";
    let bad = |reason| CoderError::Malformed { what: WHAT, reason };
    let header = beam_model::coders::windowed_value::read_header(&Coder::GlobalWindow, encoded)?;
    let mut rest = &encoded[header.header_len..];
    let (nonce, len) = varint::read_prefixed(rest)?;
    rest = &rest[len..];
    let index = nonce.try_into().map(u64::from_be_bytes).map_err(|_| bad("the nonce is not the one sent"))?;
    let of_set = usize::try_from(index).ok().and_then(|index| merged.get_mut(index));
    let of_set = of_set.ok_or_else(|| bad("the nonce is not the one sent"))?;

    let (_unmerged, after) = windows(rest, window_coder)?;
    let (count, mut rest) = count(after)?;
    for _ in 0..count {
        let (result, after) = rest.split_at(window_coder.skip(rest)?);
        let (parts, after) = windows(after, window_coder)?;
        for part in parts {
            of_set.insert(part, result.into());
        }
        rest = after;
    }
    Ok(rest)
}

fn windows<'a>(encoded: &'a [u8], coder: &Coder) -> Result<(Vec<Window>, &'a [u8]), CoderError> {
    let (count, mut rest) = count(encoded)?;
    let mut windows = Vec::new();
    for _ in 0..count {
        let (window, after) = rest.split_at(coder.skip(rest)?);
        // Windows of no bytes would let four bytes stand for 2^31 of them.
        if window.is_empty() && count > 1 {
            return Err(CoderError::Malformed {
                what: "merged windows",
                reason: "there are many of the same",
            });
        }
        windows.push(window.into());
        rest = after;
    }
    Ok((windows, rest))
}

/// The count before an iterable. SDKs write the few windows of a set, or what they merge into, with it,
/// unless they hold them as something whose length they do not know.
fn count(encoded: &[u8]) -> Result<(u32, &[u8]), CoderError> {
    let bad =
        CoderError::Malformed { what: "merged windows", reason: "an iterable does not begin with a count" };
    let Some((count, rest)) = encoded.split_first_chunk::<4>() else { return Err(bad) };
    match i32::from_be_bytes(*count) {
        count if count >= 0 => Ok((count.unsigned_abs(), rest)),
        _ => Err(bad),
    }
}

#[derive(Default)]
struct Output(Mutex<Vec<Bytes>>);

impl Output {
    fn blocks(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OutputReceiver for Output {
    fn receive(&self, _transform_id: &str, block: Bytes) -> Result<(), Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        Ok(())
    }

    fn receive_timers(&self, _timers: TimerBlock) -> Result<(), Fault> {
        Err(Fault::environment("a worker that merges windows set a timer"))
    }
}

/// A window function has neither state nor side inputs.
struct NoState;

impl NoState {
    fn refuse<T>(&self) -> Result<T, Fault> {
        Err(Fault::environment("a worker that merges windows asked for state"))
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
