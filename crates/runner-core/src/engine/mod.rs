//! 5 · The pure step: an event in, actions out.
//!
//! The engine knows the plan, how many elements wait where, and which bundles run. It has no I/O, no
//! clock, no lock and no thread, and never looks into the data: a block is a handle `B` with counts.
//!
//! A bundle is a transaction. What it produced arrives in one event when it has succeeded, stamped with
//! the attempt; the engine then commits it and hands its output on. The reply of an attempt that the
//! engine has given up changes nothing.

mod bundle;
mod clock;
mod collector;
mod holds;
mod last_turns;
mod policy;
mod quiescence;
mod side_inputs;
mod splits;
mod stage;
mod test_stream;
mod timers;
mod watermarks;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use beam_model::time::{EventTime, ProcessingTime};

use crate::backend::Outcome;
use crate::fault::Fault;
use crate::plan::{CollectionId, ExecutionPlan, Node, NodeId};
use bundle::Bundles;
pub use bundle::{Attempt, BundleId, MAX_ATTEMPTS};
use clock::{Clock, PipelineClock};
pub use collector::Collected;
use collector::CollectorState;
pub use last_turns::LAST_TIMERS;
use policy::Pools;
pub use policy::{BundlePolicy, SMALL};
pub use splits::{Helper, is_worth_splitting};
use stage::StageState;
use test_stream::TestStreamState;
pub use test_stream::TestStreamStep;
pub use timers::{Timer, TimerChange, TimerId, TimerWindow};

/// Elements that travel together.
#[derive(Clone, Debug)]
pub struct Block<B> {
    /// A handle to the data, of no interest to the engine.
    pub data: B,
    /// Encoded size.
    pub bytes: u64,
    /// Which keys it may hold, for a stage that processes elements by key.
    pub partition: Partition,
    /// No element of it, and nothing that is made of one, is earlier. [`EventTime::MIN`] if nobody has looked,
    /// as on bounded input.
    pub hold: EventTime,
    /// What was left of restrictions when they were truncated, and is not to be truncated again.
    pub truncated: bool,
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
    /// A running attempt works on `kept` alone from now on, which is not nothing and does all that it was to do but for what is
    /// `given_back` to be done by others, now or after a delay in processing time.
    BundleSplit {
        bundle: BundleId,
        attempt: Attempt,
        kept: Vec<Block<B>>,
        given_back: Vec<(Block<B>, Duration)>,
    },
    /// The oldest unanswered [`EngineAction::Split`] of the attempt has led to a `BundleSplit`, or will not.
    SplitAnswered {
        bundle: BundleId,
        attempt: Attempt,
        is_split: bool,
    },
    /// What a GroupByKey, or elements that waited for side inputs, give out. `done` if that is all that the oldest unanswered
    /// [`EngineAction::Collect`] or [`EngineAction::Advance`] has led to.
    Collected {
        node: NodeId,
        blocks: Vec<Block<B>>,
        done: Option<Collected>,
    },
    /// A sealed side input can be asked.
    SideInputReady {
        collection: CollectionId,
    },
    /// A side input that goes on changing has taken in the oldest [`EngineAction::AddToSideInput`] or
    /// [`EngineAction::AdvanceSideInput`], and whoever asks it from now on sees that.
    SideInputUpdated {
        collection: CollectionId,
    },
    /// What the TestStream does next, as [`EngineAction::NextTestStreamEvent`] has asked.
    TestStream(TestStreamStep<B>),
    /// The time that the last [`EngineAction::WakeAt`] asked for has come.
    Woken,
    /// Something outside any bundle failed.
    Failed(Fault),
    CancelRequested,
    /// Unbounded input is to end where it is, and the job with it when all that has been read is done.
    DrainRequested,
}

