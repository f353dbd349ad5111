//! Event times of panes, and how far the output watermark may go.

use beam_model::coders::{Coder, Timing};
use beam_model::time::EventTime;

use super::{Grouped, Windows, by, count, discarding, end_of_window, lateness, repeat};
use crate::plan::{ClosingBehavior, Firing, Grouping, OutputTime, Trigger};

const FIXED: Windows = Windows::Fixed(10);

fn timed(output_time: OutputTime, grouping: Grouping) -> Grouped {
    Grouped::new(FIXED, Grouping { output_time, ..grouping })
}

fn hold(grouped: &Grouped) -> i64 {
    grouped.groups.hold().0
}

#[test]
fn nothing_holds_nothing() {
    let mut grouped = timed(OutputTime::Earliest, by(Trigger::Default));
    assert_eq!(hold(&grouped), EventTime::MAX.0);
    grouped.add(&[(1, 1)]);
    grouped.watermark(10);
    assert_eq!(hold(&grouped), EventTime::MAX.0);
}

#[test]
fn the_end_of_the_window_holds_what_goes_out_there() {
    let mut grouped = timed(OutputTime::EndOfWindow, lateness(by(Trigger::Default), 20));
    grouped.add(&[(15, 1), (3, 2)]);
    assert_eq!(hold(&grouped), 9);
    grouped.watermark(10);
    assert_eq!(hold(&grouped), 19, "nothing more of the first window is owed");
}

#[test]
fn the_earliest_element_holds() {
    let mut grouped = timed(OutputTime::Earliest, discarding(by(repeat(count(3)))));
    grouped.add(&[(5, 1)]);
    assert_eq!(hold(&grouped), 5);
    grouped.add(&[(2, 2)]);
    assert_eq!(hold(&grouped), 2);
    let panes = grouped.add(&[(3, 3)]);
    assert_eq!(panes[0].time, 2);
    assert_eq!(hold(&grouped), EventTime::MAX.0, "an early pane lets go");
    grouped.add(&[(7, 4)]);
    assert_eq!(hold(&grouped), 7);
    assert_eq!(grouped.close()[0].time, 7, "a pane's time is that of its new elements");
}

#[test]
fn the_latest_element_holds() {
    let mut grouped = timed(OutputTime::Latest, by(Trigger::Default));
    grouped.add(&[(5, 1), (2, 2)]);
    assert_eq!(hold(&grouped), 5);
    grouped.add(&[(8, 3)]);
    assert_eq!((hold(&grouped), grouped.close()[0].time), (8, 8));
}

/// The pane on time is owed even if it will be empty.
#[test]
fn the_end_of_the_window_holds_for_an_empty_pane() {
    let trigger = end_of_window(Some(count(1)), None);
    let mut grouped = timed(OutputTime::Earliest, discarding(by(trigger)));
    assert_eq!(grouped.add(&[(5, 1)])[0].time, 5);
    assert_eq!(hold(&grouped), 9);
    assert_eq!(grouped.watermark(10)[0].time, 9);
    assert_eq!(hold(&grouped), EventTime::MAX.0);
}

/// What is behind the output watermark cannot be said to be earlier.
#[test]
fn elements_behind_the_output_watermark_do_not_count() {
    let mut grouped = timed(OutputTime::Earliest, by(Trigger::Default));
    grouped.watermark(5);
    grouped.add(&[(2, 1)]);
    assert_eq!(hold(&grouped), 9);
    grouped.add(&[(7, 2), (6, 3)]);
    assert_eq!((hold(&grouped), grouped.watermark(10)[0].time), (6, 6));
}

/// As long as something holds the output watermark, earlier elements are not behind it.
#[test]
fn the_output_watermark_is_what_is_held() {
    let mut grouped = timed(OutputTime::Earliest, by(Trigger::Default));
    grouped.add(&[(2, 1)]);
    grouped.watermark(8);
    grouped.add_keyed(&[("other", 4, 2)]);
    assert_eq!(hold(&grouped), 2);
    let mut panes = grouped.watermark(10);
    panes.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!((panes[0].time, panes[1].time), (2, 4));
}

