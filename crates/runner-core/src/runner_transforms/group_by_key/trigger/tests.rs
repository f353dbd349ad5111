//! Each trigger by itself.

use beam_model::time::{EventTime, ProcessingTime};

use super::{Machine, State, When};
use crate::plan::{TimestampTransform, Trigger};

/// The end of the window.
const END: i64 = 100;

fn at(watermark: i64, now: i64) -> When {
    When {
        watermark: EventTime(watermark),
        end_of_window: EventTime(END),
        now: ProcessingTime::from_millis(now),
        more_to_come: false,
    }
}

fn count(count: u32) -> Trigger {
    Trigger::ElementCount(count)
}

fn delay(millis: i64) -> Trigger {
    Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(millis)])
}

fn end_of_window(early: Option<Trigger>, late: Option<Trigger>) -> Trigger {
    Trigger::AfterEndOfWindow { early: early.map(Box::new), late: late.map(Box::new) }
}

fn repeat(trigger: Trigger) -> Trigger {
    Trigger::Repeat(Box::new(trigger))
}

/// Adds elements, and fires if ready: whether it did.
fn step(machine: &mut Machine, elements: u32, when: When) -> bool {
    if elements > 0 {
        machine.add(elements, &when);
    }
    let ready = machine.should_fire(&when);
    if ready {
        machine.fire(&when);
    }
    ready
}

/// Steps of (elements, watermark, processing time) and whether the trigger fires with each. Then
/// whether it is finished.
#[track_caller]
fn fires(trigger: &Trigger, steps: &[(u32, i64, i64, bool)], finished: bool) {
    let mut machine = Machine::new(trigger);
    for (number, (elements, watermark, now, expected)) in steps.iter().enumerate() {
        let fired = step(&mut machine, *elements, at(*watermark, *now));
        assert_eq!(fired, *expected, "{trigger:?} in step {number}");
    }
    assert_eq!(machine.is_finished(), finished, "{trigger:?}");
}

#[test]
fn default_fires_from_the_end_of_the_window_on() {
    fires(&Trigger::Default, &[(1, 100, 0, false), (0, 101, 0, true), (1, 102, 0, true)], false);
}

#[test]
fn always_and_never() {
    fires(&Trigger::Always, &[(1, 0, 0, true), (1, 0, 0, true)], false);
    fires(&Trigger::Never, &[(1, 0, 0, false), (9, 1000, 1000, false)], false);
}

#[test]
fn element_count_fires_once() {
    fires(&count(3), &[(2, 0, 0, false), (1, 0, 0, true), (3, 0, 0, false), (9, 200, 0, false)], true);
    fires(&count(3), &[(7, 0, 0, true), (0, 0, 0, false)], true);
    fires(&count(3), &[(2, 0, 0, false), (0, 200, 0, false)], false);
}

#[test]
fn a_repeated_count_starts_from_nothing() {
    let trigger = repeat(count(3));
    fires(&trigger, &[(5, 0, 0, true), (2, 0, 0, false), (1, 0, 0, true), (0, 0, 0, false)], false);
}

#[test]
fn end_of_window_without_more_fires_once() {
    fires(&end_of_window(None, None), &[(5, 100, 0, false), (0, 101, 0, true), (1, 101, 0, false)], true);
}

#[test]
fn early_firings_repeat_until_the_end_of_the_window() {
    let trigger = end_of_window(Some(count(2)), None);
    let steps = [
        (2, 0, 0, true),
        (1, 0, 0, false),
        (1, 0, 0, true),
        (1, 0, 0, false),
        (0, 101, 0, true),
        (2, 101, 0, false),
    ];
    fires(&trigger, &steps, true);
}

#[test]
fn late_firings_repeat_and_do_not_count_what_was_on_time() {
    let trigger = end_of_window(Some(count(3)), Some(count(2)));
    let steps = [
        (1, 0, 0, false),
        (1, 101, 0, true),
        (1, 101, 0, false),
        (1, 101, 0, true),
        (2, 101, 0, true),
        (0, 200, 0, false),
    ];
    fires(&trigger, &steps, false);
}

/// An early trigger of several steps goes through all of them before it begins anew.
#[test]
fn early_firings_in_steps() {
    let trigger = end_of_window(Some(Trigger::AfterEach(vec![count(1), count(2)])), None);
    let steps = [(1, 0, 0, true), (1, 0, 0, false), (1, 0, 0, true), (1, 0, 0, true), (1, 0, 0, false)];
    fires(&trigger, &steps, false);
}

#[test]
fn processing_time_counts_from_the_first_element() {
    fires(&delay(5), &[(1, 0, 10, false), (1, 0, 14, false), (0, 0, 15, true), (1, 0, 99, false)], true);
    fires(&delay(5), &[(0, 0, 10, false), (0, 0, 100, false), (1, 0, 100, false), (0, 0, 105, true)], true);
    let steps = [(1, 0, 0, false), (0, 0, 5, true), (0, 0, 20, false), (1, 0, 20, false), (0, 0, 25, true)];
    fires(&repeat(delay(5)), &steps, false);
}

