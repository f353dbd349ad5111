//! What the native engine cannot run yet, by transform.

use beam_model::pipeline::{ParDoPayload, is_bounded, trigger::Trigger};
use beam_model::urns::standard_p_transforms::primitives;

use super::QueryablePipeline;
use super::primitive::{self, PrimitiveKind};
use crate::backend::Refusal;

/// Names each primitive that asks for what the native engine has not got.
pub fn unsupported(pipeline: &QueryablePipeline) -> Refusal {
    let mut refusal = Refusal::default();
    for id in pipeline.primitives() {
        let Ok(transform) = pipeline.transform(id) else { continue };
        let name = pipeline.name(id);
        if let Ok(Some(payload)) = primitive::pardo_payload(transform) {
            pardo(&name, &payload, primitive::urn(transform), &mut refusal);
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
        let unbounded = |id: &&String| {
            pipeline
                .components
                .pcollections
                .get(*id)
                .is_some_and(|p| p.is_bounded == is_bounded::Enum::Unbounded as i32)
        };
        let reads_unbounded = transform.inputs.values().any(|id| unbounded(&id));
        if let Some(output) = transform.outputs.values().find(unbounded).filter(|_| !reads_unbounded) {
            refusal.unsupported(
                &name,
                format!("makes the unbounded PCollection {output}; only bounded ones run"),
            );
        }
    }
    refusal
}

fn pardo(name: &str, payload: &ParDoPayload, urn: &str, refusal: &mut Refusal) {
    if urn != primitives::PAR_DO && urn.is_empty() {
        return;
    }
    let mut refuse = |reason: &str| refusal.unsupported(name, reason);
    if !payload.state_specs.is_empty() {
        refuse("uses user state");
    }
    if !payload.timer_family_specs.is_empty() {
        refuse("uses timers");
    }
    if payload.requires_time_sorted_input {
        refuse("requires time-sorted input");
    }
    if payload.requires_stable_input {
        refuse("requires stable input");
    }
    if !payload.on_window_expiration_timer_family_spec.is_empty() {
        refuse("acts on window expiration");
    }
}

/// In a bounded pipeline these triggers fire once, when all input is there.
fn fires_once(trigger: Option<&Trigger>) -> bool {
    match trigger {
        None | Some(Trigger::Default(_) | Trigger::Never(_)) => true,
        Some(Trigger::AfterEndOfWindow(ends)) => ends.early_firings.is_none() && ends.late_firings.is_none(),
        Some(_) => false,
    }
}

fn grouping(pipeline: &QueryablePipeline, name: &str, input: &str, refusal: &mut Refusal) {
    let Ok(strategy) = pipeline.windowing_strategy(input) else { return };
    let trigger = strategy.trigger.as_ref().and_then(|trigger| trigger.trigger.as_ref());
    if !fires_once(trigger) {
        refusal.unsupported(name, "groups with a trigger other than the default");
    }
}
