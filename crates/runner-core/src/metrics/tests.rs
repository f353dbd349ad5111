use std::collections::BTreeMap;

use beam_model::pipeline::histogram_value::{BucketOptions, bucket_options};
use beam_model::pipeline::{BoundedTrie, HistogramValue, MonitoringInfo};
use beam_model::urns::monitoring_info_type_urns as types;
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::cell::{Cell, Side};
use super::payload::Writer;
use super::{JobMetrics, MetricsAccumulator};

fn info(type_urn: &str, name: &str, payload: impl Into<Bytes>) -> MonitoringInfo {
    MonitoringInfo {
        urn: "beam:metric:user:test:v1".into(),
        r#type: type_urn.into(),
        payload: payload.into(),
        labels: BTreeMap::from([("NAME".into(), name.into()), ("PTRANSFORM".into(), "step".into())]),
        start_time: None,
    }
}

/// The payload that merging these payloads of one metric gives.
fn merged(type_urn: &str, payloads: &[Bytes]) -> Bytes {
    let mut metrics = MetricsAccumulator::default();
    for payload in payloads {
        metrics.add(&[info(type_urn, "m", payload.clone())]);
    }
    assert_eq!(metrics.malformed(), 0);
    let infos = metrics.snapshot();
    assert_eq!(infos.len(), 1);
    infos[0].payload.clone()
}

