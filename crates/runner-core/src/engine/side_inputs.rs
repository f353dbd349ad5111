//! Side inputs: given their elements as these come, and asked for when they are complete.

use beam_model::time::EventTime;

use super::{Engine, EngineAction};
use crate::plan::CollectionId;

impl<B: Clone> Engine<B> {
    pub(super) fn side_input_advanced(&mut self, collection: CollectionId, watermark: EventTime) {
        if watermark == EventTime::MAX {
            self.sealed_side_inputs.insert(collection);
            self.actions.push(EngineAction::SealSideInput { collection });
        }
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
}
