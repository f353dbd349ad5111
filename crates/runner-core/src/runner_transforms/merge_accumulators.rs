//! Asks an SDK to merge the accumulators of a combining state:
//! `beam:transform:combine_per_key_merge_accumulators:v1`.
//!
//! One bundle merges those of one state. Where an accumulator ends its SDK alone knows; the only one of an answer ends
//! with it.

use beam_model::coders::CoderError;
use bytes::Bytes;

use super::{ask_windows, malformed};
use crate::fault::Fault;
use crate::plan::CombineStage;
use crate::ports::StageBundleFactory;

/// The one accumulator that `count` accumulators, encoded one after the other, become.
pub async fn merge(
    stage: &CombineStage,
    factory: &dyn StageBundleFactory,
    count: u32,
    accumulators: &[u8],
) -> Result<Bytes, Fault> {
    let questions = ask_windows::questions(&[accumulators], |out, accumulators| {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(accumulators);
    });
    let blocks = ask_windows::ask(&stage.spec, &stage.source, factory, questions).await?;
    answer(&blocks.concat()).map_err(|error| malformed(&stage.spec.name, error))
}

fn answer(encoded: &[u8]) -> Result<Bytes, CoderError> {
    match ask_windows::answer(encoded)? {
        (0, accumulator) => Ok(Bytes::copy_from_slice(accumulator)),
        _ => Err(CoderError::Malformed { what: "merged state", reason: "the nonce is not the one sent" }),
    }
}
