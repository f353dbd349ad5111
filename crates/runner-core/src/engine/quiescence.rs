//! "Why is nothing moving", as a value.

use super::Engine;
use crate::plan::Node;

impl<B: Clone> Engine<B> {
    /// If nothing is under way that could bring another event, though the job is not at its end: which
    /// stages wait, and for what.
    pub(super) fn stuck(&self) -> Option<String> {
        let under_way = self.bundles.len() > 0
            || !self.delayed.is_empty()
            || !self.grouping.is_empty()
            || self.side_input_under_way();
        if under_way {
            return None;
        }
        let waits = self.stages.iter().filter(|(_, stage)| !stage.complete).map(|(id, stage)| {
            let name = match &self.plan.nodes[id.0] {
                Node::Stage(stage) => stage.spec.name.as_str(),
                _ => "",
            };
            let wait = if stage.side_inputs_missing > 0 {
                format!("waits for {} side inputs", stage.side_inputs_missing)
            } else if !stage.input_complete {
                "waits for more input".to_owned()
            } else {
                format!("has {} blocks and no free worker", stage.waiting())
            };
            format!("{name} {wait}")
        });
        Some(format!(
            "the job cannot go on, which is a fault of Beamline's: {}",
            waits.collect::<Vec<_>>().join("; ")
        ))
    }

    /// Whether a sealed side input has not been announced yet. Each stage that misses one counts down
    /// when it is, so a stage that misses fewer than are still incomplete has one on its way.
    fn side_input_under_way(&self) -> bool {
        self.stages.iter().any(|(id, state)| {
            let Node::Stage(stage) = &self.plan.nodes[id.0] else { return false };
            let mut side: Vec<_> = stage.side_inputs.iter().map(|side| side.collection).collect();
            side.sort();
            side.dedup();
            let incomplete = side.iter().filter(|collection| !self.complete[collection.0]).count();
            state.side_inputs_missing > incomplete
        })
    }
}
