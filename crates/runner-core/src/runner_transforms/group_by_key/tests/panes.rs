//! Which panes fire, with what in them, and how they are numbered.

use beam_model::coders::Timing::{Early, Late, OnTime};

use super::{
    Grouped, Pane, Windows, by, contents, count, delay, discarding, end_of_window, infos, lateness, repeat,
};
use crate::plan::{Asked, ClosingBehavior, Firing, Grouping, OnTimeBehavior, Trigger};

const FIXED: Windows = Windows::Fixed(10);
const FIRST: (i64, i64) = (0, 10);

fn closing(grouping: Grouping) -> Grouping {
    let firing = Firing { closing_behavior: ClosingBehavior::EmitAlways, ..grouping.firing };
    Grouping { firing, ..grouping }
}

fn unless_empty(grouping: Grouping) -> Grouping {
    let firing = Firing { on_time_behavior: OnTimeBehavior::FireIfNonempty, ..grouping.firing };
    Grouping { firing, ..grouping }
}

fn values(panes: &[Pane]) -> Vec<Vec<u64>> {
    contents(panes).into_iter().map(|(_, values)| values).collect()
}

/// Adds elements one by one, then closes.
fn one_by_one(grouping: Grouping, elements: u64) -> Vec<Pane> {
    let mut grouped = Grouped::new(FIXED, grouping);
    let mut panes: Vec<_> = (1..=elements).flat_map(|value| grouped.add(&[(1, value)])).collect();
    panes.extend(grouped.close());
    assert_eq!(grouped.buffered_keys(), 0);
    panes
}

#[test]
fn the_default_trigger_has_one_pane_if_nothing_is_late() {
    let panes = one_by_one(by(Trigger::Default), 3);
    assert_eq!(contents(&panes), [(FIRST, vec![1, 2, 3])]);
    assert_eq!(infos(&panes), [(OnTime, 0, 0, true, true)]);
    assert_eq!(panes[0].time, 9);
}

#[test]
fn never_fires_as_the_window_expires() {
    let mut grouped = Grouped::new(FIXED, lateness(by(Trigger::Never), 20));
    grouped.add(&[(1, 1)]);
    assert!(grouped.watermark(29).is_empty());
    let panes = grouped.watermark(30);
    assert_eq!(infos(&panes), [(OnTime, 0, 0, true, true)]);
    assert!(grouped.close().is_empty());
}

#[test]
fn always_fires_with_every_element_and_not_for_nothing() {
    let mut grouped = Grouped::new(FIXED, discarding(by(Trigger::Always)));
    let panes = grouped.add(&[(1, 1), (2, 2)]);
    assert_eq!(infos(&panes), [(Early, 0, -1, true, false), (Early, 1, -1, false, false)]);
    assert_eq!(values(&grouped.add(&[(3, 3)])), [[3]]);
    assert!(grouped.close().is_empty());
}

#[test]
fn python_has_one_pane_of_all_that_comes_together() {
    let count = by(end_of_window(Some(count(1)), None));
    let grouping = Grouping { asked: Asked::AfterEachBundle, ..discarding(count) };
    let mut grouped = Grouped::new(FIXED, grouping);
    assert_eq!(values(&grouped.add(&[(1, 1), (2, 2), (3, 3)])), [[1, 2, 3]]);
    assert_eq!(values(&grouped.add(&[(4, 4)])), [[4]]);
}

#[test]
fn synchronized_processing_time_has_one_pane_of_all_that_comes_together() {
    let trigger = Trigger::AfterSynchronizedProcessingTime;
    let mut repeated = Grouped::new(FIXED, discarding(by(repeat(trigger.clone()))));
    assert_eq!(values(&repeated.add(&[(1, 1), (2, 2), (3, 3)])), [[1, 2, 3]]);
    assert!(repeated.clock(9).is_empty());
    assert_eq!(values(&repeated.add(&[(4, 4)])), [[4]]);
    let mut once = Grouped::new(FIXED, by(trigger));
    assert_eq!(values(&once.add(&[(1, 1), (2, 2)])), [[1, 2]]);
    assert!(once.add(&[(3, 3)]).is_empty() && once.watermark(200).is_empty());
    assert_eq!(once.groups.dropped().closed, 1);
}

#[test]
fn a_count_fires_once_and_what_follows_is_dropped() {
    for grouping in [by(count(3)), discarding(by(count(3)))] {
        let mut grouped = Grouped::new(FIXED, grouping);
        assert!(grouped.add(&[(1, 1), (2, 2)]).is_empty());
        let panes = grouped.add(&[(3, 3), (4, 4)]);
        assert_eq!(values(&panes), [[1, 2, 3]], "the same as if each had been a bundle of its own");
        assert_eq!(infos(&panes), [(Early, 0, -1, true, true)]);
        assert!(grouped.add(&[(5, 5), (6, 6), (7, 7)]).is_empty());
        assert!(grouped.close().is_empty());
        assert_eq!((grouped.groups.dropped().closed, grouped.groups.dropped().late), (4, 0));
    }
}

