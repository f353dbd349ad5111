//! Timers of windows that become one.

use std::collections::HashSet;

use bytes::Bytes;

use super::super::timers::{Timer, TimerChange, TimerId, TimerWindow, Timers, Times};
use super::*;
use crate::plan::TimerKind;

const KINDS: [TimerKind; 3] = [TimerKind::EventTime, TimerKind::ProcessingTime, TimerKind::Expiration];
const EVENT: usize = 0;
const PROCESSING: usize = 1;
const EXPIRATION: usize = 2;
const LATENESS: i64 = 100;

/// A window is named by its end.
fn window(end: i64) -> TimerWindow {
    let expiry = EventTime(end + LATENESS);
    TimerWindow { window: Bytes::from(end.to_string()), end: EventTime(end), expiry }
}

/// Sets the timer of a family and tag in a window.
fn set(family: usize, tag: &'static str, end: i64, fire: i64) -> TimerChange {
    let TimerWindow { window, expiry, .. } = window(end);
    let id =
        TimerId { family, key: Bytes::from_static(b"k"), window, tag: Bytes::from_static(tag.as_bytes()) };
    let (fire, hold) = (EventTime(fire), EventTime(fire));
    TimerChange::Set { timer: Timer { id, fire, hold, pane: Bytes::new(), expiry }, partition: Partition(7) }
}

fn merge(parts: &[i64], result: i64) -> TimerChange {
    TimerChange::MergeWindows {
        key: Bytes::from_static(b"k"),
        parts: parts.iter().copied().map(window).collect(),
        result: window(result),
    }
}

fn timers(changes: Vec<TimerChange>) -> Timers {
    let mut timers = Timers::default();
    timers.change(changes, &KINDS, &[], |fire| fire);
    timers
}

/// All of them: family, tag, window, when each is to fire, in the order in which they do.
fn all(timers: &mut Timers) -> Vec<(usize, String, String, i64)> {
    let times = Times {
        watermark: EventTime::MAX,
        now: ProcessingTime::from_millis(i64::MAX),
        idle: true,
        turn: None,
    };
    let mut all = Vec::new();
    loop {
        let due = timers.take_due(times, &HashSet::new(), usize::MAX, 1);
        if due.is_empty() {
            return all;
        }
        for (timer, partition) in due {
            assert_eq!(partition, Partition(7));
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            all.push((timer.id.family, text(&timer.id.tag), text(&timer.id.window), timer.fire.millis()));
            timers.fired(&[timer]);
        }
    }
}

fn shown(family: usize, tag: &str, window: i64, fire: i64) -> (usize, String, String, i64) {
    (family, tag.to_owned(), window.to_string(), fire)
}

#[test]
fn of_timers_that_meet_that_of_the_last_window_stays() {
    let changes =
        vec![set(EVENT, "", 20, 13), set(EVENT, "", 10, 5), set(EVENT, "other", 10, 6), merge(&[10, 20], 30)];
    assert_eq!(all(&mut timers(changes)), [shown(EVENT, "other", 30, 6), shown(EVENT, "", 30, 13)]);
}

#[test]
fn what_is_set_for_the_end_of_a_window_or_later_follows_the_end() {
    let changes = vec![
        set(EVENT, "at", 10, 10),
        set(EVENT, "after", 10, 13),
        set(EVENT, "in", 10, 9),
        merge(&[10], 30),
    ];
    let mut timers = timers(changes);
    assert_eq!(timers.hold(), EventTime(9));
    let expected = [shown(EVENT, "in", 30, 9), shown(EVENT, "at", 30, 30), shown(EVENT, "after", 30, 33)];
    assert_eq!(all(&mut timers), expected);
    assert_eq!(timers.hold(), EventTime::MAX, "nothing holds the watermark any more");
}

#[test]
fn a_moved_timer_fires_when_its_new_window_is_over_at_the_latest() {
    let beyond = 10 + LATENESS + 50;
    let mut timers = timers(vec![set(EVENT, "", 10, beyond), merge(&[10], 30)]);
    let at = |watermark| Times {
        watermark: EventTime(watermark),
        now: ProcessingTime::from_millis(0),
        idle: true,
        turn: None,
    };
    assert!(timers.take_due(at(30 + LATENESS - 1), &HashSet::new(), 1, 1).is_empty());
    assert_eq!(timers.take_due(at(30 + LATENESS), &HashSet::new(), 1, 1).len(), 1);
}

#[test]
fn timers_in_processing_time_keep_it_and_expirations_end_with_their_window() {
    let changes = vec![
        set(PROCESSING, "", 10, 1000),
        set(EXPIRATION, "", 10, 10 + LATENESS),
        set(EXPIRATION, "", 40, 40 + LATENESS),
        merge(&[10], 30),
        set(EXPIRATION, "", 30, 30 + LATENESS),
    ];
    let mut timers = timers(changes);
    assert_eq!(timers.next_wake(ProcessingTime::from_millis(0)), Some(ProcessingTime::from_millis(1000)));
    let expected = [
        shown(PROCESSING, "", 30, 1000),
        shown(EXPIRATION, "", 30, 30 + LATENESS),
        shown(EXPIRATION, "", 40, 40 + LATENESS),
    ];
    assert_eq!(all(&mut timers), expected);
}

#[test]
fn a_window_may_be_a_part_of_what_it_becomes() {
    let changes =
        vec![set(EVENT, "", 20, 13), set(EVENT, "", 10, 5), set(EXPIRATION, "", 20, 1), merge(&[10, 20], 20)];
    assert_eq!(all(&mut timers(changes)), [shown(EVENT, "", 20, 13)]);
    // It is not the last of them: what the last one has set replaces what it has.
    let changes = vec![set(EVENT, "", 20, 13), set(EVENT, "", 10, 5), merge(&[20, 10], 20)];
    assert_eq!(all(&mut timers(changes)), [shown(EVENT, "", 20, 5)]);
}

#[test]
fn other_keys_and_windows_keep_their_timers() {
    let mut other = set(EVENT, "", 10, 4);
    if let TimerChange::Set { timer, .. } = &mut other {
        timer.id.key = Bytes::from_static(b"l");
    }
    let changes = vec![other, set(EVENT, "", 10, 5), set(EVENT, "", 15, 6), merge(&[10], 30)];
    let expected = [shown(EVENT, "", 10, 4), shown(EVENT, "", 30, 5), shown(EVENT, "", 15, 6)];
    assert_eq!(all(&mut timers(changes)), expected);
}
