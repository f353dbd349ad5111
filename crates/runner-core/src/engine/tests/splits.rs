//! Running bundles are asked to share their work with slots that are free.

use super::*;
use crate::plan::EnvironmentIndex;

const AFTER: ProcessingTime = ProcessingTime::from_millis(100);

/// The bundles that are asked to split, and how much they are to keep.
fn asked(actions: &[EngineAction<&'static str>]) -> Vec<(BundleId, f64)> {
    let asked = |action: &EngineAction<&'static str>| match action {
        EngineAction::Split { bundle, fraction_of_remainder, .. } => Some((*bundle, *fraction_of_remainder)),
        _ => None,
    };
    actions.iter().filter_map(asked).collect()
}

fn split(kept: &[&'static str], given_back: &[&'static str]) -> EngineEvent<&'static str> {
    let given_back = blocks(given_back).into_iter().map(|block| (block, Duration::ZERO)).collect();
    EngineEvent::BundleSplit { bundle: BundleId(1), attempt: Attempt(1), kept: blocks(kept), given_back }
}

fn answered(is_split: bool) -> EngineEvent<&'static str> {
    EngineEvent::SplitAnswered { bundle: BundleId(1), attempt: Attempt(1), is_split }
}

/// A stage after an Impulse, and its output.
fn one_stage() -> (PlanBuilder, CollectionId) {
    let mut builder = PlanBuilder::new();
    let start_of = builder.impulse();
    let output = builder.stage(start_of, &[], 1)[0];
    (builder, output)
}

#[test]
fn what_is_given_back_is_a_bundle_at_once_and_each_is_tried_again_by_itself() {
    let (builder, output) = one_stage();
    let (mut engine, actions) = start(builder.build(), 2, BundlePolicy::DEFAULT);
    assert_eq!(run(&actions), BundleId(1));
    assert!(
        asked(&engine.step(ProcessingTime::from_millis(99), EngineEvent::Woken)).is_empty(),
        "it has just begun"
    );
    assert_eq!(asked(&engine.step(AFTER, EngineEvent::Woken)), [(BundleId(1), 0.5)]);
    assert!(
        asked(&engine.step(ProcessingTime::from_millis(9_000), EngineEvent::Woken)).is_empty(),
        "it has not answered"
    );

    let actions = engine.step(AFTER, split(&["a", "b"], &["c"]));
    assert_eq!(runs(&actions), [(1, BundleId(2), 1, vec!["c"])]);
    assert_eq!(commits(&actions), 0);
    assert!(engine.step(AFTER, answered(true)).is_empty());
    let lost = || Fault::environment("lost");
    let actions = engine.step(AFTER, failed(BundleId(1), 1, lost()));
    assert_eq!(runs(&actions), [(1, BundleId(1), 2, vec!["a", "b"])]);
    assert!(engine.step(AFTER, split(&["x"], &["y"])).is_empty(), "that attempt is over");
    let actions = engine.step(AFTER, failed(BundleId(2), 1, lost()));
    assert_eq!(runs(&actions), [(1, BundleId(2), 2, vec!["c"])]);

    let actions = engine.step(AFTER, succeeded(BundleId(2), 2, vec![(output, blocks(&["C"]))]));
    assert_eq!((commits(&actions), outcome(&actions)), (1, None), "the other one holds the watermark");
    let actions = engine.step(AFTER, succeeded(BundleId(1), 2, vec![(output, blocks(&["A"]))]));
    assert_eq!((commits(&actions), outcome(&actions).as_deref()), (1, Some("done")));
}

#[test]
fn the_rest_holds_the_watermark_when_the_bundle_is_committed() {
    let (builder, _) = one_stage();
    let (mut engine, _) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    // Nobody has asked, and nobody is free.
    assert!(runs(&engine.step(AFTER, split(&["a"], &["b"]))).is_empty());
    let actions = engine.step(AFTER, succeeded(BundleId(1), 1, Vec::new()));
    assert_eq!((runs(&actions), outcome(&actions)), (vec![(1, BundleId(2), 1, vec!["b"])], None));
    assert_eq!(outcome(&engine.step(AFTER, succeeded(BundleId(2), 1, Vec::new()))).as_deref(), Some("done"));
}