/// What is to be done.
#[derive(Debug)]
pub enum EngineAction<B> {
    /// Run one attempt of a bundle and answer with `BundleSucceeded` or `BundleFailed`.
    Run {
        node: NodeId,
        bundle: BundleId,
        attempt: Attempt,
        blocks: Vec<Block<B>>,
        timers: Vec<Timer>,
        /// The keys that no other bundle of the stage has meanwhile.
        partitions: Vec<Partition>,
        /// The stage's input watermark: what belongs to windows that were over before this is late.
        watermark: EventTime,
        /// Whether restrictions are to be truncated before they are processed.
        draining: bool,
    },
    /// The bundle's effects are final: count its metrics, tell its worker.
    Commit { bundle: BundleId, attempt: Attempt },
    /// A running bundle is to leave undone what it has not begun.
    Checkpoint { bundle: BundleId },
    /// Workers have nothing to do: a running bundle is to keep so much of what is left to it (0 to 1), and to give
    /// back the rest. Answer with `SplitAnswered`, after a `BundleSplit` if it does.
    Split { bundle: BundleId, attempt: Attempt, fraction_of_remainder: f64 },
    /// Add elements to a GroupByKey, or to those that wait for side inputs: answer with `Collected`.
    Collect { node: NodeId, blocks: Vec<Block<B>>, now: ProcessingTime },
    /// The watermark of such a node's input is here, or something that it looks at has changed: answer with
    /// `Collected`.
    Advance { node: NodeId, watermark: EventTime, now: ProcessingTime },
    /// Add elements to a side input. One that goes on changing answers with `SideInputUpdated`.
    AddToSideInput { collection: CollectionId, blocks: Vec<Block<B>> },
    /// A side input has all its elements: answer with `SideInputReady`.
    SealSideInput { collection: CollectionId },
    /// The watermark of a side input that goes on changing is here: answer with `SideInputUpdated`.
    AdvanceSideInput { collection: CollectionId, watermark: EventTime },
    /// Nothing will ask any more for what a stage keeps of windows that were over before this.
    Expire { node: NodeId, watermark: EventTime },
    /// So many processing-time timers of a stage were given up, since the job drains and they went on being set.
    TimersDropped { node: NodeId, count: usize },
    /// Answer with `TestStream`.
    NextTestStreamEvent,
    /// Answer with `Woken` at this time of the machine's clock. Replaces what was asked before.
    WakeAt { at: ProcessingTime },
    /// The job is over; nothing follows.
    End(Outcome),
}

/// Decides what a job does next.
pub struct Engine<B> {
    plan: Arc<ExecutionPlan>,
    /// Which nodes read a collection; one entry for each time it is read.
    readers: Vec<Vec<NodeId>>,
    /// Which nodes are to be told of a collection as a side input.
    side_readers: Vec<Vec<NodeId>>,
    watermarks: Vec<EventTime>,
    /// Nodes whose inputs or insides have changed since they were last looked at.
    changed: BTreeSet<NodeId>,
    stages: BTreeMap<NodeId, StageState<B>>,
    collectors: BTreeMap<NodeId, CollectorState>,
    /// Side inputs that are complete and cannot be asked yet.
    sealed_side_inputs: BTreeSet<CollectionId>,
    /// How many changes of side inputs have not been taken in.
    side_input_updates: BTreeMap<CollectionId, usize>,
    test_stream: Option<TestStreamState>,
    bundles: Bundles<B>,
    pools: Pools,
    /// See [`ExecutionPlan::redistributed`].
    redistributed: BTreeSet<CollectionId>,
    /// Bundles that may still be started, by pool.
    free_slots: Vec<usize>,
    clock: Clock<B>,
    policy: BundlePolicy,
    /// How long after the end of a stage's input its processing-time timers may go on setting others.
    last_timers: Duration,
    draining: bool,
    ended: bool,
    actions: Vec<EngineAction<B>>,
}

impl<B: Clone> Engine<B> {
    /// `slots`: how many bundles each environment of the plan may run at once.
    pub fn new(plan: Arc<ExecutionPlan>, slots: Vec<usize>, policy: BundlePolicy) -> Self {
        let mut readers = vec![Vec::new(); plan.collections.len()];
        let mut side_readers = vec![Vec::new(); plan.collections.len()];
        let mut stages = BTreeMap::new();
        let mut collectors = BTreeMap::new();
        let mut test_stream = None;
        for (index, node) in plan.nodes.iter().enumerate() {
            let id = NodeId(index);
            for input in node.inputs() {
                readers[input.0].push(id);
            }
            let side = side_inputs::side_inputs_of(node, |it| plan.collections[it.0].live.is_some());
            for collection in &side {
                side_readers[collection.0].push(id);
            }
            match node {
                Node::Stage(stage) => {
                    stages.insert(id, StageState::new(side.len(), stage.keyed.as_ref(), plan.streaming));
                }
                Node::GroupByKey { .. } | Node::AwaitSideInputs { .. } => {
                    collectors.insert(id, CollectorState::default());
                }
                Node::TestStream(stream) => {
                    test_stream = Some(TestStreamState::new(stream.outputs.values().copied().collect()));
                }
                Node::Impulse { .. } | Node::Flatten { .. } | Node::Redistribute { .. } => {}
            }
        }
        let pipeline_clock = match (&test_stream, plan.streaming) {
            (Some(_), _) => PipelineClock::Test(ProcessingTime::from_millis(0)),
            (None, true) => PipelineClock::Wall,
            (None, false) => PipelineClock::Stopped,
        };
        let pools = Pools::new(&plan, slots);
        Self {
            watermarks: vec![EventTime::MIN; plan.collections.len()],
            changed: BTreeSet::new(),
            readers,
            side_readers,
            stages,
            collectors,
            sealed_side_inputs: BTreeSet::new(),
            side_input_updates: BTreeMap::new(),
            test_stream,
            bundles: Bundles::default(),
            free_slots: pools.slots.clone(),
            pools,
            redistributed: plan.redistributed(),
            clock: Clock::new(pipeline_clock),
            policy,
            last_timers: LAST_TIMERS,
            draining: false,
            ended: false,
            actions: Vec::new(),
            plan,
        }
    }

