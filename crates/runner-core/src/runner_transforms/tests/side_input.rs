use std::sync::Arc;

use beam_model::coders::{Coder, varint};
use bytes::Bytes;

use super::{block, element, encoded, interval};
use crate::fault::Blame;
use crate::plan::{AccessPattern, Collection, Grain};
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
    SideInputBuilder::new(&collection(kv, patterns))
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
    let side = side.finish();
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
    let side = side.finish();
    let asked = |name: &'static [u8]| ask(&side, &window, || Question::ValuesOf(name)).0;
    assert_eq!(asked(b"\x01a"), [encoded(1), encoded(2)].concat());
    assert_eq!(asked(b"\x01b"), encoded(300));
    assert!(asked(b"\x01c").is_empty());
    assert_eq!(ask(&side, &window, || Question::Keys).0, [key("a"), key("b")].concat());
    let entries = [
        [key("a"), vec![0, 0, 0, 2], encoded(1), encoded(2)].concat(),
        [key("b"), vec![0, 0, 0, 1], encoded(300)].concat(),
    ];
    assert_eq!(ask(&side, &window, || Question::KeysAndValues).0, entries.concat());
    assert!(ask(&side, &window, || Question::Iterable).0.is_empty(), "it is not read as an iterable");
}

#[test]
fn pages_hold_whole_elements() {
    let mut side = pairs(&[AccessPattern::Iterable]);
    let window = interval(0, 10);
    let name = "k".repeat(300 << 10);
    let all = vec![element(7, std::slice::from_ref(&window), &name, 1); 9];
    side.add(&block(&all)).unwrap();
    let side = side.finish();
    let one = [key(&name), encoded(1)].concat();
    let (answer, pages) = ask(&side, &window, || Question::Iterable);
    assert_eq!((answer, pages), (one.repeat(9), 3));
    let first = side.get(&window, Question::Iterable, &[]).unwrap();
    assert_eq!(first.data.len() % one.len(), 0);
}

#[test]
fn pages_that_there_are_not() {
    let side = pairs(&[AccessPattern::Iterable]).finish();
    for continuation in [&b"x"[..], &[0, 0, 0, 1], &[0xFF; 4], &[0; 5]] {
        let fault = side.get(&interval(0, 1), Question::Iterable, continuation).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment);
    }
}

#[test]
fn a_map_has_keys() {
    let mut side = SideInputBuilder::new(&collection(Coder::VarInt, &[AccessPattern::Multimap]));
    let mut no_pair = element(7, &[interval(0, 10)], "", 1);
    no_pair.remove(no_pair.len() - 2);
    let fault = side.add(&no_pair.into()).unwrap_err();
    assert!(fault.message.contains("no keys"), "{fault}");
}
