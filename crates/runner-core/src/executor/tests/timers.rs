//! What a worker says of timers, on its way to the engine.

use beam_model::coders::windowed_value::Windows;
use beam_model::coders::{Timer, TimerAction};

use super::streaming::{keyed, timer};
use super::*;
use crate::engine::TimerChange;
use crate::executor::timers::TimerChanges;
use crate::ports::TimerBlock;

fn cleared(family: &str, key: &str, tag: u64) -> TimerBlock {
    let mut encoded_key = Vec::new();
    varint::write_prefixed(&mut encoded_key, key.as_bytes());
    let (dynamic_tag, windows) = (&tag.to_string(), Windows::single(b""));
    let timer = Timer { key: &encoded_key, dynamic_tag, windows, action: TimerAction::Clear };
    let mut timers = Vec::new();
    timer.write(&mut timers).unwrap();
    TimerBlock { timers: timers.into(), ..self::timer(family, key, tag, 0, 0) }
}

/// Sets are `(tag, Some(time))`, clears have none.
fn told(changes: TimerChanges) -> Vec<(String, Option<i64>)> {
    let told = changes.into_order().into_iter().map(|change| match change {
        TimerChange::Set { timer, .. } => (timer.id.tag, Some(timer.fire.millis())),
        TimerChange::Clear(id) => (id.tag, None),
        TimerChange::MergeWindows { .. } => panic!("no worker says so"),
    });
    told.map(|(tag, fire)| (String::from_utf8(tag.to_vec()).unwrap(), fire)).collect()
}

#[test]
fn of_each_timer_the_last_change_counts_in_the_order_of_those() {
    let stage = keyed();
    let family = stage.families[0].id.clone();
    let mut changes = TimerChanges::default();
    let set = |tag, fire| timer(&family, "a", tag, fire, fire);
    let clear = |tag| cleared(&family, "a", tag);
    for block in [set(1, 5), set(2, 6), set(4, 9), set(1, 7), clear(3), clear(4), set(3, 8), set(2, 4)] {
        changes.take_in(&stage, block).unwrap();
    }
    let told = told(changes);
    let told: Vec<_> = told.iter().map(|(tag, fire)| (tag.as_str(), *fire)).collect();
    assert_eq!(told, [("1", Some(7)), ("4", None), ("3", Some(8)), ("2", Some(4))]);
}

#[test]
fn timers_of_other_keys_and_families_are_others() {
    let stage = keyed();
    let mut changes = TimerChanges::default();
    for family in &stage.families {
        for key in ["a", "b"] {
            changes.take_in(&stage, timer(&family.id, key, 1, 5, 5)).unwrap();
        }
    }
    assert_eq!(told(changes).len(), 2 * stage.families.len());
}

#[test]
fn timers_that_cannot_be_are_the_workers_error() {
    let stage = keyed();
    let good = timer(&stage.families[0].id, "a", 1, 5, 5);
    let cut = TimerBlock { timers: good.timers.slice(..good.timers.len() - 1), ..good.clone() };
    let elsewhere = TimerBlock { transform_id: "other".to_owned(), ..good };
    for (block, words) in [(cut, "cannot be read"), (elsewhere, "which the stage does not have")] {
        let fault = TimerChanges::default().take_in(&stage, block).unwrap_err();
        assert!(fault.message.contains(words), "{fault}");
    }
}