#[test]
fn payloads_are_those_of_the_python_sdk() {
    // What apache_beam.metrics.monitoring_infos writes for these values.
    let cases: &[(&str, &[u8])] = &[
        (types::SUM_INT64_TYPE, b"\xac\x02"),
        (types::SUM_INT64_TYPE, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        (types::DISTRIBUTION_INT64_TYPE, b"\x02\x0a\x03\x07"),
        (types::LATEST_INT64_TYPE, b"\xd0\x0f\x05"),
        (types::SET_STRING_TYPE, b"\x00\x00\x00\x02\x01a\x02bc"),
        (types::SUM_DOUBLE_TYPE, b"\x3f\xf8\x00\x00\x00\x00\x00\x00"),
    ];
    for (type_urn, payload) in cases {
        assert_eq!(merged(type_urn, &[Bytes::from_static(payload)]), *payload, "{type_urn}");
    }
    assert_eq!(
        Cell::decode(types::SUM_INT64_TYPE, &Bytes::from_static(cases[1].1)),
        Some(Cell::SumInt64(-1))
    );
}

#[test]
fn merges_by_type() {
    let sum = |value| Writer::default().int(value).done();
    assert_eq!(merged(types::SUM_INT64_TYPE, &[sum(300), sum(-1)]), sum(299));
    let distribution = |count, sum, min, max| Writer::default().int(count).int(sum).int(min).int(max).done();
    let empty = distribution(0, 0, i64::MAX, i64::MIN);
    assert_eq!(
        merged(
            types::DISTRIBUTION_INT64_TYPE,
            &[empty, distribution(2, 10, 3, 7), distribution(1, -1, -1, -1)]
        ),
        distribution(3, 9, -1, 7)
    );
    let latest = |time, value| Writer::default().int(time).int(value).done();
    assert_eq!(merged(types::LATEST_INT64_TYPE, &[latest(5, 1), latest(4, 9)]), latest(5, 1));
    let list = |values: &[i64]| Writer::default().iterable(values.iter(), |to, v| to.int(*v)).done();
    assert_eq!(merged(types::TOP_N_INT64_TYPE, &[list(&[9, 2]), list(&[5])]), list(&[9, 5]));
    assert_eq!(merged(types::BOTTOM_N_INT64_TYPE, &[list(&[2, 9]), list(&[1])]), list(&[1, 2]));
    let texts = |values: &[&str]| Writer::default().iterable(values.iter(), |to, v| to.text(v)).done();
    assert_eq!(
        merged(types::SET_STRING_TYPE, &[texts(&["b", "a"]), texts(&["b", "c"])]),
        texts(&["a", "b", "c"])
    );
    assert_eq!(merged(types::PROGRESS_TYPE, &[list(&[1]), list(&[2])]), list(&[2]));
    assert_eq!(merged("an:unknown:type", &[sum(1), sum(2)]), sum(2));
}

#[test]
fn an_iterable_may_come_in_blocks() {
    let in_blocks = Bytes::from_static(b"\xff\xff\xff\xff\x01\x01a\x01\x01b\x00");
    assert_eq!(merged(types::SET_STRING_TYPE, &[in_blocks]), &b"\x00\x00\x00\x02\x01a\x01b"[..]);
}

#[test]
fn histograms_add_up_if_their_buckets_are_the_same() {
    let histogram = |width, counts: &[i64]| {
        let linear =
            bucket_options::Linear { number_of_buckets: Some(3), width: Some(width), start: Some(0.0) };
        let options = BucketOptions { bucket_type: Some(bucket_options::BucketType::Linear(linear)) };
        let value = HistogramValue {
            count: Some(counts.iter().sum()),
            bucket_options: Some(options),
            bucket_counts: counts.to_vec(),
        };
        Bytes::from(value.encode_to_vec())
    };
    assert_eq!(
        merged(types::HISTOGRAM, &[histogram(1.0, &[1]), histogram(1.0, &[1, 2, 3])]),
        histogram(1.0, &[2, 2, 3])
    );
    let mut metrics = MetricsAccumulator::default();
    metrics.add(&[info(types::HISTOGRAM, "m", histogram(1.0, &[1]))]);
    metrics.add(&[info(types::HISTOGRAM, "m", histogram(2.0, &[1]))]);
    assert_eq!((metrics.malformed(), metrics.snapshot().len()), (1, 1));
}

fn trie(bound: i32, paths: &[&[&str]]) -> Bytes {
    let one = |path: &&[&str]| {
        let singleton = path.iter().map(|segment| segment.to_string()).collect();
        Bytes::from(BoundedTrie { bound, root: None, singleton }.encode_to_vec())
    };
    merged(types::BOUNDED_TRIE_TYPE, &paths.iter().map(one).collect::<Vec<_>>())
}

#[test]
fn a_bounded_trie_is_cut_where_it_is_crowded() {
    let whole = BoundedTrie::decode(trie(3, &[&["a", "x"], &["a", "y"], &["b"]])).unwrap();
    assert_eq!(whole.root.unwrap().children["a"].children.len(), 2);
    let cut = BoundedTrie::decode(trie(2, &[&["a", "x"], &["a", "y"], &["b"]])).unwrap();
    let root = cut.root.unwrap();
    assert!(root.children["a"].truncated && !root.children["b"].truncated);
    let one = BoundedTrie::decode(trie(2, &[&["a", "x"], &["a", "x"]])).unwrap();
    assert_eq!(one.singleton, ["a", "x"]);
}

#[test]
fn a_very_long_path_is_cut() {
    let long: Vec<&str> = vec!["s"; 100_000];
    let mut root = BoundedTrie::decode(trie(100, &[&long, &["other"]])).unwrap().root.unwrap();
    let mut depth = 0;
    while let Some(child) = root.children.remove("s") {
        root = child;
        depth += 1;
    }
    assert!(root.truncated && depth == 40, "{depth}");
}

#[test]
fn metrics_are_told_apart_by_urn_type_and_labels() {
    let mut metrics = MetricsAccumulator::default();
    let one = || Writer::default().int(1).done();
    metrics.add(&[info(types::SUM_INT64_TYPE, "a", one()), info(types::SUM_INT64_TYPE, "b", one())]);
    metrics.add(&[info(types::SUM_INT64_TYPE, "a", one()), info("other", "a", one())]);
    let infos = metrics.snapshot();
    let seen: Vec<_> = infos.iter().map(|i| (&*i.labels["NAME"], &*i.r#type, i.payload[0])).collect();
    assert_eq!(seen, [("a", types::SUM_INT64_TYPE, 2), ("a", "other", 1), ("b", types::SUM_INT64_TYPE, 1)]);
}

#[test]
fn malformed_payloads_are_counted_and_left_out() {
    let bad: &[(&str, &[u8])] = &[
        (types::SUM_INT64_TYPE, b""),
        (types::SUM_INT64_TYPE, b"\x01\x01"),
        (types::SUM_INT64_TYPE, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        (types::SUM_DOUBLE_TYPE, b"\x01"),
        (types::DISTRIBUTION_INT64_TYPE, b"\x01\x01\x01"),
        (types::LATEST_DOUBLE_TYPE, b"\x01"),
        (types::TOP_N_INT64_TYPE, b"\x7f\xff\xff\xff\x01"),
        (types::SET_STRING_TYPE, b"\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        (types::SET_STRING_TYPE, b"\x00\x00\x00\x01\x01\xff"),
        (types::SET_STRING_TYPE, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        (types::BOUNDED_TRIE_TYPE, b"\xff"),
        (types::HISTOGRAM, b"\xff"),
    ];
    for (type_urn, payload) in bad {
        let mut metrics = MetricsAccumulator::default();
        metrics.add(&[info(type_urn, "m", Bytes::from_static(payload))]);
        assert_eq!((metrics.malformed(), metrics.snapshot().len()), (1, 0), "{type_urn} {payload:?}");
    }
}

#[test]
fn failed_attempts_count_as_attempted_alone() {
    let mut metrics = JobMetrics::default();
    metrics.bundle_failed(&[info(types::SUM_INT64_TYPE, "a", Writer::default().int(1).done())]);
    metrics.bundle_committed(&[info(types::SUM_INT64_TYPE, "a", Writer::default().int(4).done())]);
    let results = metrics.results();
    assert_eq!(results.committed[0].payload, Writer::default().int(4).done());
    assert_eq!(results.attempted[0].payload, Writer::default().int(5).done());
}

#[test]
fn what_is_not_over_counts_as_attempted_and_only_as_it_is_now() {
    let count = |count| vec![info(types::SUM_INT64_TYPE, "a", Writer::default().int(count).done())];
    let mut metrics = JobMetrics::default();
    let counts = |metrics: &JobMetrics| {
        let results = metrics.results();
        let sum = |infos: &[MonitoringInfo]| infos.first().map_or(0, |info| i64::from(info.payload[0]));
        (sum(&results.attempted), sum(&results.committed))
    };
    metrics.attempt_running(1, count(2));
    metrics.attempt_running(2, count(10));
    assert_eq!(counts(&metrics), (12, 0));
    metrics.attempt_running(1, count(3));
    assert_eq!(counts(&metrics), (13, 0));
    metrics.worker_reported("w".to_owned(), count(20));
    metrics.worker_reported("w".to_owned(), count(30));
    assert_eq!(counts(&metrics), (43, 0));
    metrics.attempt_over(1);
    metrics.bundle_committed(&count(4));
    let lost = metrics.attempt_over(2);
    metrics.bundle_failed(&lost);
    assert_eq!(counts(&metrics), (44, 4));
    assert_eq!(metrics.attempt_over(2), []);
    metrics.bundle_committed(&count(5));
    assert_eq!(counts(&metrics), (49, 9));
}

/// Values of one type at a time, whose merge must not depend on order or grouping. Fractions are
/// multiples of a half, so that their sums are exact.
fn any_cells() -> impl Strategy<Value = (Cell, Cell, Cell)> {
    let half = || (-1000i32..1000).prop_map(|n| f64::from(n) / 2.0);
    let three = |cell: BoxedStrategy<Cell>| (cell.clone(), cell.clone(), cell);
    prop_oneof![
        three(any::<i64>().prop_map(Cell::SumInt64).boxed()),
        three(half().prop_map(Cell::SumDouble).boxed()),
        three(
            (0i64..3, any::<i64>(), any::<i64>(), any::<i64>())
                .prop_map(|(count, sum, min, max)| match count {
                    0 => Cell::DistributionInt64 { count, sum: 0, min: i64::MAX, max: i64::MIN },
                    _ => Cell::DistributionInt64 { count, sum, min, max },
                })
                .boxed()
        ),
        three(
            (1i64..3, half(), half(), half())
                .prop_map(|(count, sum, min, max)| Cell::DistributionDouble { count, sum, min, max })
                .boxed()
        ),
        three((0i64..4, 0i64..4).prop_map(|(time, value)| Cell::LatestInt64 { time, value }).boxed()),
        three((0i64..4, half()).prop_map(|(time, value)| Cell::LatestDouble { time, value }).boxed()),
        three(proptest::collection::btree_set("[a-d]{1,2}", 0..5).prop_map(Cell::SetString).boxed()),
        three(
            proptest::collection::vec(0i64..9, 3)
                .prop_map(|mut values| {
                    values.sort();
                    Cell::ExtremaInt64(Side::Bottom, values)
                })
                .boxed()
        ),
        three(
            proptest::collection::vec(0i64..9, 0..4)
                .prop_map(|bucket_counts| Cell::Histogram(HistogramValue {
                    count: Some(bucket_counts.iter().sum()),
                    bucket_options: None,
                    bucket_counts,
                }))
                .boxed()
        ),
        // Bounds that are never reached: which prefix is cut does depend on the order.
        three(
            proptest::collection::vec("[a-c]", 1..4)
                .prop_map(|singleton| {
                    let proto = BoundedTrie { bound: 100, root: None, singleton };
                    Cell::decode(types::BOUNDED_TRIE_TYPE, &proto.encode_to_vec().into()).unwrap()
                })
                .boxed()
        ),
    ]
}

fn both(mut a: Cell, b: Cell) -> Cell {
    assert!(a.merge(b));
    a
}

proptest! {
    #[test]
    fn merging_is_commutative_and_associative((a, b, c) in any_cells()) {
        prop_assert_eq!(both(a.clone(), b.clone()), both(b.clone(), a.clone()));
        prop_assert_eq!(both(both(a.clone(), b.clone()), c.clone()), both(a, both(b, c)));
    }

    #[test]
    fn no_payload_makes_it_panic(type_index in 0usize..14, payload in proptest::collection::vec(any::<u8>(), 0..40)) {
        let all = [
            types::SUM_INT64_TYPE, types::SUM_DOUBLE_TYPE, types::DISTRIBUTION_INT64_TYPE,
            types::DISTRIBUTION_DOUBLE_TYPE, types::LATEST_INT64_TYPE, types::LATEST_DOUBLE_TYPE,
            types::TOP_N_INT64_TYPE, types::TOP_N_DOUBLE_TYPE, types::BOTTOM_N_INT64_TYPE,
            types::BOTTOM_N_DOUBLE_TYPE, types::PROGRESS_TYPE, types::SET_STRING_TYPE,
            types::BOUNDED_TRIE_TYPE, types::HISTOGRAM,
        ];
        let mut metrics = MetricsAccumulator::default();
        metrics.add(&[info(all[type_index], "m", payload)]);
        prop_assert_eq!(metrics.snapshot().len() as u64 + metrics.malformed(), 1);
        for encoded in metrics.snapshot() {
            let mut again = MetricsAccumulator::default();
            again.add(std::slice::from_ref(&encoded));
            prop_assert_eq!(again.snapshot(), vec![encoded]);
        }
    }
}
