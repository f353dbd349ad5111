//! Asks an SDK to merge windows: `beam:transform:merge_windows:v1`.
//!
//! One bundle merges all sets of windows of a GroupByKey.

use std::collections::HashMap;

use beam_model::coders::{Coder, CoderError};
use bytes::Bytes;

use super::group_by_key::{Merged, Window};
use super::{ask_windows, malformed};
use crate::fault::Fault;
use crate::plan::MergeStage;
use crate::ports::StageBundleFactory;

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
    let questions = ask_windows::questions(&sets, |out, set| write_iterable(out, set));
    let blocks = ask_windows::ask(&stage.spec, &stage.source, factory, questions).await?;
    response(&blocks, window_coder, sets).map_err(|error| malformed(&stage.spec.name, error))
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
    let (index, rest) = ask_windows::answer(encoded)?;
    let unknown = CoderError::Malformed { what: "merged windows", reason: "the nonce is not the one sent" };
    let of_set = merged.get_mut(index).ok_or(unknown)?;

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
