//! Bundles in flight: begun, committed, tried again.

use std::collections::HashMap;
use std::time::Duration;

use beam_model::time::EventTime;

use super::splits::Asking;
use super::{Block, Engine, EngineAction, Partition, Timer, TimerChange};
use crate::backend::Outcome;
use crate::fault::{Fault, Retry};
use crate::plan::{CollectionId, Node, NodeId};

/// How often a bundle is run before its failure is the job's.
pub const MAX_ATTEMPTS: u32 = 4;

/// Names a bundle of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleId(pub u64);

/// Which try of a bundle; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(pub u32);

pub(super) struct Bundle<B> {
    pub(super) node: NodeId,
    pub(super) attempt: Attempt,
    pub(super) content: Content<B>,
    /// The stage's watermark when it began.
    watermark: EventTime,
    /// Whether its restrictions are to be truncated.
    draining: bool,
    pub(super) asking: Asking,
}

/// What a bundle is made of.
pub(super) struct Content<B> {
    pub(super) blocks: Vec<Block<B>>,
    pub(super) timers: Vec<Timer>,
    /// Keys that no other bundle of the stage may have meanwhile.
    pub(super) partitions: Vec<Partition>,
}

/// What a bundle has done.
pub(super) struct Effects<B> {
    pub(super) outputs: Vec<(CollectionId, Vec<Block<B>>)>,
    pub(super) residuals: Vec<(Block<B>, Duration)>,
    pub(super) timers: Vec<TimerChange>,
}

pub(super) struct Bundles<B> {
    running: HashMap<BundleId, Bundle<B>>,
    next: u64,
}

impl<B> Default for Bundles<B> {
    fn default() -> Self {
        Self { running: HashMap::new(), next: 1 }
    }
}

impl<B> Bundles<B> {
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// The bundles that run for a node.
    pub(super) fn of(&self, wanted: impl Fn(NodeId) -> bool) -> Vec<BundleId> {
        let wanted = self.running.iter().filter(|(_, bundle)| wanted(bundle.node));
        let mut ids: Vec<_> = wanted.map(|(id, _)| *id).collect();
        ids.sort();
        ids
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (BundleId, &Bundle<B>)> {
        self.running.iter().map(|(id, bundle)| (*id, bundle))
    }

    pub(super) fn get_mut(&mut self, id: BundleId) -> Option<&mut Bundle<B>> {
        self.running.get_mut(&id)
    }

    /// The bundle, if this is the attempt that counts.
    pub(super) fn current(&mut self, id: BundleId, attempt: Attempt) -> Option<&mut Bundle<B>> {
        self.running.get_mut(&id).filter(|bundle| bundle.attempt == attempt)
    }
}

impl<B: Clone> Bundle<B> {
    fn run(&self, id: BundleId) -> EngineAction<B> {
        EngineAction::Run {
            node: self.node,
            bundle: id,
            attempt: self.attempt,
            blocks: self.content.blocks.clone(),
            timers: self.content.timers.clone(),
            partitions: self.content.partitions.clone(),
            watermark: self.watermark,
            draining: self.draining,
        }
    }
}

impl<B: Clone> Engine<B> {
    pub(super) fn start_bundle(&mut self, node: NodeId, content: Content<B>) {
        let Some(stage) = self.stages.get_mut(&node) else { return };
        stage.begin(&content);
        let watermark = stage.watermark();
        let reads_restrictions = matches!(
            &self.plan.nodes[node.0],
            Node::Stage(stage) if stage.restriction_reader.is_some()
        );
        let truncated = content.blocks.iter().any(|block| block.truncated);
        let id = BundleId(self.bundles.next);
        self.bundles.next += 1;
        let draining = self.draining && reads_restrictions && !truncated;
        let asking = Asking::new(self.clock.wall());
        let bundle = Bundle { node, attempt: Attempt(1), content, watermark, draining, asking };
        self.actions.push(bundle.run(id));
        self.bundles.running.insert(id, bundle);
    }

    pub(super) fn bundle_succeeded(&mut self, id: BundleId, attempt: Attempt, effects: Effects<B>) {
        if self.bundles.current(id, attempt).is_none() {
            return;
        }
        let Some(bundle) = self.bundles.running.remove(&id) else { return };
        self.actions.push(EngineAction::Commit { bundle: id, attempt });
        self.free_slot(bundle.node);
        let Effects { outputs, residuals, timers } = effects;
        for (collection, blocks) in outputs {
            self.deliver(collection, blocks);
        }
        for (block, after) in residuals {
            if after.is_zero() {
                if let Some(stage) = self.stages.get_mut(&bundle.node) {
                    stage.push([block]);
                }
            } else {
                self.delay(bundle.node, block, after);
            }
        }
        if let Some(stage) = self.stages.get_mut(&bundle.node) {
            stage.change_timers(timers, &bundle.content.timers, |fire| self.clock.due(fire));
            stage.finish(&bundle.content, bundle.watermark);
        }
        self.changed.insert(bundle.node);
    }

    pub(super) fn bundle_failed(&mut self, id: BundleId, attempt: Attempt, fault: Fault) {
        let now = self.clock.wall();
        let Some(bundle) = self.bundles.current(id, attempt) else { return };
        let again = match fault.retry {
            Retry::Never => false,
            Retry::Bundle | Retry::Worker => attempt.0 < MAX_ATTEMPTS,
        };
        if again {
            bundle.attempt = Attempt(attempt.0 + 1);
            bundle.asking = Asking::new(now);
            let run = bundle.run(id);
            self.actions.push(run);
        } else {
            self.end(Outcome::Failed(fault));
        }
    }

    fn free_slot(&mut self, node: NodeId) {
        if let Some(free) = self.pools.get(node).and_then(|pool| self.free_slots.get_mut(pool)) {
            *free += 1;
        }
    }
}
