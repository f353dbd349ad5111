//! What holds of any coder, any element and any bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may stop at the first surprise, too")]

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{
    Coder, Context, FieldType, FieldTypeInfo, IntervalWindow, PaneInfo, RowSchema, SchemaField, Timer,
    TimerFiring, Timing, Value,
};
use beam_model::time::EventTime;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Coders of windows.
fn window_coder() -> impl Strategy<Value = Coder> {
    prop_oneof![
        Just(Coder::IntervalWindow),
        Just(Coder::GlobalWindow),
        Just(Coder::CustomWindow(Box::new(Coder::IntervalWindow))),
        Just(Coder::LengthPrefix(Box::new(Coder::CustomWindow(Box::new(Coder::StringUtf8))))),
    ]
}

/// Coders of any shape, and not too big.
fn coder() -> impl Strategy<Value = Coder> {
    let leaf = prop_oneof![
        Just(Coder::Bytes),
        Just(Coder::StringUtf8),
        Just(Coder::Bool),
        Just(Coder::VarInt),
        Just(Coder::Double),
        window_coder(),
        vec(field_type(), 0..12).prop_map(row),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            (boxed.clone(), boxed.clone()).prop_map(|(key, value)| Coder::Kv(key, value)),
            boxed.clone().prop_map(Coder::Iterable),
            boxed.clone().prop_map(Coder::StateBackedIterable),
            boxed.clone().prop_map(Coder::LengthPrefix),
            boxed.clone().prop_map(Coder::ShardedKey),
            boxed.clone().prop_map(Coder::Nullable),
            boxed.clone().prop_map(param_windowed_value),
            (boxed.clone(), window_coder())
                .prop_map(|(value, window)| Coder::WindowedValue { value, window: Box::new(window) }),
            (boxed, window_coder()).prop_map(|(key, window)| Coder::Timer { key, window: Box::new(window) }),
        ]
    })
}

fn row(types: Vec<FieldType>) -> Coder {
    let fields = types.into_iter().map(|field_type| SchemaField { name: "f".into(), field_type });
    Coder::Row(Box::new(RowSchema::of(fields.collect())))
}

const PARAM_TIMESTAMP: EventTime = EventTime(-7);

fn param_windowed_value(value: Box<Coder>) -> Coder {
    let mut payload = PARAM_TIMESTAMP.to_bytes().to_vec();
    payload.extend_from_slice(&[0, 0, 0, 1, 0x0F]);
    Coder::ParamWindowedValue { value, window: Box::new(Coder::GlobalWindow), payload: payload.into() }
}

fn field_type() -> impl Strategy<Value = FieldType> {
    let leaf = prop_oneof![
        Just(FieldTypeInfo::Byte),
        Just(FieldTypeInfo::Int16),
        Just(FieldTypeInfo::Int32),
        Just(FieldTypeInfo::Int64),
        Just(FieldTypeInfo::Float),
        Just(FieldTypeInfo::Double),
        Just(FieldTypeInfo::String),
        Just(FieldTypeInfo::Boolean),
        Just(FieldTypeInfo::Bytes),
        Just(FieldTypeInfo::MillisInstant),
        Just(FieldTypeInfo::Decimal),
    ];
    let leaf = (any::<bool>(), leaf).prop_map(|(nullable, info)| FieldType { nullable, info });
    leaf.prop_recursive(3, 8, 2, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        let info = prop_oneof![
            boxed.clone().prop_map(FieldTypeInfo::Array),
            boxed.clone().prop_map(FieldTypeInfo::Iterable),
            (boxed.clone(), boxed.clone()).prop_map(|(key, value)| FieldTypeInfo::Map(key, value)),
            boxed.prop_map(|inner| FieldTypeInfo::NullableRepresentation(Box::new(inner.info))),
            vec(inner, 0..4).prop_map(|types| match row(types) {
                Coder::Row(schema) => FieldTypeInfo::Row(schema),
                other => panic!("{other:?}"),
            }),
        ];
        (any::<bool>(), info).prop_map(|(nullable, info)| FieldType { nullable, info })
    })
}

fn time() -> impl Strategy<Value = EventTime> {
    any::<i64>().prop_map(EventTime)
}

fn pane() -> impl Strategy<Value = PaneInfo> {
    let timed = prop_oneof![
        (0..1000_i64).prop_map(|index| (Timing::Early, index, -1)),
        (0..1000_i64).prop_map(|index| (Timing::OnTime, index, index)),
        (0..1000_i64, 0..1000_i64).prop_map(|(index, other)| (Timing::Late, index, other)),
        Just((Timing::Unknown, 0, 0)),
    ];
    (any::<bool>(), any::<bool>(), timed).prop_map(
        |(is_first, is_last, (timing, index, nonspeculative_index))| PaneInfo {
            is_first,
            is_last,
            timing,
            index,
            nonspeculative_index,
        },
    )
}

