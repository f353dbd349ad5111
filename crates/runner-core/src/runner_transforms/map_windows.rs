//! Asks an SDK in which window of a side input each window of a main input looks:
//! `beam:transform:map_windows:v1`.

use std::collections::HashMap;

use beam_model::coders::{Coder, CoderError};
use bytes::Bytes;

use super::group_by_key::Window;
use super::{ask_windows, malformed};
use crate::fault::Fault;
use crate::plan::MapStage;
use crate::ports::StageBundleFactory;

/// The side input's window for each of these windows of the main input; tried as often as any bundle.
///
/// Errors: the worker's, or it has not answered for every window.
pub async fn map(
    stage: &MapStage,
    factory: &dyn StageBundleFactory,
    windows: Vec<Window>,
) -> Result<HashMap<Window, Window>, Fault> {
    if windows.is_empty() {
        return Ok(HashMap::new());
    }
    let questions = ask_windows::questions(&windows, |out, window| out.extend_from_slice(window));
    let blocks = ask_windows::ask(&stage.spec, &stage.source, factory, questions).await?;
    answers(&blocks, &stage.side_window_coder, windows).map_err(|error| malformed(&stage.spec.name, error))
}

fn answers(
    blocks: &[Bytes],
    side_window_coder: &Coder,
    windows: Vec<Window>,
) -> Result<HashMap<Window, Window>, CoderError> {
    let bad = |reason| CoderError::Malformed { what: "mapped windows", reason };
    let mut mapped: Vec<Option<Window>> = vec![None; windows.len()];
    for block in blocks {
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            let (index, answer) = ask_windows::answer(rest)?;
            let (window, after) = answer.split_at(side_window_coder.skip(answer)?);
            let place = mapped.get_mut(index).ok_or_else(|| bad("the nonce is not the one sent"))?;
            *place = Some(window.into());
            rest = after;
        }
    }
    let pairs = windows.into_iter().zip(mapped);
    pairs.map(|(main, side)| Ok((main, side.ok_or_else(|| bad("a window has no answer"))?))).collect()
}
