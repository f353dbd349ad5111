//! 5 · The pure step: an event in, actions out.
//!
//! The engine knows the plan, how many elements wait where, and which bundles run. It has no I/O, no
//! clock, no lock and no thread, and never looks into the data: a block is a handle `B` with counts.
//!
//! A bundle is a transaction. What it produced arrives in one event when it has succeeded, stamped with
//! the attempt; the engine then commits it and hands its output on. The reply of an attempt that the
//! engine has given up changes nothing.

mod bundle;
mod policy;
mod quiescence;
mod stage;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Outcome;
use crate::fault::Fault;
use crate::plan::{CollectionId, ExecutionPlan, Node, NodeId};
use bundle::Bundles;
pub use bundle::{Attempt, BundleId, MAX_ATTEMPTS};
pub use policy::BundlePolicy;
use stage::StageState;
pub use timers::{Timer, TimerChange, TimerId};

/// Elements that travel together.
#[derive(Clone, Debug)]
pub struct Block<B> {
    /// A handle to the data, of no interest to the engine.
    pub data: B,
    /// Encoded size.
    pub bytes: u64,
    /// Which keys it may hold, for a stage that processes elements by key.
    pub partition: Partition,
}

/// A share of all keys. No two bundles of a stage have keys of the same share at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u16);

/// What has happened.
#[derive(Debug)]
pub enum EngineEvent<B> {
    /// The job begins. `impulse` is the one element of every Impulse.
    Started {
        impulse: Block<B>,
    },
    BundleSucceeded {
        bundle: BundleId,
        attempt: Attempt,
        outputs: Vec<(CollectionId, Vec<Block<B>>)>,
        /// What is to be done later, by the same stage, after a delay in processing time.
        residuals: Vec<(Block<B>, Duration)>,
        /// Timers that were set or cleared, in that order.
        timers: Vec<TimerChange>,
    },
    BundleFailed {
        bundle: BundleId,
        attempt: Attempt,
        fault: Fault,
    },
    /// Groups of a sealed GroupByKey; the last of them if `last`.
    Grouped {
        node: NodeId,
        blocks: Vec<Block<B>>,
        last: bool,
    },
    /// A sealed side input can be asked.
    SideInputReady {
        collection: CollectionId,
    },
    /// The time that an [`EngineAction::Wake`] asked for has come.
    Woken {
        wake: WakeId,
    },
    /// Something outside any bundle failed.
    Failed(Fault),
    CancelRequested,
}

/// What is to be done.
#[derive(Debug)]
pub enum EngineAction<B> {
    /// Run one attempt of a bundle and answer with `BundleSucceeded` or `BundleFailed`.
    Run { node: NodeId, bundle: BundleId, attempt: Attempt, blocks: Vec<Block<B>>, timers: Vec<Timer> },
    /// The bundle's effects are final: count its metrics, tell its worker.
    Commit { bundle: BundleId, attempt: Attempt },
    /// Add elements to a GroupByKey.
    Group { node: NodeId, blocks: Vec<Block<B>> },
    /// A GroupByKey has all its input: answer with `Grouped`.
    Seal { node: NodeId },
    /// Add elements to a side input.
    AddToSideInput { collection: CollectionId, blocks: Vec<Block<B>> },
    /// A side input has all its elements: answer with `SideInputReady`.
    SealSideInput { collection: CollectionId },
    /// Answer with `Woken` after a delay in processing time.
    Wake { wake: WakeId, after: Duration },
    /// The job is over; nothing follows.
    End(Outcome),
}

/// Names a wake-up call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WakeId(pub u64);

/// Decides what a job does next.
pub struct Engine<B> {
    plan: Arc<ExecutionPlan>,
    /// Which nodes read a collection; one entry for each time it is read.
    readers: Vec<Vec<NodeId>>,
    /// Which stages read a collection as a side input.
    side_readers: Vec<Vec<NodeId>>,
    /// Whether a collection has got all its elements.
    complete: Vec<bool>,
    stages: BTreeMap<NodeId, StageState<B>>,
    /// Inputs that a Flatten still waits for.
    open_inputs: HashMap<NodeId, usize>,
    /// GroupBys that have been sealed and have not said all their groups.
    grouping: BTreeSet<NodeId>,
    bundles: Bundles<B>,
    /// Bundles that may still be started, by environment.
    free_slots: Vec<usize>,
    slots: Vec<usize>,
    delayed: HashMap<WakeId, (NodeId, Block<B>)>,
    next_wake: u64,
    policy: BundlePolicy,
    ended: bool,
    actions: Vec<EngineAction<B>>,
}

