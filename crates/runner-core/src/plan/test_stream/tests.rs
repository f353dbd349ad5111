//! What events become, and in which coder elements travel.

use std::collections::BTreeMap;
use std::time::Duration;

use beam_model::coders::{Coder, windowed_value};
use beam_model::pipeline::test_stream_payload::event::{self, AddElements, AdvanceWatermark};
use beam_model::pipeline::test_stream_payload::{Event, TimestampedElement};
use beam_model::pipeline::{
    self, ApiServiceDescriptor, Components, Environment, FunctionSpec, PCollection, PTransform, Pipeline,
    TestStreamPayload, WindowingStrategy, is_bounded,
};
use beam_model::time::EventTime;
use beam_model::urns::standard_coders as coders;
use beam_model::urns::standard_p_transforms::{composites, primitives};
use bytes::Bytes;
use prost::Message;

use super::{BadTestStreamEvent, TestStream, TestStreamEvent, TestStreamSource};
use crate::fusion::fuse;
use crate::graph::QueryablePipeline;
use crate::plan::{ExecutionPlan, Node, PlanGrain, plan};
use crate::rewrite::rewrite;

/// The coders that the tests choose from, by id.
fn all_coders() -> BTreeMap<String, pipeline::Coder> {
    let table: [(&str, &str, &[&str]); 9] = [
        ("window", coders::GLOBAL_WINDOW, &[]),
        ("bytes", coders::BYTES, &[]),
        ("text", coders::STRING_UTF8, &[]),
        ("int", coders::VARINT, &[]),
        ("sdk", "sdk:coder", &[]),
        ("kv_int", coders::KV, &["text", "int"]),
        ("kv_text", coders::KV, &["int", "text"]),
        ("kv_sdk", coders::KV, &["bytes", "sdk"]),
        ("prefixed", coders::LENGTH_PREFIX, &["sdk"]),
    ];
    let coder = |urn: &str, components: &[&str]| pipeline::Coder {
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload: Bytes::new() }),
        component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
    };
    table.iter().map(|(id, urn, components)| ((*id).to_owned(), coder(urn, components))).collect()
}

fn transform(urn: &str, payload: Vec<u8>, input: Option<&str>, outputs: &[&str]) -> PTransform {
    PTransform {
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() }),
        inputs: input.map(|id| ("in".to_owned(), id.to_owned())).into_iter().collect(),
        outputs: outputs.iter().map(|id| ((*id).to_owned(), (*id).to_owned())).collect(),
        ..Default::default()
    }
}

/// A TestStream with these outputs of these coders, each read by a Reshuffle.
fn planned(payload: &TestStreamPayload, outputs: &[(&str, &str)]) -> ExecutionPlan {
    let pcollection = |coder_id: &str| PCollection {
        coder_id: coder_id.to_owned(),
        windowing_strategy_id: "global".to_owned(),
        is_bounded: is_bounded::Enum::Unbounded as i32,
        ..Default::default()
    };
    let mut components = Components { coders: all_coders(), ..Default::default() };
    let strategy = WindowingStrategy { window_coder_id: "window".to_owned(), ..Default::default() };
    components.windowing_strategies.insert("global".to_owned(), strategy);
    components.environments.insert("env".to_owned(), Environment::default());
    let tags: Vec<_> = outputs.iter().map(|(tag, _)| *tag).collect();
    let stream = transform(primitives::TEST_STREAM, payload.encode_to_vec(), None, &tags);
    components.transforms.insert("stream".to_owned(), stream);
    for (tag, coder_id) in outputs {
        let after = format!("{tag}_after");
        components.pcollections.insert((*tag).to_owned(), pcollection(coder_id));
        components.pcollections.insert(after.clone(), pcollection(coder_id));
        let reader = transform(composites::RESHUFFLE, Vec::new(), Some(tag), &[&after]);
        components.transforms.insert(format!("{tag}_reader"), reader);
    }
    let pipeline = Pipeline { components: Some(components), ..Default::default() };
    let mut graph = QueryablePipeline::new(&pipeline).unwrap();
    rewrite(&mut graph).unwrap();
    plan(&graph, &fuse(&graph).unwrap(), PlanGrain::Default).unwrap()
}

fn stream(plan: &ExecutionPlan) -> &TestStream {
    let mut streams = plan.nodes.iter().filter_map(|node| match node {
        Node::TestStream(stream) => Some(stream),
        _ => None,
    });
    streams.next().unwrap()
}

fn payload(coder_id: &str, events: Vec<Event>) -> TestStreamPayload {
    TestStreamPayload { coder_id: coder_id.to_owned(), events, ..Default::default() }
}

fn element(tag: &str, timestamp: i64, value: &[u8]) -> Event {
    let elements = vec![TimestampedElement { encoded_element: value.to_vec().into(), timestamp }];
    Event { event: Some(event::Event::ElementEvent(AddElements { elements, tag: tag.to_owned() })) }
}

fn watermark(tag: &str, new_watermark: i64) -> Event {
    let advance = AdvanceWatermark { new_watermark, tag: tag.to_owned() };
    Event { event: Some(event::Event::WatermarkEvent(advance)) }
}

fn processing_time(advance_duration: i64) -> Event {
    let advance = event::AdvanceProcessingTime { advance_duration };
    Event { event: Some(event::Event::ProcessingTimeEvent(advance)) }
}

/// The element's time, and its value as it travels.
fn taken_apart(element: &[u8]) -> (EventTime, Vec<u8>) {
    let header = windowed_value::read_header(&Coder::GlobalWindow, element).unwrap();
    assert_eq!(header.windows.len(), 1);
    assert_eq!(header.pane_info().unwrap(), beam_model::coders::PaneInfo::NO_FIRING);
    (header.timestamp, element[header.header_len..].to_vec())
}

