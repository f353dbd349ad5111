use beam_model::coders::windowed_value::write_header;
use beam_model::coders::{IntervalWindow, PaneInfo, Timing, varint};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::plan::Grain;
use crate::ports::memory::SpillingStorage;
use crate::runner_transforms::side_input::page_bytes;

const NEWEST: LiveView = LiveView { ready: Ready::WithFirstElements, contents: Contents::NewestPane };
const WHOLE: LiveView = LiveView { ready: Ready::AtEndOfWindow, contents: Contents::All };

fn collection(window: Coder, element: Coder) -> Collection {
    Collection {
        id: "side".to_owned(),
        element_coder: Arc::new(element),
        window_coder: Arc::new(window),
        grain: Grain::Block,
        by_key: false,
        timed: true,
        side_input_patterns: vec![AccessPattern::Iterable, AccessPattern::Multimap],
        live: None,
    }
}

fn pairs(view: LiveView) -> LiveSideInput {
    let element = Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::VarInt));
    LiveSideInput::new(&collection(Coder::IntervalWindow, element), view, SpillingStorage::new())
}

/// The interval window of ten that `start` begins.
fn window(start: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    IntervalWindow { start: EventTime(start), end: EventTime(start + 10) }.write(&mut bytes);
    bytes
}

fn key(key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    bytes
}

fn pair(name: &str, value: u64) -> Vec<u8> {
    let mut bytes = key(name);
    varint::write(&mut bytes, value);
    bytes
}

fn element(windows: &[i64], pane: Option<i64>, value: &[u8]) -> Vec<u8> {
    let fired = |index| PaneInfo {
        is_first: index == 0,
        is_last: false,
        timing: Timing::Early,
        index,
        nonspeculative_index: -1,
    };
    let (mut encoded, mut out) = (Vec::new(), Vec::new());
    pane.map_or(PaneInfo::NO_FIRING, fired).write(&mut encoded);
    let windows: Vec<_> = windows.iter().map(|start| window(*start)).collect();
    write_header(&mut out, EventTime(0), windows.iter().map(Vec::as_slice), &encoded).unwrap();
    out.extend_from_slice(value);
    out
}

fn add(side: &mut LiveSideInput, elements: &[Vec<u8>]) {
    side.add(&[StoredBlock::in_memory(elements.concat().into())]).unwrap();
}

/// The whole answer.
fn ask(snapshot: &Snapshot, start: i64, question: impl Fn() -> Question<'static>) -> Vec<u8> {
    let (mut all, mut continuation) = (Vec::new(), Bytes::new());
    loop {
        let page = snapshot.get(&window(start), question(), &continuation).unwrap();
        all.extend_from_slice(&page.data);
        continuation = page.continuation;
        if continuation.is_empty() {
            return all;
        }
    }
}

#[test]
fn panes_replace_one_another_by_key_and_window() {
    let mut side = pairs(NEWEST);
    add(&mut side, &[element(&[0, 10], Some(0), &pair("a", 1)), element(&[0], Some(0), &pair("b", 2))]);
    let before = side.snapshot();
    add(&mut side, &[element(&[0], Some(1), &pair("a", 3))]);
    let after = side.snapshot();
    let list = |snapshot: &Snapshot, start| ask(snapshot, start, || Question::Iterable);
    assert_eq!(list(&before, 0), [pair("a", 1), pair("b", 2)].concat(), "a snapshot stays as it is");
    assert_eq!(list(&after, 0), [pair("a", 3), pair("b", 2)].concat());
    assert_eq!(list(&after, 10), pair("a", 1), "another window has panes of its own");
    assert_eq!(list(&after, 20), b"");
    assert_eq!(ask(&after, 0, || Question::ValuesOf(b"\x01a")), [3]);
    assert_eq!(ask(&after, 0, || Question::ValuesOf(b"\x01c")), b"");
    assert_eq!(ask(&after, 0, || Question::Keys), [key("a"), key("b")].concat());
    let one = [0, 0, 0, 1];
    let entries = [&key("a"), &one[..], &[3], &key("b"), &one, &[2]].concat();
    assert_eq!(ask(&after, 0, || Question::KeysAndValues), entries);
}

#[test]
fn without_keys_panes_replace_one_another_by_window() {
    let mut collection = collection(Coder::IntervalWindow, Coder::VarInt);
    collection.side_input_patterns = vec![AccessPattern::Iterable];
    let mut side = LiveSideInput::new(&collection, NEWEST, SpillingStorage::new());
    add(&mut side, &[element(&[0], Some(0), &[1]), element(&[0], Some(0), &[2])]);
    add(&mut side, &[element(&[0], Some(1), &[3])]);
    assert_eq!(ask(&side.snapshot(), 0, || Question::Iterable), [3]);
}

