//! A GroupByKey with little memory makes the same groups as one with enough.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, varint};
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;
use proptest::prelude::*;

use super::{block, element, interval};
use crate::plan::testing::grouping;
use crate::plan::{Grain, Grouping, MergeStage, Merging, OutputTime};
use crate::ports::memory::MemoryStorage;
use crate::ports::{MemoryBudget, StageSpec, Storage};
use crate::runner_transforms::group_by_key::{GroupByKey, Merged, Window};
use crate::runner_transforms::iterables::Iterables;

const NOW: ProcessingTime = ProcessingTime::from_millis(0);

/// A group's key and window.
type Name = (Vec<u8>, Vec<u8>);
/// By key and window: event time and values, in the order of the values.
type Groups = BTreeMap<Name, (i64, Vec<u64>)>;

/// An element: key, windows by their starts, event time, value.
type Element = (String, Vec<i64>, i64, u64);

/// Merges, as an SDK would, all windows of a set that begin before 50.
fn answer(set: &[Window]) -> Merged {
    let early = |window: &&Window| **window < interval(0, 50 + SIZE).into_boxed_slice();
    let target: Window = interval(0, 50 + SIZE).into();
    set.iter().filter(early).map(|window| (window.clone(), target.clone())).collect()
}

const SIZE: i64 = 10;

/// Groups with this much memory. With `iterables`, values that stay are read from there.
fn group(grouping: &Grouping, blocks: &[Bytes], limit: u64, iterables: Option<&Arc<Iterables>>) -> Groups {
    let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(limit)));
    let mut groups =
        GroupByKey::new(grouping.clone(), "Group".to_owned(), storage.clone(), iterables.cloned());
    for block in blocks {
        groups.add(block, NOW).unwrap();
    }
    let sets = groups.windows_to_merge().unwrap();
    groups.merge_windows(sets.into_iter().map(|set| (set.clone(), answer(&set))).collect()).unwrap();
    groups.advance_watermark(EventTime::MAX).unwrap();
    let mut found = Groups::new();
    for pane in groups.take_panes(Grain::Block) {
        let pane = pane.unwrap();
        let mut rest: &[u8] = &pane.data;
        while !rest.is_empty() {
            let (name, group, len) = read(grouping, rest, iterables);
            assert_eq!(found.insert(name.clone(), group), None, "{name:?} came twice");
            rest = &rest[len..];
        }
    }
    drop(groups);
    assert_eq!(storage.budget().used(), 0, "all memory is given back");
    found
}

fn read(
    grouping: &Grouping,
    data: &[u8],
    iterables: Option<&Arc<Iterables>>,
) -> (Name, (i64, Vec<u64>), usize) {
    let header = read_header(&grouping.window_coder, data).unwrap();
    let (key, len) = varint::read_prefixed(&data[header.header_len..]).unwrap();
    let start = header.header_len + len;
    let coder = Coder::StateBackedIterable(Box::new(Coder::VarInt));
    let len = start + coder.skip(&data[start..]).unwrap();
    let (count, rest) = data[start..len].split_first_chunk::<4>().unwrap();
    let mut values = Vec::new();
    if i32::from_be_bytes(*count) >= 0 {
        read_values(rest, &mut values);
        assert_eq!(values.len(), i32::from_be_bytes(*count) as usize);
    } else {
        let (minus_one, after) = varint::read_signed(rest).unwrap();
        assert_eq!(minus_one, -1);
        let (token, _) = varint::read_prefixed(&rest[after..]).unwrap();
        let mut continuation = Bytes::new();
        loop {
            let page = iterables.unwrap().get(&Bytes::copy_from_slice(token), &continuation).unwrap();
            assert!(page.data.len() < 2 << 20);
            read_values(&page.data, &mut values);
            continuation = page.continuation;
            if continuation.is_empty() {
                break;
            }
        }
    }
    values.sort();
    let window = header.windows.as_single().expect("one window").to_vec();
    ((key.to_vec(), window), (header.timestamp.0, values), len)
}

fn read_values(mut data: &[u8], values: &mut Vec<u64>) {
    while !data.is_empty() {
        let (value, len) = varint::read(data).unwrap();
        values.push(value);
        data = &data[len..];
    }
}

fn by_sdk() -> Merging {
    let spec = StageSpec {
        name: "merge".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor::default(),
    };
    Merging::BySdk(Arc::new(MergeStage { spec: Arc::new(spec), source: "source".to_owned() }))
}

