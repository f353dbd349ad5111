//! What an attempt is to process, and what of it is left to it when its worker has given a part back.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use beam_model::time::EventTime;

use super::attempt::residual_block;
use super::collectors::{compute, size};
use crate::engine::{Block, Helper, is_worth_splitting};
use crate::fault::Fault;
use crate::metrics::elements_done;
use crate::plan::{Collection, ExecutionPlan, Node, NodeId, Stage};
use crate::ports::{
    BundleControl, BundleSplit, ElementCount, SplitTaken, StageBundleFactory, Storage, StoredBlock,
};
use crate::runner_transforms::elements;

/// The input of an attempt.
pub(super) struct Input {
    plan: Arc<ExecutionPlan>,
    node: NodeId,
    storage: Arc<dyn Storage>,
    pub(super) blocks: Vec<Block<StoredBlock>>,
    /// How many elements each block has, once somebody has wanted to know.
    counts: OnceLock<Vec<usize>>,
    /// The same for all of them.
    pub(super) elements: ElementCount,
    /// What its worker keeps, if a split takes effect at once.
    kept: Option<Mutex<Kept>>,
}

struct Kept {
    /// The elements before this one are kept whole.
    whole: usize,
    /// What is kept of the one after them.
    part: Vec<Block<StoredBlock>>,
    /// Something was given back that is not other work before the commit. So nothing after it can be, or it would be
    /// lost if the bundle failed.
    fixed: bool,
    splits: usize,
}

/// What is left to a running attempt, and what is not.
pub(super) struct Split {
    pub(super) kept: Vec<Block<StoredBlock>>,
    pub(super) given_back: Vec<(Block<StoredBlock>, Duration)>,
}

impl Input {
    pub(super) fn new(
        plan: Arc<ExecutionPlan>,
        node: NodeId,
        blocks: Vec<Block<StoredBlock>>,
        storage: Arc<dyn Storage>,
    ) -> Self {
        let (mut at_once, mut elements) = (false, ElementCount::default());
        if let Node::Stage(stage) = &plan.nodes[node.0] {
            at_once = stage.splits_at_once(plan.streaming);
            // The input of what reads restrictions is cut element by element, and may be split at any time.
            if !at_once && stage.restriction_reader.is_some() {
                elements = ElementCount::of(blocks.len() as u64);
            }
        }
        let kept = || Mutex::new(Kept { whole: usize::MAX, part: Vec::new(), fixed: false, splits: 0 });
        Self { kept: at_once.then(kept), plan, node, storage, blocks, counts: OnceLock::new(), elements }
    }

    fn stage(&self) -> Result<(&Stage, &Collection), Fault> {
        match &self.plan.nodes[self.node.0] {
            Node::Stage(stage) => Ok((stage, &self.plan.collections[stage.input.0])),
            _ => Err(Fault::runner("only stages have bundles")),
        }
    }

    fn kept(&self) -> Option<MutexGuard<'_, Kept>> {
        self.kept.as_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks through all of the input, if nobody has yet.
    fn counts(&self) -> Result<&[usize], Fault> {
        if self.counts.get().is_none() {
            let (_, collection) = self.stage()?;
            let counts = elements::counts(collection, &self.blocks)?;
            self.elements.found_out(counts.iter().sum::<usize>() as u64);
            // An error means that somebody else was faster.
            self.counts.set(counts).ok();
        }
        Ok(self.counts.get().map_or(&[], Vec::as_slice))
    }

    /// Some of the elements, blocks cut where they have to be.
    fn part(&self, range: Range<usize>) -> Result<Vec<Block<StoredBlock>>, Fault> {
        let (_, collection) = self.stage()?;
        let (mut first, mut found) = (0, Vec::new());
        for (block, count) in self.blocks.iter().zip(self.counts()?) {
            let (from, to) = (range.start.max(first), range.end.min(first + count));
            if from == first && to == first + count {
                found.push(block.clone());
            } else if from < to {
                let range = from - first..to - first;
                found.push(elements::part(collection, block, range, self.storage.as_ref())?);
            }
            first += count;
        }
        Ok(found)
    }

    /// The elements from `first` on, but for those that are work of others already.
    pub(super) fn rest(&self, first: usize) -> Result<Vec<Block<StoredBlock>>, Fault> {
        let end = self.kept().map_or(usize::MAX, |kept| kept.whole);
        self.part(first..end.max(first))
    }

