//! User state, by hand and against naive models.

mod cache;
mod merging;
mod model;

use std::sync::Arc;

use beam_model::coders::{Coder, varint};
use bytes::Bytes;

use super::paging::PAGE_BYTES;
use super::{BundleState, MapValues, StateStore, UserState, UserStateKind};
use crate::fault::Blame;
use crate::ports::memory::{MemoryStorage, SpillingStorage};
use crate::ports::{StateHandler, StateKey, Storage};

const WINDOW: &[u8] = b"w";

fn store() -> Arc<StateStore> {
    store_in(MemoryStorage::unlimited())
}

fn store_in(storage: Arc<dyn Storage>) -> Arc<StateStore> {
    let multimap = |values| UserStateKind::Multimap(values);
    let kinds = [
        ("bag", UserStateKind::Bag),
        ("value", UserStateKind::Value),
        ("map", multimap(MapValues::One)),
        ("multimap", multimap(MapValues::Many(Arc::new(Coder::Bytes)))),
        ("unknown", multimap(MapValues::Many(Arc::new(Coder::Opaque { urn: "python".into() })))),
        ("list", UserStateKind::OrderedList),
    ];
    let states = kinds.into_iter().map(|(state_id, kind)| UserState {
        transform_id: "t".to_owned(),
        state_id: state_id.to_owned(),
        kind,
    });
    Arc::new(StateStore::new("stage 1", states, storage))
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn bag(key: &[u8]) -> StateKey {
    StateKey::BagUserState {
        transform_id: "t".to_owned(),
        state_id: "bag".to_owned(),
        window: bytes(WINDOW),
        key: bytes(key),
    }
}

fn map_key(state: &str, map_key: &[u8]) -> StateKey {
    StateKey::MultimapUserState {
        transform_id: "t".to_owned(),
        state_id: state.to_owned(),
        window: bytes(WINDOW),
        key: bytes(b"k"),
        map_key: bytes(map_key),
    }
}

fn map_keys(state: &str) -> StateKey {
    StateKey::MultimapKeysUserState {
        transform_id: "t".to_owned(),
        state_id: state.to_owned(),
        window: bytes(WINDOW),
        key: bytes(b"k"),
    }
}

fn map_entries(state: &str) -> StateKey {
    StateKey::MultimapEntriesUserState {
        transform_id: "t".to_owned(),
        state_id: state.to_owned(),
        window: bytes(WINDOW),
        key: bytes(b"k"),
    }
}

fn list(start: i64, end: i64) -> StateKey {
    StateKey::OrderedListUserState {
        transform_id: "t".to_owned(),
        state_id: "list".to_owned(),
        window: bytes(WINDOW),
        key: bytes(b"k"),
        start,
        end,
    }
}

fn element(key: i64, value: &[u8]) -> Vec<u8> {
    let mut element = Vec::new();
    varint::write_signed(&mut element, key);
    varint::write_prefixed(&mut element, value);
    element
}

/// All pages of an answer.
fn pages(state: &BundleState, key: &StateKey) -> Vec<Bytes> {
    let (mut pages, mut continuation) = (Vec::new(), Bytes::new());
    loop {
        let page = state.get(key, &continuation).unwrap();
        pages.push(page.data);
        continuation = page.continuation;
        if continuation.is_empty() {
            return pages;
        }
        assert!(pages.len() < 10_000, "the pages of {key:?} have no end");
    }
}

fn read(state: &BundleState, key: &StateKey) -> Vec<u8> {
    pages(state, key).concat()
}

#[test]
fn writes_are_seen_by_their_bundle_at_once_and_by_others_after_the_commit() {
    let store = store();
    let (one, other) = (store.begin(), store.begin());
    one.append(&bag(b"k"), bytes(b"a")).unwrap();
    one.append(&bag(b"k"), bytes(b"b")).unwrap();
    assert_eq!((read(&one, &bag(b"k")), read(&other, &bag(b"k"))), (b"ab".to_vec(), b"".to_vec()));
    assert_eq!((one.uncommitted_bytes(), store.bytes()), (4, 0));
    one.commit();
    assert_eq!((one.uncommitted_bytes(), store.bytes(), store.cells()), (0, 4, 1));
    assert_eq!(read(&other, &bag(b"k")), b"ab");
    assert_eq!(read(&other, &bag(b"other")), b"");
}

#[test]
fn an_attempt_that_is_dropped_has_written_nothing() {
    let store = store();
    let first = store.begin();
    first.append(&bag(b"k"), bytes(b"a")).unwrap();
    first.commit();
    let second = store.begin();
    second.clear(&bag(b"k")).unwrap();
    second.append(&bag(b"k"), bytes(b"b")).unwrap();
    second.append(&list(0, 0), element(1, b"x").into()).unwrap();
    assert_eq!(read(&second, &bag(b"k")), b"b");
    drop(second);
    let third = store.begin();
    assert_eq!((read(&third, &bag(b"k")), read(&third, &list(i64::MIN, i64::MAX))), (b"a".to_vec(), vec![]));
}

#[test]
fn state_of_an_expired_window_is_gone() {
    let store = store();
    let bundle = store.begin();
    for key in [b"k", b"l"] {
        bundle.append(&bag(key), bytes(b"a")).unwrap();
    }
    bundle.append(&map_key("map", b"m"), bytes(b"")).unwrap();
    bundle.commit();
    store.expire(|window| window != WINDOW);
    assert_eq!(store.cells(), 2);
    store.expire(|window| window == WINDOW);
    assert_eq!((store.cells(), store.bytes()), (0, 0));
    let bundle = store.begin();
    assert_eq!((read(&bundle, &bag(b"k")), read(&bundle, &bag(b"l"))), (b"".to_vec(), b"".to_vec()));
    assert_eq!(read(&bundle, &map_keys("map")), b"");
}

#[test]
fn an_element_of_no_bytes_makes_a_map_key() {
    let store = store();
    let bundle = store.begin();
    for key in [b"\x01b", b"\x01a"] {
        bundle.append(&map_key("map", key), Bytes::new()).unwrap();
    }
    bundle.append(&map_key("multimap", b"\x01c"), Bytes::new()).unwrap();
    bundle.append(&map_key("multimap", b"\x01c"), Bytes::new()).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&bundle, &map_keys("map")), b"\x01a\x01b");
        assert_eq!(read(&bundle, &map_entries("map")), b"\x01a\0\0\0\x01\x01b\0\0\0\x01");
        assert_eq!(read(&bundle, &map_entries("multimap")), b"\x01c\0\0\0\x02");
        bundle.commit();
    }
    bundle.clear(&map_key("map", b"\x01a")).unwrap();
    assert_eq!(read(&bundle, &map_keys("map")), b"\x01b");
}