    /// How long after the end of a stage's input its processing-time timers may go on setting others; by default
    /// [`LAST_TIMERS`].
    pub fn with_last_timers(self, last_timers: Duration) -> Self {
        Self { last_timers, ..self }
    }

    /// Takes in what has happened and says what to do. `now`: the time on the machine's clock. After
    /// [`EngineAction::End`] it says nothing more.
    pub fn step(&mut self, now: ProcessingTime, event: EngineEvent<B>) -> Vec<EngineAction<B>> {
        if !self.ended {
            self.clock.set_wall(now);
            self.take_in(event);
        }
        if !self.ended {
            self.time_has_come();
            self.settle();
            self.take_last_turns();
        }
        if !self.ended {
            self.start_bundles();
            self.ask_for_splits();
            self.go_on_with_test_stream();
            self.ask_to_be_woken();
            self.check_end();
        }
        std::mem::take(&mut self.actions)
    }

    /// How many blocks wait before stages, and how many bytes they have.
    pub fn waiting(&self) -> (u64, u64) {
        let stages = self.stages.values();
        stages.fold((0, 0), |(blocks, bytes), stage| {
            (blocks + stage.waiting() as u64, bytes + stage.pending_bytes)
        })
    }

    /// Timers that are set and have not fired.
    pub fn timers_waiting(&self) -> u64 {
        self.stages.values().map(|stage| stage.timers_waiting() as u64).sum()
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
            EngineEvent::BundleSplit { bundle, attempt, kept, given_back } => {
                self.bundle_split(bundle, attempt, kept, given_back)
            }
            EngineEvent::SplitAnswered { bundle, attempt, is_split } => {
                self.split_answered(bundle, attempt, is_split)
            }
            EngineEvent::Collected { node, blocks, done } => self.collected(node, blocks, done),
            EngineEvent::SideInputReady { collection } => self.side_input_ready(collection),
            EngineEvent::SideInputUpdated { collection } => self.side_input_updated(collection),
            EngineEvent::TestStream(step) => self.test_stream_step(step),
            EngineEvent::Woken => self.woken(),
            EngineEvent::Failed(fault) => self.end(Outcome::Failed(fault)),
            EngineEvent::CancelRequested => self.end(Outcome::Cancelled),
            EngineEvent::DrainRequested => self.drain(),
        }
    }

    fn start(&mut self, impulse: Block<B>) {
        let plan = self.plan.clone();
        for (index, node) in plan.nodes.iter().enumerate() {
            if let Node::Impulse { output } = node {
                self.deliver(*output, vec![impulse.clone()]);
            }
            self.changed.insert(NodeId(index));
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
                    Node::GroupByKey { .. } | Node::AwaitSideInputs { .. } => {
                        self.collect(reader, blocks.clone())
                    }
                    Node::Flatten { output, .. } | Node::Redistribute { output, .. } => {
                        open.push_back(*output)
                    }
                    Node::Impulse { .. } | Node::TestStream(_) => {}
                }
            }
            if !self.side_readers[collection.0].is_empty() {
                self.add_to_side_input(collection, blocks.clone());
            }
        }
    }

    /// Something that a node waits for has come about outside its inputs.
    fn poke(&mut self, node: NodeId) {
        self.changed.insert(node);
        self.poke_collector(node);
    }

    /// Ends all unbounded input: what is left of its restrictions is truncated, a TestStream goes no further.
    fn drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.hurry_residuals();
        let plan = self.plan.clone();
        let reads_restrictions = |node: NodeId| matches!(&plan.nodes[node.0], Node::Stage(stage) if stage.restriction_reader.is_some());
        for bundle in self.bundles.of(reads_restrictions) {
            self.actions.push(EngineAction::Checkpoint { bundle });
        }
        self.end_test_stream();
    }

    fn check_end(&mut self) {
        let complete = self.stages.values().all(StageState::is_complete)
            && self.collectors.values().all(|collector| collector.is_complete() && collector.is_idle())
            && self.watermarks.iter().all(|watermark| *watermark == EventTime::MAX);
        if complete {
            self.end(if self.draining { Outcome::Drained } else { Outcome::Done });
        } else if let Some(reason) = self.stuck() {
            self.end(Outcome::Failed(Fault::runner(reason)));
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        self.actions.push(EngineAction::End(outcome));
    }
}