    /// The worker has given back a part.
    ///
    /// Errors: what it says cannot be.
    pub(super) fn split(&self, split: &BundleSplit) -> Result<(SplitTaken, Option<Split>), Fault> {
        let (stage, _) = self.stage()?;
        let Some(mut kept) = self.kept() else { return Ok((SplitTaken::WithTheBundle, None)) };
        let [channel] = &split.channels[..] else {
            return Ok((kept.fix(), None));
        };
        let index = |element: i64| usize::try_from(element.max(0)).unwrap_or(usize::MAX);
        let (whole, first) = (index(channel.last_primary_element + 1), index(channel.first_residual_element));
        let cut = whole < first;
        // All of an element that was cut has to be somewhere, and nothing that was not.
        let told = cut && !split.primaries.is_empty();
        let nothing = !cut && split.primaries.is_empty() && split.residuals.is_empty();
        if channel.transform_id != stage.source || kept.fixed || !(told || nothing) {
            return Ok((kept.fix(), None));
        }
        let count = self.counts()?.iter().sum::<usize>().min(kept.whole);
        let (whole, first) = if cut { (whole, first) } else { (whole.min(count), first.min(count)) };
        let has_part = !kept.part.is_empty();
        if whole > count || cut && whole == count && !has_part || whole < count && has_part {
            return Err(Fault::environment(format!(
                "{}: a worker says that it keeps {whole} elements of a bundle of which {count} were left to it{}",
                stage.spec.name,
                if has_part { " and a part of the next" } else { "" }
            )));
        }
        if whole == 0 && !cut && !has_part {
            // Nothing is left to it, so its commit comes at once.
            return Ok((kept.fix(), None));
        }
        let mut given_back = Vec::new();
        for residual in &split.residuals {
            given_back.push(residual_block(&self.plan, stage, residual, self.storage.as_ref())?);
        }
        given_back.extend(self.part(first.min(count)..count)?.into_iter().map(|it| (it, Duration::ZERO)));
        if given_back.is_empty() {
            return Ok((SplitTaken::AtOnce, None));
        }
        if cut {
            // Nothing of it can come earlier than what could have come of all of it.
            let of = self.part(whole..whole + 1)?.first().map_or(EventTime::MIN, |block| block.hold);
            let storage = self.storage.as_ref();
            let primaries =
                split.primaries.iter().map(|primary| residual_block(&self.plan, stage, primary, storage));
            let primaries = primaries.map(|block| Ok(Block { hold: of, ..block?.0 }));
            kept.part = primaries.collect::<Result<_, Fault>>()?;
        }
        kept.whole = whole;
        kept.splits += 1;
        let mut blocks = self.part(0..whole)?;
        blocks.extend(kept.part.iter().cloned());
        Ok((SplitTaken::AtOnce, Some(Split { kept: blocks, given_back })))
    }

    /// Asks the running attempt to keep this much of what is left to it, if that is worth it. Returns whether it has
    /// given back anything.
    pub(super) async fn ask(
        self: Arc<Self>,
        control: BundleControl,
        workers: Arc<dyn StageBundleFactory>,
        fraction_of_remainder: f64,
    ) -> bool {
        let helper = if workers.has_idle_worker() { Helper::Ready } else { Helper::ToBeStarted };
        let splits = || self.kept().map(|kept| kept.splits);
        let before = splits();
        let counted = self.clone();
        let count = move || counted.counts().map(|_| ());
        let counted = compute(self.storage.as_ref(), size(&self.blocks), count).await;
        // What is malformed fails the bundle where it is read.
        if counted.is_err() || !self.is_worth_splitting(&control, helper).await {
            return false;
        }
        control.split(fraction_of_remainder).await;
        splits() > before
    }

    async fn is_worth_splitting(&self, control: &BundleControl, helper: Helper) -> bool {
        let (Ok((stage, _)), Some(elapsed)) = (self.stage(), control.running_for()) else { return false };
        let all = usize::try_from(self.elements.get().unwrap_or_default()).unwrap_or(usize::MAX);
        let left_to_it = self.kept().map_or(0, |kept| match kept.part.is_empty() {
            true => kept.whole.min(all),
            false => kept.whole.saturating_add(1),
        });
        if left_to_it <= 1 && stage.restriction_reader.is_none() {
            return false;
        }
        let infos = control.progress().await.unwrap_or_default();
        // Not every SDK tells.
        let done = elements_done(&infos, &stage.source);
        is_worth_splitting(elapsed, done.map(|done| (done, left_to_it as f64 - done)), helper)
    }
}

impl Kept {
    /// From now on nothing that is given back is work of others before the commit.
    fn fix(&mut self) -> SplitTaken {
        self.fixed = true;
        SplitTaken::WithTheBundle
    }
}