#[test]
fn entries_of_values_that_cannot_be_counted_are_refused_and_the_rest_works() {
    let store = store();
    let bundle = store.begin();
    bundle.append(&map_key("unknown", b"\x01a"), bytes(b"??")).unwrap();
    bundle.append(&map_key("multimap", b"\x01a"), bytes(b"\x05no")).unwrap();
    for state in ["unknown", "multimap"] {
        let fault = bundle.get(&map_entries(state), &Bytes::new()).unwrap_err();
        assert!(fault.message.contains("stage 1") && fault.message.contains("counted"), "{fault}");
        assert_eq!(read(&bundle, &map_keys(state)), b"\x01a");
    }
    assert_eq!(read(&bundle, &map_key("unknown", b"\x01a")), b"??");
}

#[test]
fn an_ordered_list_has_every_sort_key_there_is() {
    let store = store();
    let bundle = store.begin();
    let keys = [i64::MAX, 0, i64::MIN, -1, i64::MAX - 1];
    for key in keys {
        bundle.append(&list(0, 0), element(key, b"x").into()).unwrap();
    }
    let all = |keys: &[i64]| keys.iter().flat_map(|key| element(*key, b"x")).collect::<Vec<_>>();
    for _ in 0..2 {
        let sorted = [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX];
        assert_eq!(read(&bundle, &list(i64::MIN, i64::MAX)), all(&sorted));
        assert_eq!(read(&bundle, &list(-1, i64::MAX)), all(&[-1, 0, i64::MAX - 1]));
        assert_eq!(read(&bundle, &list(i64::MIN, -1)), all(&[i64::MIN]));
        for (start, end) in [(0, 0), (1, 0), (i64::MAX, i64::MIN), (i64::MIN, i64::MIN)] {
            assert_eq!(read(&bundle, &list(start, end)), b"", "from {start} to {end}");
        }
        bundle.commit();
    }
    bundle.clear(&list(i64::MIN, i64::MAX)).unwrap();
    bundle.commit();
    assert_eq!((store.bytes(), store.cells()), (0, 0));
}

#[test]
fn what_is_no_element_of_an_ordered_list_is_refused_as_a_whole() {
    let store = store();
    let bundle = store.begin();
    let good = element(1, b"x");
    let cut = &good[..good.len() - 1];
    for bad in [&b"\x80"[..], &[0xFF; 11], &[b"\x01", &[0xFF; 9][..]].concat(), cut, b"\x01"] {
        let fault = bundle.append(&list(0, 0), [&good[..], bad].concat().into()).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment);
        assert!(fault.message.contains("stage 1") && fault.message.contains("ordered list"), "{fault}");
    }
    assert_eq!(read(&bundle, &list(i64::MIN, i64::MAX)), b"");
}

