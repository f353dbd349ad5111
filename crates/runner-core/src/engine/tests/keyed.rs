//! Stages by key: who may have a key when, and in which order timers fire.

use std::collections::BTreeSet;

use beam_model::coders::Coder;
use bytes::Bytes;

use super::*;
use crate::plan::{KeyedStage, TimerFamily, TimerKind};

/// The families of the stage under test, in this order.
const KINDS: [TimerKind; 3] = [TimerKind::EventTime, TimerKind::ProcessingTime, TimerKind::Expiration];

/// Impulse → a stage that makes keyed elements → a stage with timers.
fn plan() -> Arc<ExecutionPlan> {
    keyed_plan(false)
}

fn keyed_plan(streaming: bool) -> Arc<ExecutionPlan> {
    let mut plan = PlanBuilder::new();
    plan.plan.streaming = streaming;
    let impulse = plan.impulse();
    let elements = plan.stage(impulse, &[], 1)[0];
    plan.stage(elements, &[], 0);
    plan.last_stage().keyed = Some(keyed());
    plan.build()
}

pub(super) fn keyed() -> KeyedStage {
    let family = |(index, kind): (usize, &TimerKind)| TimerFamily {
        id: format!("family{index}"),
        kind: *kind,
        coder: Arc::new(Coder::Bytes),
    };
    KeyedStage {
        transform: "transform".to_owned(),
        window_coder: Arc::new(Coder::GlobalWindow),
        merging: crate::plan::Merging::Never,
        families: KINDS.iter().enumerate().map(family).collect(),
        states: Vec::new(),
        time_sorted: false,
        allowed_lateness: 0,
    }
}

fn of(partition: u16, data: &'static str) -> Block<&'static str> {
    Block { partition: Partition(partition), ..block(data) }
}

fn id(family: usize, key: &'static str) -> TimerId {
    TimerId { family, key: Bytes::from_static(key.as_bytes()), window: Bytes::new(), tag: Bytes::new() }
}

/// A key's partition is its first letter.
fn set(family: usize, key: &'static str, fire: i64) -> TimerChange {
    let fire = beam_model::time::EventTime(fire);
    let expiry = EventTime::GLOBAL_WINDOW_MAX;
    let timer = Timer { id: id(family, key), fire, hold: fire, pane: Bytes::new(), expiry };
    TimerChange::Set { timer, partition: Partition(u16::from(key.as_bytes()[0])) }
}

fn done(bundle: BundleId, timers: Vec<TimerChange>) -> EngineEvent<&'static str> {
    EngineEvent::BundleSucceeded {
        bundle,
        attempt: Attempt(1),
        outputs: Vec::new(),
        residuals: Vec::new(),
        timers,
    }
}

/// A timer's family, key and time.
type Shown = (usize, String, i64);

/// The bundles of timers that are to be run.
fn fired(actions: &[EngineAction<&'static str>]) -> Vec<(BundleId, Vec<Shown>)> {
    let run = |action: &EngineAction<&'static str>| match action {
        EngineAction::Run { bundle, timers, .. } => Some((*bundle, timers.iter().map(shown).collect())),
        _ => None,
    };
    actions.iter().filter_map(run).collect()
}

fn shown(timer: &Timer) -> Shown {
    (timer.id.family, String::from_utf8_lossy(&timer.id.key).into_owned(), timer.fire.millis())
}

/// Runs the plan up to its keyed stage, with these elements; returns what is to be done then.
fn with_elements(
    slots: usize,
    elements: Vec<Block<&'static str>>,
) -> (Names, Vec<EngineAction<&'static str>>) {
    let (mut engine, actions) = start(plan(), slots, BundlePolicy::EachBlock);
    let output = CollectionId(1);
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(output, elements)]));
    (engine, actions)
}

/// With one bundle that sets these timers.
fn with_timers(timers: Vec<TimerChange>) -> (Names, Vec<EngineAction<&'static str>>) {
    let (mut engine, actions) = start(plan(), 4, BundlePolicy::DEFAULT);
    let actions =
        engine.step(NOW, succeeded(run(&actions), 1, vec![(CollectionId(1), vec![of(0, "element")])]));
    let actions = engine.step(NOW, done(run(&actions), timers));
    (engine, actions)
}

