//! TestStreams that make no sense.

use beam_model::pipeline::test_stream_payload::event::{
    AddElements, AdvanceProcessingTime, AdvanceWatermark, Event,
};
use beam_model::pipeline::test_stream_payload::{self, TimestampedElement};
use beam_model::pipeline::{ApiServiceDescriptor, Components, TestStreamPayload};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::primitives;
use prost::Message;

use super::{coder, names, of, refusal, set_payload, spec};

/// The good pipeline with a TestStream in place of its Impulse.
fn test_stream(components: &mut Components, payload: TestStreamPayload) {
    let stream = of(components, "impulse");
    stream.unique_name = "Stream".to_owned();
    stream.spec = spec(primitives::TEST_STREAM, payload.encode_to_vec());
}

fn listed(coder_id: &str, events: Vec<Event>) -> TestStreamPayload {
    let events = events.into_iter().map(|event| test_stream_payload::Event { event: Some(event) }).collect();
    TestStreamPayload { coder_id: coder_id.to_owned(), events, ..Default::default() }
}

fn elements(tag: &str, encoded_element: &'static [u8]) -> Event {
    let encoded_element = bytes::Bytes::from_static(encoded_element);
    let elements = vec![TimestampedElement { encoded_element, timestamp: 0 }];
    Event::ElementEvent(AddElements { elements, tag: tag.to_owned() })
}

fn watermark(tag: &str, new_watermark: i64) -> Event {
    Event::WatermarkEvent(AdvanceWatermark { new_watermark, tag: tag.to_owned() })
}

#[test]
fn events_of_a_test_stream() {
    let processing_time =
        |advance_duration| Event::ProcessingTimeEvent(AdvanceProcessingTime { advance_duration });
    let cases: [(&str, Vec<Event>, &str); 8] = [
        ("bytes", vec![elements("out", b"a"), elements("lost", b"a")], "event 1 is for output \"lost\""),
        ("bytes", vec![watermark("lost", 1)], "event 0 is for output \"lost\""),
        (
            "bytes",
            vec![watermark("out", 5), watermark("", 4)],
            "event 1 sets the watermark of output \"\" back",
        ),
        ("bytes", vec![processing_time(-1)], "event 0 sets processing time back, by -1 ms"),
        (
            "varint",
            vec![elements("out", b"\x80")],
            "event 0 adds element 0, which the payload's coder cannot read",
        ),
        ("varint", vec![elements("out", b"\x01\x02")], "it is 1 bytes long, but 2 were given"),
        ("kv", vec![elements("out", b"\x05a")], "event 0 adds element 0, which"),
        ("lost", Vec::new(), "its elements need coder \"lost\", which is not in the pipeline"),
    ];
    for (coder_id, events, words) in cases {
        let bad = refusal(|c| {
            c.coders.insert("varint".into(), coder(standard_coders::VARINT, &[]));
            test_stream(c, listed(coder_id, events));
        });
        names(&bad, "Stream", &[words]);
    }
    let nothing = refusal(|c| {
        let events = vec![test_stream_payload::Event { event: None }];
        test_stream(c, TestStreamPayload { events, ..listed("bytes", Vec::new()) });
    });
    names(&nothing, "Stream", &["event 0 adds no elements and advances neither"]);
    let many = refusal(|c| test_stream(c, listed("bytes", vec![watermark("lost", 1); 1_000])));
    assert!(many.invalid.len() < 50, "{}", many.invalid.len());
}

#[test]
fn shapes_of_a_test_stream() {
    let undecodable = refusal(|c| {
        test_stream(c, TestStreamPayload::default());
        set_payload(of(c, "impulse"), vec![0x0A, 0xFF]);
    });
    names(&undecodable, "Stream", &["TestStreamPayload cannot be read"]);
    let both = refusal(|c| {
        let endpoint = Some(ApiServiceDescriptor { url: "localhost:1".into(), ..Default::default() });
        test_stream(c, TestStreamPayload { endpoint, ..listed("bytes", vec![watermark("", 1)]) });
    });
    names(&both, "Stream", &["both events and an endpoint", "localhost:1"]);
    let spoilt = |spoil: fn(&mut Components)| {
        refusal(|c| {
            test_stream(c, listed("bytes", Vec::new()));
            spoil(c);
        })
    };
    let input = spoilt(|c| drop(of(c, "impulse").inputs.insert("in".into(), "end".into())));
    names(&input, "Stream", &["1 inputs", "a source"]);
    names(&spoilt(|c| of(c, "impulse").outputs.clear()), "Stream", &["has no outputs"]);
    let twice = spoilt(|c| drop(of(c, "impulse").outputs.insert("more".into(), "start".into())));
    names(&twice, "Stream", &["one PCollection as two outputs"]);
    let windows = spoilt(|c| {
        drop(c.coders.insert("window".into(), coder(standard_coders::INTERVAL_WINDOW, &[])));
    });
    names(&windows, "Stream", &["output out", "other windows than the global one"]);
}
