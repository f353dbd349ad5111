//! State of windows that become one.

use super::*;
use crate::state::WindowMerge;

const KEY: &[u8] = b"k";

/// The request in another window, of [`KEY`].
fn within(window: &str, key: StateKey) -> StateKey {
    let (at, of) = (bytes(window.as_bytes()), bytes(KEY));
    match key {
        StateKey::BagUserState { transform_id, state_id, .. } => {
            StateKey::BagUserState { transform_id, state_id, window: at, key: of }
        }
        StateKey::MultimapUserState { transform_id, state_id, map_key, .. } => {
            StateKey::MultimapUserState { transform_id, state_id, window: at, key: of, map_key }
        }
        StateKey::OrderedListUserState { transform_id, state_id, start, end, .. } => {
            StateKey::OrderedListUserState { transform_id, state_id, window: at, key: of, start, end }
        }
        other => panic!("{other:?}"),
    }
}

fn value() -> StateKey {
    StateKey::BagUserState {
        transform_id: "t".to_owned(),
        state_id: "value".to_owned(),
        window: Bytes::new(),
        key: Bytes::new(),
    }
}

fn whole_list() -> StateKey {
    list(i64::MIN, i64::MAX)
}

fn merge(parts: &[&str], result: &str) -> WindowMerge {
    WindowMerge {
        parts: parts.iter().map(|part| bytes(part.as_bytes())).collect(),
        result: bytes(result.as_bytes()),
    }
}

fn merge_windows(state: &BundleState, merges: &[WindowMerge]) {
    state.merge_windows(&bytes(KEY), merges).unwrap();
}

fn active(state: &BundleState) -> Vec<String> {
    state.active_windows(KEY).iter().map(|window| String::from_utf8(window.to_vec()).unwrap()).collect()
}

/// With something of every kind in windows `a` and `b`.
fn filled() -> Arc<StateStore> {
    let store = store();
    let state = store.begin();
    for (window, name, sort_key) in [("a", b"1", 5), ("b", b"2", 3)] {
        let append = |key, data: &[u8]| state.append(&within(window, key), bytes(data)).unwrap();
        append(bag(b""), name);
        append(value(), name);
        for map in ["map", "multimap"] {
            append(map_key(map, b"both"), name);
            append(map_key(map, &[b"only ", &name[..]].concat()), name);
        }
        append(list(0, 0), &element(sort_key, name));
        append(list(0, 0), &element(4, name));
        state.open_window(&bytes(KEY), &bytes(window.as_bytes()));
    }
    state.commit();
    store
}

/// What [`filled`] has, and all of it in one window.
fn check_merged(state: &BundleState, window: &str) {
    let get = |key| read(state, &within(window, key));
    assert_eq!(get(bag(b"")), b"12");
    assert_eq!(get(value()), b"2", "that of the last window");
    assert_eq!(get(map_key("map", b"both")), b"2", "that of the last window");
    assert_eq!(get(map_key("multimap", b"both")), b"12");
    for map in ["map", "multimap"] {
        assert_eq!((get(map_key(map, b"only 1")), get(map_key(map, b"only 2"))), (b"1".into(), b"2".into()));
    }
    let sorted = [element(3, b"2"), element(4, b"1"), element(4, b"2"), element(5, b"1")].concat();
    assert_eq!(get(whole_list()), sorted);
}

fn check_empty(state: &BundleState, window: &str) {
    for key in [bag(b""), value(), map_key("map", b"both"), map_key("multimap", b"both"), whole_list()] {
        assert_eq!(read(state, &within(window, key)), b"");
    }
}

#[test]
fn all_that_windows_hold_is_held_together() {
    let store = filled();
    let bytes_before = store.bytes();
    let state = store.begin();
    merge_windows(&state, &[merge(&["a", "b"], "ab")]);
    for _ in 0..2 {
        check_merged(&state, "ab");
        check_empty(&state, "a");
        check_empty(&state, "b");
        state.commit();
    }
    assert_eq!(active(&state), ["ab"]);
    assert_eq!(store.cells(), 1);
    // One value, and one of a map, each of a byte; the keys "both"; a key and two windows of a byte.
    assert_eq!(store.bytes(), bytes_before - 1 - 1 - 4 - 4 - 1);
    store.expire(|_| true);
    assert_eq!((store.bytes(), active(&state).len()), (0, 0));
}

#[test]
fn what_is_merged_can_be_written_to() {
    let store = filled();
    let state = store.begin();
    merge_windows(&state, &[merge(&["a", "b"], "ab")]);
    state.append(&within("ab", bag(b"")), bytes(b"3")).unwrap();
    state.clear(&within("ab", value())).unwrap();
    state.append(&within("a", bag(b"")), bytes(b"new")).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&state, &within("ab", bag(b""))), b"123");
        assert_eq!(read(&state, &within("ab", value())), b"");
        assert_eq!(read(&state, &within("a", bag(b""))), b"new", "of a window of the same name, once again");
        state.commit();
    }
}

#[test]
fn a_merge_that_is_given_up_has_not_been() {
    let store = filled();
    let before = (store.bytes(), store.cells());
    let state = store.begin();
    merge_windows(&state, &[merge(&["a", "b"], "ab")]);
    state.append(&within("ab", bag(b"")), bytes(b"3")).unwrap();
    drop(state);
    let state = store.begin();
    assert_eq!(active(&state), ["a", "b"]);
    check_empty(&state, "ab");
    assert_eq!(read(&state, &within("a", bag(b""))), b"1");
    assert_eq!((store.bytes(), store.cells()), before);
    merge_windows(&state, &[merge(&["a", "b"], "ab")]);
    check_merged(&state, "ab");
}

#[test]
fn a_window_may_be_a_part_of_what_it_becomes() {
    let store = filled();
    let state = store.begin();
    merge_windows(&state, &[merge(&["a", "b"], "b")]);
    state.commit();
    check_merged(&state, "b");
    check_empty(&state, "a");
    assert_eq!(active(&state), ["b"]);
}

#[test]
fn windows_that_change_places_keep_what_they_hold() {
    let store = filled();
    let state = store.begin();
    merge_windows(&state, &[merge(&["a"], "b"), merge(&["b"], "a")]);
    state.commit();
    assert_eq!(read(&state, &within("b", bag(b""))), b"1");
    assert_eq!(read(&state, &within("a", bag(b""))), b"2");
    assert_eq!(active(&state), ["a", "b"]);
}

#[test]
fn a_window_without_state_is_known_until_it_expires() {
    let store = store();
    let state = store.begin();
    state.open_window(&bytes(KEY), &bytes(b"a"));
    assert!(active(&state).is_empty(), "not before it is committed");
    state.commit();
    merge_windows(&state, &[merge(&["a"], "b")]);
    state.commit();
    assert_eq!(active(&state), ["b"]);
    store.expire(|window| window == b"b");
    assert!(active(&state).is_empty());
}
