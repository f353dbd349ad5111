//! The world around the engine: workers that fail, are lost and answer late, GroupByKeys, a clock that
//! jumps. Everything that the engine says is held against the model.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::super::*;
use super::super::Random;
use super::expected;
use super::groups::{Ask, Groups};
use super::model::{AskModel, Model, Taken};
use super::plan::Case;
use super::work::{Batch, Effects, Element, State, StateKey, Worker, expiry, window_of, window_start};
use crate::plan::{Stage, TimerKind};

/// A bundle that runs.
struct Open {
    node: NodeId,
    attempt: Attempt,
    blocks: Vec<Block<Batch>>,
    timers: Vec<Timer>,
    taken: Taken,
    watermark: EventTime,
    draining: bool,
    checkpoint: bool,
    /// The last attempt has failed.
    failed: bool,
}

/// What happens, as the model sees it.
enum Happening {
    Started,
    Succeeded {
        bundle: BundleId,
        effects: Box<Effects>,
        outputs: Outputs,
        residuals: Residuals,
    },
    Failed(BundleId),
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

type Outputs = Vec<(CollectionId, Vec<Block<Batch>>)>;
type Residuals = Vec<(Block<Batch>, Duration)>;

#[derive(Default)]
struct SideInput {
    values: Vec<u64>,
    sealed: bool,
    ready: bool,
}

pub(super) struct World<'a> {
    case: &'a Case,
    random: Random,
    pub(super) model: Model,
    slots: Vec<usize>,
    running: BTreeMap<BundleId, Open>,
    /// Attempts that have been answered or given up.
    old: Vec<(BundleId, Attempt, NodeId)>,
    groups: BTreeMap<NodeId, Groups>,
    sides: BTreeMap<CollectionId, SideInput>,
    states: BTreeMap<StateKey, State>,
    wake: Option<ProcessingTime>,
    test_stream_asked: bool,
    script: Vec<TestStreamStep<Batch>>,
    /// What the machine's clock shows, and the latest that it ever has.
    pub(super) now: ProcessingTime,
    latest: ProcessingTime,
    test_clock: Option<ProcessingTime>,
    drained: bool,
    serial: u64,
    pub(super) events: usize,
    pub(super) committed: usize,
    dropped: BTreeMap<NodeId, Vec<(u64, EventTime)>>,
    read: BTreeMap<(NodeId, u64), u64>,
    /// Up to which time elements have been processed that are to come sorted.
    sorted: BTreeMap<(NodeId, Partition), EventTime>,
    outcome: Option<Outcome>,
}

