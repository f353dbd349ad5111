use beam_model::pipeline::timestamp_transform::{AlignTo, Delay, TimestampTransform as Transform};
use beam_model::pipeline::trigger::{self as proto, Trigger as Kind};
use beam_model::pipeline::{self, WindowingStrategy, accumulation_mode};

use super::{AccumulationMode, ClosingBehavior, Firing, OnTimeBehavior, TimestampTransform, Trigger, Unfit};

fn of(kind: Kind) -> pipeline::Trigger {
    pipeline::Trigger { trigger: Some(kind) }
}

fn count(element_count: i32) -> pipeline::Trigger {
    of(Kind::ElementCount(proto::ElementCount { element_count }))
}

fn strategy(trigger: pipeline::Trigger) -> WindowingStrategy {
    WindowingStrategy { trigger: Some(trigger), ..Default::default() }
}

#[track_caller]
fn is(kind: Kind, trigger: Trigger) {
    assert_eq!(Firing::of(&strategy(of(kind))).unwrap().trigger, trigger);
}

#[track_caller]
fn is_invalid(trigger: pipeline::Trigger, words: &str) {
    match Firing::of(&strategy(trigger)) {
        Err(Unfit::Invalid(reason)) => assert!(reason.contains(words), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn after(transform: Option<Transform>) -> Kind {
    let timestamp_transforms = vec![pipeline::TimestampTransform { timestamp_transform: transform }];
    Kind::AfterProcessingTime(proto::AfterProcessingTime { timestamp_transforms })
}

#[test]
fn every_trigger_of_the_model() {
    let two = || vec![count(2), count(3)];
    let both = || vec![Trigger::ElementCount(2), Trigger::ElementCount(3)];
    is(Kind::Default(proto::Default {}), Trigger::Default);
    is(Kind::Never(proto::Never {}), Trigger::Never);
    is(Kind::Always(proto::Always {}), Trigger::Always);
    is(Kind::ElementCount(proto::ElementCount { element_count: 7 }), Trigger::ElementCount(7));
    is(
        after(Some(Transform::Delay(Delay { delay_millis: 5 }))),
        Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(5)]),
    );
    is(
        after(Some(Transform::AlignTo(AlignTo { period: 5, offset: -1 }))),
        Trigger::AfterProcessingTime(vec![TimestampTransform::AlignTo { period: 5, offset: -1 }]),
    );
    let synchronized = proto::AfterSynchronizedProcessingTime {};
    is(Kind::AfterSynchronizedProcessingTime(synchronized), Trigger::AfterSynchronizedProcessingTime);
    is(Kind::AfterAll(proto::AfterAll { subtriggers: two() }), Trigger::AfterAll(both()));
    is(Kind::AfterAny(proto::AfterAny { subtriggers: two() }), Trigger::AfterAny(both()));
    is(Kind::AfterEach(proto::AfterEach { subtriggers: two() }), Trigger::AfterEach(both()));
    let part = || Some(Box::new(count(2)));
    let counted = || Box::new(Trigger::ElementCount(2));
    is(Kind::Repeat(Box::new(proto::Repeat { subtrigger: part() })), Trigger::Repeat(counted()));
    let or = proto::OrFinally { main: part(), finally: part() };
    is(Kind::OrFinally(Box::new(or)), Trigger::OrFinally { main: counted(), finally: counted() });
    let ends = proto::AfterEndOfWindow { early_firings: part(), late_firings: None };
    let early = Trigger::AfterEndOfWindow { early: Some(counted()), late: None };
    is(Kind::AfterEndOfWindow(Box::new(ends)), early);
}

#[test]
fn triggers_that_make_no_sense() {
    is_invalid(pipeline::Trigger { trigger: None }, "says nothing");
    is_invalid(count(0), "after 0 elements");
    is_invalid(count(-1), "after -1 elements");
    is_invalid(of(Kind::AfterAll(proto::AfterAll { subtriggers: Vec::new() })), "AfterAll of nothing");
    is_invalid(of(Kind::AfterAny(proto::AfterAny { subtriggers: vec![count(0)] })), "after 0 elements");
    is_invalid(of(Kind::AfterEach(proto::AfterEach { subtriggers: Vec::new() })), "AfterEach of nothing");
    is_invalid(of(Kind::Repeat(Box::new(proto::Repeat { subtrigger: None }))), "Repeat that lacks");
    let or = proto::OrFinally { main: Some(Box::new(count(1))), finally: None };
    is_invalid(of(Kind::OrFinally(Box::new(or))), "OrFinally that lacks");
    is_invalid(of(after(None)), "processing time");
    is_invalid(of(after(Some(Transform::Delay(Delay { delay_millis: -1 })))), "-1 ms");
    is_invalid(of(after(Some(Transform::AlignTo(AlignTo { period: 0, offset: 0 })))), "multiples of 0 ms");
}

#[test]
fn what_is_not_said_is_as_the_model_has_it() {
    let firing = Firing::of(&WindowingStrategy::default()).unwrap();
    assert_eq!(
        firing,
        Firing {
            trigger: Trigger::Default,
            accumulation_mode: AccumulationMode::Discarding,
            allowed_lateness: 0,
            closing_behavior: ClosingBehavior::EmitIfNonempty,
            on_time_behavior: OnTimeBehavior::FireAlways,
        }
    );
}

#[test]
fn retractions_and_negative_lateness_are_refused() {
    let retracting = accumulation_mode::Enum::Retracting as i32;
    let strategy = WindowingStrategy { accumulation_mode: retracting, ..Default::default() };
    assert!(
        matches!(Firing::of(&strategy), Err(Unfit::Unsupported(reason)) if reason.contains("RETRACTING"))
    );
    let strategy = WindowingStrategy { allowed_lateness: -5, ..Default::default() };
    assert!(matches!(Firing::of(&strategy), Err(Unfit::Invalid(reason)) if reason.contains("-5 ms")));
}
