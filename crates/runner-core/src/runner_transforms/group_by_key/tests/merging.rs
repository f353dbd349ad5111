//! Windows that merge while triggers run.

use std::collections::HashMap;
use std::sync::Arc;

use beam_model::coders::Timing::{Early, Late, OnTime};
use beam_model::fn_execution::ProcessBundleDescriptor;

use super::{
    Grouped, Windows, by, contents, count, delay, discarding, end_of_window, infos, interval, lateness,
    repeat, sessions,
};
use crate::plan::{Grouping, MergeStage, Merging, OutputTime, Trigger};
use crate::ports::StageSpec;

const GAP: Windows = Windows::Sessions(10);

fn grouped(grouping: Grouping) -> Grouped {
    Grouped::new(GAP, sessions(grouping))
}

#[test]
fn sessions_that_overlap_merge_and_those_that_touch_do_not() {
    let mut grouped = grouped(by(Trigger::Default));
    grouped.add(&[(15, 3)]);
    grouped.add(&[(0, 1)]);
    grouped.add(&[(25, 4)]);
    grouped.add(&[(9, 2)]);
    let panes = grouped.close();
    assert_eq!(contents(&panes), [((0, 25), vec![1, 2, 3]), ((25, 35), vec![4])]);
    assert_eq!(infos(&panes), [(OnTime, 0, 0, true, true); 2]);
    assert_eq!(grouped.buffered_keys(), 0);
}

#[test]
fn one_element_joins_many_sessions() {
    let mut grouped = grouped(by(Trigger::Default));
    grouped.add(&[(0, 0), (15, 1), (40, 4)]);
    grouped.add(&[(28, 3)]);
    grouped.add(&[(8, 2), (20, 5)]);
    assert_eq!(contents(&grouped.close()), [((0, 38), vec![0, 1, 2, 3, 5]), ((40, 50), vec![4])]);
}

#[test]
fn counts_of_merged_sessions_add_up() {
    let mut grouped = grouped(by(repeat(count(3))));
    assert!(grouped.add(&[(0, 1), (15, 2)]).is_empty());
    assert_eq!(contents(&grouped.add(&[(8, 3)])), [((0, 25), vec![1, 2, 3])]);
    assert!(grouped.add(&[(9, 4)]).is_empty());
    assert_eq!(contents(&grouped.close()), [((0, 25), vec![1, 2, 3, 4])]);
}

#[test]
fn a_session_that_has_grown_begins_to_count_its_panes_anew() {
    let trigger = end_of_window(Some(count(1)), None);
    let mut grouped = grouped(discarding(by(trigger)));
    assert_eq!(infos(&grouped.add(&[(0, 1)])), [(Early, 0, -1, true, false)]);
    assert_eq!(infos(&grouped.add(&[(0, 2)])), [(Early, 1, -1, false, false)]);
    assert_eq!(infos(&grouped.add(&[(5, 3)])), [(Early, 0, -1, true, false)]);
    assert_eq!(infos(&grouped.add(&[(2, 4)])), [(Early, 1, -1, false, false)], "it is within");
    let panes = grouped.watermark(15);
    assert_eq!(
        (contents(&panes), infos(&panes)),
        (vec![((0, 15), vec![])], vec![(OnTime, 2, 0, false, true)])
    );
}

#[test]
fn late_data_makes_a_session_longer() {
    let mut grouped = grouped(lateness(by(Trigger::Default), 100));
    grouped.add(&[(0, 1)]);
    assert_eq!(infos(&grouped.watermark(12)), [(OnTime, 0, 0, true, false)]);
    assert!(grouped.add(&[(5, 2)]).is_empty(), "it ends at 15 now");
    let panes = grouped.watermark(15);
    assert_eq!(contents(&panes), [((0, 15), vec![1, 2])]);
    assert_eq!(infos(&panes), [(OnTime, 0, 0, true, false)]);
    let panes = grouped.add(&[(4, 3)]);
    assert_eq!(infos(&panes), [(Late, 1, 1, false, false)]);
}

/// Elements for a session that has had its last pane are dropped, also if they would make it longer.
#[test]
fn a_closed_session_stays_closed() {
    let mut grouped = grouped(by(count(2)));
    assert_eq!(contents(&grouped.add(&[(0, 1), (1, 2)])), [((0, 11), vec![1, 2])]);
    assert!(grouped.add(&[(8, 3)]).is_empty());
    assert!(grouped.add(&[(30, 4)]).is_empty());
    assert_eq!(grouped.groups.dropped().closed, 1);
    assert!(grouped.add(&[(15, 5)]).is_empty(), "it joins the closed session, which has grown");
    assert_eq!(contents(&grouped.close()), [((30, 40), vec![4])]);
    assert_eq!(grouped.groups.dropped().closed, 2);
}

#[test]
fn a_session_that_ended_before_it_grew_ends_again() {
    let mut grouped = grouped(discarding(lateness(by(end_of_window(None, None)), 100)));
    grouped.add(&[(0, 1)]);
    assert_eq!(infos(&grouped.watermark(12)), [(OnTime, 0, 0, true, true)]);
    grouped.add(&[(7, 2)]);
    assert_eq!(contents(&grouped.watermark(20)), [((0, 17), vec![2])]);
    assert!(grouped.add(&[(3, 3)]).is_empty());
    assert_eq!(grouped.groups.dropped().closed, 1);
}