impl<'a> World<'a> {
    pub(super) fn new(case: &'a Case, random: Random, slots: Vec<usize>) -> Self {
        let has_test_stream = case.plan.nodes.iter().any(|node| matches!(node, Node::TestStream(_)));
        let groups = case.plan.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::GroupByKey { grouping, .. } => {
                Some((NodeId(index), Groups::new(grouping, case.windows[&NodeId(index)])))
            }
            _ => None,
        });
        Self {
            groups: groups.collect(),
            case,
            random,
            model: Model::new(case.plan.clone()),
            slots,
            running: BTreeMap::new(),
            old: Vec::new(),
            sides: BTreeMap::new(),
            states: BTreeMap::new(),
            wake: None,
            test_stream_asked: false,
            script: case.script.clone(),
            now: ProcessingTime(1_000),
            latest: ProcessingTime(1_000),
            test_clock: has_test_stream.then_some(ProcessingTime(0)),
            drained: false,
            serial: 1,
            events: 0,
            committed: 0,
            dropped: BTreeMap::new(),
            read: BTreeMap::new(),
            sorted: BTreeMap::new(),
            outcome: None,
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
    fn pipeline_time(&self) -> ProcessingTime {
        self.test_clock.unwrap_or(self.latest)
    }

    fn stage(&self, node: NodeId) -> &'a Stage {
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
            return (reply, Happening::Nothing);
        }
        if self.random.one_in(25) {
            // Before its time, or without having been asked for.
            self.wake = None;
            return (EngineEvent::Woken, Happening::Nothing);
        }
        let bundles: Vec<_> = self.running.keys().copied().collect();
        let asked = |groups: &Groups| !groups.asks.is_empty() || groups.is_answering();
        let groups: Vec<_> =
            self.groups.iter().filter(|(_, groups)| asked(groups)).map(|(id, _)| *id).collect();
        let unready = |side: &SideInput| side.sealed && !side.ready;
        let sides: Vec<_> = self.sides.iter().filter(|(_, side)| unready(side)).map(|(id, _)| *id).collect();
        let mut choice = {
            let choices = bundles.len() + groups.len() + sides.len();
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
        if self.random.one_in(2) {
            return Some(EngineEvent::BundleFailed { bundle, attempt, fault: Fault::user("late").fatal() });
        }
        let garbage = Batch::block(0, vec![Element::new(13, EventTime(0))]);
        let id = TimerId { family: 0, key: "0".into(), window: "0".into(), tag: "late".into() };
        let time = EventTime(0);
        let timer = Timer { id, fire: time, hold: time, pane: Default::default() };
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
                blocks.push(Batch::block(self.serial, share.split_off(keep)));
            }
        }
        blocks
    }

    fn collected(&mut self, node: NodeId) -> (EngineEvent<Batch>, Happening) {
        let random = &mut self.random;
        let given = self.groups.get_mut(&node).unwrap().answer(|count| random.below(count + 1));
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
            Happening::Failed(bundle) => self.running.get_mut(&bundle).unwrap().failed = true,
            Happening::Collected { node, blocks, done } => {
                self.model.deliver(self.case.plan.nodes[node.0].outputs()[0], &blocks);
                if let Some(done) = done {
                    self.model.answered(node, done.hold);
                }
            }
            Happening::TestStream(step) if !self.drained => self.test_stream(step),
            Happening::Drained => self.drain(),
            Happening::TestStream(_) | Happening::Nothing => {}
        }
    }

    fn succeeded(&mut self, bundle: BundleId, effects: Effects, outputs: Outputs, residuals: Residuals) {
        let open = self.running.remove(&bundle).unwrap();
        let node = open.node;
        self.committed += 1;
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
        for (block, delay) in residuals {
            let millis = delay.as_micros().div_ceil(1_000) as i64;
            let not_before =
                if millis == 0 { ProcessingTime::MIN } else { self.latest.saturating_add(millis) };
            self.model.arrive(node, block, not_before);
        }
        let (latest, test_clock) = (self.latest, self.test_clock);
        let due = |fire: i64| match test_clock {
            // As long after the test's time as it is after the machine's.
            Some(now) => now.saturating_add(fire - latest.millis()).millis(),
            None => fire,
        };
        self.model.change_timers(node, effects.timers, due);
    }

    fn test_stream(&mut self, step: TestStreamStep<Batch>) {
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

impl World<'_> {
    fn carry_out(&mut self, action: EngineAction<Batch>) {
        assert!(self.outcome.is_none(), "{action:?} after the end");
        match action {
            EngineAction::Run { node, bundle, attempt, blocks, timers, watermark, draining } => {
                if self.running.contains_key(&bundle) {
                    self.run_again(bundle, attempt, &blocks, &timers);
                } else {
                    let open = Open {
                        node,
                        attempt,
                        blocks,
                        timers,
                        taken: Taken::default(),
                        watermark,
                        draining,
                        checkpoint: false,
                        failed: false,
                    };
                    self.run(bundle, open);
                }
            }
            // Held against the event when it happened.
            EngineAction::Commit { bundle, .. } => assert!(!self.running.contains_key(&bundle)),
            EngineAction::Checkpoint { bundle } => {
                let open = self.running.get_mut(&bundle).expect("a running bundle");
                open.checkpoint = true;
                let node = open.node;
                assert!(self.drained && self.stage(node).restriction_reader.is_some());
            }
            EngineAction::Collect { node, blocks, now } => self.collect(node, blocks, now),
            EngineAction::Advance { node, watermark, now } => {
                assert_eq!(now, self.pipeline_time());
                let groups = self.groups.get_mut(&node).unwrap();
                assert!(groups.told <= watermark, "it goes back");
                groups.told = watermark;
                groups.asks.push_back(Ask::Advance(watermark, now));
                let collector = self.model.collectors.get_mut(&node).unwrap();
                collector.asks.push_back(AskModel::Advance(watermark));
            }
            EngineAction::AddToSideInput { collection, blocks } => {
                let side = self.sides.entry(collection).or_default();
                assert!(!side.sealed, "more for a side input that was complete");
                let elements = blocks.into_iter().flat_map(|block| block.data.elements);
                side.values.extend(elements.flat_map(|element| element.values));
            }
            EngineAction::SealSideInput { collection } => {
                assert_eq!(self.model.watermarks[collection.0], EventTime::MAX);
                let side = self.sides.entry(collection).or_default();
                side.sealed = true;
                let all = self.model.delivered[collection.0].iter().map(|(value, _)| *value);
                assert_eq!(side.values, all.collect::<Vec<_>>());
            }
            EngineAction::Expire { node, watermark } => self.expire(node, watermark),
            EngineAction::NextTestStreamEvent => {
                let idle = |groups: &Groups| groups.asks.is_empty() && !groups.is_answering();
                assert!(self.running.is_empty() && self.groups.values().all(idle), "more is to come");
                assert!(self.sides.values().all(|side| side.sealed == side.ready));
                assert!(!self.test_stream_asked && !self.drained);
                self.test_stream_asked = true;
            }
            EngineAction::WakeAt { at } => {
                assert!(self.wake.is_none_or(|wake| at < wake), "it is to come then anyway");
                self.wake = Some(at);
            }
            EngineAction::End(outcome) => self.outcome = Some(outcome),
        }
    }

    fn run_again(&mut self, bundle: BundleId, attempt: Attempt, blocks: &[Block<Batch>], timers: &[Timer]) {
        let open = self.running.get_mut(&bundle).unwrap();
        assert!(open.failed, "it runs already");
        assert_eq!(open.attempt.0 + 1, attempt.0);
        let serials = |blocks: &[Block<Batch>]| blocks.iter().map(|b| b.data.serial).collect::<Vec<_>>();
        assert_eq!((serials(&open.blocks), open.timers.as_slice()), (serials(blocks), timers));
        open.failed = false;
        open.attempt = attempt;
    }

    fn run(&mut self, bundle: BundleId, mut open: Open) {
        let node = open.node;
        let stage = self.stage(node);
        assert_eq!(open.attempt, Attempt(1));
        assert!(!open.blocks.is_empty() || !open.timers.is_empty(), "an empty bundle");
        for side in &stage.side_inputs {
            assert!(self.sides[&side.collection].ready, "a side input is not ready");
        }
        let pool = |world: &Self, node: NodeId| {
            let stage = world.stage(node);
            (stage.environment, stage.restriction_reader.as_ref().map(|_| node))
        };
        let others = self.running.values().filter(|other| pool(self, other.node) == pool(self, node));
        assert!(others.count() < self.slots[stage.environment.0], "too many bundles");
        self.check_timers(&open);
        let now = self.latest;
        let model = self.model.stages.get_mut(&node).unwrap();
        assert_eq!(open.watermark, model.watermark.0);
        open.taken = model.take(&open.blocks, &open.timers);
        for instance in &open.taken.instances {
            assert!(instance.not_before <= now, "{instance:?} was to wait");
        }
        if stage.keyed.is_some() {
            let own = partitions(&open.taken);
            for taken in model.running.values() {
                assert!(partitions(taken).is_disjoint(&own), "two bundles have the same keys");
            }
        }
        model.running.insert(bundle, open.taken.clone());
        let truncated = open.blocks.iter().filter(|block| block.truncated).count();
        assert!(truncated == 0 || truncated == open.blocks.len(), "only some of it is truncated");
        let truncates = self.drained && stage.restriction_reader.is_some() && truncated == 0;
        assert_eq!(open.draining, truncates, "whether restrictions are truncated");
        self.running.insert(bundle, open);
    }

    /// Timers fire in their time, and those of a key in the order of it.
    fn check_timers(&self, open: &Open) {
        let model = &self.model.stages[&open.node];
        let over = open.watermark == EventTime::MAX;
        for timer in &open.timers {
            let set = model.timers.get(&timer.id).unwrap_or_else(|| panic!("{timer:?} is not set"));
            let due = match set.kind {
                TimerKind::EventTime => set.due <= open.watermark.millis(),
                TimerKind::ProcessingTime => {
                    let alone = model.running.is_empty();
                    set.due <= self.pipeline_time().millis() || over && alone
                }
                TimerKind::Expiration => set.due < open.watermark.millis() || over,
            };
            assert!(due, "{timer:?} fires before its time, {} at {}", set.due, open.watermark);
            let same = |other: &&super::model::Set| other.timer.id.key == timer.id.key;
            for other in model.timers.values().filter(same) {
                let earlier = other.kind == set.kind && other.due < set.due;
                assert!(!earlier, "{timer:?} fires before {other:?}");
                let expires = set.kind == TimerKind::Expiration && other.kind == TimerKind::EventTime;
                assert!(!expires || other.due > open.watermark.millis(), "{timer:?} before {other:?}");
            }
        }
    }

    fn collect(&mut self, node: NodeId, blocks: Vec<Block<Batch>>, now: ProcessingTime) {
        assert_eq!(now, self.pipeline_time());
        let serials: Vec<_> = blocks.iter().map(|block| block.data.serial).collect();
        let wanted = self.model.to_collect.get_mut(&node).and_then(std::collections::VecDeque::pop_front);
        assert_eq!(Some(serials), wanted, "what a GroupByKey is given");
        let groups = self.groups.get_mut(&node).unwrap();
        for element in blocks.iter().flat_map(|block| &block.data.elements) {
            assert!(element.late || element.time >= groups.told, "{element:?} comes after {}", groups.told);
        }
        groups.asks.push_back(Ask::Add(blocks, now));
    }

    /// What is forgotten nobody needs any more.
    fn expire(&mut self, node: NodeId, watermark: EventTime) {
        let stage = self.stage(node);
        let keyed = stage.keyed.as_ref().expect("it keeps something");
        let model = self.model.stages.get_mut(&node).unwrap();
        assert!(watermark > model.expired.0 && watermark <= model.watermark.0, "{watermark}");
        model.expired.0 = watermark;
        let over = |start: i64| expiry(keyed, start) < watermark;
        let running = model.running.values().flat_map(|taken| &taken.timers);
        for set in model.timers.values().chain(running) {
            let needs = set.kind != TimerKind::ProcessingTime;
            assert!(!needs || !over(window_of(&set.timer.id)), "{set:?} still needs its window");
        }
        for open in self.running.values().filter(|open| open.node == node) {
            let elements = open.blocks.iter().flat_map(|block| &block.data.elements);
            let windows = elements.map(|element| window_start(element.time));
            for start in windows.filter(|start| expiry(keyed, *start) >= open.watermark) {
                assert!(!over(start), "a running bundle still needs window {start}");
            }
        }
        for ((owner, key, start), state) in &self.states {
            assert!(*owner != node || state.is_empty() || !over(*start), "key {key} loses {state:?}");
        }
    }

    fn check_step(&mut self) {
        assert!(self.running.values().all(|open| !open.failed), "a failed bundle is not tried again");
        assert!(self.model.to_collect.values().all(std::collections::VecDeque::is_empty));
        for (index, node) in self.case.plan.nodes.iter().enumerate() {
            if let Node::GroupByKey { input, .. } = node {
                let told = self.groups[&NodeId(index)].told;
                assert_eq!(told, self.model.watermarks[input.0], "what a GroupByKey has been told");
            }
        }
        if let Some(next) = self.next_due() {
            let wake = self.wake;
            assert!(wake.is_some_and(|wake| wake <= next), "something is due at {next}, wakes at {wake:?}");
        }
    }

    /// The next time on the machine's clock at which something is to be done.
    fn next_due(&self) -> Option<ProcessingTime> {
        let waiting = self.model.stages.values().flat_map(|stage| &stage.waiting);
        let residuals = waiting.map(|instance| instance.not_before).filter(|at| *at > self.latest);
        let by_wall = self.test_clock.is_none();
        let timers = self.model.stages.values().flat_map(|stage| stage.timers.values());
        let timers = timers.filter(|set| by_wall && set.kind == TimerKind::ProcessingTime);
        let timers = timers.map(|set| ProcessingTime(set.due)).filter(|at| *at > self.latest);
        let groups = self.groups.values().filter(|_| by_wall).filter_map(|groups| groups.wake);
        let groups = groups.filter(|at| *at > self.latest);
        residuals.chain(timers).chain(groups).min()
    }

    /// The job is over: all is done, and is what it should be. Returns whether it was drained.
    pub(super) fn check_end(&mut self, in_flight: usize) -> bool {
        let right = match self.outcome.as_ref().unwrap() {
            Outcome::Done => !self.drained,
            Outcome::Drained => self.drained,
            Outcome::Cancelled | Outcome::Failed(_) => false,
        };
        assert!(right, "{:?}", self.outcome);
        assert_eq!(in_flight, 0);
        assert!(self.running.is_empty());
        for (node, stage) in &self.model.stages {
            assert!(stage.is_empty(), "{node:?} has not done everything");
        }
        assert!(self.states.values().all(State::is_empty));
        self.groups.values_mut().for_each(Groups::check);
        expected::check(&expected::Given {
            case: self.case,
            delivered: &self.model.delivered,
            groups: &self.groups,
            dropped: &self.dropped,
            read: &self.read,
        });
        self.drained
    }
}

fn partitions(taken: &Taken) -> BTreeSet<Partition> {
    let blocks = taken.instances.iter().map(|instance| instance.block.partition);
    blocks.chain(taken.timers.iter().map(|set| set.partition)).collect()
}

fn impulse() -> Block<Batch> {
    Batch::block(1, vec![Element::new(0, EventTime::MIN)])
}

fn started() -> (EngineEvent<Batch>, Happening) {
    (EngineEvent::Started { impulse: impulse() }, Happening::Started)
}
