//! What is wrong with a TestStream.

use std::collections::BTreeMap;

use beam_model::pipeline::{Components, PTransform, TestStreamPayload};
use beam_model::urns::standard_coders;
use prost::Message;

use super::distinct;
use crate::plan::{CollectionId, TestStreamElements, TestStreamReader};

/// How many bad events of one TestStream are told.
const MAX_BAD_EVENTS: usize = 20;

/// The payload of a `beam:transform:teststream:v1`.
pub fn test_stream_payload(transform: &PTransform) -> Result<TestStreamPayload, prost::DecodeError> {
    let payload = transform.spec.as_ref().map(|spec| spec.payload.clone()).unwrap_or_default();
    TestStreamPayload::decode(payload)
}

/// The address of the `TestStreamService` that is to be asked for the events, if there is one. The Python
/// SDK writes an endpoint always, and an address in it only if it has one.
pub fn test_stream_url(payload: &TestStreamPayload) -> Option<&str> {
    payload.endpoint.as_ref().map(|endpoint| endpoint.url.as_str()).filter(|url| !url.is_empty())
}

/// The faults of the transform's shape and windows.
pub(super) fn shape_faults(components: &Components, transform: &PTransform) -> Vec<String> {
    let mut faults = Vec::new();
    if !transform.inputs.is_empty() {
        faults.push(format!("has {} inputs; a TestStream is a source", transform.inputs.len()));
    }
    let outputs = &transform.outputs;
    if outputs.is_empty() {
        faults.push("has no outputs".to_owned());
    }
    if distinct(outputs).len() < outputs.len() {
        faults.push("names one PCollection as two outputs".to_owned());
    }
    for (tag, output) in outputs {
        let strategy = components
            .pcollections
            .get(output)
            .and_then(|pcollection| components.windowing_strategies.get(&pcollection.windowing_strategy_id));
        let coder = strategy.and_then(|strategy| components.coders.get(&strategy.window_coder_id));
        let urn = coder.and_then(|coder| coder.spec.as_ref()).map(|spec| spec.urn.as_str());
        if urn.is_some_and(|urn| urn != standard_coders::GLOBAL_WINDOW) {
            faults.push(format!("has output {tag} in other windows than the global one"));
        }
    }
    faults
}

/// The faults of the events. The payload's coder is known to be sound.
pub(super) fn event_faults(
    components: &Components,
    transform: &PTransform,
    payload: &TestStreamPayload,
) -> Vec<String> {
    if let Some(url) = test_stream_url(payload).filter(|_| !payload.events.is_empty()) {
        return vec![format!("has both events and an endpoint ({url}); give it one of them")];
    }
    let outputs: BTreeMap<_, _> =
        transform.outputs.keys().enumerate().map(|(index, tag)| (tag.clone(), CollectionId(index))).collect();
    let elements = TestStreamElements::of(&payload.coder_id, &components.coders);
    let mut reader = TestStreamReader::new(outputs, elements);
    let read = payload.events.iter().enumerate();
    let bad = read.filter_map(|(index, event)| Some(format!("event {index} {}", reader.read(event).err()?)));
    bad.take(MAX_BAD_EVENTS).collect()
}
