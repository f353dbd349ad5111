//! The world around the engine: workers that fail, are lost and answer late, GroupByKeys, a clock that
//! jumps. Everything that the engine says is held against the model.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::super::*;
use super::super::Random;
use super::awaits::{Awaits, Live};
use super::groups::Groups;
use super::model::{Instance, Model, Taken};
use super::plan::Case;
use super::splits::Asked;
use super::work::{Batch, Effects, Element, State, StateKey, Worker, expiry, window_start};
use crate::plan::{Stage, TimerKind};
use crate::ports::Storage;
use crate::ports::memory::{MemoryStorage, SpillingStorage};

/// A bundle that runs.
pub(super) struct Open {
    pub(super) node: NodeId,
    pub(super) attempt: Attempt,
    pub(super) blocks: Vec<Block<Batch>>,
    pub(super) timers: Vec<Timer>,
    pub(super) taken: Taken,
    pub(super) watermark: EventTime,
    pub(super) draining: bool,
    pub(super) checkpoint: bool,
    /// The last attempt has failed.
    pub(super) failed: bool,
}

/// What happens, as the model sees it.
pub(super) enum Happening {
    Started,
    Succeeded {
        bundle: BundleId,
        effects: Box<Effects>,
        outputs: Outputs,
        residuals: Residuals,
    },
    Failed(BundleId),
    Split {
        bundle: BundleId,
        kept: Vec<Instance>,
        given_back: Residuals,
    },
    Collected {
        node: NodeId,
        blocks: Vec<Block<Batch>>,
        done: Option<Collected>,
    },
    TestStream(TestStreamStep<Batch>),
    Drained,
    /// What the engine is to make nothing of.
    Nothing,
}

pub(super) type Outputs = Vec<(CollectionId, Vec<Block<Batch>>)>;
pub(super) type Residuals = Vec<(Block<Batch>, Duration)>;

#[derive(Default)]
pub(super) struct SideInput {
    pub(super) values: Vec<u64>,
    pub(super) sealed: bool,
    pub(super) ready: bool,
}

pub(super) struct World<'a> {
    pub(super) case: &'a Case,
    pub(super) random: Random,
    pub(super) model: Model,
    pub(super) slots: Vec<usize>,
    pub(super) running: BTreeMap<BundleId, Open>,
    /// What bundles have been asked and not answered.
    pub(super) asked: Vec<Asked>,
    /// Attempts that have been answered or given up.
    pub(super) old: Vec<(BundleId, Attempt, NodeId)>,
    pub(super) groups: BTreeMap<NodeId, Groups>,
    pub(super) awaits: BTreeMap<NodeId, Awaits>,
    pub(super) sides: BTreeMap<CollectionId, SideInput>,
    /// Those that go on changing.
    pub(super) live: BTreeMap<CollectionId, Live>,
    pub(super) states: BTreeMap<StateKey, State>,
    pub(super) wake: Option<ProcessingTime>,
    pub(super) test_stream_asked: bool,
    pub(super) script: Vec<TestStreamStep<Batch>>,
    /// What the machine's clock shows, and the latest that it ever has.
    pub(super) now: ProcessingTime,
    pub(super) latest: ProcessingTime,
    pub(super) test_clock: Option<ProcessingTime>,
    pub(super) drained: bool,
    pub(super) serial: u64,
    pub(super) events: usize,
    pub(super) dropped: BTreeMap<NodeId, Vec<(u64, EventTime)>>,
    pub(super) read: BTreeMap<(NodeId, u64), u64>,
    /// Up to which time elements have been processed that are to come sorted.
    pub(super) sorted: BTreeMap<(NodeId, Partition), EventTime>,
    pub(super) outcome: Option<Outcome>,
    /// What has come about.
    pub(super) seen: BTreeSet<Seen>,
}