#[test]
fn no_two_bundles_have_a_key_at_a_time() {
    let (mut engine, actions) = with_elements(4, vec![of(1, "a1"), of(1, "a2"), of(2, "b1")]);
    let started = runs(&actions);
    assert_eq!(started.iter().map(|run| run.3.clone()).collect::<Vec<_>>(), [["a1"], ["b1"]]);
    let actions = engine.step(NOW, done(started[0].1, Vec::new()));
    assert_eq!(runs(&actions)[0].3, ["a2"]);
}

#[test]
fn a_failed_bundle_keeps_its_keys() {
    let (mut engine, actions) = with_elements(4, vec![of(1, "a1"), of(1, "a2")]);
    let first = run(&actions);
    let actions = engine.step(NOW, failed(first, 1, Fault::user("no")));
    assert_eq!(
        runs(&actions).iter().map(|run| (run.1, run.2, run.3.clone())).collect::<Vec<_>>(),
        [(first, 2, vec!["a1"])]
    );
}

#[test]
fn many_timers_are_shared_out_to_all_workers() {
    let key = |n: u16| Box::leak(format!("{}{n}", char::from(b'a' + (n % 8) as u8)).into_boxed_str());
    let timers = |count: u16| (0..count).map(|n| set(0, key(n), i64::from(n))).collect::<Vec<_>>();
    let sizes = |actions: &[_]| fired(actions).iter().map(|(_, timers)| timers.len()).collect::<Vec<_>>();
    let (_, few) = with_timers(timers(80));
    assert_eq!(sizes(&few), [80]);
    // Of eight partitions.
    let (mut engine, actions) = with_timers(timers(800));
    assert_eq!(sizes(&actions), [200; 4]);
    let bundles = fired(&actions);
    let of = |timers: &[Shown]| timers.iter().map(|timer| timer.1.as_bytes()[0]).collect::<BTreeSet<_>>();
    let partitions: Vec<_> = bundles.iter().flat_map(|(_, timers)| of(timers)).collect();
    assert_eq!(partitions, (b'a'..=b'h').collect::<Vec<_>>(), "no two bundles have a key at a time");
    for (bundle, timers) in &bundles {
        assert!(timers.is_sorted_by_key(|timer| timer.2), "they fire by time");
        let actions = engine.step(NOW, done(*bundle, Vec::new()));
        let over = bundle == &bundles[3].0;
        assert_eq!(outcome(&actions).is_some(), over);
    }
}

#[test]
fn a_keys_timers_fire_by_time_and_all_keys_at_once() {
    let timers = vec![set(0, "a", 20), set(0, "b", 5), set(0, "a", 20), set(0, "c", 30)];
    let (mut engine, actions) = with_timers([timers, vec![TimerChange::Clear(id(0, "c"))]].concat());
    let first = fired(&actions);
    let all = vec![(0, "b".to_owned(), 5), (0, "a".to_owned(), 20)];
    assert_eq!(first.iter().map(|bundle| bundle.1.clone()).collect::<Vec<_>>(), [all]);
    assert!(outcome(&actions).is_none());
    // Setting one again while it fires is a new timer.
    let actions = engine.step(NOW, done(first[0].0, vec![set(0, "a", 40)]));
    let second = fired(&actions);
    assert_eq!(second[0].1, [(0, "a".to_owned(), 40)]);
    let actions = engine.step(NOW, done(second[0].0, Vec::new()));
    assert!(matches!(actions.last(), Some(EngineAction::End(Outcome::Done))), "{actions:?}");
}

#[test]
fn of_one_key_only_the_earliest_fires() {
    let mut later = set(0, "a", 9);
    if let TimerChange::Set { timer, .. } = &mut later {
        timer.id.tag = Bytes::from_static(b"another");
    }
    let (mut engine, actions) = with_timers(vec![later, set(0, "a", 3)]);
    let first = fired(&actions);
    assert_eq!(first[0].1, [(0, "a".to_owned(), 3)]);
    let actions = engine.step(NOW, done(first[0].0, Vec::new()));
    assert_eq!(fired(&actions)[0].1, [(0, "a".to_owned(), 9)]);
}

#[test]
fn processing_time_comes_after_event_time_and_expiration_last() {
    let (mut engine, mut actions) = with_timers(vec![set(2, "a", 1), set(1, "a", 2), set(0, "a", 3)]);
    for family in 0..3 {
        let bundles = fired(&actions);
        assert_eq!(bundles.len(), 1);
        assert_eq!(bundles[0].1[0].0, family);
        actions = engine.step(NOW, done(bundles[0].0, Vec::new()));
    }
    assert!(matches!(actions.last(), Some(EngineAction::End(Outcome::Done))));
}

