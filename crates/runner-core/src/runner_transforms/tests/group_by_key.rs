use std::collections::HashMap;
use std::sync::Arc;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, varint};
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::time::{EventTime, ProcessingTime};

use super::{block, element, interval};
use crate::plan::testing::grouping;
use crate::plan::{Grain, Grouping, MergeStage, Merging, OutputTime};
use crate::ports::StageSpec;
use crate::runner_transforms::group_by_key::GroupByKey;

const NOW: ProcessingTime = ProcessingTime::from_millis(0);

/// A group: key, window, event time and values.
type Group = (String, Vec<u8>, i64, Vec<u64>);

fn group(grouping: Grouping, elements: &[Vec<u8>]) -> Vec<Group> {
    let mut groups = GroupByKey::in_memory(grouping.clone());
    groups.add(&block(elements), NOW).unwrap();
    groups.advance_watermark(EventTime::MAX).unwrap();
    read(&grouping, groups.take_panes(Grain::Element).map(|pane| pane.unwrap().data))
}

/// Reads blocks of one group each.
fn read(grouping: &Grouping, blocks: impl Iterator<Item = bytes::Bytes>) -> Vec<Group> {
    let iterable = Coder::Iterable(Box::new(Coder::VarInt));
    let read_one = |block: bytes::Bytes| {
        let header = read_header(&grouping.window_coder, &block).unwrap();
        assert_eq!(header.pane, [0x07], "first, last and on time");
        let rest = &block[header.header_len..];
        let (key, len) = varint::read_prefixed(rest).unwrap();
        let rest = &rest[len..];
        assert_eq!(iterable.skip(rest).unwrap(), rest.len(), "one group a block");
        let count = u32::from_be_bytes(rest[..4].try_into().unwrap());
        let mut rest = &rest[4..];
        let mut values = Vec::new();
        for _ in 0..count {
            let (value, len) = varint::read(rest).unwrap();
            values.push(value);
            rest = &rest[len..];
        }
        let key = String::from_utf8(key.to_vec()).unwrap();
        let window = header.windows.as_single().expect("one window").to_vec();
        (key, window, header.timestamp.0, values)
    };
    blocks.map(read_one).collect()
}

fn windows(windows: Coder, output_time: OutputTime) -> Grouping {
    Grouping { output_time, ..grouping(windows) }
}

fn sessions(output_time: OutputTime) -> Grouping {
    Grouping { merging: Merging::Sessions, ..windows(Coder::IntervalWindow, output_time) }
}

fn the(key: &str, window: Vec<u8>, time: i64, values: &[u64]) -> Group {
    (key.to_owned(), window, time, values.to_vec())
}

#[test]
fn the_global_window() {
    let all = [element(5, &[vec![]], "a", 1), element(3, &[vec![]], "b", 300), element(9, &[vec![]], "a", 2)];
    let end = EventTime::GLOBAL_WINDOW_MAX.0;
    let groups = group(grouping(Coder::GlobalWindow), &all);
    assert_eq!(groups, [the("a", vec![], end, &[1, 2]), the("b", vec![], end, &[300])]);
    for (output_time, time) in [(OutputTime::Earliest, 5), (OutputTime::Latest, 9)] {
        assert_eq!(group(windows(Coder::GlobalWindow, output_time), &all)[0].2, time);
    }
}

#[test]
fn nothing_has_no_groups() {
    assert!(group(grouping(Coder::GlobalWindow), &[]).is_empty());
    let no_window = element(5, &[], "a", 1);
    assert!(group(grouping(Coder::IntervalWindow), &[no_window]).is_empty());
}

#[test]
fn fixed_and_sliding_windows() {
    let (first, second) = (interval(0, 10), interval(5, 15));
    let all = [
        element(7, &[first.clone(), second.clone()], "a", 1),
        element(2, std::slice::from_ref(&first), "a", 2),
        element(12, std::slice::from_ref(&second), "a", 3),
    ];
    let expected = [the("a", first, 9, &[1, 2]), the("a", second, 14, &[1, 3])];
    assert_eq!(group(grouping(Coder::IntervalWindow), &all), expected);
    let earliest = group(windows(Coder::IntervalWindow, OutputTime::Earliest), &all);
    assert_eq!((earliest[0].2, earliest[1].2), (2, 7));
}