/// Windows of the given coder; there is no more than one global window.
fn windows(coder: &Coder) -> impl Strategy<Value = Vec<Value>> + use<> {
    vec(value(coder), if *coder == Coder::GlobalWindow { 0..2 } else { 0..4 })
}

/// Elements of the given coder.
fn value(coder: &Coder) -> BoxedStrategy<Value> {
    match coder {
        Coder::Bytes => vec(any::<u8>(), 0..200).prop_map(Value::Bytes).boxed(),
        Coder::StringUtf8 => ".{0,50}".prop_map(Value::String).boxed(),
        Coder::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Coder::VarInt => any::<i64>().prop_map(Value::Int).boxed(),
        Coder::Double => prop::num::f64::NORMAL.prop_map(Value::Double).boxed(),
        Coder::Kv(key, element) => {
            (value(key), value(element)).prop_map(|pair| Value::Kv(Box::new(pair))).boxed()
        }
        Coder::Iterable(element) => vec(value(element), 0..4).prop_map(Value::Iterable).boxed(),
        Coder::StateBackedIterable(element) => {
            let here = vec(value(element), 0..4).prop_map(Value::Iterable);
            let split = (vec(value(element), 0..4), vec(any::<u8>(), 0..9))
                .prop_map(|(prefix, token)| Value::StateBackedIterable { prefix, token });
            prop_oneof![here, split].boxed()
        }
        Coder::Timer { key, window } => {
            let firing = (time(), time(), pane()).prop_map(|(fire_timestamp, hold_timestamp, pane)| {
                TimerFiring { fire_timestamp, hold_timestamp, pane }
            });
            (value(key).prop_map(Box::new), ".{0,5}", windows(window), option::of(firing))
                .prop_map(|(key, dynamic_tag, windows, firing)| Value::Timer {
                    key,
                    dynamic_tag,
                    windows,
                    firing,
                })
                .boxed()
        }
        Coder::IntervalWindow => (any::<i32>(), any::<u32>())
            .prop_map(|(start, span)| {
                let end = EventTime(i64::from(start) + i64::from(span));
                Value::IntervalWindow(IntervalWindow { start: EventTime(start.into()), end })
            })
            .boxed(),
        Coder::GlobalWindow => Just(Value::GlobalWindow).boxed(),
        Coder::CustomWindow(window) => (time(), value(window).prop_map(Box::new))
            .prop_map(|(max_timestamp, window)| Value::CustomWindow { max_timestamp, window })
            .boxed(),
        Coder::LengthPrefix(inner) => value(inner),
        Coder::WindowedValue { value: inner, window } => {
            (time(), windows(window), pane(), value(inner).prop_map(Box::new))
                .prop_map(|(timestamp, windows, pane, value)| Value::WindowedValue {
                    timestamp,
                    windows,
                    pane,
                    value,
                })
                .boxed()
        }
        Coder::ParamWindowedValue { value: inner, .. } => value(inner)
            .prop_map(|value| Value::WindowedValue {
                timestamp: PARAM_TIMESTAMP,
                windows: vec![Value::GlobalWindow],
                pane: PaneInfo::NO_FIRING,
                value: Box::new(value),
            })
            .boxed(),
        Coder::Row(schema) => row_value(schema),
        Coder::ShardedKey(key) => (vec(any::<u8>(), 0..9), value(key).prop_map(Box::new))
            .prop_map(|(shard_id, key)| Value::ShardedKey { shard_id, key })
            .boxed(),
        Coder::Nullable(inner) => prop_oneof![Just(Value::Null), value(inner)].boxed(),
        Coder::Opaque { urn } => panic!("nobody knows the elements of {urn}"),
    }
}

fn row_value(schema: &RowSchema) -> BoxedStrategy<Value> {
    let fields: Vec<_> = schema.fields().iter().map(|field| field_value(&field.field_type)).collect();
    fields.prop_map(Value::Row).boxed()
}

fn field_value(field_type: &FieldType) -> BoxedStrategy<Value> {
    let present = present_value(&field_type.info);
    if field_type.nullable { prop_oneof![Just(Value::Null), present].boxed() } else { present }
}

