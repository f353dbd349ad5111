//! Every case of Beam's own table of standard coders: decoded, encoded and skipped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may stop at the first surprise, too")]

use std::collections::BTreeMap;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{
    Coder, Context, FieldType, FieldTypeInfo, IntervalWindow, PaneInfo, RowSchema, Timer, TimerFiring,
    Timing, Value,
};
use beam_model::pipeline::{self, FunctionSpec};
use beam_model::time::EventTime;
use serde::Deserialize as _;
use serde_yaml_ng::{Deserializer, Value as Yaml};

/// Sections and cases of the file, each case counted once for each context it is for. They change
/// with the file and with nothing else.
const SECTIONS: usize = 45;
const CASES: usize = 227;

#[test]
fn every_standard_case() {
    let file = include_str!("data/standard_coders.yaml");
    let (mut sections, mut cases) = (0, 0);
    for document in Deserializer::from_str(file) {
        let section = Yaml::deserialize(document).unwrap();
        cases += run_section(&section);
        sections += 1;
    }
    println!("{cases} cases of {sections} sections");
    assert_eq!((sections, cases), (SECTIONS, CASES));
}

fn run_section(section: &Yaml) -> usize {
    let spec = &section["coder"];
    let mut table = BTreeMap::new();
    let id = add_coder(spec, &mut table);
    let coder = Coder::from_proto(&id, &table).unwrap();
    let contexts = match &section["nested"] {
        Yaml::Null => vec![Context::Nested, Context::Outer],
        Yaml::Bool(true) => vec![Context::Nested],
        Yaml::Bool(false) => vec![Context::Outer],
        other => panic!("nested: {other:?}"),
    };
    let deterministic = match &spec["non_deterministic"] {
        Yaml::Null | Yaml::Bool(false) => true,
        Yaml::Bool(true) => false,
        other => panic!("non_deterministic: {other:?}"),
    };
    let mut cases = 0;
    for (encoded, example) in section["examples"].as_mapping().unwrap() {
        let encoded = latin1(encoded);
        let expected = expected(&coder, example);
        for &context in &contexts {
            check_decode(&coder, context, &encoded, &expected, &spec["state"]);
            check_skip(&coder, context, &encoded);
            if deterministic {
                assert_eq!(coder.encode(context, &expected).unwrap(), encoded, "{coder:?} {expected:?}");
            }
            cases += 1;
        }
    }
    assert_ne!(cases, 0, "a section without examples");
    cases
}

fn check_decode(coder: &Coder, context: Context, encoded: &[u8], expected: &Value, state: &Yaml) {
    let decoded = coder.decode(context, encoded).unwrap_or_else(|e| panic!("{coder:?} {encoded:?}: {e}"));
    // Debug tells NaN equal to itself, and -0 from 0.
    assert_eq!(format!("{:?}", with_state(coder, decoded, state)), format!("{expected:?}"), "{coder:?}");
}

/// An iterable with what the state API would return for its token.
fn with_state(coder: &Coder, decoded: Value, state: &Yaml) -> Value {
    let (Coder::StateBackedIterable(element), Value::StateBackedIterable { prefix, token }) =
        (coder, &decoded)
    else {
        return decoded;
    };
    let mut values = prefix.clone();
    let tail = latin1(&state[std::str::from_utf8(token).unwrap()]);
    let mut rest = &tail[..];
    while !rest.is_empty() {
        let (value, len) = element.decode_prefix(rest).unwrap();
        values.push(value);
        rest = &rest[len..];
    }
    Value::Iterable(values)
}

