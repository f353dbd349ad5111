//! Which stages' counts of a PCollection are to be believed.
//!
//! A worker reports element counts and sizes (`beam:metric:element_count:v1`,
//! `beam:metric:sampled_byte_size:v1`) of each PCollection of a bundle: of the one it reads as well as
//! of those it makes. Added up, a PCollection that goes from stage to stage would count for each.

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::monitoring_info::monitoring_info_labels::PCOLLECTION;

use super::{Collection, CollectionId, Node, Stage};

impl Stage {
    /// Whether a report of one of this stage's bundles counts: not if it is of the stage's input, which
    /// others count.
    pub fn counts(&self, info: &MonitoringInfo) -> bool {
        let counted = self.counted_elsewhere.as_ref();
        counted.is_none_or(|input| info.labels.get(PCOLLECTION) != Some(input))
    }
}

/// Has each PCollection counted where workers make it or, if the runner makes it, where it is read first.
pub(super) fn count_once(nodes: &mut [Node], collections: &[Collection]) {
    let made: Vec<CollectionId> = nodes.iter().filter_map(stage_of).flat_map(sinks).collect();
    let mut counted: HashSet<CollectionId> = made.into_iter().collect();
    for node in nodes {
        if let Node::Stage(stage) = node
            && !counted.insert(stage.input)
        {
            stage.counted_elsewhere = collections.get(stage.input.0).map(|input| input.id.clone());
        }
    }
}

fn stage_of(node: &Node) -> Option<&Stage> {
    if let Node::Stage(stage) = node { Some(stage) } else { None }
}

fn sinks(stage: &Stage) -> impl Iterator<Item = CollectionId> {
    stage.sinks.values().copied()
}