#[test]
fn who_has_nothing_to_give_is_asked_less_and_less_often() {
    let (builder, _) = one_stage();
    let (mut engine, _) = start(builder.build(), 3, BundlePolicy::DEFAULT);
    let mut at = 100;
    for wait in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        // Two are idle: it is to keep a third.
        assert_eq!(
            asked(&engine.step(ProcessingTime::from_millis(at), EngineEvent::Woken)),
            [(BundleId(1), 1.0 / 3.0)]
        );
        let actions = engine.step(ProcessingTime::from_millis(at), answered(false));
        let [EngineAction::WakeAt { at: next }] = actions[..] else { panic!("{actions:?}") };
        assert_eq!(next, ProcessingTime::from_millis(at + wait));
        at += wait;
    }
}

#[test]
fn only_what_can_be_split_is_asked_and_only_when_slots_are_free() {
    let plan = |change: fn(&mut PlanBuilder)| {
        let (mut builder, _) = one_stage();
        change(&mut builder);
        builder.build()
    };
    let cases: [(&str, Arc<ExecutionPlan>, usize, BundlePolicy, usize); 7] = [
        ("ordinary", plan(|_| {}), 2, BundlePolicy::DEFAULT, 1),
        ("no slot is free", plan(|_| {}), 1, BundlePolicy::DEFAULT, 0),
        ("one bundle for all", plan(|_| {}), 2, BundlePolicy::Whole, 0),
        ("one bundle for each", plan(|_| {}), 2, BundlePolicy::EachBlock, 0),
        ("keyed", plan(|it| it.last_stage().keyed = Some(properties::keyed())), 2, BundlePolicy::DEFAULT, 0),
        (
            "bounded restrictions",
            plan(|it| it.last_stage().restriction_reader = Some("read".to_owned())),
            2,
            BundlePolicy::DEFAULT,
            1,
        ),
        (
            "unbounded restrictions",
            plan(|it| {
                it.plan.streaming = true;
                it.last_stage().restriction_reader = Some("read".to_owned())
            }),
            2,
            BundlePolicy::DEFAULT,
            0,
        ),
    ];
    for (name, plan, slots, policy, expected) in cases {
        let (mut engine, actions) = start(plan, slots, policy);
        assert_eq!(run(&actions), BundleId(1), "{name}");
        assert_eq!(asked(&engine.step(AFTER, EngineEvent::Woken)).len(), expected, "{name}");
    }
}

#[test]
fn what_is_nearly_done_is_not_worth_a_split() {
    let cases = [
        (1_000, Some((10.0, 1.0)), Helper::Ready, true),
        (1_000, Some((10.0, 0.9)), Helper::Ready, false),
        (1_000, Some((0.0, 10.0)), Helper::Ready, false),
        (1_000, Some((10.0, 49.0)), Helper::ToBeStarted, false),
        (1_000, Some((10.0, 50.0)), Helper::ToBeStarted, true),
        (1_000, Some((10.0, -1.0)), Helper::Ready, false),
        (99, None, Helper::Ready, false),
        (100, None, Helper::Ready, true),
        (4_999, None, Helper::ToBeStarted, false),
    ];
    for (millis, progress, helper, expected) in cases {
        let elapsed = Duration::from_millis(millis);
        let is_worth = is_worth_splitting(elapsed, progress, helper);
        assert_eq!(is_worth, expected, "{millis} ms {progress:?} {helper:?}");
    }
}

#[test]
fn slots_of_another_environment_are_no_use() {
    let (mut builder, _) = one_stage();
    builder.plan.environments = vec!["one".to_owned(), "other".to_owned()];
    builder.last_stage().environment = EnvironmentIndex(1);
    let mut engine = Engine::new(builder.build(), vec![2, 1], BundlePolicy::DEFAULT);
    engine.step(NOW, EngineEvent::Started { impulse: block("impulse") });
    assert!(asked(&engine.step(AFTER, EngineEvent::Woken)).is_empty());
}