#[test]
fn a_window_that_closes_below_the_count_has_a_last_pane() {
    let panes = one_by_one(by(count(3)), 2);
    assert_eq!(values(&panes), [[1, 2]]);
    assert_eq!(infos(&panes), [(OnTime, 0, 0, true, true)]);
}

#[test]
fn a_repeated_count_leaves_nothing_behind() {
    let panes = one_by_one(discarding(by(repeat(count(2)))), 5);
    assert_eq!(values(&panes), [vec![1, 2], vec![3, 4], vec![5]]);
    let expected = [(Early, 0, -1, true, false), (Early, 1, -1, false, false), (OnTime, 2, 0, false, true)];
    assert_eq!(infos(&panes), expected);
    let panes = one_by_one(by(repeat(count(2))), 5);
    assert_eq!(values(&panes), [vec![1, 2], vec![1, 2, 3, 4], vec![1, 2, 3, 4, 5]]);
    assert_eq!(one_by_one(by(repeat(count(2))), 4).len(), 2, "nothing is left for a last pane");
    let always = one_by_one(closing(discarding(by(repeat(count(2))))), 4);
    assert_eq!(values(&always), [vec![1, 2], vec![3, 4], vec![]]);
    assert_eq!(infos(&always)[2], (OnTime, 2, 0, false, true));
}

#[test]
fn early_on_time_and_late() {
    let trigger = end_of_window(Some(count(2)), Some(count(1)));
    let mut grouped = Grouped::new(FIXED, discarding(lateness(by(trigger), 100)));
    let mut panes = grouped.add(&[(1, 1), (2, 2)]);
    panes.extend(grouped.add(&[(3, 3)]));
    panes.extend(grouped.watermark(10));
    panes.extend(grouped.add(&[(4, 4)]));
    panes.extend(grouped.add(&[(5, 5), (6, 6)]));
    panes.extend(grouped.close());
    assert_eq!(values(&panes), [vec![1, 2], vec![3], vec![4], vec![5], vec![6]]);
    let expected = [
        (Early, 0, -1, true, false),
        (OnTime, 1, 0, false, false),
        (Late, 2, 1, false, false),
        (Late, 3, 2, false, false),
        (Late, 4, 3, false, false),
    ];
    assert_eq!(infos(&panes), expected);
}

#[test]
fn an_empty_pane_on_time_unless_it_is_not_wanted() {
    let trigger = || end_of_window(Some(count(1)), None);
    let panes = one_by_one(discarding(by(trigger())), 1);
    assert_eq!(values(&panes), [vec![1], vec![]]);
    assert_eq!(infos(&panes)[1], (OnTime, 1, 0, false, true));
    assert_eq!(values(&one_by_one(by(trigger()), 1)), [[1], [1]]);
    assert_eq!(values(&one_by_one(unless_empty(by(trigger())), 1)), [[1]]);
    let closed = one_by_one(closing(unless_empty(discarding(by(trigger())))), 1);
    assert_eq!(values(&closed), [vec![1], vec![]], "it is the last one too");
}

/// A trigger that only has the end of the window among others fires there too.
#[test]
fn an_empty_pane_on_time_from_or_finally() {
    let trigger =
        Trigger::OrFinally { main: Box::new(repeat(count(2))), finally: Box::new(end_of_window(None, None)) };
    let mut grouped = Grouped::new(FIXED, discarding(lateness(by(trigger), 100)));
    assert_eq!(grouped.add(&[(1, 1), (2, 2)]).len(), 1);
    let panes = grouped.watermark(10);
    assert_eq!((values(&panes), infos(&panes)), (vec![vec![]], vec![(OnTime, 1, 0, false, true)]));
    assert!(grouped.add(&[(3, 3), (3, 4)]).is_empty());
    assert_eq!(grouped.groups.dropped().closed, 2);
}

#[test]
fn closing_with_a_pane_in_any_case() {
    let mut grouped = Grouped::new(FIXED, closing(lateness(by(Trigger::Default), 20)));
    grouped.add(&[(1, 1)]);
    assert_eq!(infos(&grouped.watermark(10)), [(OnTime, 0, 0, true, false)]);
    assert!(grouped.watermark(29).is_empty());
    let panes = grouped.watermark(30);
    assert_eq!((values(&panes), infos(&panes)), (vec![vec![1]], vec![(Late, 1, 1, false, true)]));
    assert_eq!(grouped.buffered_keys(), 0);
}

#[test]
fn elements_are_late_once_the_window_has_expired() {
    let mut grouped = Grouped::new(FIXED, lateness(by(Trigger::Default), 20));
    grouped.watermark(29);
    let panes = grouped.add(&[(1, 1)]);
    assert_eq!(infos(&panes), [(Late, 0, 0, true, false)]);
    grouped.watermark(30);
    assert!(grouped.add(&[(1, 2), (2, 3), (31, 4)]).is_empty());
    assert_eq!((grouped.groups.dropped().late, grouped.groups.dropped().closed), (2, 0));
    assert_eq!(values(&grouped.close()), [[4]]);
}