#[test]
fn processing_time_is_aligned() {
    let transforms = [TimestampTransform::Delay(3), TimestampTransform::AlignTo { period: 10, offset: 2 }];
    let due = |now| {
        let mut machine = Machine::new(&Trigger::AfterProcessingTime(transforms.to_vec()));
        machine.add(1, &at(0, now));
        machine.wake(ProcessingTime::MIN).map(ProcessingTime::millis)
    };
    assert_eq!(due(0), Some(12));
    assert_eq!(due(9), Some(12));
    assert_eq!(due(10), Some(22));
    assert_eq!(due(-12), Some(-8));
    assert_eq!(due(i64::MAX), Some(ProcessingTime::MAX.millis()));
    let first = ProcessingTime::MIN.millis();
    assert_eq!(due(i64::MIN), Some(first + 8), "the first of 2 + 10 n from {first} + 3 on");
}

#[test]
fn synchronized_processing_time_awaits_what_comes_together() {
    let trigger = Trigger::AfterSynchronizedProcessingTime;
    fires(&trigger, &[(0, 0, 0, false), (3, 0, 0, true), (1, 0, 9, false)], true);
    let repeated = repeat(trigger.clone());
    fires(&repeated, &[(2, 0, 0, true), (0, 0, 9, false), (1, 0, 9, true)], false);
    let mut machine = Machine::new(&repeated);
    let among_others = When { more_to_come: true, ..at(0, 0) };
    assert!(!step(&mut machine, 1, among_others) && !step(&mut machine, 1, among_others));
    assert!(step(&mut machine, 0, at(0, 0)) && !step(&mut machine, 0, at(0, 0)));
    // Another part may fire in between, and takes with it what had come till then.
    let any = repeat(Trigger::AfterAny(vec![count(2), trigger.clone()]));
    let mut machine = Machine::new(&any);
    assert!(!step(&mut machine, 1, among_others) && step(&mut machine, 1, among_others));
    assert!(!step(&mut machine, 0, at(0, 0)));
    assert!(merged(&trigger, &[(1, 0, 0)], &[], at(0, 0)).is_finished());
    let mut waiting = Machine::new(&trigger);
    waiting.add(1, &among_others);
    let mut other = Machine::new(&trigger);
    other.absorb(&waiting);
    assert!(other.should_fire(&at(0, 0)));
}

#[test]
fn it_wakes_for_each_of_its_times() {
    let trigger = Trigger::AfterAll(vec![delay(5), delay(10)]);
    let mut machine = Machine::new(&trigger);
    machine.add(1, &at(0, 0));
    assert_eq!(machine.wake(ProcessingTime::from_millis(0)), Some(ProcessingTime::from_millis(5)));
    assert!(!machine.should_fire(&at(0, 5)));
    assert_eq!(machine.wake(ProcessingTime::from_millis(5)), Some(ProcessingTime::from_millis(10)));
    assert!(machine.should_fire(&at(0, 10)));
    assert_eq!(machine.wake(ProcessingTime::from_millis(10)), None);
}

#[test]
fn after_all_waits_for_the_last() {
    let trigger = Trigger::AfterAll(vec![count(2), delay(5)]);
    fires(&trigger, &[(1, 0, 0, false), (0, 0, 5, false), (1, 0, 6, true), (2, 0, 99, false)], true);
    let steps = [(2, 0, 0, false), (0, 0, 5, true), (2, 0, 7, false), (0, 0, 12, true)];
    fires(&repeat(trigger), &steps, false);
}

#[test]
fn after_any_takes_the_first_and_forgets_the_others() {
    let trigger = Trigger::AfterAny(vec![count(3), delay(5)]);
    fires(&trigger, &[(1, 0, 0, false), (0, 0, 5, true), (3, 0, 6, false)], true);
    let steps = [
        (2, 0, 0, false),
        (0, 0, 5, true),
        (2, 0, 6, false),
        (1, 0, 7, true),
        (1, 0, 9, false),
        (0, 0, 11, false),
    ];
    fires(&repeat(trigger), &steps, false);
}

#[test]
fn after_each_goes_on_by_one() {
    let trigger = Trigger::AfterEach(vec![count(2), count(3), end_of_window(None, None)]);
    let steps = [
        (2, 0, 0, true),
        (2, 0, 0, false),
        (1, 0, 0, true),
        (9, 0, 0, false),
        (0, 101, 0, true),
        (9, 101, 0, false),
    ];
    fires(&trigger, &steps, true);
}