#[test]
fn sessions_that_overlap_merge_and_those_that_touch_do_not() {
    let session = |start: i64| vec![interval(start, start + 10)];
    let all = [
        element(15, &session(15), "a", 3),
        element(0, &session(0), "a", 1),
        element(9, &session(9), "a", 2),
        element(25, &session(25), "a", 4),
        element(1, &session(1), "b", 5),
    ];
    let groups = group(sessions(OutputTime::EndOfWindow), &all);
    let expected = [
        the("a", interval(0, 25), 24, &[1, 2, 3]),
        the("a", interval(25, 35), 34, &[4]),
        the("b", interval(1, 11), 10, &[5]),
    ];
    assert_eq!(groups, expected);
    assert_eq!(group(sessions(OutputTime::Earliest), &all)[0].2, 0);
    assert_eq!(group(sessions(OutputTime::Latest), &all)[0].2, 15);
}

#[test]
fn a_session_within_another_does_not_shorten_it() {
    let all = [
        element(0, &[interval(0, 100)], "a", 1),
        element(5, &[interval(5, 10)], "a", 2),
        element(50, &[interval(50, 60)], "a", 3),
    ];
    let groups = group(sessions(OutputTime::EndOfWindow), &all);
    assert_eq!(groups, [the("a", interval(0, 100), 99, &[1, 2, 3])]);
}

/// The end of a window that only the SDK can read is not known: the latest element's time stands in.
#[test]
fn opaque_windows() {
    let opaque = Coder::LengthPrefix(Box::new(Coder::Opaque { urn: "my:window".into() }));
    let (one, two) = (vec![2, b'x', b'y'], vec![0]);
    let all = [
        element(4, std::slice::from_ref(&one), "a", 1),
        element(8, std::slice::from_ref(&two), "a", 2),
        element(2, std::slice::from_ref(&one), "a", 3),
    ];
    assert_eq!(group(grouping(opaque), &all), [the("a", one, 4, &[1, 3]), the("a", two, 8, &[2])]);
}

fn by_sdk() -> Grouping {
    let spec = StageSpec {
        name: "merge".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor::default(),
    };
    let stage = MergeStage { spec: Arc::new(spec), source: "source".to_owned() };
    Grouping { merging: Merging::BySdk(Arc::new(stage)), ..grouping(Coder::IntervalWindow) }
}

#[test]
fn windows_that_the_sdk_merges() {
    let (one, two, three) = (interval(0, 10), interval(20, 30), interval(40, 50));
    let mut groups = GroupByKey::in_memory(by_sdk());
    let all = [
        element(5, std::slice::from_ref(&two), "a", 1),
        element(5, std::slice::from_ref(&one), "a", 2),
        element(5, std::slice::from_ref(&three), "a", 3),
        element(5, &[one.clone(), two.clone(), three.clone()], "same set", 4),
        element(5, std::slice::from_ref(&one), "alone", 5),
    ];
    groups.add(&block(&all), NOW).unwrap();
    let boxed = |window: &Vec<u8>| window.clone().into_boxed_slice();
    let set = vec![boxed(&one), boxed(&two), boxed(&three)];
    let mut sets = groups.windows_to_merge().unwrap();
    sets.sort_by_key(Vec::len);
    assert_eq!(sets, [vec![boxed(&one)], set.clone()]);

    let whole = interval(0, 30);
    let answer = HashMap::from([(boxed(&one), boxed(&whole)), (boxed(&two), boxed(&whole))]);
    let merged = HashMap::from([(set, answer)]);
    groups.merge_windows(merged).unwrap();
    groups.advance_watermark(EventTime::MAX).unwrap();
    let blocks = groups.take_panes(Grain::Element).map(|pane| pane.unwrap().data);
    let expected = [
        the("a", whole.clone(), 29, &[1, 2]),
        the("a", three.clone(), 49, &[3]),
        the("same set", whole, 29, &[4, 4]),
        the("same set", three, 49, &[4]),
        the("alone", one, 9, &[5]),
    ];
    assert_eq!(read(&by_sdk(), blocks), expected);
}

#[test]
fn blocks_are_of_bounded_size() {
    let mut groups = GroupByKey::in_memory(grouping(Coder::IntervalWindow));
    let name = "k".repeat(1 << 10);
    for n in 0..3_000 {
        groups.add(&block(&[element(n, &[interval(n, n + 1)], &name, 1)]), NOW).unwrap();
    }
    groups.advance_watermark(EventTime::MAX).unwrap();
    let sizes: Vec<_> = groups.take_panes(Grain::Block).map(|b| b.unwrap().data.len()).collect();
    assert_eq!(sizes.len(), 4, "three full ones and the rest: {sizes:?}");
    assert!(sizes.iter().all(|size| *size < 2 << 20), "{sizes:?}");
}
