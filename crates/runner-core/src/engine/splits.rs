//! Splits of running bundles, so that workers without work get a part of theirs.
//!
//! When slots are free though nothing waits that could be cut for them, running bundles are asked to give a
//! part back ([`EngineAction::Split`]). What comes of that is not part of the bundle's transaction, as what a
//! checkpoint leaves undone is: it would be of no use to anyone before the commit. The bundle's content is
//! replaced there and then by what it has kept ([`EngineEvent::BundleSplit`]), so that another attempt is made on
//! that alone, and the rest is a bundle of its own at once, which holds watermarks and is tried again by itself.
//!
//! Not asked are:
//! - bundles of stages with state or timers: their keys are locked until the commit;
//! - bundles that read restrictions of unbounded jobs. They are checkpointed regularly, which leaves something to
//!   the others too. A restriction without end has no share to give away: the far part of a PeriodicImpulse would
//!   hold the watermark back until its time has come. And what a checkpoint of a source keeps can often not be
//!   read again (Java's `UnboundedSource`), so there it has to be part of the transaction;
//! - bundles under the policies that fix what a bundle is.

use std::time::Duration;

use beam_model::time::ProcessingTime;

use super::bundle::Content;
use super::{Attempt, Block, BundleId, BundlePolicy, Engine, EngineAction};
use crate::backend::Outcome;
use crate::fault::Fault;
use crate::plan::{Node, NodeId};

/// A bundle that has not run for so long is left alone: it may be over before anything came of a split. In
/// milliseconds, as all here.
const FIRST_AFTER: i64 = 100;
/// Who has nothing to give back is asked again after twice as long, up to this.
const LONGEST_WAIT: i64 = 5_000;

/// Who would get what a bundle gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// A worker that is there and has nothing to do.
    Ready,
    /// One that has yet to be started, which takes seconds.
    ToBeStarted,
}

/// Whether it is worth its costs to split a bundle that its worker has had for `elapsed`: what is left has to keep it
/// busy for a while. `progress`: how much of it is done, and how much is left, if that is known; else it is taken for
/// half done.
pub fn is_worth_splitting(elapsed: Duration, progress: Option<(f64, f64)>, helper: Helper) -> bool {
    let least = match helper {
        Helper::Ready => FIRST_AFTER,
        // A harness that is written in Python takes 2 to 3 s, and half of what is left is shared.
        Helper::ToBeStarted => 5_000,
    };
    let (done, left) = progress.unwrap_or((1.0, 1.0));
    done > 0.0 && elapsed.as_secs_f64() * left / done >= least as f64 / 1_000.0
}

/// When a running attempt may be asked to split.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    not_before: ProcessingTime,
    /// How long to wait after an answer.
    wait: i64,
    /// It has been asked, and has not answered.
    asked: bool,
}

impl Asking {
    /// Of an attempt that begins.
    pub(super) fn new(now: ProcessingTime) -> Self {
        Self { not_before: now.saturating_add(FIRST_AFTER), wait: FIRST_AFTER, asked: false }
    }

    fn answered(&mut self, now: ProcessingTime, is_split: bool) {
        self.wait = if is_split { FIRST_AFTER } else { (self.wait * 2).min(LONGEST_WAIT) };
        self.not_before = now.saturating_add(self.wait);
        self.asked = false;
    }
}

impl<B: Clone> Engine<B> {
    /// A worker has given back a part of what it was to process.
    pub(super) fn bundle_split(
        &mut self,
        id: BundleId,
        attempt: Attempt,
        kept: Vec<Block<B>>,
        given_back: Vec<(Block<B>, Duration)>,
    ) {
        let Some(bundle) = self.bundles.current(id, attempt) else { return };
        if kept.is_empty() {
            // Nothing would hold watermarks for what the bundle may still give out when it finishes.
            let reason = "a running bundle was left without content, which is a fault of Beamline's";
            return self.end(Outcome::Failed(Fault::runner(reason)));
        }
        let node = bundle.node;
        let Some(stage) = self.stages.get_mut(&node) else { return };
        let before = std::mem::replace(&mut bundle.content.blocks, kept);
        stage.replace_running(&before, &bundle.content.blocks);
        let (at_once, later): (Vec<_>, Vec<_>) =
            given_back.into_iter().partition(|(_, after)| after.is_zero());
        stage.push_split_off(at_once.into_iter().map(|(block, _)| block).collect());
        for (block, after) in later {
            self.delay(node, block, after);
        }
        self.changed.insert(node);
    }

    /// What was asked for by [`EngineAction::Split`] has come about or not.
    pub(super) fn split_answered(&mut self, id: BundleId, attempt: Attempt, is_split: bool) {
        let now = self.clock.wall();
        if let Some(bundle) = self.bundles.current(id, attempt) {
            bundle.asking.answered(now, is_split);
        }
    }

    /// Asks running bundles to share their work with free slots. To be called when all has been started that can be.
    pub(super) fn ask_for_splits(&mut self) {
        let now = self.clock.wall();
        let mut next: Option<ProcessingTime> = None;
        let shared = self.bundles.len() > 0 && matches!(self.policy, BundlePolicy::Bytes(_));
        for pool in (0..self.free_slots.len()).filter(|_| shared) {
            let free = self.free_slots[pool];
            if free == 0 {
                continue;
            }
            let running = self.splittable(pool);
            let asked = running.iter().filter(|(_, asking)| asking.asked).count();
            let idle = free.saturating_sub(asked);
            let (due, later): (Vec<_>, Vec<_>) = running
                .into_iter()
                .filter(|(_, asking)| !asking.asked)
                .partition(|(_, asking)| asking.not_before <= now);
            // The first are the oldest, which have been worked on for longest and may have most to give.
            let chosen = &due[..due.len().min(idle)];
            for (id, _) in chosen {
                let share = idle.div_ceil(chosen.len());
                self.ask_to_split(*id, 1.0 / (1 + share) as f64);
            }
            if chosen.len() < idle {
                next = later.iter().map(|(_, asking)| asking.not_before).chain(next).min();
            }
        }
        self.clock.splits_wait(next);
    }

    fn ask_to_split(&mut self, bundle: BundleId, fraction_of_remainder: f64) {
        if let Some(running) = self.bundles.get_mut(bundle) {
            running.asking.asked = true;
            let attempt = running.attempt;
            self.actions.push(EngineAction::Split { bundle, attempt, fraction_of_remainder });
        }
    }

    /// The running bundles of a pool that can be split, in the order in which they began.
    fn splittable(&self, pool: usize) -> Vec<(BundleId, Asking)> {
        let in_pool = |node: NodeId| self.pools.get(node) == Some(pool);
        let mut running: Vec<_> = self
            .bundles
            .running()
            .filter(|(_, bundle)| in_pool(bundle.node) && self.can_split(bundle.node, &bundle.content))
            .map(|(id, bundle)| (id, bundle.asking))
            .collect();
        running.sort_by_key(|(id, _)| *id);
        running
    }

    fn can_split(&self, node: NodeId, content: &Content<B>) -> bool {
        let Node::Stage(stage) = &self.plan.nodes[node.0] else { return false };
        stage.splits_at_once(self.plan.streaming) && !content.blocks.is_empty()
    }
}
