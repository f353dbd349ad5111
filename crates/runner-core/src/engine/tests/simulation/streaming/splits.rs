//! Bundles that give back a part while they run, whether the engine has asked for it or not.

use super::super::super::super::*;
use super::model::Instance;
use super::work::Batch;
use super::world::{Happening, Residuals, Seen, World};

/// A question to a bundle.
pub(super) struct Asked {
    pub(super) bundle: BundleId,
    pub(super) attempt: Attempt,
    is_split: bool,
}

impl Asked {
    pub(super) fn new(bundle: BundleId, attempt: Attempt) -> Self {
        Self { bundle, attempt, is_split: false }
    }
}

impl World<'_> {
    /// A worker answers what it was asked, after it has split the bundle or not; or it splits one unasked.
    pub(super) fn answer_or_split(&mut self) -> Option<(EngineEvent<Batch>, Happening)> {
        if self.random.one_in(8) {
            let bundles: Vec<_> = self.running.keys().copied().collect();
            let bundle = *bundles.get(self.random.below(bundles.len()))?;
            return self.split(bundle);
        }
        if self.asked.is_empty() || !self.random.one_in(4) {
            return None;
        }
        let chosen = self.random.below(self.asked.len());
        let Asked { bundle, attempt, is_split } = self.asked[chosen];
        let runs = self.running.get(&bundle).is_some_and(|open| open.attempt == attempt);
        if runs && !is_split && self.random.one_in(2) {
            self.asked[chosen].is_split = true;
            return self.split(bundle);
        }
        self.asked.swap_remove(chosen);
        self.seen.extend(is_split.then_some(Seen::SplitAsked));
        Some((EngineEvent::SplitAnswered { bundle, attempt, is_split }, Happening::Nothing))
    }

    /// Cuts between blocks, or within one.
    fn split(&mut self, bundle: BundleId) -> Option<(EngineEvent<Batch>, Happening)> {
        let open = &self.running[&bundle];
        let (node, attempt) = (open.node, open.attempt);
        let stage = self.stage(node);
        if stage.keyed.is_some() || stage.restriction_reader.is_some() {
            return None;
        }
        let mut kept = open.taken.instances.clone();
        let mut rest = kept.split_off(self.random.below(kept.len() + 1));
        if let Some(cut) = rest.first_mut()
            && cut.block.data.elements.len() > 1
            && (kept.is_empty() || self.random.one_in(2))
        {
            let mut elements = cut.block.data.elements.clone();
            let back = elements.split_off(1 + self.random.below(elements.len() - 1));
            self.serial += 2;
            kept.push(Instance { block: Batch::block(self.serial, elements), ..cut.clone() });
            cut.block = Batch::block(self.serial - 1, back);
        }
        if kept.is_empty() {
            return None;
        }
        let mut given_back = Residuals::new();
        for Instance { block, .. } in rest {
            let delay = if self.random.one_in(3) { self.random.below(4) } else { 0 };
            given_back.push((block, Duration::from_millis(delay as u64)));
        }
        let blocks = kept.iter().map(|instance| instance.block.clone()).collect();
        let event =
            EngineEvent::BundleSplit { bundle, attempt, kept: blocks, given_back: given_back.clone() };
        Some((event, Happening::Split { bundle, kept, given_back }))
    }

    pub(super) fn has_split(&mut self, bundle: BundleId, kept: Vec<Instance>, given_back: Residuals) {
        self.seen.insert(Seen::Split);
        let open = self.running.get_mut(&bundle).unwrap();
        let node = open.node;
        open.blocks = kept.iter().map(|instance| instance.block.clone()).collect();
        open.taken.instances.clone_from(&kept);
        let stage = self.model.stages.get_mut(&node).unwrap();
        stage.running.get_mut(&bundle).unwrap().instances = kept;
        self.arrive_later(node, given_back);
    }
}