#[test]
fn panes_of_a_window_that_is_waited_for_are_its_parts() {
    let mut side = pairs(WHOLE);
    add(&mut side, &[element(&[0], Some(0), &pair("a", 1))]);
    add(&mut side, &[element(&[0], Some(1), &pair("a", 0))]);
    assert!(!side.snapshot().is_ready(&window(0)));
    side.advance_watermark(EventTime(9));
    assert!(!side.snapshot().is_ready(&window(0)), "an element may come that is this early");
    side.advance_watermark(EventTime(10));
    let snapshot = side.snapshot();
    assert!(snapshot.is_ready(&window(0)) && !snapshot.is_ready(&window(10)));
    assert_eq!(ask(&snapshot, 0, || Question::Iterable), [pair("a", 1), pair("a", 0)].concat());
    assert_eq!(ask(&snapshot, 0, || Question::ValuesOf(b"\x01a")), [1, 0]);
}

#[test]
fn what_fires_early_is_ready_with_its_first_elements_or_at_its_end() {
    let mut side = pairs(NEWEST);
    let (zero, ten) = (window(0), window(10));
    assert!(!side.snapshot().is_ready(&zero));
    add(&mut side, &[element(&[0], None, &pair("a", 1))]);
    assert!(side.snapshot().is_ready(&zero) && !side.snapshot().is_ready(&ten));
    side.advance_watermark(EventTime(20));
    assert!(side.snapshot().is_ready(&ten), "it is empty, and stays so");
}

#[test]
fn a_window_of_unknown_end_is_ready_when_something_is_in_it_or_all_is_over() {
    let opaque = Coder::LengthPrefix(Box::new(Coder::Opaque { urn: "mine".into() }));
    let mut side = LiveSideInput::new(&collection(opaque, Coder::Bytes), WHOLE, SpillingStorage::new());
    side.current.multimap = None;
    let windowed = |window: &[u8]| {
        let mut out = Vec::new();
        write_header(&mut out, EventTime(0), [window], PaneInfo::NO_FIRING_ENCODED).unwrap();
        [out, key("x")].concat()
    };
    add(&mut side, &[windowed(b"\x01a")]);
    side.advance_watermark(EventTime(1_000_000));
    assert!(side.snapshot().is_ready(b"\x01a") && !side.snapshot().is_ready(b"\x01b"));
    side.advance_watermark(EventTime::MAX);
    assert!(side.snapshot().is_ready(b"\x01b"));
}

#[test]
fn large_windows_are_asked_page_by_page() {
    let page_bytes = page_bytes(SpillingStorage::new().as_ref());
    let mut side = pairs(NEWEST);
    let mut expected = Vec::new();
    for n in 0..3_u64 {
        let values: Vec<_> = (0..page_bytes as u64 / 6).map(|i| pair(&format!("k{n}{i}"), i)).collect();
        let elements: Vec<_> = values.iter().map(|value| element(&[0], None, value)).collect();
        add(&mut side, &elements);
        expected.extend(values);
    }
    let snapshot = side.snapshot();
    let first = snapshot.get(&window(0), Question::Iterable, &[]).unwrap();
    assert!(!first.continuation.is_empty() && first.data.len() < 2 * page_bytes);
    let all = ask(&snapshot, 0, || Question::Iterable);
    let kv = Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::VarInt));
    let (mut rest, mut found) = (&all[..], Vec::new());
    while !rest.is_empty() {
        let (one, after) = rest.split_at(kv.skip(rest).unwrap());
        found.push(one.to_vec());
        rest = after;
    }
    found.sort();
    expected.sort();
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert!(snapshot.get(&window(0), Question::Iterable, &[9, 9, 9, 9]).is_err());
}

#[test]
fn what_the_coders_cannot_have_written_is_refused() {
    let mut side = pairs(NEWEST);
    assert!(side.add(&[StoredBlock::in_memory(Bytes::from_static(b"\x80"))]).is_err());
    let mut no_keys =
        LiveSideInput::new(&collection(Coder::IntervalWindow, Coder::VarInt), WHOLE, SpillingStorage::new());
    let fault = no_keys.add(&[StoredBlock::in_memory(element(&[0], None, &[1]).into())]).unwrap_err();
    assert!(fault.message.contains("it has no keys"), "{fault}");
}

proptest! {
    /// Panes of a key, each with one element, seen in any order and in any batches: the newest is left.
    #[test]
    fn the_newest_pane_of_each_key_is_left(
        mut panes in proptest::collection::vec((0..4_u8, 0..6_i64), 1..40),
        cuts in proptest::collection::vec(1..5_usize, 40),
    ) {
        panes.sort();
        panes.dedup();
        let shuffled = panes.iter().rev().step_by(2).chain(panes.iter().rev().skip(1).step_by(2));
        let elements: Vec<_> = shuffled
            .map(|(k, index)| element(&[0], Some(*index), &pair(&k.to_string(), index.unsigned_abs())))
            .collect();
        let mut side = pairs(NEWEST);
        let mut rest = &elements[..];
        for cut in cuts {
            let (batch, after) = rest.split_at(cut.min(rest.len()));
            add(&mut side, batch);
            rest = after;
        }
        let mut newest = std::collections::BTreeMap::new();
        panes.iter().for_each(|(k, index)| { newest.insert(*k, *index); });
        for (k, index) in newest {
            let name = key(&k.to_string());
            let snapshot = side.snapshot();
            let seen = snapshot.get(&window(0), Question::ValuesOf(&name), &[]).unwrap();
            prop_assert_eq!(seen.data.as_ref(), &[index as u8][..]);
        }
    }
}