impl<B: Clone> Engine<B> {
    /// `slots`: how many bundles each environment of the plan may run at once.
    pub fn new(plan: Arc<ExecutionPlan>, slots: Vec<usize>, policy: BundlePolicy) -> Self {
        let mut readers = vec![Vec::new(); plan.collections.len()];
        let mut side_readers = vec![Vec::new(); plan.collections.len()];
        let mut stages = BTreeMap::new();
        let mut open_inputs = HashMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let id = NodeId(index);
            for input in node.inputs() {
                readers[input.0].push(id);
            }
            match node {
                Node::Stage(stage) => {
                    let mut side: Vec<_> = stage.side_inputs.iter().map(|side| side.collection).collect();
                    side.sort();
                    side.dedup();
                    for collection in &side {
                        side_readers[collection.0].push(id);
                    }
                    stages.insert(id, StageState::new(side.len(), stage.keyed.as_ref()));
                }
                Node::Flatten { inputs, .. } => {
                    open_inputs.insert(id, inputs.len());
                }
                Node::Impulse { .. }
                | Node::TestStream(_)
                | Node::GroupByKey { .. }
                | Node::Redistribute { .. } => {}
            }
        }
        Self {
            complete: vec![false; plan.collections.len()],
            readers,
            side_readers,
            stages,
            open_inputs,
            grouping: BTreeSet::new(),
            bundles: Bundles::default(),
            free_slots: slots.clone(),
            slots,
            delayed: HashMap::new(),
            next_wake: 0,
            policy,
            ended: false,
            actions: Vec::new(),
            plan,
        }
    }

    /// Takes in what has happened and says what to do. After [`EngineAction::End`] it says nothing more.
    pub fn step(&mut self, event: EngineEvent<B>) -> Vec<EngineAction<B>> {
        if !self.ended {
            self.take_in(event);
        }
        if !self.ended {
            self.start_bundles();
            self.check_end();
        }
        std::mem::take(&mut self.actions)
    }

    /// Bundles running now.
    pub fn bundles_in_flight(&self) -> usize {
        self.bundles.len()
    }

    fn take_in(&mut self, event: EngineEvent<B>) {
        match event {
            EngineEvent::Started { impulse } => self.start(impulse),
            EngineEvent::BundleSucceeded { bundle, attempt, outputs, residuals, timers } => {
                self.bundle_succeeded(bundle, attempt, bundle::Effects { outputs, residuals, timers })
            }
            EngineEvent::BundleFailed { bundle, attempt, fault } => {
                self.bundle_failed(bundle, attempt, fault)
            }
            EngineEvent::Grouped { node, blocks, last } => self.grouped(node, blocks, last),
            EngineEvent::SideInputReady { collection } => self.side_input_ready(collection),
            EngineEvent::Woken { wake } => self.woken(wake),
            EngineEvent::Failed(fault) => self.end(Outcome::Failed(fault)),
            EngineEvent::CancelRequested => self.end(Outcome::Cancelled),
        }
    }

    fn start(&mut self, impulse: Block<B>) {
        let plan = self.plan.clone();
        for (index, node) in plan.nodes.iter().enumerate() {
            match node {
                Node::Impulse { output } => {
                    self.deliver(*output, vec![impulse.clone()]);
                    self.completed(*output);
                }
                // A Flatten of nothing is complete from the first.
                Node::Flatten { inputs, output } if inputs.is_empty() => {
                    self.open_inputs.remove(&NodeId(index));
                    self.completed(*output);
                }
                Node::TestStream(_)
                | Node::Flatten { .. }
                | Node::Stage(_)
                | Node::GroupByKey { .. }
                | Node::Redistribute { .. } => {}
            }
        }
    }

    /// Hands elements of a collection to all that read it. A loop, not a recursion: nothing bounds how
    /// many Flattens follow one another.
    fn deliver(&mut self, collection: CollectionId, blocks: Vec<Block<B>>) {
        if blocks.is_empty() {
            return;
        }
        let mut open = VecDeque::from([collection]);
        while let Some(collection) = open.pop_front() {
            for reader in self.readers[collection.0].clone() {
                match &self.plan.nodes[reader.0] {
                    Node::Stage(_) => {
                        if let Some(stage) = self.stages.get_mut(&reader) {
                            stage.push(blocks.iter().cloned());
                        }
                    }
                    Node::GroupByKey { .. } => {
                        self.actions.push(EngineAction::Group { node: reader, blocks: blocks.clone() })
                    }
                    Node::Flatten { output, .. } | Node::Redistribute { output, .. } => {
                        open.push_back(*output)
                    }
                    Node::Impulse { .. } | Node::TestStream(_) => {}
                }
            }
            if !self.side_readers[collection.0].is_empty() {
                self.actions.push(EngineAction::AddToSideInput { collection, blocks: blocks.clone() });
            }
        }
    }

    /// A collection has got all its elements, and with it perhaps others that are made of it.
    fn completed(&mut self, collection: CollectionId) {
        let mut open = vec![collection];
        while let Some(collection) = open.pop() {
            if std::mem::replace(&mut self.complete[collection.0], true) {
                continue;
            }
            if !self.side_readers[collection.0].is_empty() {
                self.actions.push(EngineAction::SealSideInput { collection });
            }
            for reader in self.readers[collection.0].clone() {
                open.extend(self.input_completed(reader));
            }
        }
    }

    /// A node has got all elements of an input. Returns what is complete with that.
    fn input_completed(&mut self, node: NodeId) -> Vec<CollectionId> {
        match &self.plan.nodes[node.0] {
            Node::Stage(_) => {
                if let Some(stage) = self.stages.get_mut(&node) {
                    stage.input_complete = true;
                }
                self.outputs_if_done(node)
            }
            Node::GroupByKey { .. } => {
                self.grouping.insert(node);
                self.actions.push(EngineAction::Seal { node });
                Vec::new()
            }
            Node::Flatten { output, .. } => {
                let open = self.open_inputs.entry(node).or_insert(1);
                *open = open.saturating_sub(1);
                if *open == 0 { vec![*output] } else { Vec::new() }
            }
            Node::Redistribute { output, .. } => vec![*output],
            Node::Impulse { .. } | Node::TestStream(_) => Vec::new(),
        }
    }

    fn grouped(&mut self, node: NodeId, blocks: Vec<Block<B>>, last: bool) {
        // What comes after the last groups, or without having been asked for, changes nothing.
        if !self.grouping.contains(&node) {
            return;
        }
        if let Node::GroupByKey { output, .. } = self.plan.nodes[node.0] {
            self.deliver(output, blocks);
            if last {
                self.grouping.remove(&node);
                self.completed(output);
            }
        }
    }

    fn side_input_ready(&mut self, collection: CollectionId) {
        for reader in self.side_readers[collection.0].clone() {
            if let Some(stage) = self.stages.get_mut(&reader) {
                stage.side_inputs_missing = stage.side_inputs_missing.saturating_sub(1);
            }
            self.maybe_complete_stage(reader);
        }
    }

    fn woken(&mut self, wake: WakeId) {
        if let Some((node, block)) = self.delayed.remove(&wake)
            && let Some(stage) = self.stages.get_mut(&node)
        {
            stage.delayed = stage.delayed.saturating_sub(1);
            stage.push([block]);
        }
    }

    fn delay(&mut self, node: NodeId, block: Block<B>, after: Duration) {
        let wake = WakeId(self.next_wake);
        self.next_wake += 1;
        if let Some(stage) = self.stages.get_mut(&node) {
            stage.delayed += 1;
        }
        self.delayed.insert(wake, (node, block));
        self.actions.push(EngineAction::Wake { wake, after });
    }

    /// A stage that can get no more work makes its outputs complete.
    fn maybe_complete_stage(&mut self, node: NodeId) {
        for output in self.outputs_if_done(node) {
            self.completed(output);
        }
    }

    /// The outputs of a stage that has just done all its work; else nothing.
    fn outputs_if_done(&mut self, node: NodeId) -> Vec<CollectionId> {
        match self.stages.get_mut(&node) {
            Some(stage) if stage.is_done() => {
                stage.complete = true;
                self.plan.nodes[node.0].outputs()
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn check_end(&mut self) {
        let stages_complete = self.stages.values().all(|stage| stage.complete);
        if stages_complete && self.grouping.is_empty() && self.complete.iter().all(|complete| *complete) {
            self.end(Outcome::Done);
            return;
        }
        if let Some(reason) = self.stuck() {
            self.end(Outcome::Failed(Fault::runner(reason)));
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.actions.push(EngineAction::End(outcome));
    }
}
