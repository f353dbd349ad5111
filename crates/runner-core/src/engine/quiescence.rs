//! "Why is nothing moving", as a value.

use super::{Engine, EngineAction};
use crate::plan::Node;

impl<B: Clone> Engine<B> {
    /// Whether nothing is under way but what waits for its time.
    pub(super) fn is_quiescent(&self) -> bool {
        self.bundles.len() == 0
            && self.sealed_side_inputs.is_empty()
            && self.side_input_updates.is_empty()
            && self.collectors.values().all(|collector| collector.is_idle())
    }

    /// A TestStream's next event comes when all that followed from the last is done.
    pub(super) fn go_on_with_test_stream(&mut self) {
        let quiescent = self.is_quiescent();
        if let Some(test_stream) = &mut self.test_stream
            && !test_stream.asked
            && !test_stream.over
            && quiescent
        {
            test_stream.asked = true;
            self.actions.push(EngineAction::NextTestStreamEvent);
        }
    }

    /// If nothing is under way that could bring another event, though the job is not at its end: which
    /// stages wait, and for what.
    pub(super) fn stuck(&self) -> Option<String> {
        let test_stream_goes_on = self.test_stream.as_ref().is_some_and(|test_stream| test_stream.asked);
        if !self.is_quiescent() || self.clock.wakes() || test_stream_goes_on {
            return None;
        }
        let waits = self.stages.iter().filter(|(_, stage)| !stage.is_complete()).map(|(id, stage)| {
            let (name, input) = match &self.plan.nodes[id.0] {
                Node::Stage(stage) => (stage.spec.name.as_str(), self.watermark(stage.input)),
                _ => ("", stage.watermark()),
            };
            let wait = if stage.side_inputs_missing > 0 {
                format!("waits for {} side inputs", stage.side_inputs_missing)
            } else if !stage.input_complete() {
                format!("waits for more input, whose watermark is {input}")
            } else if stage.waiting() > 0 {
                format!("has {} blocks and no free worker", stage.waiting())
            } else {
                format!("has timers, and its watermark is {}", stage.watermark())
            };
            format!("{name} {wait}")
        });
        let held_back = self.collectors.iter().filter(|(_, collector)| collector.holds_back());
        let held_back = held_back.filter_map(|(id, _)| {
            let Node::AwaitSideInputs { name, .. } = &self.plan.nodes[id.0] else { return None };
            Some(format!("{name} has elements whose windows of side inputs are not ready"))
        });
        let waits = waits.chain(held_back);
        Some(format!(
            "the job cannot go on, which is a fault of Beamline's: {}",
            waits.collect::<Vec<_>>().join("; ")
        ))
    }
}
