//! What the native engine cannot run yet, by transform.

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{PTransform, ParDoPayload, StateSpec, merge_status};
use beam_model::urns::standard_coders;

use super::QueryablePipeline;
use super::primitive::{self, PrimitiveKind};
use crate::backend::Refusal;
use crate::plan::{Firing, Unfit, is_keyed, runs_python};

/// Names each primitive that asks for what the native engine has not got.
pub fn unsupported(pipeline: &QueryablePipeline) -> Refusal {
    let mut refusal = Refusal::default();
    let mut test_streams = 0;
    for id in pipeline.primitives() {
        let Ok(transform) = pipeline.transform(id) else { continue };
        let name = pipeline.name(id);
        if primitive::kind_of(primitive::urn(transform)) == Some(PrimitiveKind::TestStream) {
            test_streams += 1;
            if test_streams > 1 {
                let why =
                    "is a second TestStream, and each would set the clock; one with several outputs runs";
                refusal.unsupported(&name, why);
            }
        }
        if let Ok(Some(payload)) = primitive::pardo_payload(transform) {
            pardo(pipeline, &name, transform, &payload, &mut refusal);
        }
        let groups = matches!(
            primitive::kind_of(primitive::urn(transform)),
            Some(PrimitiveKind::GroupByKey | PrimitiveKind::CombinePerKey)
        );
        if groups {
            for input in transform.inputs.values() {
                grouping(pipeline, &name, input, &mut refusal);
            }
        }
    }
    refusal
}

fn pardo(
    pipeline: &QueryablePipeline,
    name: &str,
    transform: &PTransform,
    payload: &ParDoPayload,
    refusal: &mut Refusal,
) {
    if !is_keyed(payload) {
        return;
    }
    if !payload.restriction_coder_id.is_empty() {
        // What it reads are pairs of elements and restrictions. The Java SDK makes no such transform; Python and
        // Go workers write the keys of its state with the coder of the pair, which cannot write them.
        let why = "is splittable and uses state or timers, which SDK workers cannot do at once; \
                   make it two: a splittable one, and one with state after it";
        refusal.unsupported(name, why);
    }
    let Some((_, input)) = primitive::main_input(transform) else { return };
    let environment = pipeline.components.environments.get(&transform.environment_id);
    if let Ok(strategy) = pipeline.windowing_strategy(input)
        && strategy.merge_status() == merge_status::Enum::NeedsMerge
        && !environment.is_some_and(runs_python)
        && payload.state_specs.values().any(|state| !can_be_merged(pipeline, state))
    {
        let why =
            "has a combining state, in windows that merge, whose function or coder is not in the pipeline";
        refusal.invalid(name, why);
    }
    let coder = pipeline.pcollection(input).and_then(|pcollection| pipeline.coder(&pcollection.coder_id));
    if coder.is_ok_and(|coder| coder.spec.as_ref().is_none_or(|spec| spec.urn != standard_coders::KV)) {
        refusal.invalid(name, "uses state or timers, but its elements have no key-value coder");
    }
}

/// Merged windows leave several accumulators. Python merges them when it reads, others are to do so at once.
fn can_be_merged(pipeline: &QueryablePipeline, state: &StateSpec) -> bool {
    match &state.spec {
        Some(Spec::CombiningSpec(state)) => {
            state.combine_fn.is_some() && pipeline.coder(&state.accumulator_coder_id).is_ok()
        }
        _ => true,
    }
}

fn grouping(pipeline: &QueryablePipeline, name: &str, input: &str, refusal: &mut Refusal) {
    let Ok(strategy) = pipeline.windowing_strategy(input) else { return };
    match Firing::of(strategy) {
        Ok(_) => {}
        Err(Unfit::Invalid(reason)) => refusal.invalid(name, reason),
        Err(Unfit::Unsupported(reason)) => refusal.unsupported(name, reason),
    }
}
