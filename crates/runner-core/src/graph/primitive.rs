//! What kind of primitive a transform is, by its URN, and how to read its payload.

use std::collections::BTreeMap;

use beam_model::pipeline::{PTransform, ParDoPayload, SideInput};
use beam_model::urns::standard_p_transforms::{
    combine_components, composites, primitives, splittable_par_do_components,
};
use prost::Message;

/// Who executes a transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimitiveKind {
    Impulse,
    TestStream,
    Flatten,
    GroupByKey,
    /// Reshuffle and both Redistributes: elements pass unchanged, fusion stops.
    Redistribute,
    /// `combine_per_key`: lifted where that is allowed, else run as its parts.
    CombinePerKey,
    /// Executed by an SDK worker.
    Sdk,
}

/// The Python SDK's own read from an Impulse, which its workers execute.
const PYTHON_READ_FROM_IMPULSE: &str = "beam:transform:read_from_impulse_python:v1";
/// What the Python SDK's own optimizer puts where elements change their coder.
const PYTHON_IDENTITY: &str = "beam:dofn:identity:0.1";

/// The kind of a transform that this runner knows by its URN.
pub fn kind_of(urn: &str) -> Option<PrimitiveKind> {
    Some(match urn {
        primitives::IMPULSE => PrimitiveKind::Impulse,
        primitives::TEST_STREAM => PrimitiveKind::TestStream,
        primitives::FLATTEN => PrimitiveKind::Flatten,
        primitives::GROUP_BY_KEY => PrimitiveKind::GroupByKey,
        composites::RESHUFFLE | composites::REDISTRIBUTE_BY_KEY | composites::REDISTRIBUTE_ARBITRARILY => {
            PrimitiveKind::Redistribute
        }
        composites::COMBINE_PER_KEY => PrimitiveKind::CombinePerKey,
        primitives::PAR_DO
        | primitives::ASSIGN_WINDOWS
        | primitives::MAP_WINDOWS
        | primitives::MERGE_WINDOWS
        | primitives::TO_STRING
        | combine_components::COMBINE_PER_KEY_PRECOMBINE
        | combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS
        | combine_components::COMBINE_PER_KEY_EXTRACT_OUTPUTS
        | combine_components::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS
        | combine_components::COMBINE_GROUPED_VALUES
        | splittable_par_do_components::PAIR_WITH_RESTRICTION
        | splittable_par_do_components::SPLIT_AND_SIZE_RESTRICTIONS
        | splittable_par_do_components::TRUNCATE_SIZED_RESTRICTION
        | splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
        | PYTHON_READ_FROM_IMPULSE
        | PYTHON_IDENTITY => PrimitiveKind::Sdk,
        _ => return None,
    })
}

/// The URN of a transform; empty if it has no spec.
pub fn urn(transform: &PTransform) -> &str {
    transform.spec.as_ref().map_or("", |spec| &spec.urn)
}

/// The `ParDoPayload` of a ParDo or of a part of a splittable one; `None` for other transforms.
pub fn pardo_payload(transform: &PTransform) -> Result<Option<ParDoPayload>, prost::DecodeError> {
    match &transform.spec {
        Some(spec) => match spec.urn.as_str() {
            primitives::PAR_DO
            | splittable_par_do_components::PAIR_WITH_RESTRICTION
            | splittable_par_do_components::SPLIT_AND_SIZE_RESTRICTIONS
            | splittable_par_do_components::TRUNCATE_SIZED_RESTRICTION
            | splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS => {
                ParDoPayload::decode(spec.payload.clone()).map(Some)
            }
            _ => Ok(None),
        },
        None => Ok(None),
    }
}

/// The side inputs by tag. A payload that cannot be read has none: validation has refused it before.
pub fn side_inputs(transform: &PTransform) -> BTreeMap<String, SideInput> {
    pardo_payload(transform).ok().flatten().map(|payload| payload.side_inputs).unwrap_or_default()
}

/// Tag and PCollection of the input that is not a side input.
pub fn main_input(transform: &PTransform) -> Option<(&str, &str)> {
    let side = side_inputs(transform);
    transform
        .inputs
        .iter()
        .find(|(tag, _)| !side.contains_key(*tag))
        .map(|(tag, id)| (tag.as_str(), id.as_str()))
}
