//! Side inputs. One that ends is given its elements as these come, and asked for when it is complete. One
//! that goes on changing is told of its watermark too, and whatever waits for it looks again after each change.

use beam_model::time::EventTime;

use super::{Block, Engine, EngineAction};
use crate::plan::{CollectionId, Node, StageSideInput};

impl<B: Clone> Engine<B> {
    pub(super) fn add_to_side_input(&mut self, collection: CollectionId, blocks: Vec<Block<B>>) {
        if self.is_live(collection) {
            *self.side_input_updates.entry(collection).or_default() += 1;
        }
        self.actions.push(EngineAction::AddToSideInput { collection, blocks });
    }

    pub(super) fn side_input_advanced(&mut self, collection: CollectionId, watermark: EventTime) {
        if self.is_live(collection) {
            *self.side_input_updates.entry(collection).or_default() += 1;
            self.actions.push(EngineAction::AdvanceSideInput { collection, watermark });
        } else if watermark == EventTime::MAX {
            self.sealed_side_inputs.insert(collection);
            self.actions.push(EngineAction::SealSideInput { collection });
        }
    }

    fn is_live(&self, collection: CollectionId) -> bool {
        self.plan.collections[collection.0].live.is_some()
    }

    /// A side input has all its elements and can be asked.
    pub(super) fn side_input_ready(&mut self, collection: CollectionId) {
        if !self.sealed_side_inputs.remove(&collection) {
            return;
        }
        for reader in self.side_readers[collection.0].clone() {
            if let Some(stage) = self.stages.get_mut(&reader) {
                stage.side_inputs_missing = stage.side_inputs_missing.saturating_sub(1);
            }
        }
    }

    /// A side input that goes on changing has taken in the oldest change that it was told of.
    pub(super) fn side_input_updated(&mut self, collection: CollectionId) {
        // What comes without having been asked for changes nothing.
        let Some(updates) = self.side_input_updates.get_mut(&collection) else { return };
        *updates -= 1;
        if *updates == 0 {
            self.side_input_updates.remove(&collection);
        }
        for reader in self.side_readers[collection.0].clone() {
            if self.collectors.get(&reader).is_some_and(|collector| collector.has_elements()) {
                self.poke_collector(reader);
            }
        }
    }
}

/// The side inputs that a node is to be told of: a stage waits for what ends, what stands before it for the rest.
pub(super) fn side_inputs_of(node: &Node, is_live: impl Fn(CollectionId) -> bool) -> Vec<CollectionId> {
    let distinct = |side_inputs: &[StageSideInput], live: bool| {
        let all = side_inputs.iter().map(|side| side.collection);
        let mut wanted: Vec<_> = all.filter(|collection| is_live(*collection) == live).collect();
        wanted.sort();
        wanted.dedup();
        wanted
    };
    match node {
        Node::Stage(stage) => distinct(&stage.side_inputs, false),
        Node::AwaitSideInputs { side_inputs, .. } => distinct(side_inputs, true),
        Node::Impulse { .. }
        | Node::TestStream(_)
        | Node::GroupByKey { .. }
        | Node::Flatten { .. }
        | Node::Redistribute { .. } => Vec::new(),
    }
}
