//! Bundles in flight: begun, committed, tried again.

use std::collections::HashMap;
use std::time::Duration;

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

struct Bundle<B> {
    node: NodeId,
    attempt: Attempt,
    blocks: Vec<Block<B>>,
    timers: Vec<Timer>,
    /// Keys that no other bundle of the stage may have meanwhile.
    partitions: Vec<Partition>,
}

/// What a bundle is made of.
pub(super) struct Content<B> {
    pub(super) blocks: Vec<Block<B>>,
    pub(super) timers: Vec<Timer>,
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
    pub(super) fn start(&mut self, node: NodeId, content: Content<B>) -> (BundleId, Attempt) {
        let (id, attempt) = (BundleId(self.next), Attempt(1));
        self.next += 1;
        let Content { blocks, timers, partitions } = content;
        self.running.insert(id, Bundle { node, attempt, blocks, timers, partitions });
        (id, attempt)
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    /// The bundle, if this is the attempt that counts.
    fn current(&mut self, id: BundleId, attempt: Attempt) -> Option<&mut Bundle<B>> {
        self.running.get_mut(&id).filter(|bundle| bundle.attempt == attempt)
    }
}

impl<B: Clone> Engine<B> {
    pub(super) fn bundle_succeeded(&mut self, id: BundleId, attempt: Attempt, effects: Effects<B>) {
        if self.bundles.current(id, attempt).is_none() {
            return;
        }
        let Some(bundle) = self.bundles.running.remove(&id) else { return };
        self.actions.push(EngineAction::Commit { bundle: id, attempt });
        self.free_slot(bundle.node);
        let Effects { outputs, residuals, timers } = effects;
        if let Some(stage) = self.stages.get_mut(&bundle.node) {
            stage.unlock(&bundle.partitions);
            stage.change_timers(timers);
        }
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
            stage.in_flight -= 1;
        }
        self.maybe_complete_stage(bundle.node);
    }

    pub(super) fn bundle_failed(&mut self, id: BundleId, attempt: Attempt, fault: Fault) {
        let Some(bundle) = self.bundles.current(id, attempt) else { return };
        let again = match fault.retry {
            Retry::Never => false,
            Retry::Bundle | Retry::Worker => attempt.0 < MAX_ATTEMPTS,
        };
        if again {
            bundle.attempt = Attempt(attempt.0 + 1);
            let (node, attempt) = (bundle.node, bundle.attempt);
            let (blocks, timers) = (bundle.blocks.clone(), bundle.timers.clone());
            self.actions.push(EngineAction::Run { node, bundle: id, attempt, blocks, timers });
        } else {
            self.end(Outcome::Failed(fault));
        }
    }

    fn free_slot(&mut self, node: NodeId) {
        if let Node::Stage(stage) = &self.plan.nodes[node.0]
            && let Some(free) = self.free_slots.get_mut(stage.environment.0)
        {
            *free += 1;
        }
    }
}