#[test]
fn what_the_stage_does_not_declare_is_refused() {
    let store = store();
    let bundle = store.begin();
    let of = |state: &str| StateKey::BagUserState {
        transform_id: "t".to_owned(),
        state_id: state.to_owned(),
        window: bytes(WINDOW),
        key: bytes(b"k"),
    };
    let side_input = StateKey::IterableSideInput {
        transform_id: "t".to_owned(),
        side_input_id: "bag".to_owned(),
        window: bytes(WINDOW),
    };
    for key in [of("none"), of("map"), of("list"), map_keys("bag"), map_key("list", b""), side_input] {
        for refused in [
            bundle.get(&key, &Bytes::new()).err(),
            bundle.append(&key, bytes(b"x")).err(),
            bundle.clear(&key).err(),
        ] {
            let fault = refused.expect("a refusal");
            assert!(fault.message.contains("stage 1") && fault.message.contains("does not have"), "{fault}");
        }
    }
    for key in [map_keys("map"), map_entries("map")] {
        assert!(bundle.append(&key, bytes(b"x")).is_err());
    }
    assert_eq!(bundle.uncommitted_bytes(), 0);
}

#[test]
fn tokens_that_were_never_given_out_are_refused() {
    let store = store();
    let bundle = store.begin();
    bundle.append(&bag(b"k"), bytes(b"a")).unwrap();
    bundle.append(&list(0, 0), element(1, b"x").into()).unwrap();
    let list_token = |key: i64| [&key.to_be_bytes()[..], &[0; 4]].concat();
    for (key, token) in [
        (bag(b"k"), vec![1]),
        (bag(b"k"), 1_u64.to_be_bytes().to_vec()),
        (bag(b"k"), u64::MAX.to_be_bytes().to_vec()),
        (map_keys("map"), vec![1]),
        (list(0, 10), vec![0]),
        (list(0, 10), list_token(10)),
        (list(0, 10), list_token(-1)),
    ] {
        let fault = bundle.get(&key, &token.clone().into()).unwrap_err();
        assert_eq!(fault.blame, Blame::Environment, "{key:?} {token:?}");
    }
}

#[test]
fn a_token_is_good_after_a_commit_that_puts_parts_together() {
    let store = store();
    let [small, large] = [vec![1; 3], vec![2; PAGE_BYTES]];
    let first = store.begin();
    first.append(&bag(b"k"), small.clone().into()).unwrap();
    first.commit();
    let bundle = store.begin();
    for part in [&small, &large, &small] {
        bundle.append(&bag(b"k"), part.clone().into()).unwrap();
    }
    let page = bundle.get(&bag(b"k"), &Bytes::new()).unwrap();
    assert!(!page.continuation.is_empty(), "there is but one page");
    bundle.commit();
    let later = store.begin();
    later.append(&bag(b"k"), bytes(b"new")).unwrap();
    let mut whole = page.data.to_vec();
    let mut continuation = page.continuation;
    while !continuation.is_empty() {
        let page = later.get(&bag(b"k"), &continuation).unwrap();
        whole.extend_from_slice(&page.data);
        continuation = page.continuation;
    }
    assert_eq!(whole, [&small[..], &small, &large, &small, b"new"].concat());
}

#[test]
fn a_commit_does_not_touch_what_was_there_before() {
    let store = store();
    let page = Bytes::from(vec![7; 10 * PAGE_BYTES]);
    let first = store.begin();
    first.append(&bag(b"k"), page.clone()).unwrap();
    first.append(&list(0, 0), element(1, &page).into()).unwrap();
    first.commit();
    let place = |bundle: &BundleState, key: &StateKey| pages(bundle, key)[0].as_ptr();
    let list = list(i64::MIN, i64::MAX);
    let stored = place(&first, &list);
    for _ in 0..3 {
        let bundle = store.begin();
        bundle.append(&bag(b"k"), bytes(b"x")).unwrap();
        bundle.append(&list, element(1, b"x").into()).unwrap();
        bundle.commit();
        assert_eq!(place(&bundle, &bag(b"k")), page.as_ptr(), "the bag was copied");
        assert_eq!(place(&bundle, &list), stored, "the list was copied");
    }
}

#[test]
fn bundles_of_different_keys_run_side_by_side() {
    let store = store();
    std::thread::scope(|threads| {
        for thread in 0..4_u8 {
            let store = &store;
            threads.spawn(move || {
                for round in 0..200_u8 {
                    let bundle = store.begin();
                    bundle.append(&bag(&[thread]), bytes(&[round])).unwrap();
                    assert_eq!(read(&bundle, &bag(&[thread])), (0..=round).collect::<Vec<_>>());
                    if round % 3 == 0 {
                        drop(bundle);
                        let bundle = store.begin();
                        bundle.append(&bag(&[thread]), bytes(&[round])).unwrap();
                        bundle.commit();
                    } else {
                        bundle.commit();
                    }
                }
            });
        }
    });
    assert_eq!((store.cells(), store.bytes()), (4, 4 * (2 + 200)));
}