#[test]
fn what_is_late_waits_for_the_late_trigger_and_comes_out_at_last() {
    let trigger = end_of_window(None, Some(count(3)));
    let mut grouped = Grouped::new(FIXED, discarding(lateness(by(trigger), 20)));
    grouped.add(&[(1, 1)]);
    grouped.watermark(10);
    assert!(grouped.add(&[(1, 2), (1, 3)]).is_empty());
    let panes = grouped.watermark(30);
    assert_eq!((values(&panes), infos(&panes)), (vec![vec![2, 3]], vec![(Late, 1, 1, false, true)]));
}

#[test]
fn an_element_in_several_windows_counts_in_each() {
    let mut grouped = Grouped::new(Windows::Sliding(10, 5), discarding(by(count(2))));
    let panes = grouped.add(&[(1, 1), (6, 6)]);
    assert_eq!(contents(&panes), [((0, 10), vec![1, 6])]);
    let panes = grouped.add(&[(7, 7)]);
    assert_eq!(contents(&panes), [((5, 15), vec![6, 7])]);
    assert_eq!(grouped.groups.dropped().closed, 1, "in [0, 10), which is closed");
    assert_eq!(contents(&grouped.close()), [((-5, 5), vec![1])]);
}

#[test]
fn keys_do_not_share_anything() {
    let mut grouped = Grouped::new(FIXED, by(count(2)));
    assert!(grouped.add_keyed(&[("a", 1, 1), ("b", 1, 2)]).is_empty());
    let panes = grouped.add_keyed(&[("b", 1, 3)]);
    assert_eq!((panes[0].key.as_str(), values(&panes)), ("b", vec![vec![2, 3]]));
    let panes = grouped.close();
    assert_eq!((panes[0].key.as_str(), values(&panes)), ("a", vec![vec![1]]));
    assert_eq!(grouped.buffered_keys(), 0);
}

#[test]
fn processing_time_fires_what_waits_for_it() {
    let mut grouped = Grouped::new(FIXED, discarding(by(repeat(delay(20)))));
    grouped.clock(100);
    grouped.add(&[(1, 1)]);
    assert_eq!(grouped.groups.next_wake().map(|time| time.millis()), Some(120));
    assert!(grouped.clock(119).is_empty());
    grouped.add(&[(2, 2)]);
    assert_eq!(values(&grouped.clock(120)), [[1, 2]]);
    assert_eq!(grouped.groups.next_wake(), None);
    grouped.add(&[(3, 3)]);
    assert_eq!(grouped.groups.next_wake().map(|time| time.millis()), Some(140));
    assert_eq!(values(&grouped.close()), [[3]]);
    assert_eq!(grouped.groups.next_wake(), None);
}

#[test]
fn a_processing_time_that_is_not_repeated_drops_what_follows() {
    let mut grouped = Grouped::new(FIXED, discarding(by(delay(20))));
    grouped.add(&[(1, 1)]);
    let panes = grouped.clock(20);
    assert_eq!((values(&panes), infos(&panes)), (vec![vec![1]], vec![(Early, 0, -1, true, true)]));
    assert!(grouped.add(&[(2, 2)]).is_empty());
    assert!(grouped.clock(100).is_empty() && grouped.close().is_empty());
    assert_eq!(grouped.groups.dropped().closed, 1);
}

#[test]
fn early_firings_after_all_of_count_and_time() {
    let trigger = end_of_window(Some(Trigger::AfterAll(vec![count(1), delay(5)])), None);
    let mut grouped = Grouped::new(FIXED, by(trigger));
    for value in 1..=5 {
        assert!(grouped.add(&[(0, value)]).is_empty());
    }
    assert_eq!(values(&grouped.clock(5)), [[1, 2, 3, 4, 5]]);
    for value in 6..=9 {
        assert!(grouped.add(&[(0, value)]).is_empty());
    }
    assert_eq!(values(&grouped.watermark(10)), [[1, 2, 3, 4, 5, 6, 7, 8, 9]]);
    assert!(grouped.clock(10).is_empty() && grouped.close().is_empty());
}

/// A case with each kind of bundling that the SDK's own tests have.
#[test]
fn after_any_of_count_and_end_of_window() {
    let any = |n| Trigger::AfterAny(vec![count(n), end_of_window(None, None)]);
    assert_eq!(values(&one_by_one(by(any(2)), 3)), [[1, 2]]);
    assert_eq!(values(&one_by_one(by(any(5)), 3)), [[1, 2, 3]]);
    let mut grouped = Grouped::new(FIXED, lateness(by(repeat(any(3))), 1000));
    let mut panes: Vec<_> = (1..=7).flat_map(|value| grouped.add(&[(1, value)])).collect();
    panes.extend(grouped.watermark(500));
    panes.extend((8..=10).flat_map(|value| grouped.add(&[(1, value)])));
    let lens: Vec<_> = values(&panes).iter().map(Vec::len).collect();
    assert_eq!(lens, [3, 6, 7, 8, 9, 10]);
}
