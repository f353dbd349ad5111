use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::coders::{Coder, varint};
use bytes::Bytes;
use proptest::prelude::*;

use super::{element, encoded, interval};
use crate::fault::Blame;
use crate::plan::{AccessPattern, Collection, Grain};
use crate::ports::memory::{MemoryStorage, SpillingStorage};
use crate::ports::{Storage, StoredBlock};
use crate::runner_transforms::side_input::{Question, SideInput, SideInputBuilder, SideInputView};

fn collection(element: Coder, patterns: &[AccessPattern]) -> Collection {
    Collection {
        id: "side".to_owned(),
        element_coder: Arc::new(element),
        window_coder: Arc::new(Coder::IntervalWindow),
        grain: Grain::Block,
        by_key: false,
        timed: false,
        side_input_patterns: patterns.to_vec(),
        live: None,
    }
}

fn pairs(patterns: &[AccessPattern]) -> SideInputBuilder {
    let kv = Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::VarInt));
    SideInputBuilder::new(&collection(kv, patterns), MemoryStorage::unlimited())
}

fn block(elements: &[Vec<u8>]) -> StoredBlock {
    StoredBlock::in_memory(super::block(elements))
}

fn key(key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    bytes
}

/// All pages of an answer, and how many they were.
fn ask(side: &SideInput, window: &[u8], question: impl Fn() -> Question<'static>) -> (Vec<u8>, usize) {
    let (mut all, mut continuation, mut pages) = (Vec::new(), Bytes::new(), 0);
    loop {
        let page = side.get(window, question(), &continuation).unwrap();
        all.extend_from_slice(&page.data);
        pages += 1;
        continuation = page.continuation;
        if continuation.is_empty() {
            return (all, pages);
        }
    }
}

#[test]
fn by_window() {
    let mut side = pairs(&[AccessPattern::Iterable]);
    let (one, two) = (interval(0, 10), interval(5, 15));
    side.add(&block(&[element(7, &[one.clone(), two.clone()], "a", 1)])).unwrap();
    side.add(&block(&[element(1, std::slice::from_ref(&one), "b", 2)])).unwrap();
    let side = side.finish().unwrap();
    let (a, b) = ([key("a"), encoded(1)].concat(), [key("b"), encoded(2)].concat());
    assert_eq!(ask(&side, &one, || Question::Iterable).0, [a.clone(), b].concat());
    assert_eq!(ask(&side, &two, || Question::Iterable).0, a);
    assert_eq!(ask(&side, &interval(90, 91), || Question::Iterable), (Vec::new(), 1));
    assert_eq!(ask(&side, &one, || Question::Keys), (Vec::new(), 1), "it is not read as a map");
}

#[test]
fn by_key() {
    let mut side = pairs(&[AccessPattern::Multimap]);
    let window = interval(0, 10);
    let of = |name, value| element(7, std::slice::from_ref(&window), name, value);
    side.add(&block(&[of("a", 1), of("b", 300), of("a", 2)])).unwrap();
    let side = side.finish().unwrap();
    let asked = |name: &'static [u8]| ask(&side, &window, || Question::ValuesOf(name)).0;
    assert_eq!(asked(b"\x01a"), [encoded(1), encoded(2)].concat());
    assert_eq!(asked(b"\x01b"), encoded(300));
    assert!(asked(b"\x01c").is_empty());
    let in_any_order = |answer: Vec<u8>, a: &[u8], b: &[u8]| {
        assert!(answer == [a, b].concat() || answer == [b, a].concat(), "{answer:?}");
    };
    in_any_order(ask(&side, &window, || Question::Keys).0, &key("a"), &key("b"));
    let of_a = [key("a"), vec![0, 0, 0, 2], encoded(1), encoded(2)].concat();
    let of_b = [key("b"), vec![0, 0, 0, 1], encoded(300)].concat();
    in_any_order(ask(&side, &window, || Question::KeysAndValues).0, &of_a, &of_b);
    assert!(ask(&side, &window, || Question::Iterable).0.is_empty(), "it is not read as an iterable");
}

#[test]
fn pages_hold_whole_elements() {
    let mut side = pairs(&[AccessPattern::Iterable]);
    let window = interval(0, 10);
    let name = "k".repeat(300 << 10);
    let all = vec![element(7, std::slice::from_ref(&window), &name, 1); 9];
    side.add(&block(&all)).unwrap();
    let side = side.finish().unwrap();
    let one = [key(&name), encoded(1)].concat();
    let (answer, pages) = ask(&side, &window, || Question::Iterable);
    assert_eq!((answer, pages), (one.repeat(9), 3));
    let first = side.get(&window, Question::Iterable, &[]).unwrap();
    assert_eq!(first.data.len() % one.len(), 0);
}

