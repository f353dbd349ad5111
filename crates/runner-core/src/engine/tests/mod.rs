//! The engine as a pure step, event by event.

mod keyed;
mod live_side_inputs;
mod merging_timers;
mod properties;
mod simulation;
mod splits;
mod spread;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::plan::testing::PlanBuilder;

const NOW: ProcessingTime = ProcessingTime::from_millis(0);

type Names = Engine<&'static str>;

fn block(data: &'static str) -> Block<&'static str> {
    Block { data, bytes: data.len() as u64, partition: Partition(0), hold: EventTime::MIN, truncated: false }
}

fn blocks(data: &[&'static str]) -> Vec<Block<&'static str>> {
    data.iter().copied().map(block).collect()
}

/// An engine that has been told to start, and what it wants to do first.
fn start(
    plan: Arc<ExecutionPlan>,
    slots: usize,
    policy: BundlePolicy,
) -> (Names, Vec<EngineAction<&'static str>>) {
    let mut engine = Engine::new(plan, vec![slots], policy);
    let actions = engine.step(NOW, EngineEvent::Started { impulse: block("impulse") });
    (engine, actions)
}

fn succeeded(
    bundle: BundleId,
    attempt: u32,
    outputs: Vec<(CollectionId, Vec<Block<&'static str>>)>,
) -> EngineEvent<&'static str> {
    EngineEvent::BundleSucceeded {
        bundle,
        attempt: Attempt(attempt),
        outputs,
        residuals: Vec::new(),
        timers: Vec::new(),
    }
}

fn failed(bundle: BundleId, attempt: u32, fault: Fault) -> EngineEvent<&'static str> {
    EngineEvent::BundleFailed { bundle, attempt: Attempt(attempt), fault }
}

/// The bundles that are to be run: node, id, attempt and data of each.
fn runs(actions: &[EngineAction<&'static str>]) -> Vec<(usize, BundleId, u32, Vec<&'static str>)> {
    let run = |action: &EngineAction<&'static str>| match action {
        EngineAction::Run { node, bundle, attempt, blocks, .. } => {
            Some((node.0, *bundle, attempt.0, blocks.iter().map(|block| block.data).collect()))
        }
        _ => None,
    };
    actions.iter().filter_map(run).collect()
}

/// The one bundle that is to be run.
#[track_caller]
fn run(actions: &[EngineAction<&'static str>]) -> BundleId {
    let runs = runs(actions);
    assert_eq!(runs.len(), 1, "{actions:?}");
    runs[0].1
}

fn commits(actions: &[EngineAction<&'static str>]) -> usize {
    actions.iter().filter(|action| matches!(action, EngineAction::Commit { .. })).count()
}

fn outcome(actions: &[EngineAction<&'static str>]) -> Option<String> {
    match actions.last() {
        Some(EngineAction::End(outcome)) => Some(match outcome {
            Outcome::Done => "done".to_owned(),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Drained => "drained".to_owned(),
            Outcome::Failed(fault) => fault.message.clone(),
        }),
        _ => None,
    }
}

#[test]
fn a_chain_runs_in_order_and_ends() {
    let mut builder = PlanBuilder::new();
    let start_of = builder.impulse();
    let first = builder.stage(start_of, &[], 1)[0];
    builder.stage(first, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    assert_eq!(runs(&actions), [(1, BundleId(1), 1, vec!["impulse"])]);
    let actions = engine.step(NOW, succeeded(BundleId(1), 1, vec![(first, blocks(&["a", "b"]))]));
    assert!(matches!(actions[0], EngineAction::Commit { bundle: BundleId(1), attempt: Attempt(1) }));
    assert_eq!(runs(&actions), [(2, BundleId(2), 1, vec!["a", "b"])]);
    let actions = engine.step(NOW, succeeded(BundleId(2), 1, Vec::new()));
    assert_eq!(outcome(&actions).as_deref(), Some("done"));
    assert_eq!(engine.bundles_in_flight(), 0);
    assert!(engine.step(NOW, EngineEvent::CancelRequested).is_empty(), "nothing follows the end");
}

#[test]
fn a_pipeline_of_nothing_is_done_at_once() {
    let (_, actions) = start(PlanBuilder::new().build(), 1, BundlePolicy::DEFAULT);
    assert_eq!(outcome(&actions).as_deref(), Some("done"));
}

#[test]
fn a_stage_without_input_completes_its_readers() {
    let mut builder = PlanBuilder::new();
    let nothing = builder.flatten(&[]);
    let first = builder.stage(nothing, &[], 1)[0];
    builder.group(first);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    assert!(
        matches!(actions[..], [EngineAction::Advance { node: NodeId(2), watermark: EventTime::MAX, .. }]),
        "{actions:?}"
    );
    assert_eq!(outcome(&engine.step(NOW, collected(&[], true))).as_deref(), Some("done"));
}

#[test]
fn groups_come_after_all_input_and_are_taken_once() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let pairs = builder.stage(from, &[], 1)[0];
    let groups = builder.group(pairs);
    builder.stage(groups, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::EachBlock);
    assert!(engine.step(NOW, collected(&["early"], true)).is_empty(), "groups nobody asked for");
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(pairs, blocks(&["kv"]))]));
    let [
        _,
        EngineAction::Collect { node: NodeId(2), .. },
        EngineAction::Advance { node: NodeId(2), watermark: EventTime::MAX, .. },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert!(engine.step(NOW, collected(&[], true)).is_empty(), "it has taken the elements in");
    let actions = engine.step(NOW, collected(&["g1"], false));
    let bundle = run(&actions);
    assert!(runs(&engine.step(NOW, collected(&["g2"], true))).is_empty(), "the only slot is taken");
    assert!(engine.step(NOW, collected(&["g3"], true)).is_empty(), "there is nothing after the last");
    let actions = engine.step(NOW, succeeded(bundle, 1, Vec::new()));
    assert_eq!(runs(&actions)[0].3, ["g2"]);
    assert_eq!(outcome(&engine.step(NOW, succeeded(run(&actions), 1, Vec::new()))).as_deref(), Some("done"));
}

/// What a GroupByKey that is node 2 gives out.
fn collected(data: &[&'static str], done: bool) -> EngineEvent<&'static str> {
    let done = done.then_some(Collected { hold: EventTime::MAX, wake: None });
    EngineEvent::Collected { node: NodeId(2), blocks: blocks(data), done }
}

#[test]
fn side_inputs_are_waited_for() {
    let mut builder = PlanBuilder::new();
    let (side, main) = (builder.impulse(), builder.impulse());
    builder.stage(main, &[side], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    let [EngineAction::AddToSideInput { blocks, .. }, EngineAction::SealSideInput { collection }] =
        &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!((blocks[0].data, *collection), ("impulse", side));
    let actions = engine.step(NOW, EngineEvent::SideInputReady { collection: side });
    assert_eq!(runs(&actions)[0].3, ["impulse"]);
    assert_eq!(outcome(&engine.step(NOW, succeeded(run(&actions), 1, Vec::new()))).as_deref(), Some("done"));
}

#[test]
fn a_flatten_of_one_collection_twice_has_its_elements_twice() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let both = builder.flatten(&[from, from]);
    builder.stage(both, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::Whole);
    assert_eq!(runs(&actions)[0].3, ["impulse", "impulse"]);
    assert_eq!(outcome(&engine.step(NOW, succeeded(run(&actions), 1, Vec::new()))).as_deref(), Some("done"));
}

/// A stage alone, after an Impulse.
fn one_stage() -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    builder.stage(from, &[], 1);
    builder.build()
}

#[test]
fn residuals_run_again_now_or_later() {
    let (mut engine, actions) = start(one_stage(), 1, BundlePolicy::DEFAULT);
    let left = |data, after| EngineEvent::BundleSucceeded {
        bundle: BundleId(data),
        attempt: Attempt(1),
        outputs: Vec::new(),
        residuals: vec![(block("rest"), after)],
        timers: Vec::new(),
    };
    assert_eq!(run(&actions), BundleId(1));
    let actions = engine.step(NOW, left(1, Duration::ZERO));
    assert_eq!(runs(&actions), [(1, BundleId(2), 1, vec!["rest"])]);
    let actions = engine.step(NOW, left(2, Duration::from_secs(5)));
    let [EngineAction::Commit { .. }, EngineAction::WakeAt { at }] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(at, ProcessingTime::from_millis(5_000));
    let early = engine.step(ProcessingTime::from_millis(4_999), EngineEvent::Woken);
    assert!(
        matches!(early[..], [EngineAction::WakeAt { at }] if at == ProcessingTime::from_millis(5_000)),
        "{early:?}"
    );
    let actions = engine.step(at, EngineEvent::Woken);
    assert_eq!(runs(&actions), [(1, BundleId(3), 1, vec!["rest"])]);
    assert!(engine.step(at, EngineEvent::Woken).is_empty(), "the same call again");
    assert_eq!(outcome(&engine.step(at, succeeded(BundleId(3), 1, Vec::new()))).as_deref(), Some("done"));
}

#[test]
fn a_bundle_is_tried_so_often_and_no_more() {
    let (mut engine, actions) = start(one_stage(), 1, BundlePolicy::DEFAULT);
    let bundle = run(&actions);
    for attempt in 1..MAX_ATTEMPTS {
        let actions = engine.step(NOW, failed(bundle, attempt, Fault::user("boom")));
        assert_eq!(runs(&actions), [(1, bundle, attempt + 1, vec!["impulse"])]);
    }
    let actions = engine.step(NOW, failed(bundle, MAX_ATTEMPTS, Fault::user("the last boom")));
    assert_eq!(outcome(&actions).as_deref(), Some("the last boom"));
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    let (mut engine, actions) = start(one_stage(), 1, BundlePolicy::DEFAULT);
    let actions = engine.step(NOW, failed(run(&actions), 1, Fault::user("never").fatal()));
    assert_eq!(outcome(&actions).as_deref(), Some("never"));
}

#[test]
fn replies_of_old_attempts_change_nothing() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    builder.stage(made, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    let bundle = run(&actions);
    engine.step(NOW, failed(bundle, 1, Fault::environment("worker gone")));
    assert!(engine.step(NOW, succeeded(bundle, 1, vec![(made, blocks(&["late"]))])).is_empty());
    assert!(engine.step(NOW, failed(bundle, 1, Fault::user("late").fatal())).is_empty());
    assert!(engine.step(NOW, failed(BundleId(99), 1, Fault::user("whose?").fatal())).is_empty());
    let actions = engine.step(NOW, succeeded(bundle, 2, vec![(made, blocks(&["good"]))]));
    assert_eq!(commits(&actions), 1);
    assert_eq!(runs(&actions)[0].3, ["good"]);
    assert!(engine.step(NOW, succeeded(bundle, 2, vec![(made, blocks(&["again"]))])).is_empty());
    assert_eq!(outcome(&engine.step(NOW, succeeded(run(&actions), 1, Vec::new()))).as_deref(), Some("done"));
}

#[test]
fn cancelling_and_failing_end_the_job() {
    let (mut engine, _) = start(one_stage(), 1, BundlePolicy::DEFAULT);
    assert_eq!(outcome(&engine.step(NOW, EngineEvent::CancelRequested)).as_deref(), Some("cancelled"));
    let (mut engine, _) = start(one_stage(), 1, BundlePolicy::DEFAULT);
    let actions = engine.step(NOW, EngineEvent::Failed(Fault::runner("grouping broke")));
    assert_eq!(outcome(&actions).as_deref(), Some("grouping broke"));
}

#[test]
fn a_job_that_cannot_go_on_says_who_waits_for_what() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    // A side input of itself: what fusion never makes.
    builder.last_stage().side_inputs.push(crate::plan::StageSideInput {
        transform: "transform".to_owned(),
        tag: "side".to_owned(),
        collection: made,
        pattern: crate::plan::AccessPattern::Iterable,
        map_windows: None,
    });
    let (_, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    let message = outcome(&actions).unwrap();
    assert!(message.contains("stage 1 waits for 1 side inputs"), "{message}");
}

/// Three blocks before a stage, of 300 kB each.
fn after_three_blocks(policy: BundlePolicy, slots: usize) -> (Names, CollectionId, Vec<usize>) {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    builder.stage(made, &[], 0);
    let (mut engine, actions) = start(builder.build(), slots, policy);
    let large = |data| Block {
        data,
        bytes: 300 << 10,
        partition: Partition(0),
        hold: EventTime::MIN,
        truncated: false,
    };
    let three = vec![large("a"), large("b"), large("c")];
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(made, three)]));
    let sizes = runs(&actions).iter().map(|(.., data)| data.len()).collect();
    (engine, made, sizes)
}

#[test]
fn policies_cut_bundles_and_slots_bound_them() {
    assert_eq!(after_three_blocks(BundlePolicy::EachBlock, 4).2, [1, 1, 1]);
    assert_eq!(after_three_blocks(BundlePolicy::EachBlock, 2).2, [1, 1]);
    assert_eq!(after_three_blocks(BundlePolicy::Whole, 4).2, [3]);
    assert_eq!(after_three_blocks(BundlePolicy::DEFAULT, 1).2, [3]);
    assert_eq!(after_three_blocks(BundlePolicy::DEFAULT, 3).2, [1, 1, 1]);
    assert_eq!(after_three_blocks(BundlePolicy::Bytes(500 << 10), 3).2, [2, 1]);
    assert_eq!(after_three_blocks(BundlePolicy::Bytes(0), 9).2, [1, 1, 1]);
}

/// A stage that reads restrictions of 100 MB, and after it one that takes in what it reads.
#[test]
fn reading_waits_for_what_comes_after_it_and_not_for_itself() {
    let mut builder = PlanBuilder::new();
    builder.plan.streaming = true;
    let from = builder.impulse();
    let restrictions = builder.stage(from, &[], 1)[0];
    let read = builder.stage(restrictions, &[], 1)[0];
    builder.last_stage().restriction_reader = Some("transform".to_owned());
    builder.stage(read, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::EachBlock);
    let large = |data| Block { bytes: 100 << 20, ..block(data) };
    let two = vec![large("one"), large("other")];
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(restrictions, two)]));
    assert_eq!(runs(&actions)[0].3, ["one"]);
    let made = vec![large("a"), large("b")];
    let actions = engine.step(NOW, succeeded(run(&actions), 1, vec![(read, made)]));
    assert_eq!(runs(&actions)[0].3, ["a"], "the other restriction waits for b");
    let actions = engine.step(NOW, succeeded(run(&actions), 1, Vec::new()));
    let both: Vec<_> = runs(&actions).into_iter().flat_map(|run| run.3).collect();
    assert_eq!(both, ["b", "other"]);
}

/// Nothing bounds how many Flattens, or stages without input, follow one another.
#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let mut builder = PlanBuilder::new();
    let mut last = builder.impulse();
    for _ in 0..100_000 {
        last = builder.redistribute(last);
    }
    let nothing = builder.flatten(&[]);
    let mut empty = nothing;
    for _ in 0..10_000 {
        empty = builder.stage(empty, &[], 1)[0];
    }
    builder.stage(last, &[], 0);
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    assert_eq!(outcome(&engine.step(NOW, succeeded(run(&actions), 1, Vec::new()))).as_deref(), Some("done"));
}