fn encoded(elements: &[Element]) -> Vec<Bytes> {
    let encoded: Vec<Vec<u8>> = elements
        .iter()
        .map(|(key, starts, time, value)| {
            let windows: Vec<_> = starts.iter().map(|start| interval(*start, start + SIZE)).collect();
            element(*time, &windows, key, *value)
        })
        .collect();
    encoded.chunks(20).map(block).collect()
}

fn groupings() -> impl Strategy<Value = Grouping> {
    let merging = prop_oneof![Just(Merging::Never), Just(Merging::Sessions), Just(by_sdk())];
    let time = prop::sample::select(vec![OutputTime::EndOfWindow, OutputTime::Earliest, OutputTime::Latest]);
    (merging, time).prop_map(|(merging, output_time)| Grouping {
        merging,
        output_time,
        ..grouping(Coder::IntervalWindow)
    })
}

/// Some keys are rare, and one has about half of all elements.
fn elements() -> impl Strategy<Value = Vec<Element>> {
    let key = prop_oneof![
        3 => Just("hot".to_owned()),
        2 => (0..40).prop_map(|n| format!("key {n}")),
        1 => "[a-z]{0,300}",
    ];
    let starts = prop_oneof![
        3 => prop::collection::vec(0_i64..100, 1),
        1 => prop::collection::vec(0_i64..100, 0..4).prop_map(|mut starts| { starts.sort(); starts.dedup(); starts }),
    ];
    prop::collection::vec((key, starts, 0_i64..100, 0_u64..1000), 0..400)
}

proptest! {
    #[test]
    fn the_same_groups(grouping in groupings(), elements in elements(), limit in 1_000_u64..60_000) {
        let blocks = encoded(&elements);
        let expected = group(&grouping, &blocks, u64::MAX, None);
        let difference = difference(&group(&grouping, &blocks, limit, None), &expected);
        prop_assert!(difference.is_none(), "{:?}", difference);
    }
}

/// The first group that is not the same, in few words.
fn difference(found: &Groups, expected: &Groups) -> Option<String> {
    let other = found.keys().chain(expected.keys()).find(|name| found.get(*name) != expected.get(*name))?;
    let values = |groups: &Groups| groups.get(other).map(|(time, values)| (*time, values.len()));
    Some(format!("{other:?}: {:?} instead of {:?} values", values(found), values(expected)))
}

const ELEMENTS: u64 = 12_000;

/// Elements of many keys and three windows, and a hot key; more than 2 MB.
fn much() -> Vec<Bytes> {
    let elements: Vec<Vec<u8>> = (0..ELEMENTS)
        .map(|n| {
            let key = if n % 4 == 0 { "hot".to_owned() } else { format!("{:0200}", n % 1700) };
            let start = (n % 3) as i64 * 100;
            element(start, &[interval(start, start + SIZE)], &key, n)
        })
        .collect();
    elements.chunks(200).map(block).collect()
}

#[test]
fn much_more_than_memory() {
    let blocks = much();
    for merging in [Merging::Never, Merging::Sessions, by_sdk()] {
        let grouping = Grouping { merging, ..grouping(Coder::IntervalWindow) };
        let expected = group(&grouping, &blocks, u64::MAX, None);
        assert_eq!(expected.values().map(|(_, values)| values.len()).sum::<usize>(), ELEMENTS as usize);
        for limit in [10_000, 100_000, 600_000] {
            assert_eq!(difference(&group(&grouping, &blocks, limit, None), &expected), None, "{limit}");
        }
    }
}

#[test]
fn memory_stays_within_the_limit() {
    let limit = 500_000;
    let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(limit)));
    let mut groups =
        GroupByKey::new(grouping(Coder::IntervalWindow), "Group".to_owned(), storage.clone(), None);
    let mut most = 0;
    for block in much() {
        groups.add(&block, NOW).unwrap();
        most = most.max(storage.budget().used());
    }
    assert!(most <= limit, "{most}");
    assert!(storage.budget().spilled() > 1_000_000, "{:?}", storage.budget());
    groups.advance_watermark(EventTime::MAX).unwrap();
    for pane in groups.take_panes(Grain::Block) {
        assert!(!pane.unwrap().data.is_empty());
    }
    // A chunk of what is added, and a log that is grouped while others make room.
    assert!(storage.budget().peak() <= limit + limit / 2, "{:?}", storage.budget());
}