#[test]
fn pages_that_there_are_not() {
    let side = pairs(&[AccessPattern::Iterable]).finish().unwrap();
    for continuation in [&b"x"[..], &[0, 0, 0, 1], &[0xFF; 4], &[0; 5]] {
        let fault = side.get(&interval(0, 1), Question::Iterable, continuation).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment);
    }
}

#[test]
fn a_map_has_keys() {
    let mut side = SideInputBuilder::new(
        &collection(Coder::VarInt, &[AccessPattern::Multimap]),
        MemoryStorage::unlimited(),
    );
    let mut no_pair = element(7, &[interval(0, 10)], "", 1);
    no_pair.remove(no_pair.len() - 2);
    let fault = side.add(&block(&[no_pair])).unwrap_err();
    assert!(fault.message.contains("no keys"), "{fault}");
}

/// A pair's window, key and value.
type Pair = (u8, u8, usize);

/// What there should be of pairs: by window and key, the values in their order.
fn expected(pairs: &[Pair]) -> BTreeMap<(u8, u8), Vec<u8>> {
    let mut values: BTreeMap<_, Vec<u8>> = BTreeMap::new();
    for (n, (window, name, size)) in pairs.iter().enumerate() {
        values.entry((*window, *name)).or_default().extend(value(n, *size));
    }
    values
}

fn value(n: usize, size: usize) -> Vec<u8> {
    key(&format!("{n}{}", "x".repeat(size)))
}

/// The entries of an answer `KV<K, Iterable<V>>`: values by key.
fn entries(mut answer: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut entries = BTreeMap::new();
    while !answer.is_empty() {
        let (name, len) = varint::read_prefixed(answer).unwrap();
        answer = &answer[len..];
        let count = u32::from_be_bytes(answer[..4].try_into().unwrap());
        answer = &answer[4..];
        let len: usize = (0..count).fold(0, |at, _| at + varint::read_prefixed(&answer[at..]).unwrap().1);
        let (values, rest) = answer.split_at(len);
        assert!(entries.insert(name.to_vec(), values.to_vec()).is_none(), "a key has two entries");
        answer = rest;
    }
    entries
}

fn check_multimap(pairs: &[Pair], storage: Arc<dyn Storage>) {
    let kv = Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::Bytes));
    let patterns = [AccessPattern::Iterable, AccessPattern::Multimap];
    let mut side = SideInputBuilder::new(&collection(kv, &patterns), storage);
    let window = |window: u8| interval(i64::from(window), i64::from(window) + 1);
    for (n, (of, name, size)) in pairs.iter().enumerate() {
        // Behind the header, a pair of two byte strings instead of one and a number.
        let mut pair = element(1, &[window(*of)], &name.to_string(), 0);
        pair.pop();
        pair.extend(value(n, *size));
        side.add(&block(&[pair])).unwrap();
    }
    let side = side.finish().unwrap();
    let mut by_window: BTreeMap<u8, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
    for ((of, name), values) in expected(pairs) {
        let key: &'static [u8] = key(&name.to_string()).leak();
        assert_eq!(ask(&side, &window(of), || Question::ValuesOf(key)).0, values, "{of} {name}");
        by_window.entry(of).or_default().insert(name.to_string().into_bytes(), values);
    }
    for (of, expected) in by_window {
        assert_eq!(entries(&ask(&side, &window(of), || Question::KeysAndValues).0), expected);
        let mut keys: Vec<_> = expected.keys().map(|it| key(std::str::from_utf8(it).unwrap())).collect();
        let (mut rest, mut found) = (&ask(&side, &window(of), || Question::Keys).0[..], Vec::new());
        while !rest.is_empty() {
            let (_, len) = varint::read_prefixed(rest).unwrap();
            found.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        found.sort();
        keys.sort();
        assert_eq!(found, keys);
        let len: usize =
            expected.iter().map(|(name, values)| key_count(values) * (name.len() + 1) + values.len()).sum();
        assert_eq!(ask(&side, &window(of), || Question::Iterable).0.len(), len);
    }
    assert!(ask(&side, &window(0), || Question::ValuesOf(b"\x01?")).0.is_empty());
}

/// How many values these are.
fn key_count(mut values: &[u8]) -> usize {
    let mut count = 0;
    while !values.is_empty() {
        values = &values[varint::read_prefixed(values).unwrap().1..];
        count += 1;
    }
    count
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_map_that_does_not_fit_in_memory_has_the_same_answers(
        pairs in proptest::collection::vec((0..3_u8, 0..40_u8, 0..400_usize), 0..400),
        hot in 0..300_usize,
    ) {
        let mut pairs = pairs;
        pairs.extend((0..hot).map(|n| (1, 7, n)));
        check_multimap(&pairs, MemoryStorage::unlimited());
        let spilling = SpillingStorage::new();
        check_multimap(&pairs, spilling.clone());
        prop_assert_eq!((spilling.budget().used(), spilling.budget().on_disk()), (0, 0));
    }
}
