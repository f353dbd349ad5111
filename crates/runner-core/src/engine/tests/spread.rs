//! How what waits is shared out to workers that have nothing to do.

use super::*;

/// How many blocks each bundle has that is to be run.
fn sizes(actions: &[EngineAction<&'static str>]) -> Vec<usize> {
    runs(actions).iter().map(|(.., data)| data.len()).collect()
}

/// A stage that makes seven blocks of so many bytes, and after it, with a Reshuffle between them or not, one that
/// reads them.
fn after_seven(bytes: u64, reshuffled: bool, slots: usize, policy: BundlePolicy) -> Vec<usize> {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    let read = if reshuffled { builder.redistribute(made) } else { made };
    builder.stage(read, &[], 0);
    let (mut engine, actions) = start(builder.build(), slots, policy);
    let seven = vec![Block { bytes, ..block("element") }; 7];
    sizes(&engine.step(NOW, succeeded(run(&actions), 1, vec![(made, seven)])))
}

#[test]
fn a_little_is_spread_after_a_reshuffle_only() {
    let default = BundlePolicy::DEFAULT;
    assert_eq!(after_seven(10, false, 3, default), [7]);
    assert_eq!(after_seven(10, true, 3, default), [3, 2, 2]);
    assert_eq!(after_seven(10, true, 9, default), [1; 7]);
    assert_eq!(after_seven(10, true, 1, default), [7]);
    assert_eq!(after_seven(10, true, 3, BundlePolicy::Whole), [7]);
    // Much is spread by its bytes, whatever it comes from.
    let much = after_seven(SMALL, false, 2, default);
    assert_eq!(after_seven(SMALL, true, 2, default), much);
    assert_eq!(much[0], 4);
}

/// Gives out blocks of a GroupByKey that has more to come.
fn given_out(count: usize, bytes: u64) -> EngineEvent<&'static str> {
    let blocks = vec![Block { bytes, ..block("group") }; count];
    EngineEvent::Collected { node: NodeId(2), blocks, done: None }
}

#[test]
fn a_worker_with_nothing_to_do_does_not_wait_for_a_full_bundle() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    let groups = builder.group(made);
    builder.stage(groups, &[], 0);
    let (mut engine, actions) = start(builder.build(), 2, BundlePolicy::Bytes(8 << 20));
    let more = engine.step(NOW, succeeded(run(&actions), 1, vec![(made, blocks(&["a"]))]));
    assert!(more.iter().any(|action| matches!(action, EngineAction::Collect { .. })));
    let mut give = |count, bytes| sizes(&engine.step(NOW, given_out(count, bytes)));
    assert_eq!(give(1, 900 << 10), [0; 0], "not worth a bundle yet");
    assert_eq!(give(1, 200 << 10), [2]);
    assert_eq!(give(40, 1 << 20), [8], "a full one");
    assert_eq!(give(1, 8 << 20), [0; 0], "nobody is idle");
}

#[test]
fn what_has_state_waits_for_more_of_its_keys() {
    let mut builder = PlanBuilder::new();
    let from = builder.impulse();
    let made = builder.stage(from, &[], 1)[0];
    let groups = builder.group(made);
    builder.stage(groups, &[], 0);
    builder.last_stage().keyed = Some(keyed::keyed());
    let (mut engine, actions) = start(builder.build(), 2, BundlePolicy::Bytes(8 << 20));
    engine.step(NOW, succeeded(run(&actions), 1, vec![(made, blocks(&["a"]))]));
    assert_eq!(sizes(&engine.step(NOW, given_out(3, 2 << 20))), [0; 0]);
    assert_eq!(sizes(&engine.step(NOW, given_out(1, 2 << 20))), [4]);
}