/// Payload's coder, PCollection's coder, an element of the payload; how many stages transcode, and the
/// element as it travels.
type Case = (&'static str, &'static str, &'static [u8], usize, &'static [u8]);

#[test]
fn elements_travel_so_that_they_tell_their_end() {
    let cases: [Case; 9] = [
        ("int", "int", b"\x05", 0, b"\x05"),
        ("kv_int", "kv_int", b"\x01a\x05", 0, b"\x01a\x05"),
        ("prefixed", "prefixed", b"\x02ab", 0, b"\x02ab"),
        ("sdk", "sdk", b"ab", 0, b"\x02ab"),
        // As Go has it.
        ("sdk", "prefixed", b"\x02ab", 0, b"\x02ab"),
        ("sdk", "kv_int", b"ab", 1, b"\x02ab"),
        ("text", "text", b"ab", 1, b"\x02ab"),
        ("kv_text", "kv_text", b"\x05ab", 1, b"\x03\x05ab"),
        ("kv_sdk", "kv_sdk", b"\x01ab", 1, b"\x03\x01ab"),
    ];
    for (from, to, given, stages, travels) in cases {
        let case = format!("{from} as {to}");
        let plan = planned(&payload(from, vec![element("", 7, given)]), &[("out", to)]);
        let transcoding = plan.nodes.iter().filter(|node| matches!(node, Node::Stage(_))).count();
        assert_eq!(transcoding, stages, "{case}");
        let TestStreamSource::Listed(events) = &stream(&plan).events else { panic!("{case}") };
        let [TestStreamEvent::Elements { output, elements }] = events.as_slice() else { panic!("{case}") };
        let [element] = elements.as_slice() else { panic!("{case}") };
        assert_eq!(taken_apart(element), (EventTime(7), travels.to_vec()), "{case}");
        // The plan's own coder reads it to its end.
        assert_eq!(plan.collections[output.0].element_coder.skip(travels), Ok(travels.len()), "{case}");
        let read_by_reshuffle = plan.nodes.iter().find_map(|node| match node {
            Node::Redistribute { input, .. } => Some(plan.collections[input.0].element_coder.urn()),
            _ => None,
        });
        let wire = if to == "sdk" { coders::LENGTH_PREFIX } else { all_urn(to) };
        assert_eq!(read_by_reshuffle, Some(wire), "{case}");
    }
}

fn all_urn(id: &str) -> &'static str {
    match id {
        "int" => coders::VARINT,
        "text" => coders::STRING_UTF8,
        "prefixed" => coders::LENGTH_PREFIX,
        _ => coders::KV,
    }
}

#[test]
fn events_keep_their_order_and_name_their_output() {
    let events = vec![
        watermark("a", 10),
        element("b", i64::MIN, b"\x01"),
        processing_time(1_500),
        watermark("b", i64::MAX),
        watermark("a", 10),
        element("a", i64::MAX, b"\x02"),
    ];
    let plan = planned(&payload("int", events), &[("a", "int"), ("b", "int")]);
    let stream = stream(&plan);
    let (a, b) = (stream.outputs["a"], stream.outputs["b"]);
    assert_ne!(a, b);
    let TestStreamSource::Listed(events) = &stream.events else { panic!() };
    let said: Vec<_> = events
        .iter()
        .map(|event| match event {
            TestStreamEvent::Elements { output, elements } => {
                let times: Vec<_> = elements.iter().map(|element| taken_apart(element).0).collect();
                format!("{output:?} {times:?}")
            }
            TestStreamEvent::Watermark { output, watermark } => format!("{output:?} {watermark:?}"),
            TestStreamEvent::ProcessingTime { advance } => format!("{advance:?}"),
        })
        .collect();
    let wanted = [
        format!("{a:?} {:?}", EventTime(10)),
        format!("{b:?} {:?}", [EventTime::MIN]),
        format!("{:?}", Duration::from_millis(1_500)),
        format!("{b:?} {:?}", EventTime::MAX),
        format!("{a:?} {:?}", EventTime(10)),
        format!("{a:?} {:?}", [EventTime::MAX]),
    ];
    assert_eq!(said, wanted);
}

#[test]
fn events_of_a_service_are_read_in_microseconds() {
    let endpoint = ApiServiceDescriptor { url: "localhost:1".to_owned(), ..Default::default() };
    let told = TestStreamPayload { endpoint: Some(endpoint), ..payload("text", Vec::new()) };
    let plan = planned(&told, &[("a", "text"), ("b", "int")]);
    let stream = stream(&plan);
    assert!(matches!(&stream.events, TestStreamSource::Endpoint(url) if url == "localhost:1"));
    let mut reader = stream.reader();
    let Ok(TestStreamEvent::Elements { output, elements }) = reader.read(&element("b", 1_999, b"ab")) else {
        panic!()
    };
    assert_eq!(output, stream.outputs["b"]);
    assert_eq!(taken_apart(&elements[0]), (EventTime(1), b"\x02ab".to_vec()));
    reader.read(&watermark("a", 5_000)).unwrap();
    let back = reader.read(&watermark("a", 4_000)).unwrap_err();
    let (from, to) = (EventTime(5), EventTime(4));
    assert_eq!(back, BadTestStreamEvent::WatermarkGoesBack { tag: "a".to_owned(), from, to });
    // Neither the other output's watermark nor another reader's is concerned.
    reader.read(&watermark("b", 4_000)).unwrap();
    stream.reader().read(&watermark("a", 4_000)).unwrap();
    // Which of two is not said.
    assert_eq!(reader.read(&watermark("", 9)), Err(BadTestStreamEvent::UnknownOutput(String::new())));
}