#[test]
fn each_step_of_sessions() {
    let each = || Trigger::AfterEach(vec![count(2), count(3)]);
    let pairs: Vec<_> = (0..5).map(|n| [(2 * n, 2 * n as u64), (2 * n + 1, 2 * n as u64 + 1)]).collect();
    let run = |trigger| {
        let mut grouped = grouped(by(trigger));
        let panes: Vec<_> = pairs.iter().flat_map(|pair| grouped.add(pair)).collect();
        contents(&panes)
    };
    let once = vec![((0, 11), vec![0, 1]), ((0, 14), (0..5).collect())];
    assert_eq!(run(each()), once);
    let mut again = once;
    again.extend([((0, 16), (0..7).collect()), ((0, 19), (0..10).collect())]);
    assert_eq!(run(repeat(each())), again);
}

#[test]
fn early_on_time_and_late_sessions() {
    let trigger = end_of_window(Some(count(2)), Some(count(1)));
    let mut grouped = grouped(lateness(by(trigger), 1 << 40));
    let mut panes = grouped.add(&[(1, 1), (15, 15)]);
    panes.extend(grouped.add(&[(7, 7), (30, 30)]));
    panes.extend(grouped.watermark(1000));
    panes.extend(grouped.add(&[(1, 101), (2, 102)]));
    panes.extend(grouped.add(&[(21, 121)]));
    let expected = [
        ((1, 25), vec![1, 7, 15]),
        ((1, 25), vec![1, 7, 15]),
        ((30, 40), vec![30]),
        ((1, 25), vec![1, 7, 15, 101]),
        ((1, 25), vec![1, 7, 15, 101, 102]),
        ((1, 40), vec![1, 7, 15, 30, 101, 102, 121]),
    ];
    assert_eq!(contents(&panes), expected);
}

#[test]
fn merged_sessions_hold_and_wake_as_one() {
    let grouping = Grouping { output_time: OutputTime::Earliest, ..by(repeat(delay(20))) };
    let mut grouped = grouped(grouping);
    grouped.add(&[(15, 1)]);
    grouped.clock(5);
    grouped.add(&[(3, 2)]);
    assert_eq!((grouped.groups.hold().0, grouped.groups.next_wake().unwrap().millis()), (3, 20));
    grouped.add(&[(9, 3)]);
    let panes = grouped.clock(20);
    assert_eq!((contents(&panes), panes[0].time), (vec![((3, 25), vec![1, 2, 3])], 3));
    assert!(grouped.clock(25).is_empty(), "the other session's time went with it");
    assert_eq!(grouped.groups.next_wake(), None);
}

fn by_sdk(trigger: Trigger) -> Grouped {
    let spec = StageSpec {
        name: "merge".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor::default(),
    };
    let stage = MergeStage { spec: Arc::new(spec), source: "source".to_owned() };
    Grouped::new(GAP, Grouping { merging: Merging::BySdk(Arc::new(stage)), ..by(trigger) })
}

/// Start and end.
type Interval = (i64, i64);

/// Answers for the SDK that the windows of a set become those given.
fn answer(grouped: &mut Grouped, asked: &[Interval], merged: &[(Interval, Interval)]) {
    let boxed = |window: Interval| interval(window).into_boxed_slice();
    let set: Vec<_> = asked.iter().copied().map(boxed).collect();
    assert_eq!(grouped.groups.windows_to_merge().unwrap(), std::slice::from_ref(&set));
    let merged = merged.iter().map(|(part, whole)| (boxed(*part), boxed(*whole))).collect();
    grouped.groups.merge_windows(HashMap::from([(set, merged)])).unwrap();
    assert!(grouped.groups.windows_to_merge().unwrap().is_empty());
}

#[test]
fn windows_that_the_sdk_merges_do_not_fire_before() {
    let mut grouped = by_sdk(repeat(count(2)));
    assert!(grouped.add(&[(0, 1)]).is_empty());
    assert!(grouped.groups.windows_to_merge().unwrap().is_empty(), "one window has nothing to merge with");
    assert!(grouped.add(&[(5, 2), (30, 3), (30, 4)]).is_empty());
    assert!(grouped.close().is_empty());
    let whole = (0, 15);
    answer(&mut grouped, &[(0, 10), (5, 15), (30, 40)], &[((0, 10), whole), ((5, 15), whole)]);
    let mut panes = grouped.take();
    panes.sort_by_key(|pane| pane.window);
    assert_eq!(contents(&panes), [(whole, vec![1, 2]), ((30, 40), vec![3, 4])]);
    assert_eq!(grouped.buffered_keys(), 0);
}

#[test]
fn windows_that_the_sdk_merges_again() {
    let mut grouped = by_sdk(repeat(count(2)));
    grouped.add(&[(0, 1), (5, 2)]);
    let whole = (0, 15);
    answer(&mut grouped, &[(0, 10), (5, 15)], &[((0, 10), whole), ((5, 15), whole)]);
    let panes = grouped.take();
    assert_eq!(infos(&panes), [(Early, 0, -1, true, false)]);
    grouped.add(&[(0, 3)]);
    // Nobody has answered: another element comes first.
    grouped.add(&[(2, 4)]);
    answer(
        &mut grouped,
        &[(0, 10), (2, 12), (0, 15)],
        &[((0, 10), whole), ((2, 12), whole), ((0, 15), whole)],
    );
    let panes = grouped.take();
    assert_eq!(contents(&panes), [(whole, vec![1, 2, 3, 4])]);
    assert_eq!(infos(&panes), [(Early, 1, -1, false, false)]);
}

#[test]
fn an_answer_to_another_question_is_none() {
    let mut grouped = by_sdk(Trigger::Default);
    grouped.add(&[(0, 1), (5, 2)]);
    let asked = grouped.groups.windows_to_merge().unwrap();
    grouped.add(&[(7, 3)]);
    let answers = asked.into_iter().map(|set| (set, HashMap::new())).collect();
    grouped.groups.merge_windows(answers).unwrap();
    assert_eq!(grouped.groups.windows_to_merge().unwrap()[0].len(), 3);
    assert!(grouped.close().is_empty());
}
