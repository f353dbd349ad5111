//! How large bundles are.

use super::bundle::Content;
use super::stage::{Cut, StageState};
use super::{Engine, EngineAction};
use crate::plan::{Node, NodeId};

/// When what waits before a stage becomes a bundle. Results never depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundlePolicy {
    /// As soon as this many bytes wait, or no more will come; then spread over the workers.
    Bytes(u64),
    /// Each block is a bundle. With blocks of one element each: bundles of one element.
    EachBlock,
    /// All of a stage's input in one bundle.
    Whole,
}

impl BundlePolicy {
    /// Large enough that a bundle's fixed cost does not show, small enough to retry and to balance.
    pub const DEFAULT: Self = Self::Bytes(16 << 20);
    /// Less than this is not worth a second bundle.
    const SMALLEST: u64 = 256 << 10;

    /// The next bundle of a stage that may run `slots` at once; `None` to wait for more input.
    fn cut<B>(self, stage: &mut StageState<B>, slots: usize) -> Option<Cut<B>> {
        if stage.side_inputs_missing > 0 || stage.must_wait() {
            return None;
        }
        match self {
            Self::EachBlock => stage.take(|_, _| true),
            Self::Whole if stage.input_complete => stage.take(|_, _| false),
            Self::Whole => None,
            Self::Bytes(target) if stage.pending_bytes >= target => stage.take(|_, bytes| bytes >= target),
            Self::Bytes(target) if stage.input_complete => {
                let shares = slots.max(1) as u64;
                let share = (stage.pending_bytes / shares).clamp(Self::SMALLEST.min(target), target);
                stage.take(|_, bytes| bytes >= share)
            }
            Self::Bytes(_) => None,
        }
    }
}

impl<B: Clone> Engine<B> {
    /// Starts what can be started, later stages first: that frees the most memory.
    pub(super) fn start_bundles(&mut self) {
        let plan = self.plan.clone();
        for (index, node) in plan.nodes.iter().enumerate().rev() {
            let Node::Stage(stage) = node else { continue };
            let id = NodeId(index);
            let slots = self.slots.get(stage.environment.0).copied().unwrap_or(1);
            while self.free_slots.get(stage.environment.0).is_some_and(|free| *free > 0) {
                // Restrictions are small, but each may stand for much work: spread them by count.
                let spread = stage.restriction_reader.is_some().then_some(slots);
                let Some(content) = self.cut(id, slots, spread) else { break };
                self.free_slots[stage.environment.0] -= 1;
                let (blocks, timers) = (content.blocks.clone(), content.timers.clone());
                let (bundle, attempt) = self.bundles.start(id, content);
                self.actions.push(EngineAction::Run { node: id, bundle, attempt, blocks, timers });
            }
        }
    }

    fn cut(&mut self, id: NodeId, slots: usize, spread: Option<usize>) -> Option<Content<B>> {
        let policy = self.policy;
        let stage = self.stages.get_mut(&id)?;
        let cut = match (policy, spread) {
            (BundlePolicy::Bytes(_), Some(slots))
                if stage.side_inputs_missing == 0 && stage.input_complete =>
            {
                let waiting = stage.waiting();
                // A few bundles for each worker, so that one long restriction does not hold up the rest.
                let count = if slots > 1 { waiting.div_ceil(4 * slots) } else { waiting };
                stage.take(|blocks, _| blocks >= count)
            }
            _ => policy.cut(stage, slots),
        };
        let content = match cut {
            Some((blocks, partitions)) => Content { blocks, timers: Vec::new(), partitions },
            None => stage.take_timers(policy == BundlePolicy::EachBlock)?,
        };
        stage.in_flight += 1;
        Some(content)
    }
}
