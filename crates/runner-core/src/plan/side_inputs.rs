//! Side inputs that go on changing while they are read: when an element of the main input may look, and what
//! it then sees.
//!
//! `docs/decisions/0004-side-inputs-of-panes.md` says why.

use std::sync::Arc;

use beam_model::pipeline::{WindowingStrategy, is_bounded};
use beam_model::urns::global_windows_payload;

use super::planner::in_order;
use super::trigger::{AccumulationMode, Firing, Trigger, Unfit};
use super::{Collection, CollectionId, Node, StageSideInput};
use crate::graph::QueryablePipeline;

/// How a PCollection without an end is read as a side input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveView {
    pub ready: Ready,
    pub contents: Contents,
}

/// From when on a window of a side input may be looked at. Once the PCollection's watermark has passed the
/// window's end it always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Not before.
    AtEndOfWindow,
    /// As soon as something is in it.
    WithFirstElements,
}

/// What is seen of a window of a side input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// All that has come.
    All,
    /// Of each key, the elements of the pane with the highest index; if the elements have no keys, those of
    /// the window's.
    NewestPane,
    /// The same; but what never was in a pane is replaced by what comes after it.
    NewestFiring,
}

impl LiveView {
    pub(super) fn of(strategy: &WindowingStrategy) -> Result<Self, Unfit> {
        let Firing { trigger, accumulation_mode, .. } = Firing::of(strategy)?;
        let is_global = |urn: &str| urn == global_windows_payload::PROPERTIES;
        let global = strategy.window_fn.as_ref().is_some_and(|window_fn| is_global(&window_fn.urn));
        Ok(Self::new(&trigger, accumulation_mode, global))
    }

    fn new(trigger: &Trigger, mode: AccumulationMode, global: bool) -> Self {
        // A window with an end is waited for, if the trigger makes something of that end. The end of the
        // global window is the job's.
        let soon = trigger.may_fire_early() && (global || !trigger.has_on_time_pane());
        let ready = if soon { Ready::WithFirstElements } else { Ready::AtEndOfWindow };
        let contents = match (mode, ready) {
            (AccumulationMode::Accumulating, _) => Contents::NewestPane,
            (AccumulationMode::Discarding, Ready::WithFirstElements) => Contents::NewestFiring,
            // The panes of a window are its parts.
            (AccumulationMode::Discarding, Ready::AtEndOfWindow) => Contents::All,
        };
        Self { ready, contents }
    }
}

/// Whether a side input goes on changing while it is read.
pub(crate) fn is_live(pipeline: &QueryablePipeline, pcollection: &str) -> bool {
    let pcollection = pipeline.pcollection(pcollection);
    pcollection.is_ok_and(|pcollection| pcollection.is_bounded() == is_bounded::Enum::Unbounded)
}

/// Puts a [`Node::AwaitSideInputs`] before each stage that reads a live side input. Nodes come, and go, in order.
pub(super) fn await_live_side_inputs(mut nodes: Vec<Node>, collections: &mut Vec<Collection>) -> Vec<Node> {
    let mut awaiting = Vec::new();
    for node in &mut nodes {
        let Node::Stage(stage) = node else { continue };
        let side_inputs = distinct(&stage.side_inputs, collections);
        if side_inputs.is_empty() {
            continue;
        }
        let read = &collections[stage.input.0];
        let id = format!("{} for {}", read.id, stage.spec.name);
        let held_back = Collection { id, side_input_patterns: Vec::new(), live: None, ..read.clone() };
        collections.push(held_back);
        let output = CollectionId(collections.len() - 1);
        let input = std::mem::replace(&mut stage.input, output);
        awaiting.push(Node::AwaitSideInputs { input, output, side_inputs, name: stage.spec.name.clone() });
    }
    if awaiting.is_empty() {
        return nodes;
    }
    nodes.extend(awaiting);
    in_order(nodes, collections.len())
}

/// The live ones, each once: several transforms of a stage may read one in the same way.
fn distinct(side_inputs: &[StageSideInput], collections: &[Collection]) -> Vec<StageSideInput> {
    let mut distinct: Vec<StageSideInput> = Vec::new();
    for side in side_inputs.iter().filter(|side| collections[side.collection.0].live.is_some()) {
        let known = distinct.iter().any(|known| {
            known.collection == side.collection
                && match (&known.map_windows, &side.map_windows) {
                    (Some(known), Some(map)) => Arc::ptr_eq(known, map),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
        });
        if !known {
            distinct.push(side.clone());
        }
    }
    distinct
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCUMULATING: AccumulationMode = AccumulationMode::Accumulating;
    const DISCARDING: AccumulationMode = AccumulationMode::Discarding;

    fn after_watermark(early: Option<Trigger>) -> Trigger {
        Trigger::AfterEndOfWindow { early: early.map(Box::new), late: None }
    }

    fn view(trigger: &Trigger, mode: AccumulationMode, global: bool) -> (Ready, Contents) {
        let LiveView { ready, contents } = LiveView::new(trigger, mode, global);
        (ready, contents)
    }

    #[test]
    fn what_has_an_end_is_waited_for() {
        let end = Ready::AtEndOfWindow;
        for global in [true, false] {
            assert_eq!(view(&Trigger::Default, DISCARDING, global), (end, Contents::All));
            assert_eq!(view(&after_watermark(None), ACCUMULATING, global), (end, Contents::NewestPane));
            assert_eq!(view(&Trigger::Never, DISCARDING, global), (end, Contents::All));
        }
        let early = after_watermark(Some(Trigger::ElementCount(1)));
        assert_eq!(view(&early, DISCARDING, false), (end, Contents::All));
        assert_eq!(view(&early, DISCARDING, true), (Ready::WithFirstElements, Contents::NewestFiring));
    }

    #[test]
    fn what_fires_again_and_again_is_looked_at_as_it_is() {
        let soon = Ready::WithFirstElements;
        let trigger = Trigger::Repeat(Box::new(Trigger::AfterProcessingTime(Vec::new())));
        for global in [true, false] {
            assert_eq!(view(&trigger, DISCARDING, global), (soon, Contents::NewestFiring));
            assert_eq!(view(&trigger, ACCUMULATING, global), (soon, Contents::NewestPane));
        }
        let both = vec![Trigger::Default, Trigger::ElementCount(1)];
        assert_eq!(view(&Trigger::AfterAll(both.clone()), DISCARDING, true).0, Ready::AtEndOfWindow);
        assert_eq!(view(&Trigger::AfterAny(both), DISCARDING, true).0, soon);
    }
}
