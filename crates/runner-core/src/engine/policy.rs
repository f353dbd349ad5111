//! How large bundles are, and how many run.

use std::collections::HashMap;
use std::ops::Bound;

use super::Engine;
use super::bundle::Content;
use super::stage::{Cut, StageState};
use crate::plan::{ExecutionPlan, Node, NodeId};

/// When what waits before a stage becomes a bundle. Results never depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundlePolicy {
    /// As soon as this many bytes wait, or no more will come; then spread over the workers. If input is
    /// unbounded: whatever waits, up to this many bytes.
    Bytes(u64),
    /// Each block is a bundle. With blocks of one element each: bundles of one element.
    EachBlock,
    /// All of a stage's input in one bundle; if it is unbounded, all that waits.
    Whole,
}

/// While more bytes than this wait for workers after a stage that reads restrictions, it reads no more of
/// unbounded input.
const MOST_BACKLOG: u64 = 64 << 20;

impl BundlePolicy {
    /// Large enough that a bundle's fixed cost does not show, small enough to retry and to balance.
    pub const DEFAULT: Self = Self::Bytes(16 << 20);
    /// So many bundles are as large as the memory for all data, at least: a bundle that is cut by bytes is in memory as a whole.
    const BUNDLES_IN_MEMORY: u64 = 32;

    /// The same, but with smaller bundles if there is little memory.
    pub fn within(self, memory: u64) -> Self {
        match self {
            Self::Bytes(target) => {
                Self::Bytes(target.min(memory / Self::BUNDLES_IN_MEMORY).max(Self::SMALLEST))
            }
            Self::EachBlock | Self::Whole => self,
        }
    }

    /// Less than this is not worth a second bundle.
    const SMALLEST: u64 = 256 << 10;

    /// The next bundle of a stage that may run `slots` at once; `None` to wait for more input. `hurry`: not
    /// to wait for what may come yet.
    fn cut<B>(self, stage: &mut StageState<B>, slots: usize, hurry: bool) -> Option<Cut<B>> {
        let all_there = stage.input_complete();
        match self {
            Self::EachBlock => stage.take(|_, _| true),
            Self::Whole if all_there || hurry => stage.take(|_, _| false),
            Self::Whole => None,
            Self::Bytes(target) if stage.pending_bytes >= target || hurry => {
                stage.take(|_, bytes| bytes >= target)
            }
            Self::Bytes(target) if all_there => {
                let shares = slots.max(1) as u64;
                let share = (stage.pending_bytes / shares).clamp(Self::SMALLEST.min(target), target);
                stage.take(|_, bytes| bytes >= share)
            }
            Self::Bytes(_) => None,
        }
    }
}

/// Which bundles share the slots of an environment. A stage that reads restrictions of an unbounded job has
/// slots of its own: its bundles may run on and on, and the others must not wait for them.
pub(super) struct Pools {
    of: HashMap<NodeId, usize>,
    /// How many bundles may run at once, by pool.
    pub(super) slots: Vec<usize>,
}

impl Pools {
    /// `slots`: by environment of the plan.
    pub(super) fn new(plan: &ExecutionPlan, mut slots: Vec<usize>) -> Self {
        let mut of = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let Node::Stage(stage) = node else { continue };
            let mut pool = stage.environment.0;
            if plan.streaming && stage.restriction_reader.is_some() {
                slots.push(slots.get(pool).copied().unwrap_or(1));
                pool = slots.len() - 1;
            }
            of.insert(NodeId(index), pool);
        }
        Self { of, slots }
    }

    pub(super) fn get(&self, node: NodeId) -> Option<usize> {
        self.of.get(&node).copied()
    }
}

impl<B: Clone> Engine<B> {
    /// Starts what can be started, later stages first: that frees the most memory.
    pub(super) fn start_bundles(&mut self) {
        let plan = self.plan.clone();
        for (index, node) in plan.nodes.iter().enumerate().rev() {
            let Node::Stage(stage) = node else { continue };
            let id = NodeId(index);
            if plan.streaming && stage.restriction_reader.is_some() && self.backlog(id) > MOST_BACKLOG {
                continue;
            }
            let Some(pool) = self.pools.get(id) else { continue };
            let slots = self.pools.slots.get(pool).copied().unwrap_or(1);
            while self.free_slots.get(pool).is_some_and(|free| *free > 0) {
                // Restrictions are small, but each may stand for much work: spread them by count.
                let spread = stage.restriction_reader.is_some().then_some(slots);
                let Some(content) = self.cut(id, slots, spread) else { break };
                self.free_slots[pool] -= 1;
                self.start_bundle(id, content);
            }
        }
    }

    /// Bytes that wait before later stages that only need a worker to go on with them. Not those before the
    /// stage itself: it would wait for its own reading, or for that of a stage that waits for it.
    fn backlog(&self, of: NodeId) -> u64 {
        let later = self.stages.range((Bound::Excluded(of), Bound::Unbounded)).map(|(_, stage)| stage);
        later.filter(|stage| !stage.must_wait()).map(|stage| stage.pending_bytes).sum()
    }

    fn cut(&mut self, id: NodeId, slots: usize, spread: Option<usize>) -> Option<Content<B>> {
        let (policy, hurry) = (self.policy, self.plan.streaming);
        let now = self.clock.now();
        let stage = self.stages.get_mut(&id)?;
        if stage.side_inputs_missing > 0 {
            return None;
        }
        if let Some(timers) = stage.take_timers(now, policy == BundlePolicy::EachBlock) {
            return Some(timers);
        }
        if let Some(blocks) = stage.take_split_off() {
            return Some(Content { blocks, timers: Vec::new(), partitions: Vec::new() });
        }
        if stage.waiting() == 0 {
            return None;
        }
        let (blocks, partitions) = match (policy, spread) {
            (BundlePolicy::Bytes(_), Some(slots)) if stage.input_complete() || hurry => {
                let waiting = stage.waiting();
                // A few bundles for each worker, so that one long restriction does not hold up the rest.
                let shares = if hurry { slots } else { 4 * slots };
                let count = if slots > 1 { waiting.div_ceil(shares) } else { waiting };
                stage.take(|blocks, _| blocks >= count)
            }
            _ => policy.cut(stage, slots, hurry),
        }?;
        Some(Content { blocks, timers: Vec::new(), partitions })
    }
}