/// What is worth nothing if it never comes about in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    Bundle,
    Retry,
    Split,
    SplitAsked,
    LateReply,
    LateElement,
    DroppedByStage,
    DroppedByGroups,
    EventTimeTimer,
    ProcessingTimeTimer,
    Expiration,
    Forgotten,
    Delay,
    Checkpoint,
    Truncated,
    TestStreamEvent,
    SideInput,
    LiveSideInput,
    Waits,
    Drained,
    Done,
}

impl Seen {
    pub(super) const ALL: [Self; 21] = [
        Self::Bundle,
        Self::Retry,
        Self::Split,
        Self::SplitAsked,
        Self::LateReply,
        Self::LateElement,
        Self::DroppedByStage,
        Self::DroppedByGroups,
        Self::EventTimeTimer,
        Self::ProcessingTimeTimer,
        Self::Expiration,
        Self::Forgotten,
        Self::Delay,
        Self::Checkpoint,
        Self::Truncated,
        Self::TestStreamEvent,
        Self::SideInput,
        Self::LiveSideInput,
        Self::Waits,
        Self::Drained,
        Self::Done,
    ];
}

impl<'a> World<'a> {
    pub(super) fn new(case: &'a Case, mut random: Random, slots: Vec<usize>) -> Self {
        let storage: Arc<dyn Storage> =
            if random.one_in(3) { SpillingStorage::new() } else { MemoryStorage::unlimited() };
        let has_test_stream = case.plan.nodes.iter().any(|node| matches!(node, Node::TestStream(_)));
        let groups = case.plan.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::GroupByKey { grouping, .. } => {
                Some((NodeId(index), Groups::new(grouping, case.windows[&NodeId(index)], storage.clone())))
            }
            _ => None,
        });
        let awaits = case.plan.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::AwaitSideInputs { side_inputs, .. } => {
                let sides = side_inputs.iter().map(|side| side.collection).collect();
                Some((NodeId(index), Awaits::new(sides)))
            }
            _ => None,
        });
        Self {
            groups: groups.collect(),
            awaits: awaits.collect(),
            live: BTreeMap::new(),
            case,
            random,
            model: Model::new(case.plan.clone()),
            slots,
            running: BTreeMap::new(),
            asked: Vec::new(),
            old: Vec::new(),
            sides: BTreeMap::new(),
            states: BTreeMap::new(),
            wake: None,
            test_stream_asked: false,
            script: case.script.clone(),
            now: ProcessingTime::from_millis(1_000),
            latest: ProcessingTime::from_millis(1_000),
            test_clock: has_test_stream.then_some(ProcessingTime::from_millis(0)),
            drained: false,
            serial: 1,
            events: 0,
            dropped: BTreeMap::new(),
            read: BTreeMap::new(),
            sorted: BTreeMap::new(),
            outcome: None,
            seen: BTreeSet::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.outcome.is_some()
    }

    /// One event, and all that follows from it.
    pub(super) fn step(&mut self, engine: &mut Engine<Batch>) {
        let (event, happening) = if self.events == 0 { started() } else { self.next() };
        self.events += 1;
        self.latest = self.latest.max(self.now);
        let actions = engine.step(self.now, event);
        self.apply(happening, &actions);
        self.model.settle();
        assert_eq!(engine.watermarks, self.model.watermarks, "watermarks of all collections");
        for (node, stage) in &engine.stages {
            assert_eq!(stage.watermark(), self.model.stages[node].watermark.0, "watermark of {node:?}");
        }
        actions.into_iter().for_each(|action| self.carry_out(action));
        if self.outcome.is_none() {
            self.check_step();
        }
    }

    /// What timers and triggers go by.
    pub(super) fn pipeline_time(&self) -> ProcessingTime {
        self.test_clock.unwrap_or(self.latest)
    }

    pub(super) fn stage(&self, node: NodeId) -> &'a Stage {
        match &self.case.plan.nodes[node.0] {
            Node::Stage(stage) => stage,
            other => panic!("{other:?} is no stage"),
        }
    }

    fn pass_time(&mut self) {
        let jump = match self.random.below(40) {
            0 => 500,
            1 => -200,
            _ => self.random.below(4) as i64,
        };
        self.now = self.now.saturating_add(jump);
    }

    fn next(&mut self) -> (EngineEvent<Batch>, Happening) {
        self.pass_time();
        if self.case.drain_after.is_some_and(|after| self.events > after) && !self.drained {
            return (EngineEvent::DrainRequested, Happening::Drained);
        }
        if self.random.one_in(6)
            && let Some(reply) = self.old_reply()
        {
            self.seen.insert(Seen::LateReply);
            return (reply, Happening::Nothing);
        }
        if let Some(split) = self.answer_or_split() {
            return split;
        }
        if self.random.one_in(25) {
            // Before its time, or without having been asked for.
            self.wake = None;
            return (EngineEvent::Woken, Happening::Nothing);
        }
        let bundles: Vec<_> = self.running.keys().copied().collect();
        let asked = |groups: &Groups| !groups.asks.is_empty() || groups.is_answering();
        let mut groups: Vec<_> =
            self.groups.iter().filter(|(_, groups)| asked(groups)).map(|(id, _)| *id).collect();
        groups.extend(self.awaits.iter().filter(|(_, awaits)| !awaits.is_idle()).map(|(id, _)| *id));
        let changed = |live: &Live| !live.asks.is_empty();
        let live: Vec<_> = self.live.iter().filter(|(_, live)| changed(live)).map(|(id, _)| *id).collect();
        let unready = |side: &SideInput| side.sealed && !side.ready;
        let sides: Vec<_> = self.sides.iter().filter(|(_, side)| unready(side)).map(|(id, _)| *id).collect();
        let mut choice = {
            let choices = bundles.len() + groups.len() + sides.len() + live.len();
            let choices = choices + usize::from(self.wake.is_some()) + usize::from(self.test_stream_asked);
            assert!(choices > 0, "nothing is under way, and the job has not ended");
            self.random.below(choices)
        };
        if let Some(bundle) = bundles.get(choice) {
            return self.reply(*bundle);
        }
        choice -= bundles.len();
        if let Some(node) = groups.get(choice) {
            return self.collected(*node);
        }
        choice -= groups.len();
        if let Some(collection) = live.get(choice) {
            self.seen.insert(Seen::LiveSideInput);
            self.live.get_mut(collection).unwrap().take_in();
            return (EngineEvent::SideInputUpdated { collection: *collection }, Happening::Nothing);
        }
        choice -= live.len();
        if let Some(collection) = sides.get(choice) {
            self.sides.get_mut(collection).unwrap().ready = true;
            return (EngineEvent::SideInputReady { collection: *collection }, Happening::Nothing);
        }
        if self.test_stream_asked && choice == sides.len() {
            self.test_stream_asked = false;
            let mut step = self.script.pop().expect("events after the last");
            if let TestStreamStep::Elements { output, blocks } = &mut step {
                for element in blocks.iter_mut().flat_map(|block| &mut block.data.elements) {
                    *element = self.sent(*output, element.clone());
                }
            }
            return (EngineEvent::TestStream(step.clone()), Happening::TestStream(step));
        }
        let at = self.wake.take().unwrap();
        self.now = self.now.max(at).saturating_add(self.random.below(3) as i64);
        (EngineEvent::Woken, Happening::Nothing)
    }

    /// An answer that comes too late, of work that has been done otherwise.
    fn old_reply(&mut self) -> Option<EngineEvent<Batch>> {
        let (bundle, attempt, node) = *self.old.get(self.random.below(self.old.len()))?;
        if self.random.one_in(3) {
            return Some(EngineEvent::BundleFailed { bundle, attempt, fault: Fault::user("late").fatal() });
        }
        let garbage = Batch::block(0, vec![Element::new(13, EventTime(0))]);
        if self.random.one_in(2) {
            let given_back = vec![(garbage.clone(), Duration::ZERO)];
            return Some(EngineEvent::BundleSplit { bundle, attempt, kept: vec![garbage], given_back });
        }
        let id = TimerId { family: 0, key: "0".into(), window: "0".into(), tag: "late".into() };
        let time = EventTime(0);
        let timer = Timer { id, fire: time, hold: time, pane: Default::default(), expiry: EventTime::MAX };
        let outputs = self.stage(node).sinks.values();
        Some(EngineEvent::BundleSucceeded {
            bundle,
            attempt,
            outputs: outputs.map(|output| (*output, vec![garbage.clone()])).collect(),
            residuals: vec![(garbage.clone(), Duration::from_millis(1))],
            timers: vec![TimerChange::Set { timer, partition: Partition(0) }],
        })
    }

    fn reply(&mut self, bundle: BundleId) -> (EngineEvent<Batch>, Happening) {
        let open = &self.running[&bundle];
        let (node, attempt) = (open.node, open.attempt);
        self.old.push((bundle, attempt, node));
        if attempt.0 < MAX_ATTEMPTS && self.random.one_in(5) {
            let fault = Fault::environment("the worker is lost");
            return (EngineEvent::BundleFailed { bundle, attempt, fault }, Happening::Failed(bundle));
        }
        let effects = self.work(bundle);
        let cut = |world: &mut Self, elements| world.blocks(elements);
        let outputs: Outputs = effects
            .outputs
            .iter()
            .map(|(collection, elements)| {
                let elements =
                    elements.iter().map(|element| self.sent(*collection, element.clone())).collect();
                (*collection, cut(self, elements))
            })
            .collect();
        let truncated = self.running[&bundle].draining
            || self.running[&bundle].blocks.iter().any(|block| block.truncated);
        let residuals = effects.residuals.iter().map(|rest| {
            self.serial += 1;
            let block = Batch::block(self.serial, vec![rest.element.clone()]);
            (Block { hold: rest.hold, truncated, ..block }, rest.delay)
        });
        let mut residuals: Residuals = residuals.collect();
        residuals.extend(effects.given_back.iter().map(|block| (block.clone(), Duration::ZERO)));
        let event = EngineEvent::BundleSucceeded {
            bundle,
            attempt,
            outputs: outputs.clone(),
            residuals: residuals.clone(),
            timers: effects.timers.clone(),
        };
        (event, Happening::Succeeded { bundle, effects: Box::new(effects), outputs, residuals })
    }

    /// What a worker does with a bundle.
    fn work(&mut self, bundle: BundleId) -> Effects {
        let open = &self.running[&bundle];
        let stage = self.stage(open.node);
        let mut worker = Worker {
            case: self.case,
            node: open.node,
            stage,
            watermark: open.watermark,
            draining: open.draining,
            checkpoint: open.checkpoint,
            now: self.now,
            states: &self.states,
            random: &mut self.random,
            effects: Effects::default(),
        };
        let mut instances = open.taken.instances.clone();
        if let Some(keyed) = &stage.keyed {
            if keyed.time_sorted {
                instances.sort_by_key(|instance| instance.block.hold);
            }
            for instance in &instances {
                for element in &instance.block.data.elements {
                    let was_late = element.time < instance.stage_watermark;
                    assert!(was_late || expiry(keyed, window_start(element.time)) >= open.watermark);
                    worker.process_keyed(keyed, element, instance.bound());
                }
            }
            open.taken.timers.iter().for_each(|set| worker.fire(keyed, &set.timer, set.bound));
            return worker.effects;
        }
        let restrictions = stage.restriction_reader.is_some();
        let kept = if restrictions && worker.random.one_in(3) {
            worker.random.below(instances.len() + 1)
        } else {
            instances.len()
        };
        worker.effects.given_back = instances.split_off(kept).into_iter().map(|rest| rest.block).collect();
        for instance in &instances {
            for element in &instance.block.data.elements {
                if restrictions {
                    worker.read(element, instance.bound());
                } else {
                    worker.process(element, instance.bound());
                }
            }
        }
        worker.effects
    }

    /// An element as it comes to a collection: whether it is late is settled.
    fn sent(&self, collection: CollectionId, mut element: Element) -> Element {
        let watermark = self.model.watermarks[collection.0];
        element.late = element.time < watermark;
        assert!(!element.late || element.time < element.bound, "{element:?} is late, at {watermark}");
        element
    }

    /// Cuts elements into blocks: between partitions, and at random.
    fn blocks(&mut self, elements: Vec<Element>) -> Vec<Block<Batch>> {
        let mut shares: BTreeMap<Partition, Vec<Element>> = BTreeMap::new();
        for element in elements {
            shares.entry(element.partition()).or_default().push(element);
        }
        let mut blocks = Vec::new();
        for mut share in shares.into_values() {
            while !share.is_empty() {
                let keep = if self.case.singles { share.len() - 1 } else { self.random.below(share.len()) };
                self.serial += 1;
                let block = Batch::block(self.serial, share.split_off(keep));
                blocks.push(Block { bytes: self.case.bytes * block.data.elements.len() as u64, ..block });
            }
        }
        blocks
    }

    fn collected(&mut self, node: NodeId) -> (EngineEvent<Batch>, Happening) {
        let random = &mut self.random;
        let some = |count| random.below(count + 1);
        let given = match self.groups.get_mut(&node) {
            Some(groups) => groups.answer(some),
            None => self.awaits.get_mut(&node).unwrap().answer(some),
        };
        let output = self.case.plan.nodes[node.0].outputs()[0];
        let elements = given.elements.into_iter().map(|element| self.sent(output, element)).collect();
        let (blocks, done) = (self.blocks(elements), given.done);
        let event = EngineEvent::Collected { node, blocks: blocks.clone(), done };
        (event, Happening::Collected { node, blocks, done })
    }

    fn apply(&mut self, happening: Happening, actions: &[EngineAction<Batch>]) {
        match happening {
            Happening::Started => {
                for node in &self.case.plan.nodes {
                    if let Node::Impulse { output } = node {
                        self.model.deliver(*output, &[impulse()]);
                    }
                }
            }
            Happening::Succeeded { bundle, effects, outputs, residuals } => {
                let commits = matches!(
                    actions.first(),
                    Some(EngineAction::Commit { bundle: id, .. }) if *id == bundle
                );
                assert!(commits, "what has succeeded is committed");
                self.succeeded(bundle, *effects, outputs, residuals);
            }
            Happening::Failed(bundle) => {
                self.seen.insert(Seen::Retry);
                self.running.get_mut(&bundle).unwrap().failed = true
            }
            Happening::Collected { node, blocks, done } => {
                self.model.deliver(self.case.plan.nodes[node.0].outputs()[0], &blocks);
                if let Some(done) = done {
                    let waits = self.awaits.contains_key(&node) && done.hold < EventTime::MAX;
                    self.seen.extend(waits.then_some(Seen::Waits));
                    self.model.answered(node, done.hold);
                }
            }
            Happening::TestStream(step) if !self.drained => self.test_stream(step),
            Happening::Drained => self.drain(),
            Happening::Split { bundle, kept, given_back } => self.has_split(bundle, kept, given_back),
            Happening::TestStream(_) | Happening::Nothing => {}
        }
    }

    fn succeeded(&mut self, bundle: BundleId, effects: Effects, outputs: Outputs, residuals: Residuals) {
        let open = self.running.remove(&bundle).unwrap();
        let node = open.node;
        self.seen.insert(Seen::Bundle);
        self.seen.extend((!effects.dropped.is_empty()).then_some(Seen::DroppedByStage));
        self.seen.extend(open.taken.timers.iter().map(|set| match set.kind {
            TimerKind::EventTime => Seen::EventTimeTimer,
            TimerKind::ProcessingTime => Seen::ProcessingTimeTimer,
            TimerKind::Expiration => Seen::Expiration,
        }));
        self.check_sorted(&open);
        self.model.stages.get_mut(&node).unwrap().running.remove(&bundle);
        self.states.extend(effects.states);
        self.states.retain(|_, state| !state.is_empty());
        for element in effects.dropped {
            let values = element.values.iter().map(|value| (*value, element.time));
            self.dropped.entry(node).or_default().extend(values);
        }
        for (value, from, until) in effects.read {
            let reached = self.read.entry((node, value)).or_default();
            assert_eq!(*reached, from, "a restriction is read on from where it was left");
            *reached = until;
        }
        for (collection, blocks) in outputs {
            self.model.deliver(collection, &blocks);
        }
        self.arrive_later(node, residuals);
        let (latest, test_clock) = (self.latest, self.test_clock);
        let due = |fire: i64| match test_clock {
            // As long after the test's time as it is after the machine's.
            Some(now) => now.saturating_add(fire - latest.millis()).millis(),
            None => fire,
        };
        self.model.change_timers(node, effects.timers, due);
    }

    pub(super) fn arrive_later(&mut self, node: NodeId, blocks: Residuals) {
        for (block, delay) in blocks {
            self.seen.extend((!delay.is_zero()).then_some(Seen::Delay));
            let not_before = if delay.is_zero() { ProcessingTime::MIN } else { self.latest.after(delay) };
            self.model.arrive(node, block, not_before);
        }
    }

    fn test_stream(&mut self, step: TestStreamStep<Batch>) {
        self.seen.insert(Seen::TestStreamEvent);
        match step {
            TestStreamStep::Elements { output, blocks } => self.model.deliver(output, &blocks),
            TestStreamStep::Watermark { output, watermark } => self.model.watermarks[output.0] = watermark,
            TestStreamStep::ProcessingTime { millis } => {
                self.test_clock = self.test_clock.map(|now| now.saturating_add(millis));
            }
            TestStreamStep::End => self.end_test_stream(),
        }
    }

    fn end_test_stream(&mut self) {
        for node in &self.case.plan.nodes {
            if let Node::TestStream(stream) = node {
                for output in stream.outputs.values() {
                    self.model.watermarks[output.0] = EventTime::MAX;
                }
            }
        }
        self.test_clock = self.test_clock.map(|_| ProcessingTime::MAX);
    }

    fn drain(&mut self) {
        self.drained = true;
        self.end_test_stream();
        for stage in self.model.stages.values_mut() {
            stage.waiting.iter_mut().for_each(|instance| instance.not_before = ProcessingTime::MIN);
        }
    }

    /// A key's elements come by their time, but for those that are later than may be counted on.
    fn check_sorted(&mut self, open: &Open) {
        let Some(keyed) = self.stage(open.node).keyed.as_ref().filter(|keyed| keyed.time_sorted) else {
            return;
        };
        for instance in &open.taken.instances {
            let time = instance.block.hold;
            if time.saturating_add(keyed.allowed_lateness) < instance.input_watermark {
                continue;
            }
            let before = self.sorted.get(&(open.node, instance.block.partition));
            assert!(before.is_none_or(|before| *before <= time), "{instance:?} comes after {before:?}");
        }
        for instance in &open.taken.instances {
            let key = (open.node, instance.block.partition);
            let last = self.sorted.entry(key).or_insert(EventTime::MIN);
            *last = (*last).max(instance.block.hold);
        }
    }
}

fn impulse() -> Block<Batch> {
    Batch::block(1, vec![Element::new(0, EventTime::MIN)])
}

fn started() -> (EngineEvent<Batch>, Happening) {
    (EngineEvent::Started { impulse: impulse() }, Happening::Started)
}
