//! A `combine_per_key` becomes precombine, group by key, merge accumulators, extract outputs, so that
//! accumulators cross the shuffle instead of elements (`StandardPTransforms.CombineComponents`).

use std::collections::BTreeMap;

use beam_model::pipeline::{
    Coder, CombinePayload, Components, FunctionSpec, PCollection, PTransform, output_time, trigger::Trigger,
};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::{combine_components as parts, composites, primitives};
use prost::Message;

use super::splittable_pardo::coder;
use crate::fault::Fault;
use crate::graph::QueryablePipeline;

/// Whether the combine may be lifted: its payload is sound, every element of a key and window reaches
/// one firing, and the output's time does not depend on the elements' times, which accumulators of a
/// precombine may not carry. Otherwise its parts are run.
pub(crate) fn can_lift(components: &Components, transform: &PTransform) -> bool {
    lifting(components, transform).is_some()
}

/// What is needed to lift a combine.
struct Lifting {
    input: PCollection,
    input_id: String,
    output_id: String,
    key_coder: String,
    accumulator_coder: String,
    environment_id: String,
}

fn lifting(components: &Components, transform: &PTransform) -> Option<Lifting> {
    let spec = transform.spec.as_ref()?;
    let payload = CombinePayload::decode(spec.payload.clone()).ok()?;
    payload.combine_fn.as_ref()?;
    components.coders.get(&payload.accumulator_coder_id)?;
    let (1, 1) = (transform.inputs.len(), transform.outputs.len()) else { return None };
    let input_id = transform.inputs.values().next()?;
    let input = components.pcollections.get(input_id)?;
    let kv = components.coders.get(&input.coder_id)?;
    if kv.spec.as_ref()?.urn != standard_coders::KV {
        return None;
    }
    let strategy = components.windowing_strategies.get(&input.windowing_strategy_id)?;
    let trigger = strategy.trigger.as_ref().and_then(|trigger| trigger.trigger.as_ref());
    let end_of_window =
        matches!(strategy.output_time(), output_time::Enum::EndOfWindow | output_time::Enum::Unspecified);
    if !matches!(trigger, None | Some(Trigger::Default(_))) || !end_of_window {
        return None;
    }
    Some(Lifting {
        input: input.clone(),
        input_id: input_id.clone(),
        output_id: transform.outputs.values().next()?.clone(),
        key_coder: kv.component_coder_ids.first()?.clone(),
        accumulator_coder: payload.accumulator_coder_id,
        environment_id: environment_of(components, transform)?,
    })
}

/// A composite often names no environment; then one of its parts does.
fn environment_of(components: &Components, transform: &PTransform) -> Option<String> {
    let parts = transform.subtransforms.iter().filter_map(|id| components.transforms.get(id));
    std::iter::once(transform)
        .chain(parts)
        .map(|transform| transform.environment_id.clone())
        .find(|id| components.environments.contains_key(id))
        .or_else(|| {
            components.environments.keys().next().filter(|_| components.environments.len() == 1).cloned()
        })
}

pub(super) fn lift(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    for id in pipeline.primitives().to_vec() {
        let transform = pipeline.transform(&id)?.clone();
        if transform.spec.as_ref().is_none_or(|spec| spec.urn != composites::COMBINE_PER_KEY) {
            continue;
        }
        let lifting = lifting(&pipeline.components, &transform)
            .ok_or_else(|| Fault::runner(format!("combine {} cannot be lifted", pipeline.name(&id))))?;
        lift_one(pipeline, &id, &transform, &lifting);
    }
    Ok(())
}

fn lift_one(pipeline: &mut QueryablePipeline, id: &str, combine: &PTransform, lifting: &Lifting) {
    let kv = |value: &str| -> Coder { coder(standard_coders::KV, [&lifting.key_coder, value]) };
    let accumulated = pipeline.add_coder(&format!("{id}_accumulated"), kv(&lifting.accumulator_coder));
    let iterable = coder(standard_coders::ITERABLE, [&lifting.accumulator_coder]);
    let iterable = pipeline.add_coder(&format!("{id}_accumulators"), iterable);
    let grouped = pipeline.add_coder(&format!("{id}_grouped"), kv(&iterable));

    let mut pcollection = |hint: &str, coder_id: &str| {
        let new = PCollection {
            unique_name: format!("{}/{hint}", combine.unique_name),
            coder_id: coder_id.to_owned(),
            ..lifting.input.clone()
        };
        pipeline.add_pcollection(&format!("{id}_{hint}"), new)
    };
    let precombined = pcollection("Precombined", &accumulated);
    let together = pcollection("Grouped", &grouped);
    let merged = pcollection("Merged", &accumulated);

    let steps = [
        ("Precombine", parts::COMBINE_PER_KEY_PRECOMBINE, &lifting.input_id, &precombined),
        ("Group", primitives::GROUP_BY_KEY, &precombined, &together),
        ("Merge", parts::COMBINE_PER_KEY_MERGE_ACCUMULATORS, &together, &merged),
        ("Extract", parts::COMBINE_PER_KEY_EXTRACT_OUTPUTS, &merged, &lifting.output_id),
    ];
    let ids = steps.map(|(name, urn, input, output)| {
        let group = urn == primitives::GROUP_BY_KEY;
        let payload = combine.spec.as_ref().filter(|_| !group).map(|spec| spec.payload.clone());
        let step = PTransform {
            unique_name: format!("{}/{name}", combine.unique_name),
            spec: Some(FunctionSpec { urn: urn.to_owned(), payload: payload.unwrap_or_default() }),
            subtransforms: Vec::new(),
            inputs: BTreeMap::from([("in".to_owned(), input.clone())]),
            outputs: BTreeMap::from([("out".to_owned(), output.clone())]),
            environment_id: if group { String::new() } else { lifting.environment_id.clone() },
            ..combine.clone()
        };
        pipeline.add_transform(&format!("{id}_{name}"), step)
    });
    pipeline.replace(id, ids.to_vec());
}
