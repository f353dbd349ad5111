use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::{MAX_DEPTH, MAX_PARTS};
use crate::coders::{Coder, CoderError};
use crate::pipeline::{self, FunctionSpec};
use crate::urns::standard_coders as urns;

fn coder(urn: &str, payload: &[u8], components: &[&str]) -> pipeline::Coder {
    pipeline::Coder {
        spec: Some(FunctionSpec { urn: urn.into(), payload: Bytes::copy_from_slice(payload) }),
        component_coder_ids: components.iter().map(|&id| id.into()).collect(),
    }
}

fn table<const N: usize>(coders: [(&str, pipeline::Coder); N]) -> BTreeMap<String, pipeline::Coder> {
    coders.into_iter().map(|(id, coder)| (id.to_owned(), coder)).collect()
}

#[test]
fn a_tree_is_put_together() {
    let coders = table([
        ("bytes", coder(urns::BYTES, b"", &[])),
        ("mine", coder("my:coder", b"pickled", &["unknown"])),
        ("prefixed", coder(urns::LENGTH_PREFIX, b"", &["mine"])),
        ("kv", coder(urns::KV, b"", &["bytes", "prefixed"])),
    ]);
    let kv = Coder::from_proto("kv", &coders).unwrap();
    let opaque = Coder::Opaque { urn: "my:coder".into() };
    assert_eq!(
        kv,
        Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::LengthPrefix(Box::new(opaque.clone()))))
    );
    assert!(kv.is_skippable());
    assert_eq!(kv.skip(b"\x01k\x02v1rest"), Ok(5));
    assert!(!opaque.is_skippable());
    assert_eq!(opaque.skip(b"abc"), Err(CoderError::Opaque { urn: "my:coder".into() }));
}

#[test]
fn what_is_missing_is_named() {
    let coders = table([
        ("iterable", coder(urns::ITERABLE, b"", &["element"])),
        ("bare", pipeline::Coder { spec: None, component_coder_ids: Vec::new() }),
    ]);
    let missing = |id: &str| Err(CoderError::Missing { id: id.into() });
    assert_eq!(Coder::from_proto("iterable", &coders), missing("element"));
    assert_eq!(Coder::from_proto("nowhere", &coders), missing("nowhere"));
    assert_eq!(Coder::from_proto("bare", &coders), Err(CoderError::NoSpec { id: "bare".into() }));
}

#[test]
fn a_coder_that_contains_itself_is_refused() {
    let coders = table([
        ("a", coder(urns::ITERABLE, b"", &["b"])),
        ("b", coder(urns::NULLABLE, b"", &["a"])),
        ("twice", coder(urns::KV, b"", &["twice", "twice"])),
    ]);
    for id in ["a", "twice"] {
        let error = Coder::from_proto(id, &coders).unwrap_err();
        assert!(matches!(error, CoderError::TooDeep { limit: MAX_DEPTH, .. }), "{error}");
    }
}

#[test]
fn a_short_table_for_an_exponential_tree_is_refused() {
    let mut coders = table([("0", coder(urns::BYTES, b"", &[]))]);
    for level in 1..MAX_DEPTH {
        let below = (level - 1).to_string();
        coders.insert(level.to_string(), coder(urns::KV, b"", &[&below, &below]));
    }
    let error = Coder::from_proto("40", &coders).unwrap_err();
    assert!(matches!(error, CoderError::TooBig { limit: MAX_PARTS, .. }), "{error}");
    assert!(Coder::from_proto("10", &coders).is_ok());
}

#[test]
fn components_are_counted() {
    for (urn, wanted) in [
        (urns::BYTES, 0),
        (urns::STRING_UTF8, 0),
        (urns::BOOL, 0),
        (urns::VARINT, 0),
        (urns::DOUBLE, 0),
        (urns::INTERVAL_WINDOW, 0),
        (urns::GLOBAL_WINDOW, 0),
        (urns::ROW, 0),
        (urns::ITERABLE, 1),
        (urns::STATE_BACKED_ITERABLE, 1),
        (urns::CUSTOM_WINDOW, 1),
        (urns::LENGTH_PREFIX, 1),
        (urns::SHARDED_KEY, 1),
        (urns::NULLABLE, 1),
        (urns::KV, 2),
        (urns::TIMER, 2),
        (urns::WINDOWED_VALUE, 2),
        (urns::PARAM_WINDOWED_VALUE, 2),
    ] {
        for found in (0..4).filter(|&found| found != wanted) {
            let coders = table([
                ("leaf", coder(urns::BYTES, b"", &[])),
                ("it", coder(urn, b"", &["leaf", "leaf", "leaf"][..found])),
            ]);
            let expected =
                CoderError::ComponentCount { id: "it".into(), urn: urn.into(), expected: wanted, found };
            assert_eq!(Coder::from_proto("it", &coders), Err(expected));
        }
    }
}

#[test]
fn bad_payloads_are_refused_with_a_reason() {
    let no_type = pipeline::Schema {
        fields: vec![pipeline::Field { name: "f".into(), ..Default::default() }],
        ..Default::default()
    };
    let twice = |position| pipeline::Schema {
        fields: (0..2)
            .map(|_| pipeline::Field {
                name: "f".into(),
                r#type: Some(pipeline::FieldType {
                    nullable: false,
                    type_info: Some(pipeline::field_type::TypeInfo::AtomicType(4)),
                }),
                encoding_position: position,
                ..Default::default()
            })
            .collect(),
        encoding_positions_set: true,
        ..Default::default()
    };
    for (payload, reason) in [
        (b"\xFF\xFF".to_vec(), "not a Schema"),
        (no_type.encode_to_vec(), "no type"),
        (twice(1).encode_to_vec(), "is taken"),
        (twice(7).encode_to_vec(), "position 7"),
        (twice(-1).encode_to_vec(), "position -1"),
    ] {
        let coders = table([("row", coder(urns::ROW, &payload, &[]))]);
        let error = Coder::from_proto("row", &coders).unwrap_err();
        assert!(matches!(error, CoderError::BadPayload { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("\"row\""), "{error}");
    }
    let coders = table([
        ("bytes", coder(urns::BYTES, b"", &[])),
        ("global", coder(urns::GLOBAL_WINDOW, b"", &[])),
        ("param", coder(urns::PARAM_WINDOWED_VALUE, b"short", &["bytes", "global"])),
    ]);
    assert!(matches!(Coder::from_proto("param", &coders), Err(CoderError::BadPayload { .. })));
}

#[test]
fn a_schema_nested_without_end_is_refused() {
    let mut field_type = pipeline::FieldType {
        nullable: false,
        type_info: Some(pipeline::field_type::TypeInfo::AtomicType(4)),
    };
    for _ in 0..1000 {
        let array = pipeline::ArrayType { element_type: Some(Box::new(field_type)) };
        field_type = pipeline::FieldType {
            nullable: false,
            type_info: Some(pipeline::field_type::TypeInfo::ArrayType(Box::new(array))),
        };
    }
    let schema = pipeline::Schema {
        fields: vec![pipeline::Field { name: "f".into(), r#type: Some(field_type), ..Default::default() }],
        ..Default::default()
    };
    let error = crate::coders::RowSchema::from_proto(&schema).unwrap_err();
    assert!(error.contains("nests deeper"), "{error}");
    let coders = table([("row", coder(urns::ROW, &schema.encode_to_vec(), &[]))]);
    assert!(matches!(Coder::from_proto("row", &coders), Err(CoderError::BadPayload { .. })));
}