#[test]
fn what_is_late_holds_until_the_window_expires() {
    let trigger = end_of_window(None, Some(count(2)));
    let mut grouped = timed(OutputTime::EndOfWindow, lateness(by(trigger), 20));
    grouped.watermark(15);
    grouped.add(&[(1, 1)]);
    assert_eq!(hold(&grouped), EventTime::MAX.0, "it fired as it came, the end of the window being past");
    grouped.add(&[(1, 2)]);
    assert_eq!(hold(&grouped), 29);
    assert_eq!(grouped.watermark(30)[0].time, 9);
    assert_eq!(hold(&grouped), EventTime::MAX.0);
}

/// What came on time is on time downstream too, however long it waits.
#[test]
fn what_is_on_time_stays_so() {
    let mut grouped = timed(OutputTime::EndOfWindow, lateness(by(Trigger::Never), 20));
    grouped.add(&[(1, 1)]);
    grouped.watermark(15);
    assert_eq!(hold(&grouped), 9);
    let panes = grouped.watermark(30);
    assert_eq!((panes[0].time, panes[0].info.timing), (9, Timing::OnTime));
}

#[test]
fn a_pane_that_closing_owes_holds() {
    let grouping = lateness(by(Trigger::Default), 20);
    let firing = Firing { closing_behavior: ClosingBehavior::EmitAlways, ..grouping.firing };
    let mut grouped = timed(OutputTime::EndOfWindow, Grouping { firing, ..grouping });
    grouped.add(&[(1, 1)]);
    grouped.watermark(10);
    assert_eq!(hold(&grouped), 29);
}

#[test]
fn a_closed_window_holds_nothing() {
    let mut grouped = timed(OutputTime::EndOfWindow, by(count(1)));
    grouped.add(&[(1, 1)]);
    assert_eq!(hold(&grouped), EventTime::MAX.0);
}

#[test]
fn a_bounded_input_holds_all() {
    let grouping = Grouping { bounded: true, ..by(repeat(count(1))) };
    let mut grouped = Grouped::new(FIXED, grouping);
    assert_eq!(hold(&grouped), EventTime::MAX.0);
    assert!(grouped.add(&[(1, 1)]).is_empty());
    assert_eq!(hold(&grouped), EventTime::MIN.0);
    assert!(grouped.watermark(10).is_empty() && grouped.clock(10).is_empty());
    assert_eq!((grouped.close().len(), hold(&grouped)), (1, EventTime::MAX.0));
    assert!(grouped.add(&[(1, 2)]).is_empty() && grouped.close().is_empty());
    assert_eq!(grouped.groups.dropped().late, 1);
}

/// Windows that only the SDK can read last to the end of time.
#[test]
fn windows_without_a_known_end() {
    let grouping = by(Trigger::Default);
    let coder = Coder::LengthPrefix(Box::new(Coder::Opaque { urn: "my:window".into() }));
    let mut groups = super::GroupByKey::in_memory(Grouping { window_coder: coder, ..grouping });
    let mut element = EventTime(7).to_bytes().to_vec();
    element.extend([0, 0, 0, 1, 1, b'w', 0x0F, 1, b'k', 42]);
    groups.add(&element.into(), super::ProcessingTime::from_millis(0)).unwrap();
    groups.advance_watermark(EventTime(1_000_000)).unwrap();
    assert_eq!(groups.take_panes(super::Grain::Block).count(), 0);
    assert_eq!(groups.hold(), EventTime(7));
    groups.advance_watermark(EventTime::MAX).unwrap();
    let panes: Vec<_> = groups.take_panes(super::Grain::Block).map(|pane| pane.unwrap().data).collect();
    assert_eq!(panes[0][..8], EventTime(7).to_bytes());
    assert_eq!(groups.hold(), EventTime::MAX);
}

#[test]
fn no_lateness_outlasts_the_global_window() {
    let mut grouped = Grouped::new(FIXED, lateness(by(Trigger::Never), i64::MAX));
    grouped.add(&[(1, 1)]);
    assert!(grouped.watermark(EventTime::GLOBAL_WINDOW_MAX.0).is_empty());
    assert_eq!(grouped.close().len(), 1);
    assert_eq!(grouped.buffered_keys(), 0);
}
