//! How far each collection is in event time, and what follows when one goes on.
//!
//! A collection's watermark says that no element before it is to be expected any more; at
//! [`EventTime::MAX`] the collection is complete. Watermarks never go back. On bounded input, whose blocks do
//! not say their event times, they go from [`EventTime::MIN`] to [`EventTime::MAX`] in one step.

use beam_model::time::EventTime;

use super::{Engine, EngineAction};
use crate::plan::{CollectionId, Node, NodeId};

impl<B: Clone> Engine<B> {
    pub(super) fn watermark(&self, collection: CollectionId) -> EventTime {
        self.watermarks[collection.0]
    }

    /// Works off everything that has changed, producers before consumers.
    pub(super) fn settle(&mut self) {
        while let Some(node) = self.changed.pop_first() {
            self.settle_node(node);
        }
    }

    fn settle_node(&mut self, id: NodeId) {
        let plan = self.plan.clone();
        let node = &plan.nodes[id.0];
        match node {
            Node::Impulse { output } => self.set_watermark(*output, EventTime::MAX),
            // Says itself how far it is.
            Node::TestStream(_) => {}
            Node::Flatten { inputs, output } => {
                let least = inputs.iter().map(|input| self.watermark(*input)).min();
                // A Flatten of nothing is complete from the first.
                self.set_watermark(*output, least.unwrap_or(EventTime::MAX));
            }
            Node::Redistribute { input, output } => self.set_watermark(*output, self.watermark(*input)),
            Node::GroupByKey { input, output, .. } | Node::AwaitSideInputs { input, output, .. } => {
                self.advance_collector(id, self.watermark(*input));
                if let Some(reached) = self.collectors.get_mut(&id).map(|collector| collector.output()) {
                    self.set_watermark(*output, reached);
                }
            }
            Node::Stage(stage) => self.settle_stage(id, stage.input, &node.outputs()),
        }
    }

    fn settle_stage(&mut self, id: NodeId, input: CollectionId, outputs: &[CollectionId]) {
        let input = self.watermark(input);
        let Some(stage) = self.stages.get_mut(&id) else { return };
        let reached = stage.advance(input);
        let next_wake = stage.next_wake(self.clock.now());
        // On bounded input a window is over when the job is.
        if self.plan.streaming
            && let Some(watermark) = stage.newly_expired()
        {
            self.actions.push(EngineAction::Expire { node: id, watermark });
        }
        self.clock.node_waits(id, next_wake);
        for output in outputs {
            self.set_watermark(*output, reached);
        }
    }

    pub(super) fn set_watermark(&mut self, collection: CollectionId, watermark: EventTime) {
        if watermark <= self.watermark(collection) {
            return;
        }
        self.watermarks[collection.0] = watermark;
        if !self.side_readers[collection.0].is_empty() {
            self.side_input_advanced(collection, watermark);
        }
        self.changed.extend(self.readers[collection.0].iter().copied());
    }
}