#[test]
fn timers_are_tried_again_with_their_bundle() {
    let (mut engine, actions) = with_timers(vec![set(0, "a", 3)]);
    let first = fired(&actions);
    let actions = engine.step(NOW, failed(first[0].0, 1, Fault::user("no")));
    assert_eq!(fired(&actions), first);
}

/// Nothing else may happen before the second is due.
#[test]
fn a_timer_is_waited_for_while_another_keys_fires() {
    let (mut engine, actions) = start(keyed_plan(true), 4, BundlePolicy::DEFAULT);
    // More elements may come, so that time counts.
    let first = EngineEvent::BundleSucceeded {
        bundle: run(&actions),
        attempt: Attempt(1),
        outputs: vec![(CollectionId(1), vec![of(0, "element")])],
        residuals: vec![(block("rest"), Duration::from_secs(3_600))],
        timers: Vec::new(),
    };
    let actions = engine.step(NOW, first);
    let mut actions = engine.step(NOW, done(run(&actions), vec![set(1, "a", 10), set(1, "b", 20)]));
    for (key, at) in [("a", 10), ("b", 20)] {
        let at = ProcessingTime::from_millis(at);
        let wakes =
            |action: &EngineAction<_>| matches!(action, EngineAction::WakeAt { at: time } if *time == at);
        assert!(actions.iter().any(wakes), "{actions:?}");
        actions = engine.step(at, EngineEvent::Woken);
        assert_eq!(fired(&actions)[0].1, [(1, key.to_owned(), at.millis())]);
    }
}

/// The change, for a window that is over at `expiry`.
fn expiring(change: TimerChange, expiry: i64) -> TimerChange {
    match change {
        TimerChange::Set { timer, partition } => {
            TimerChange::Set { timer: Timer { expiry: EventTime(expiry), ..timer }, partition }
        }
        TimerChange::Clear(_) | TimerChange::MergeWindows { .. } => change,
    }
}

#[test]
fn a_timer_fires_when_its_window_is_over_and_then_sets_no_more() {
    let (mut engine, actions) = with_timers(vec![expiring(set(0, "a", 20), 10)]);
    let first = fired(&actions);
    assert_eq!(first[0].1, [(0, "a".to_owned(), 20)]);
    // What is set beyond the end at the end is dropped; another key's is not.
    let again = vec![expiring(set(0, "a", 30), 10), expiring(set(0, "b", 30), 10)];
    let actions = engine.step(NOW, done(first[0].0, again));
    let second = fired(&actions);
    assert_eq!(second.iter().map(|bundle| bundle.1.clone()).collect::<Vec<_>>(), [[(0, "b".to_owned(), 30)]]);
    assert_eq!(outcome(&engine.step(NOW, done(second[0].0, Vec::new()))).as_deref(), Some("done"));
}

/// What the one gives out by its timers is input of the other, of which all comes before its timers fire.
#[test]
fn on_bounded_input_the_timers_of_a_later_stage_wait_for_those_of_an_earlier_one() {
    let mut plan = PlanBuilder::new();
    let mut input = plan.impulse();
    for _ in 0..2 {
        let output = plan.stage(input, &[], 1)[0];
        plan.last_stage().keyed = Some(keyed());
        input = output;
    }
    let (mut engine, actions) = start(plan.build(), 4, BundlePolicy::EachBlock);
    let output = CollectionId(1);
    let set_one = |bundle, outputs| EngineEvent::BundleSucceeded {
        bundle,
        attempt: Attempt(1),
        outputs,
        residuals: Vec::new(),
        timers: vec![set(0, "a", 10)],
    };
    let elements = vec![(output, vec![of(1, "element")])];
    let actions = engine.step(NOW, set_one(run(&actions), elements));
    let [(2, late, ..), (1, early, ..)] = runs(&actions)[..] else { panic!("{actions:?}") };
    let actions = engine.step(NOW, set_one(late, Vec::new()));
    assert_eq!(fired(&actions), [], "the earlier stage's timer may make more");
    let made = succeeded(early, 1, vec![(output, vec![of(1, "made by a timer")])]);
    let actions = engine.step(NOW, made);
    let late = runs(&actions);
    assert_eq!(late[0].3, ["made by a timer"]);
    let actions = engine.step(NOW, done(late[0].1, Vec::new()));
    assert_eq!(fired(&actions)[0].1, [(0, "a".to_owned(), 10)]);
}