fn check_skip(coder: &Coder, context: Context, encoded: &[u8]) {
    assert_eq!(coder.skip_in(context, encoded), Ok(encoded.len()), "{coder:?} {context:?}");
    if context == Context::Outer {
        return;
    }
    let followed = [encoded, b"\x01\xFF\x00"].concat();
    assert_eq!(coder.skip(&followed), Ok(encoded.len()), "{coder:?}");
    for end in 0..encoded.len() {
        assert!(coder.skip(&encoded[..end]).is_err(), "{coder:?} cut at {end}");
    }
    if let Coder::WindowedValue { value, window } = coder {
        let header = read_header(window, encoded).unwrap();
        assert_eq!(value.skip(&encoded[header.header_len..]), Ok(encoded.len() - header.header_len));
        let mut again = Vec::new();
        header.timestamp.write(&mut again);
        header.windows.write(&mut again).unwrap();
        again.extend_from_slice(header.pane);
        assert_eq!(again, encoded[..header.header_len]);
    }
    if let Coder::Timer { .. } = coder {
        let (timer, len) = Timer::read(coder, encoded).unwrap();
        let mut again = Vec::new();
        timer.write(&mut again).unwrap();
        assert_eq!((len, again.as_slice()), (encoded.len(), encoded));
    }
}

/// Adds a coder and its components to a table of coders as a pipeline has it, and returns its id.
fn add_coder(spec: &Yaml, table: &mut BTreeMap<String, pipeline::Coder>) -> String {
    let components = spec["components"].as_sequence().map_or(&[][..], Vec::as_slice);
    let component_coder_ids = components.iter().map(|component| add_coder(component, table)).collect();
    let payload = if spec["payload"].is_null() { Vec::new() } else { latin1(&spec["payload"]) };
    let spec = FunctionSpec { urn: text(&spec["urn"]).to_owned(), payload: payload.into() };
    let id = format!("coder {}", table.len());
    table.insert(id.clone(), pipeline::Coder { spec: Some(spec), component_coder_ids });
    id
}

/// The value that an example stands for. Whatever is not known here fails the test.
fn expected(coder: &Coder, example: &Yaml) -> Value {
    let all = |element: &Coder, examples: &Yaml| -> Vec<Value> {
        examples.as_sequence().unwrap().iter().map(|example| expected(element, example)).collect()
    };
    match coder {
        Coder::Bytes => Value::Bytes(text(example).as_bytes().to_vec()),
        Coder::StringUtf8 => Value::String(text(example).to_owned()),
        Coder::Bool => Value::Bool(example.as_bool().unwrap()),
        Coder::VarInt => Value::Int(int(example)),
        Coder::Double => Value::Double(text(example).parse().unwrap()),
        Coder::Kv(key, value) => {
            Value::Kv(Box::new((expected(key, &example["key"]), expected(value, &example["value"]))))
        }
        Coder::Iterable(element) | Coder::StateBackedIterable(element) => {
            Value::Iterable(all(element, example))
        }
        Coder::Timer { key, window } => Value::Timer {
            key: Box::new(expected(key, &example["userKey"])),
            dynamic_tag: text(&example["dynamicTimerTag"]).to_owned(),
            windows: all(window, &example["windows"]),
            firing: (!example["clearBit"].as_bool().unwrap()).then(|| TimerFiring {
                fire_timestamp: EventTime(int(&example["fireTimestamp"])),
                hold_timestamp: EventTime(int(&example["holdTimestamp"])),
                pane: pane(&example["pane"]),
            }),
        },
        Coder::IntervalWindow => Value::IntervalWindow(interval(example)),
        Coder::GlobalWindow => {
            assert!(matches!(text(example), "" | "global"), "{example:?}");
            Value::GlobalWindow
        }
        Coder::CustomWindow(window) => Value::CustomWindow {
            max_timestamp: interval(&example["window"]).max_timestamp(),
            window: Box::new(expected(window, &example["window"])),
        },
        Coder::WindowedValue { value, window } | Coder::ParamWindowedValue { value, window, .. } => {
            Value::WindowedValue {
                timestamp: EventTime(int(&example["timestamp"])),
                windows: all(window, &example["windows"]),
                pane: pane(&example["pane"]),
                value: Box::new(expected(value, &example["value"])),
            }
        }
        Coder::Row(schema) => expected_row(schema, example),
        Coder::ShardedKey(key) => Value::ShardedKey {
            shard_id: text(&example["shardId"]).as_bytes().to_vec(),
            key: Box::new(expected(key, &example["key"])),
        },
        Coder::Nullable(_) if example.is_null() => Value::Null,
        Coder::Nullable(inner) => expected(inner, example),
        Coder::LengthPrefix(_) | Coder::Opaque { .. } => panic!("the table has no examples of {coder:?}"),
    }
}

