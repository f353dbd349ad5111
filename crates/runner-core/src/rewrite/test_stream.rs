//! A TestStream's elements are encoded with its payload's coder, which need not be that of the
//! PCollections it makes. Then it is given PCollections that are encoded so, and a worker transcodes
//! them to those that the pipeline knows.

use std::collections::BTreeSet;

use beam_model::pipeline::{Coder, PCollection, TestStreamPayload};
use beam_model::urns::standard_coders;
use prost::Message;

use super::splittable_pardo::coder;
use super::transcode;
use crate::fault::Fault;
use crate::graph::{PrimitiveKind, QueryablePipeline, test_stream_payload};
use crate::plan::TestStreamElements;

pub(super) fn transcode_outputs(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    for id in pipeline.primitives().to_vec() {
        if pipeline.kind(&id)? == PrimitiveKind::TestStream {
            transcode_outputs_of(pipeline, &id)?;
        }
    }
    Ok(())
}

/// Go writes its elements with their PCollection's coder, which is a length prefix and a coder of its own, but names the
/// latter in the payload. No other SDK gives PCollections a length prefix. The payload, as it should have been.
fn with_the_prefix(
    pipeline: &mut QueryablePipeline,
    id: &str,
    payload: TestStreamPayload,
) -> Result<TestStreamPayload, Fault> {
    let transform = pipeline.transform(id)?;
    let made = transform.outputs.values().map(|output| Ok(pipeline.pcollection(output)?.coder_id.clone()));
    let made = made.collect::<Result<BTreeSet<_>, Fault>>()?;
    let Some(made) = made.first().filter(|_| made.len() == 1) else { return Ok(payload) };
    let is_prefix = |coder: &&Coder| {
        let urn = coder.spec.as_ref().map(|spec| spec.urn.as_str());
        urn == Some(standard_coders::LENGTH_PREFIX)
            && coder.component_coder_ids == [payload.coder_id.as_str()]
    };
    if pipeline.components.coders.get(made).filter(is_prefix).is_none() {
        return Ok(payload);
    }
    let payload = TestStreamPayload { coder_id: made.clone(), ..payload };
    let spec = pipeline.components.transforms.get_mut(id).and_then(|transform| transform.spec.as_mut());
    if let Some(spec) = spec {
        spec.payload = payload.encode_to_vec().into();
    }
    Ok(payload)
}

fn transcode_outputs_of(pipeline: &mut QueryablePipeline, id: &str) -> Result<(), Fault> {
    let transform = pipeline.transform(id)?.clone();
    let name = pipeline.name(id);
    let payload = test_stream_payload(&transform)
        .map_err(|error| Fault::runner(format!("{name}: its TestStreamPayload cannot be read: {error}")))?;
    let payload = with_the_prefix(pipeline, id, payload)?;
    let elements = TestStreamElements::of(&payload.coder_id, &pipeline.components.coders);
    let travels = if elements.is_length_prefixed() {
        let prefixed = coder(standard_coders::LENGTH_PREFIX, [&payload.coder_id]);
        pipeline.add_coder(&format!("{}_prefixed", payload.coder_id), prefixed)
    } else {
        payload.coder_id.clone()
    };
    let network = pipeline.network();
    for (tag, output) in &transform.outputs {
        let made = pipeline.pcollection(output)?.clone();
        let is_prefixed_anyway =
            elements.is_opaque() && pipeline.same_coder(&made.coder_id, &payload.coder_id);
        if is_prefixed_anyway || pipeline.same_coder(&made.coder_id, &travels) {
            continue;
        }
        let played = PCollection { coder_id: travels.clone(), ..made };
        let Some(readers) = network.consumers.get(output) else {
            // Nobody minds how it is encoded.
            pipeline.components.pcollections.insert(output.clone(), played);
            continue;
        };
        let unique_name = format!("{name}/Transcode({tag})");
        let played = PCollection { unique_name: unique_name.clone(), ..played };
        let played = pipeline.add_pcollection(&format!("{output}_played"), played);
        let mut knowing = std::iter::once(id).chain(readers.iter().map(|(reader, _)| reader.as_str()));
        let environment = knowing.find_map(|transform| pipeline.environment_id(transform).ok());
        let environment = environment
            .or_else(|| pipeline.components.environments.keys().next().cloned())
            .ok_or_else(|| Fault::runner(format!("no environment can transcode what {name} makes")))?;
        let flatten = transcode::flatten(unique_name, &played, output, environment);
        let flatten = pipeline.add_transform(&format!("{id}_transcode_{tag}"), flatten);
        pipeline.add_worker_flatten(flatten);
        if let Some(transform) = pipeline.components.transforms.get_mut(id) {
            transform.outputs.insert(tag.clone(), played);
        }
    }
    Ok(())
}