fn present_value(info: &FieldTypeInfo) -> BoxedStrategy<Value> {
    match info {
        FieldTypeInfo::Byte => any::<u8>().prop_map(|i| Value::Int(i.into())).boxed(),
        FieldTypeInfo::Int16 => any::<i16>().prop_map(|i| Value::Int(i.into())).boxed(),
        FieldTypeInfo::Int32 => any::<i32>().prop_map(|i| Value::Int(i.into())).boxed(),
        FieldTypeInfo::Int64 => any::<i64>().prop_map(Value::Int).boxed(),
        FieldTypeInfo::Float => prop::num::f32::NORMAL.prop_map(Value::Float).boxed(),
        FieldTypeInfo::Double => prop::num::f64::NORMAL.prop_map(Value::Double).boxed(),
        FieldTypeInfo::String => ".{0,20}".prop_map(Value::String).boxed(),
        FieldTypeInfo::Boolean => any::<bool>().prop_map(Value::Bool).boxed(),
        FieldTypeInfo::Bytes => vec(any::<u8>(), 0..20).prop_map(Value::Bytes).boxed(),
        FieldTypeInfo::MillisInstant => time().prop_map(Value::Instant).boxed(),
        FieldTypeInfo::Decimal => (any::<i64>(), vec(any::<u8>(), 1..9))
            .prop_map(|(scale, unscaled)| Value::Decimal { scale, unscaled })
            .boxed(),
        FieldTypeInfo::Array(element) | FieldTypeInfo::Iterable(element) => {
            vec(field_value(element), 0..4).prop_map(Value::Iterable).boxed()
        }
        FieldTypeInfo::Map(key, element) => {
            vec((field_value(key), field_value(element)), 0..4).prop_map(Value::Map).boxed()
        }
        FieldTypeInfo::Row(schema) => row_value(schema),
        FieldTypeInfo::NullableRepresentation(inner) => {
            prop_oneof![Just(Value::Null), present_value(inner)].boxed()
        }
        FieldTypeInfo::Opaque { urn } => panic!("nobody knows the values of {urn}"),
    }
}

fn coder_and_value() -> impl Strategy<Value = (Coder, Value)> {
    coder().prop_flat_map(|coder| {
        let value = value(&coder);
        (Just(coder), value)
    })
}

/// Coders, and bytes that begin like one of their elements and then are damaged in one place.
fn coder_and_damage() -> impl Strategy<Value = (Coder, Vec<u8>)> {
    (coder_and_value(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|((coder, value), at, byte)| {
        let mut bytes = coder.encode(Context::Nested, &value).unwrap();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        (coder, bytes)
    })
}

/// Puts bytes before everything that reads bytes. What can be decoded can be skipped, and ends there.
fn read_in_every_way(coder: &Coder, bytes: &[u8]) {
    let skipped = coder.skip(bytes);
    if let Ok(len) = skipped {
        assert!(len <= bytes.len());
    }
    if let Ok((_, len)) = coder.decode_prefix(bytes) {
        assert_eq!(skipped, Ok(len));
    }
    let _ = coder.skip_in(Context::Outer, bytes);
    let _ = coder.decode(Context::Outer, bytes);
    let _ = coder.max_timestamp_of_window(bytes);
    let _ = Timer::read(coder, bytes);
    if let Ok(header) = read_header(coder, bytes) {
        assert!(header.header_len <= bytes.len());
        assert_eq!(header.windows.iter().take(100).count(), header.windows.len().min(100));
        header.pane_info().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn elements_are_decoded_as_encoded((coder, value) in coder_and_value(), next in vec(any::<u8>(), 0..9)) {
        let nested = coder.encode(Context::Nested, &value).unwrap();
        let followed = [&nested[..], &next].concat();
        prop_assert_eq!(coder.skip(&followed), Ok(nested.len()));
        prop_assert_eq!(coder.decode_prefix(&followed), Ok((value.clone(), nested.len())));
        prop_assert!(coder.is_skippable());
        if let Some(width) = coder.fixed_width() {
            prop_assert_eq!(width, nested.len());
        } else {
            prop_assert!(!nested.is_empty());
        }

        let outer = coder.encode(Context::Outer, &value).unwrap();
        prop_assert_eq!(coder.skip_in(Context::Outer, &outer), Ok(outer.len()));
        prop_assert_eq!(coder.decode(Context::Outer, &outer), Ok(value));
    }

    #[test]
    fn an_element_cut_short_is_refused((coder, value) in coder_and_value(), at in any::<prop::sample::Index>()) {
        let nested = coder.encode(Context::Nested, &value).unwrap();
        if !nested.is_empty() {
            prop_assert!(coder.skip(&nested[..at.index(nested.len())]).is_err());
        }
    }

    #[test]
    fn random_bytes_do_no_harm(coder in coder(), bytes in vec(any::<u8>(), 0..64)) {
        read_in_every_way(&coder, &bytes);
    }

    #[test]
    fn damaged_elements_do_no_harm((coder, bytes) in coder_and_damage()) {
        read_in_every_way(&coder, &bytes);
    }
}