/// Values of one key, `megabytes` of them, 100 of each value.
fn hot(window: &[Vec<u8>], megabytes: u64) -> Vec<Bytes> {
    let values = megabytes * (1 << 20) / 5;
    // Five bytes each.
    let elements: Vec<Vec<u8>> =
        (0..values).map(|n| element(5, window, "hot", (1 << 28) + n / 1000)).collect();
    elements.chunks(10_000).map(block).collect()
}

#[test]
fn values_of_a_hot_key_stay_until_they_are_asked_for() {
    let blocks = hot(&[interval(0, 10)], 3);
    let mut sessions = blocks.clone();
    // Merges with the first, and then is as large as both.
    sessions.extend(hot(&[interval(9, 19)], 1));
    for (merging, blocks) in [(Merging::Never, blocks), (Merging::Sessions, sessions)] {
        let grouping = Grouping { merging, ..grouping(Coder::IntervalWindow) };
        let expected = group(&grouping, &blocks, u64::MAX, None);
        assert_eq!(expected.len(), 1);
        let iterables = Arc::new(Iterables::default());
        let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(1 << 20)));
        let name = "Group".to_owned();
        let mut groups = GroupByKey::new(grouping.clone(), name, storage.clone(), Some(iterables.clone()));
        blocks.iter().for_each(|block| groups.add(block, NOW).unwrap());
        groups.advance_watermark(EventTime::MAX).unwrap();
        let panes: Vec<_> = groups.take_panes(Grain::Block).map(Result::unwrap).collect();
        let [pane] = panes.as_slice() else { panic!("{} panes", panes.len()) };
        assert!(pane.data.len() < 100, "only a token: {:?}", pane.data);
        for _ in 0..2 {
            let (name, group, _) = read(&grouping, &pane.data, Some(&iterables));
            assert_eq!(difference(&Groups::from([(name, group)]), &expected), None);
        }
        let token = format!("{iterables:?}");
        assert!(token.contains("iterable-0"), "{token}");
        drop(panes);
        assert!(!format!("{iterables:?}").contains("iterable-0"), "gone with the last pane that names it");
        // Whoever cannot ask for them gets them all.
        assert_eq!(difference(&group(&grouping, &blocks, 1 << 20, None), &expected), None);
    }
}

#[test]
fn small_groups_are_as_ever_beside_a_hot_key() {
    let mut blocks = much();
    blocks.extend(hot(&[interval(0, 10)], 3));
    let grouping = grouping(Coder::IntervalWindow);
    let iterables = Arc::new(Iterables::default());
    let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(2 << 20)));
    let mut groups = GroupByKey::new(grouping, "Group".to_owned(), storage, Some(iterables));
    blocks.iter().for_each(|block| groups.add(block, NOW).unwrap());
    groups.advance_watermark(EventTime::MAX).unwrap();
    let panes: Vec<_> = groups.take_panes(Grain::Block).map(Result::unwrap).collect();
    assert_eq!(panes.iter().filter(|pane| pane.iterable.is_some()).count(), 1);
}

#[test]
fn a_token_that_is_none_is_refused() {
    let iterables = Arc::new(Iterables::default());
    assert!(iterables.get(&Bytes::from_static(b"iterable-7"), &Bytes::new()).is_err());
    let kept = iterables.keep(Vec::new());
    let mut written = Vec::new();
    kept.write(&mut written);
    assert!(iterables.get(&Bytes::from_static(b"iterable-0"), &Bytes::new()).unwrap().data.is_empty());
    assert!(iterables.get(&Bytes::from_static(b"iterable-0"), &Bytes::from_static(b"\x05")).is_err());
}

#[test]
fn answers_of_the_sdk_are_of_use_for_what_is_on_disk() {
    let grouping = Grouping { merging: by_sdk(), ..grouping(Coder::IntervalWindow) };
    let elements: Vec<Element> =
        (0..300).map(|n| (format!("key {}", n % 10), vec![(n % 8) * 10], n, n as u64)).collect();
    let found = group(&grouping, &encoded(&elements), 1_000, None);
    let windows: HashMap<Vec<u8>, usize> = found.keys().fold(HashMap::new(), |mut counts, (_, window)| {
        *counts.entry(window.clone()).or_default() += 1;
        counts
    });
    assert!(windows.contains_key(&interval(0, 50 + SIZE)), "{windows:?}");
}
