//! Side inputs that go on changing while they are read.

use super::*;
use crate::plan::{Contents, LiveView, Ready};

const VIEW: LiveView = LiveView { ready: Ready::WithFirstElements, contents: Contents::NewestPane };
/// What the plan below is ordered to.
const SIDE: NodeId = NodeId(2);
const AWAIT: NodeId = NodeId(3);
const READER: usize = 4;

/// An Impulse that a stage reads, with what another stage makes as its side input.
fn begun() -> (Names, CollectionId, BundleId) {
    let mut builder = PlanBuilder::new();
    let source = builder.impulse();
    let side = builder.stage(source, &[], 1)[0];
    let main = builder.impulse();
    builder.stage(main, &[side], 0);
    builder.live(side, VIEW);
    let plan = builder.build();
    assert!(matches!(plan.nodes[AWAIT.0], Node::AwaitSideInputs { .. }), "{:?}", plan.nodes);
    let (engine, actions) = start(plan, 2, BundlePolicy::DEFAULT);
    let [
        EngineAction::Collect { node: AWAIT, blocks: held_back, .. },
        EngineAction::Advance { node: AWAIT, watermark: EventTime::MAX, .. },
        EngineAction::Run { node: SIDE, bundle, .. },
        EngineAction::WakeAt { .. },
    ] = &actions[..]
    else {
        panic!("{actions:?}");
    };
    assert_eq!(held_back[0].data, "impulse");
    let bundle = *bundle;
    (engine, side, bundle)
}

fn answer(data: &[&'static str], hold: EventTime) -> EngineEvent<&'static str> {
    let done = Some(Collected { hold, wake: None });
    EngineEvent::Collected { node: AWAIT, blocks: blocks(data), done }
}

#[test]
fn what_waits_is_looked_at_again_after_each_change() {
    let (mut engine, side, bundle) = begun();
    let early = engine.step(NOW, EngineEvent::SideInputUpdated { collection: side });
    assert!(early.is_empty(), "nobody has asked for that");
    for _ in 0..2 {
        assert!(engine.step(NOW, answer(&[], EventTime(5))).is_empty(), "its element waits");
    }
    // The bundle goes on: its side input is not complete, and yet it is looked at.
    let actions = engine.step(
        NOW,
        EngineEvent::BundleSucceeded {
            bundle,
            attempt: Attempt(1),
            outputs: vec![(side, blocks(&["pane"]))],
            residuals: vec![(block("rest"), Duration::ZERO)],
            timers: Vec::new(),
        },
    );
    let [_, EngineAction::AddToSideInput { .. }, EngineAction::Run { bundle, node: SIDE, .. }] = actions[..]
    else {
        panic!("{actions:?}");
    };
    let actions = engine.step(NOW, EngineEvent::SideInputUpdated { collection: side });
    assert!(matches!(actions[..], [EngineAction::Advance { node: AWAIT, .. }]), "{actions:?}");
    let actions = engine.step(NOW, answer(&["impulse"], EventTime::MAX));
    let [(READER, reading, 1, ref read)] = runs(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(read, &["impulse"]);
    engine.step(NOW, succeeded(reading, 1, Vec::new()));

    let actions = engine.step(NOW, succeeded(bundle, 1, vec![(side, blocks(&["newer"]))]));
    let [_, EngineAction::AddToSideInput { .. }, EngineAction::AdvanceSideInput { .. }, EngineAction::End(_)] =
        &actions[..]
    else {
        panic!("nothing waits any more: {actions:?}");
    };
    assert_eq!(outcome(&actions).as_deref(), Some("done"));
}

#[test]
fn a_change_that_is_not_taken_in_is_under_way() {
    let (mut engine, side, bundle) = begun();
    for _ in 0..2 {
        engine.step(NOW, answer(&[], EventTime(5)));
    }
    engine.step(NOW, succeeded(bundle, 1, vec![(side, blocks(&["pane"]))]));
    assert!(!engine.is_quiescent(), "neither the elements nor the watermark have been taken in");
    engine.step(NOW, EngineEvent::SideInputUpdated { collection: side });
    engine.step(NOW, answer(&[], EventTime(5)));
    assert!(!engine.is_quiescent());
    engine.step(NOW, EngineEvent::SideInputUpdated { collection: side });
    // It never lets its element go, though nothing is to come any more.
    engine.step(NOW, answer(&[], EventTime(5)));
    // The last thing under way: the bundle was to be looked at again after a while.
    let message = outcome(&engine.step(NOW, EngineEvent::Woken)).unwrap();
    assert!(message.contains("has elements whose windows of side inputs are not ready"), "{message}");
}

#[test]
fn what_ends_is_waited_for_as_ever() {
    let mut builder = PlanBuilder::new();
    let (side, main) = (builder.impulse(), builder.impulse());
    builder.stage(main, &[side], 0);
    builder.plan.streaming = true;
    let (mut engine, actions) = start(builder.build(), 1, BundlePolicy::DEFAULT);
    let [EngineAction::AddToSideInput { .. }, EngineAction::SealSideInput { .. }] = actions[..] else {
        panic!("{actions:?}");
    };
    let actions = engine.step(NOW, EngineEvent::SideInputReady { collection: side });
    assert_eq!(runs(&actions)[0].3, ["impulse"]);
}
