//! How large bundles are, and how many run.

use std::collections::HashMap;
use std::ops::Bound;

use super::Engine;
use super::bundle::Content;
use super::stage::{Cut, StageState};
use crate::plan::{ExecutionPlan, Node, NodeId, Stage};

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

/// Less than so many bytes are not worth a second bundle, but for what a Reshuffle is to spread.
pub const SMALL: u64 = 256 << 10;

impl BundlePolicy {
    /// Large enough that a bundle's fixed cost does not show, small enough to retry and to balance.
    pub const DEFAULT: Self = Self::Bytes(16 << 20);
    /// So many bundles are as large as the memory for all data, at least: a bundle that is cut by bytes is in memory as a whole.
    const BUNDLES_IN_MEMORY: u64 = 32;

    /// The same, but with smaller bundles if there is little memory.
    pub fn within(self, memory: u64) -> Self {
        match self {
            Self::Bytes(target) => Self::Bytes(target.min(memory / Self::BUNDLES_IN_MEMORY).max(SMALL)),
            Self::EachBlock | Self::Whole => self,
        }
    }

    /// So much of a full bundle is worth starting for a worker that has nothing to do, rather than to wait for more.
    const EARLY_PART: u64 = 8;

    /// The next bundle of a stage that may run `slots` at once; `None` to wait for more input. `hurry`: not
    /// to wait for what may come yet. `idle`: there is nothing else to do.
    fn cut<B>(self, stage: &mut StageState<B>, slots: usize, hurry: bool, idle: bool) -> Option<Cut<B>> {
        let all_there = stage.input_complete();
        match self {
            Self::EachBlock => stage.take(|_, _| true),
            Self::Whole if all_there || hurry => stage.take(|_, _| false),
            Self::Whole => None,
            Self::Bytes(target) if stage.pending_bytes >= target || hurry => {
                stage.take(|_, bytes| bytes >= target)
            }
            // With state the first little of all keys would keep the others from any of it.
            Self::Bytes(target)
                if idle
                    && !all_there
                    && !stage.is_keyed()
                    && stage.pending_bytes >= (target / Self::EARLY_PART).max(SMALL) =>
            {
                stage.take(|_, bytes| bytes >= target)
            }
            Self::Bytes(target) if all_there => {
                let shares = slots.max(1) as u64;
                let share = (stage.pending_bytes / shares).clamp(SMALL.min(target), target);
                stage.take(|_, bytes| bytes >= share)
            }
            Self::Bytes(_) => None,
        }
    }
}

/// How what waits before a stage is shared out when it is all there, whatever its size.
#[derive(Clone, Copy, Debug)]
enum Spread {
    Not,
    /// Over so many slots, if it is [`SMALL`].
    Small {
        slots: usize,
    },
    /// In so many parts.
    All {
        shares: usize,
    },
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
        self.start_bundles_of(false);
        self.start_bundles_of(true);
    }

    /// `idle`: nothing else is to be started.
    fn start_bundles_of(&mut self, idle: bool) {
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
                let spread = self.spread(stage, slots);
                let Some(content) = self.cut(id, slots, spread, idle) else { break };
                self.free_slots[pool] -= 1;
                self.start_bundle(id, content);
            }
        }
    }

    /// What is small, but may stand for much work, is spread by count.
    fn spread(&self, stage: &Stage, slots: usize) -> Spread {
        if stage.restriction_reader.is_some() {
            // A few bundles for each worker, so that one long restriction does not hold up the rest.
            let shares = if self.plan.streaming { slots } else { 4 * slots };
            return if slots > 1 { Spread::All { shares } } else { Spread::All { shares: 1 } };
        }
        let redistributed = !self.plan.streaming && self.redistributed.contains(&stage.input);
        if redistributed { Spread::Small { slots } } else { Spread::Not }
    }

    /// Bytes that wait before later stages that only need a worker to go on with them. Not those before the
    /// stage itself: it would wait for its own reading, or for that of a stage that waits for it.
    fn backlog(&self, of: NodeId) -> u64 {
        let later = self.stages.range((Bound::Excluded(of), Bound::Unbounded)).map(|(_, stage)| stage);
        later.filter(|stage| !stage.must_wait()).map(|stage| stage.pending_bytes).sum()
    }

    fn cut(&mut self, id: NodeId, slots: usize, spread: Spread, idle: bool) -> Option<Content<B>> {
        let (policy, hurry) = (self.policy, self.plan.streaming);
        let timer_slots = if policy == BundlePolicy::Whole { 1 } else { slots };
        let now = self.clock.now();
        let stage = self.stages.get_mut(&id)?;
        if stage.side_inputs_missing > 0 {
            return None;
        }
        if let Some(timers) = stage.take_timers(now, policy == BundlePolicy::EachBlock, timer_slots) {
            return Some(timers);
        }
        if let Some(blocks) = stage.take_split_off() {
            return Some(Content { blocks, timers: Vec::new(), partitions: Vec::new() });
        }
        if stage.waiting() == 0 {
            return None;
        }
        let bytes = matches!(policy, BundlePolicy::Bytes(_)) && (stage.input_complete() || hurry);
        let shares = match spread {
            Spread::All { shares } if bytes => Some(shares),
            // Others have their part of it already.
            Spread::Small { slots } if bytes && stage.pending_bytes <= SMALL && !stage.is_keyed() => {
                Some(slots.saturating_sub(stage.in_flight).max(1))
            }
            Spread::All { .. } | Spread::Small { .. } | Spread::Not => None,
        };
        let (blocks, partitions) = match shares {
            Some(shares) => {
                let count = stage.waiting().div_ceil(shares);
                stage.take(|blocks, _| blocks >= count)
            }
            None => policy.cut(stage, slots, hurry, idle),
        }?;
        Some(Content { blocks, timers: Vec::new(), partitions })
    }
}
