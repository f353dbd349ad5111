//! Runner transforms hand encoded elements on as they are, so what goes in must be encoded with the
//! coder of what comes out. Where a producer's coder is another one, a worker transcodes: it runs a
//! Flatten of one input, which every SDK executes as "decode, encode".

use std::collections::BTreeMap;

use beam_model::pipeline::{FunctionSpec, PCollection, PTransform};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::primitives;

use super::splittable_pardo::coder;
use crate::fault::Fault;
use crate::graph::{Network, PrimitiveKind, QueryablePipeline};

pub(super) fn transcode(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    // What is put in between changes neither who makes what there is nor how many read it.
    let network = pipeline.network();
    // Consumers first: what they want of a Flatten decides what it wants in turn.
    for id in pipeline.primitives().to_vec().iter().rev() {
        let transform = pipeline.transform(id)?.clone();
        let Some(output) = transform.outputs.values().next() else { continue };
        let wanted = match pipeline.kind(id)? {
            PrimitiveKind::Flatten | PrimitiveKind::Redistribute => {
                pipeline.pcollection(output)?.coder_id.clone()
            }
            PrimitiveKind::GroupByKey => ungrouped_coder(pipeline, output)?,
            PrimitiveKind::Impulse
            | PrimitiveKind::TestStream
            | PrimitiveKind::CombinePerKey
            | PrimitiveKind::Sdk => continue,
        };
        for (tag, input) in &transform.inputs {
            let has = &pipeline.pcollection(input)?.coder_id;
            if pipeline.same_coder(has, &wanted) {
                continue;
            }
            if handed_on_to_one(pipeline, &network, input)? {
                if let Some(pcollection) = pipeline.components.pcollections.get_mut(input) {
                    pcollection.coder_id.clone_from(&wanted);
                }
            } else {
                insert(pipeline, id, tag, input, &wanted)?;
            }
        }
    }
    Ok(())
}

/// Whether a runner transform makes the PCollection by handing elements on, and only one reads it. Its
/// coder can then be the reader's: producers encode so at once, instead of twice.
fn handed_on_to_one(pipeline: &QueryablePipeline, network: &Network, id: &str) -> Result<bool, Fault> {
    let Some(producer) = network.producer.get(id) else { return Ok(false) };
    let hands_on = match pipeline.kind(producer)? {
        PrimitiveKind::Flatten | PrimitiveKind::Redistribute => true,
        PrimitiveKind::Impulse
        | PrimitiveKind::TestStream
        | PrimitiveKind::GroupByKey
        | PrimitiveKind::CombinePerKey
        | PrimitiveKind::Sdk => false,
    };
    Ok(hands_on && network.consumers.get(id).is_some_and(|readers| readers.len() == 1))
}

/// For the output `KV<K, Iterable<V>>` of a GroupByKey, the coder of `KV<K, V>`.
fn ungrouped_coder(pipeline: &mut QueryablePipeline, output: &str) -> Result<String, Fault> {
    let coder_id = pipeline.pcollection(output)?.coder_id.clone();
    let wrong = || {
        Fault::runner(format!(
            "PCollection {output} of a GroupByKey is not of keys and iterables (coder {coder_id})"
        ))
    };
    let [key, values] = pipeline.coder(&coder_id)?.component_coder_ids.as_slice() else {
        return Err(wrong());
    };
    let [value] = pipeline.coder(values)?.component_coder_ids.as_slice() else { return Err(wrong()) };
    let kv = coder(standard_coders::KV, [key, value]);
    Ok(pipeline.add_coder(&format!("{coder_id}_ungrouped"), kv))
}

/// Puts a transcoding of `input` to `coder_id` before the input `tag` of `consumer`.
fn insert(
    pipeline: &mut QueryablePipeline,
    consumer: &str,
    tag: &str,
    input: &str,
    coder_id: &str,
) -> Result<(), Fault> {
    let old = pipeline.pcollection(input)?.clone();
    let unique_name = format!("{}/Transcode({tag})", pipeline.name(consumer));
    let new = PCollection { unique_name: unique_name.clone(), coder_id: coder_id.to_owned(), ..old };
    let transcoded = pipeline.add_pcollection(&format!("{input}_transcoded"), new);
    let environment_id = environment_near(pipeline, consumer, input)?;
    let flatten = flatten(unique_name, input, &transcoded, environment_id);
    let id = pipeline.add_transform(&format!("{consumer}_transcode_{tag}"), flatten);
    pipeline.add_worker_flatten(id);
    if let Some(transform) = pipeline.components.transforms.get_mut(consumer) {
        transform.inputs.insert(tag.to_owned(), transcoded);
    }
    Ok(())
}

/// A Flatten of one input.
pub(super) fn flatten(unique_name: String, input: &str, output: &str, environment_id: String) -> PTransform {
    PTransform {
        unique_name,
        spec: Some(FunctionSpec { urn: primitives::FLATTEN.to_owned(), payload: Default::default() }),
        inputs: BTreeMap::from([("0".to_owned(), input.to_owned())]),
        outputs: BTreeMap::from([("out".to_owned(), output.to_owned())]),
        environment_id,
        ..Default::default()
    }
}

/// An environment that knows both coders: the producer's, else that of whoever made the producer's
/// input, else the consumer's side.
fn environment_near(pipeline: &QueryablePipeline, consumer: &str, input: &str) -> Result<String, Fault> {
    let network = pipeline.network();
    let mut pcollection = input.to_owned();
    while let Some(producer) = network.producer.get(&pcollection) {
        if let Ok(environment) = pipeline.environment_id(producer) {
            return Ok(environment);
        }
        match pipeline.transform(producer)?.inputs.values().next() {
            Some(next) => pcollection = next.clone(),
            None => break,
        }
    }
    let outputs = pipeline.transform(consumer)?.outputs.values();
    let readers = outputs.filter_map(|output| network.consumers.get(output)).flatten();
    readers
        .filter_map(|(reader, _)| pipeline.environment_id(reader).ok())
        .next()
        .or_else(|| pipeline.components.environments.keys().next().cloned())
        .ok_or_else(|| {
            Fault::runner(format!("no environment can transcode the input of {}", pipeline.name(consumer)))
        })
}