fn expected_row(schema: &RowSchema, example: &Yaml) -> Value {
    let example = example.as_mapping().unwrap();
    assert_eq!(example.len(), schema.fields().len());
    let field = |name: &str| example.get(name).unwrap_or_else(|| panic!("no {name}"));
    let fields = schema.fields().iter();
    Value::Row(fields.map(|f| expected_field(&f.field_type, field(&f.name))).collect())
}

fn expected_field(field_type: &FieldType, example: &Yaml) -> Value {
    if field_type.nullable && example.is_null() {
        return Value::Null;
    }
    match &field_type.info {
        FieldTypeInfo::Byte | FieldTypeInfo::Int16 | FieldTypeInfo::Int32 | FieldTypeInfo::Int64 => {
            Value::Int(int(example))
        }
        FieldTypeInfo::Float => Value::Float(text(example).parse().unwrap()),
        FieldTypeInfo::Double => Value::Double(text(example).parse().unwrap()),
        FieldTypeInfo::String => Value::String(text(example).to_owned()),
        FieldTypeInfo::Boolean => Value::Bool(example.as_bool().unwrap()),
        FieldTypeInfo::Bytes => Value::Bytes(text(example).as_bytes().to_vec()),
        // The example has the eight bytes, read as a signed integer.
        FieldTypeInfo::MillisInstant => Value::Instant(EventTime::from_bytes(int(example).to_be_bytes())),
        FieldTypeInfo::Decimal => decimal(text(example)),
        FieldTypeInfo::Array(element) | FieldTypeInfo::Iterable(element) => {
            let examples = example.as_sequence().unwrap();
            Value::Iterable(examples.iter().map(|example| expected_field(element, example)).collect())
        }
        FieldTypeInfo::Map(key, value) => {
            let entries = example.as_mapping().unwrap().iter();
            Value::Map(entries.map(|(k, v)| (expected_field(key, k), expected_field(value, v))).collect())
        }
        FieldTypeInfo::Row(schema) => expected_row(schema, example),
        FieldTypeInfo::NullableRepresentation(_) | FieldTypeInfo::Opaque { .. } => {
            panic!("the table has no examples of {field_type:?}")
        }
    }
}

fn interval(example: &Yaml) -> IntervalWindow {
    let end = int(&example["end"]);
    IntervalWindow { start: EventTime(end - int(&example["span"])), end: EventTime(end) }
}

fn pane(example: &Yaml) -> PaneInfo {
    PaneInfo {
        is_first: example["is_first"].as_bool().unwrap(),
        is_last: example["is_last"].as_bool().unwrap(),
        timing: match text(&example["timing"]) {
            "EARLY" => Timing::Early,
            "ON_TIME" => Timing::OnTime,
            "LATE" => Timing::Late,
            "UNKNOWN" => Timing::Unknown,
            other => panic!("timing {other}"),
        },
        index: int(&example["index"]),
        nonspeculative_index: int(&example["on_time_index"]),
    }
}

/// A decimal as its digits and the count of those after the point.
fn decimal(text: &str) -> Value {
    let (_, fraction) = text.split_once('.').unwrap();
    let digits: i64 = text.replace('.', "").parse().unwrap();
    let bytes = digits.to_be_bytes();
    // Without the leading bytes that only repeat the sign.
    let redundant =
        bytes.windows(2).take_while(|pair| matches!((pair[0], pair[1] >> 7), (0x00, 0) | (0xFF, 1))).count();
    Value::Decimal { scale: fraction.len() as i64, unscaled: bytes[redundant..].to_vec() }
}

fn text(example: &Yaml) -> &str {
    example.as_str().unwrap_or_else(|| panic!("{example:?} is not a string"))
}

fn int(example: &Yaml) -> i64 {
    example.as_i64().unwrap_or_else(|| panic!("{example:?} is not an integer"))
}

/// Bytes, of which the file has each as the character with the same number.
fn latin1(example: &Yaml) -> Vec<u8> {
    text(example).chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}