/// It could not keep what it waits with otherwise.
#[test]
fn state_is_there_for_processing_time_timers_that_fire_at_the_end() {
    let (mut engine, actions) = start(keyed_plan(true), 4, BundlePolicy::DEFAULT);
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(CollectionId(1), vec![of(0, "a")])]));
    let expires = |actions: &[EngineAction<&'static str>]| {
        let expires = actions.iter().filter_map(|action| match action {
            EngineAction::Expire { watermark, .. } => Some(*watermark),
            _ => None,
        });
        expires.max()
    };
    let hour = NOW.saturating_add(3_600_000).millis();
    let actions = engine.step(NOW, done(run(&actions), vec![set(1, "a", hour)]));
    assert_eq!(fired(&actions)[0].1, [(1, "a".to_owned(), hour)]);
    assert!(expires(&actions) <= Some(EventTime::GLOBAL_WINDOW_MAX), "{actions:?}");
    let actions = engine.step(NOW, done(fired(&actions)[0].0, Vec::new()));
    assert_eq!(expires(&actions), Some(EventTime::MAX));
    assert_eq!(outcome(&actions).as_deref(), Some("done"));
}

/// A stage with a processing-time timer that fires for `key` in the only bundle of `actions`.
#[track_caller]
fn fires(actions: &[EngineAction<&'static str>], key: &str) -> BundleId {
    let bundles = fired(actions);
    let [(bundle, timers)] = &bundles[..] else { panic!("{actions:?}") };
    assert_eq!(timers.iter().map(|timer| timer.1.as_str()).collect::<Vec<_>>(), [key]);
    *bundle
}

/// Fires the first timer, which sets itself again, until the engine has something else to do than to wait; how often.
fn fire_for_ever(
    engine: &mut Names,
    mut actions: Vec<EngineAction<&'static str>>,
) -> (usize, Vec<EngineAction<&'static str>>) {
    let (mut count, mut now) = (0, NOW);
    loop {
        let dropped = |action: &EngineAction<_>| matches!(action, EngineAction::TimersDropped { .. });
        if actions.iter().any(dropped) {
            return (count, actions);
        } else if let Some((bundle, _)) = fired(&actions).first() {
            count += 1;
            actions = engine.step(now, done(*bundle, vec![set(1, "a", now.millis() + 3_600_000)]));
        } else if let Some(at) = actions.iter().find_map(|action| match action {
            EngineAction::WakeAt { at } => Some(*at),
            _ => None,
        }) {
            now = at;
            actions = engine.step(now, EngineEvent::Woken);
        } else {
            return (count, actions);
        }
    }
}

#[test]
fn a_timer_that_is_set_for_ever_does_not_keep_a_job_from_failing_or_draining() {
    let (mut engine, actions) = with_timers(vec![set(1, "a", 10)]);
    let (count, actions) = fire_for_ever(&mut engine, actions);
    assert!((10..20).contains(&count), "{count} times in {LAST_TIMERS:?}");
    let why = outcome(&actions).unwrap();
    assert!(why.contains("60 s after the end of its input"), "{why}");

    let (mut engine, actions) = with_timers(vec![set(1, "a", 10), set(2, "a", 99)]);
    engine.step(NOW, EngineEvent::DrainRequested);
    let (count, actions) = fire_for_ever(&mut engine, actions);
    assert!((10..20).contains(&count), "{count} times in {LAST_TIMERS:?}");
    let [_, EngineAction::TimersDropped { count: 1, .. }, EngineAction::Run { .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    // What its key does on expiration still comes.
    let last = fires(&actions, "a");
    assert_eq!(outcome(&engine.step(NOW, done(last, Vec::new()))).as_deref(), Some("drained"));
}

#[test]
fn timers_that_end_at_some_time_all_fire_and_in_order() {
    let (mut engine, actions) = with_timers(vec![set(1, "a", 10), set(1, "a2", 50)]);
    let bundles = fired(&actions);
    assert_eq!(bundles[0].1.len(), 2, "of two keys");
    // A turn later; the other timer of the same key is later still, and waits for it.
    let again = vec![set(1, "a", 20)];
    let actions = engine.step(NOW, done(bundles[0].0, again));
    let wait = ProcessingTime::from_millis(20);
    assert!(matches!(actions[..], [EngineAction::Commit { .. }, EngineAction::WakeAt { at }] if at == wait));
    let last = fires(&engine.step(wait, EngineEvent::Woken), "a");
    assert_eq!(outcome(&engine.step(wait, done(last, Vec::new()))).as_deref(), Some("done"));
}