#[test]
fn or_finally_counts_over_the_firings_of_main() {
    let or = |main, finally| Trigger::OrFinally { main: Box::new(main), finally: Box::new(finally) };
    let trigger = or(repeat(count(2)), count(5));
    fires(&trigger, &[(2, 0, 0, true), (2, 0, 0, true), (1, 0, 0, true), (2, 0, 0, false)], true);
    let until_end = or(repeat(count(2)), end_of_window(None, None));
    fires(&until_end, &[(2, 0, 0, true), (1, 0, 0, false), (0, 101, 0, true), (2, 101, 0, false)], true);
    fires(&or(count(2), count(5)), &[(2, 0, 0, true), (3, 0, 0, false)], true);
    // A `finally` that by itself would never finish.
    fires(
        &or(repeat(count(2)), Trigger::Default),
        &[(2, 0, 0, true), (0, 101, 0, true), (2, 101, 0, false)],
        true,
    );
}

fn merged(trigger: &Trigger, one: &[(u32, i64, i64)], other: &[(u32, i64, i64)], when: When) -> Machine {
    let [mut one, other] = [one, other].map(|steps| {
        let mut machine = Machine::new(trigger);
        for (elements, watermark, now) in steps {
            step(&mut machine, *elements, at(*watermark, *now));
        }
        machine
    });
    one.absorb(&other);
    one.window_changed(&when);
    one
}

#[test]
fn merged_counts_add_up() {
    let machine = merged(&count(3), &[(2, 0, 0)], &[(1, 0, 0)], at(0, 0));
    assert!(machine.should_fire(&at(0, 0)));
    let finished = merged(&count(3), &[(2, 0, 0)], &[(3, 0, 0)], at(0, 0));
    assert!(finished.is_finished() && !finished.should_fire(&at(0, 0)));
    let repeated = merged(&repeat(count(3)), &[(2, 0, 0)], &[(4, 0, 0)], at(0, 0));
    assert!(!repeated.should_fire(&at(0, 0)), "four have fired; two are left");
}

#[test]
fn the_first_element_of_merged_windows_counts() {
    let machine = merged(&delay(5), &[(1, 0, 7)], &[(1, 0, 3)], at(0, 7));
    assert_eq!(machine.wake(ProcessingTime::from_millis(7)), Some(ProcessingTime::from_millis(8)));
    assert!(merged(&delay(5), &[(1, 0, 7)], &[(1, 0, 0), (0, 0, 5)], at(0, 7)).is_finished());
}

#[test]
fn merged_windows_await_their_end_unless_it_has_come_for_all() {
    let trigger = end_of_window(None, Some(count(2)));
    let (past, before): (&[_], &[_]) = (&[(1, 101, 0), (1, 101, 0)], &[(1, 0, 0)]);
    let waits = merged(&trigger, past, before, at(50, 0));
    assert!(!waits.should_fire(&at(50, 0)) && waits.should_fire(&at(101, 0)));
    let mut late = merged(&trigger, past, past, at(101, 0));
    assert!(late.should_fire(&at(101, 0)), "one late element in each of them");
    late.fire(&at(101, 0));
    assert!(!late.should_fire(&at(101, 0)));
    // Both had ended, but together they end later.
    let again = merged(&trigger, past, past, at(100, 0));
    assert!(!again.should_fire(&at(100, 0)) && again.should_fire(&at(101, 0)));
    let closed = end_of_window(None, None);
    assert!(merged(&closed, past, past, at(101, 0)).is_finished());
    assert!(!merged(&closed, past, past, at(100, 0)).is_finished());
    assert!(!merged(&closed, past, before, at(101, 0)).is_finished());
}

#[test]
fn steps_after_a_revived_one_begin_anew() {
    let trigger = Trigger::AfterEach(vec![end_of_window(None, None), count(2)]);
    let mut machine = merged(&trigger, &[(1, 101, 0), (1, 101, 0)], &[(1, 0, 0)], at(50, 0));
    assert!(step(&mut machine, 0, at(101, 0)));
    assert!(!step(&mut machine, 1, at(101, 0)), "one of two");
    assert!(step(&mut machine, 1, at(101, 0)));
}

#[test]
fn merging_composites_merges_their_parts() {
    let all = Trigger::AfterAll(vec![count(2), delay(5)]);
    let machine = merged(&all, &[(1, 0, 0)], &[(1, 0, 2)], at(0, 2));
    assert!(!machine.should_fire(&at(0, 4)) && machine.should_fire(&at(0, 5)));
    let any = Trigger::AfterAny(vec![count(2), delay(5)]);
    assert!(merged(&any, &[(1, 0, 0)], &[(1, 0, 0)], at(0, 0)).should_fire(&at(0, 0)));
    let or =
        Trigger::OrFinally { main: Box::new(repeat(count(9))), finally: Box::new(end_of_window(None, None)) };
    assert!(merged(&or, &[(1, 101, 0)], &[(1, 101, 0)], at(101, 0)).is_finished());
    assert!(!merged(&or, &[(1, 101, 0)], &[(1, 101, 0)], at(100, 0)).is_finished());
}
