//! What the engine says is held against the model, and carried out.

use std::collections::{BTreeSet, VecDeque};

use super::super::super::super::*;
use super::awaits::{Awaits, Change, may_look};
use super::expected;
use super::groups::{Ask, Groups};
use super::model::{AskModel, Set, Taken};
use super::splits::Asked;
use super::work::{Batch, State, expiry, window_of, window_start};
use super::world::{Open, Seen, World};
use crate::plan::{StageSideInput, TimerKind};

impl World<'_> {
    pub(super) fn carry_out(&mut self, action: EngineAction<Batch>) {
        assert!(self.outcome.is_none(), "{action:?} after the end");
        match action {
            EngineAction::Run {
                node,
                bundle,
                attempt,
                blocks,
                timers,
                watermark,
                draining,
                partitions: _,
            } => {
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
                self.seen.insert(Seen::Checkpoint);
                let node = open.node;
                assert!(self.drained && self.stage(node).restriction_reader.is_some());
            }
            EngineAction::Split { bundle, attempt, fraction_of_remainder } => {
                self.ask_to_split(bundle, attempt, fraction_of_remainder)
            }
            EngineAction::Collect { node, blocks, now } => self.collect(node, blocks, now),
            EngineAction::Advance { node, watermark, now } => {
                assert_eq!(now, self.pipeline_time());
                let told = self.told(node);
                assert!(*told <= watermark, "it goes back");
                *told = watermark;
                self.ask(node, Ask::Advance(watermark, now));
                let collector = self.model.collectors.get_mut(&node).unwrap();
                collector.asks.push_back(AskModel::Advance(watermark));
            }
            EngineAction::AddToSideInput { collection, blocks } if self.is_live(collection) => {
                let elements = blocks.into_iter().flat_map(|block| block.data.elements);
                let values = elements.flat_map(|element| element.values).collect();
                self.live.entry(collection).or_default().asks.push_back(Change::Add(values));
            }
            EngineAction::AddToSideInput { collection, blocks } => {
                let side = self.sides.entry(collection).or_default();
                assert!(!side.sealed, "more for a side input that was complete");
                let elements = blocks.into_iter().flat_map(|block| block.data.elements);
                side.values.extend(elements.flat_map(|element| element.values));
            }
            EngineAction::AdvanceSideInput { collection, watermark } => {
                let live = self.live.entry(collection).or_default();
                assert!(live.told < watermark, "that is no news");
                assert!(watermark <= self.model.watermarks[collection.0], "it is not so far");
                live.told = watermark;
                live.asks.push_back(Change::Advance(watermark));
            }
            EngineAction::SealSideInput { collection } => self.seal(collection),
            EngineAction::Expire { node, watermark } => self.expire(node, watermark),
            EngineAction::TimersDropped { .. } => panic!("no timer here is set for ever"),
            EngineAction::NextTestStreamEvent => self.next_test_stream_event(),
            EngineAction::WakeAt { at } => {
                assert!(self.wake.is_none_or(|wake| at < wake), "it is to come then anyway");
                self.wake = Some(at);
            }
            EngineAction::End(outcome) => self.outcome = Some(outcome),
        }
    }

    fn ask_to_split(&mut self, bundle: BundleId, attempt: Attempt, fraction_of_remainder: f64) {
        let open = self.running.get(&bundle).expect("a running bundle");
        assert_eq!(open.attempt, attempt);
        assert!(self.free_slots(open.node) > 0, "there is nobody to share with");
        assert!((0.0..1.0).contains(&fraction_of_remainder) && fraction_of_remainder > 0.0);
        assert!(!self.asked.iter().any(|asked| (asked.bundle, asked.attempt) == (bundle, attempt)));
        self.asked.push(Asked::new(bundle, attempt));
    }

    fn seal(&mut self, collection: CollectionId) {
        assert!(!self.is_live(collection));
        assert_eq!(self.model.watermarks[collection.0], EventTime::MAX);
        self.seen.insert(Seen::SideInput);
        let side = self.sides.entry(collection).or_default();
        side.sealed = true;
        let all = self.model.delivered[collection.0].iter().map(|(value, _)| *value);
        assert_eq!(side.values, all.collect::<Vec<_>>());
    }

    fn next_test_stream_event(&mut self) {
        let idle = |groups: &Groups| groups.asks.is_empty() && !groups.is_answering();
        assert!(self.running.is_empty() && self.groups.values().all(idle), "more is to come");
        assert!(self.sides.values().all(|side| side.sealed == side.ready));
        let live_idle = self.live.values().all(|live| live.asks.is_empty());
        assert!(live_idle && self.awaits.values().all(Awaits::is_idle), "more is to come");
        assert!(!self.test_stream_asked && !self.drained);
        self.test_stream_asked = true;
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
            if self.is_live(side.collection) {
                let reached = self.live.get(&side.collection).map(|live| live.reached);
                let elements = open.blocks.iter().flat_map(|block| &block.data.elements);
                elements
                    .for_each(|element| assert!(may_look(element, reached), "{element:?} at {reached:?}"));
            } else {
                assert!(self.sides[&side.collection].ready, "a side input is not ready");
            }
        }
        assert!(self.free_slots(node) > 0, "too many bundles");
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
        self.seen.extend(open.draining.then_some(Seen::Truncated));
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
            let same = |other: &&Set| other.timer.id.key == timer.id.key;
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
        let wanted = self.model.to_collect.get_mut(&node).and_then(VecDeque::pop_front);
        assert_eq!(Some(serials), wanted, "what a GroupByKey is given");
        let told = *self.told(node);
        for element in blocks.iter().flat_map(|block| &block.data.elements) {
            self.seen.extend(element.late.then_some(Seen::LateElement));
            assert!(element.late || element.time >= told, "{element:?} comes after {told}");
        }
        self.ask(node, Ask::Add(blocks, now));
    }

    /// The last watermark that a GroupByKey, or what waits for side inputs, has been told.
    fn told(&mut self, node: NodeId) -> &mut EventTime {
        match self.groups.get_mut(&node) {
            Some(groups) => &mut groups.told,
            None => &mut self.awaits.get_mut(&node).unwrap().told,
        }
    }

    fn ask(&mut self, node: NodeId, ask: Ask) {
        match self.groups.get_mut(&node) {
            Some(groups) => groups.asks.push_back(ask),
            None => {
                let reached = self.live.iter().map(|(side, live)| (*side, live.reached)).collect();
                self.awaits.get_mut(&node).unwrap().ask(ask, reached);
            }
        }
    }

    fn is_live(&self, collection: CollectionId) -> bool {
        self.case.plan.collections[collection.0].live.is_some()
    }

    /// What is forgotten nobody needs any more.
    fn expire(&mut self, node: NodeId, watermark: EventTime) {
        self.seen.insert(Seen::Forgotten);
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

    pub(super) fn check_step(&mut self) {
        assert!(self.running.values().all(|open| !open.failed), "a failed bundle is not tried again");
        assert!(self.model.to_collect.values().all(VecDeque::is_empty));
        for (index, node) in self.case.plan.nodes.iter().enumerate() {
            if let Node::GroupByKey { input, .. } | Node::AwaitSideInputs { input, .. } = node {
                let told = *self.told(NodeId(index));
                assert_eq!(told, self.model.watermarks[input.0], "what {node:?} has been told");
            }
        }
        self.model.stages.keys().for_each(|node| self.check_busy(*node));
        if let Some(next) = self.next_due() {
            let wake = self.wake;
            assert!(wake.is_some_and(|wake| wake <= next), "something is due at {next}, wakes at {wake:?}");
        }
    }

    fn free_slots(&self, node: NodeId) -> usize {
        let pool = |node: NodeId| {
            let stage = self.stage(node);
            (stage.environment, stage.restriction_reader.as_ref().map(|_| node))
        };
        let others = self.running.values().filter(|other| pool(other.node) == pool(node)).count();
        self.slots[self.stage(node).environment.0].saturating_sub(others)
    }

    /// Nothing waits that could be done.
    fn check_busy(&self, node: NodeId) {
        let stage = self.stage(node);
        let model = &self.model.stages[&node];
        let sides_ready = |side: &StageSideInput| {
            self.is_live(side.collection) || self.sides.get(&side.collection).is_some_and(|side| side.ready)
        };
        // Where much waits, less is read.
        let held_back = stage.restriction_reader.is_some() && self.case.bytes > 8;
        if self.free_slots(node) == 0 || held_back || !stage.side_inputs.iter().all(sides_ready) {
            return;
        }
        let taken: BTreeSet<_> = model.running.values().flat_map(partitions).collect();
        let sorted = stage.keyed.as_ref().is_some_and(|keyed| keyed.time_sorted);
        for instance in &model.waiting {
            let free = stage.keyed.is_none() || !taken.contains(&instance.block.partition);
            let ready = instance.not_before <= self.latest && !sorted;
            assert!(!(free && ready), "{instance:?} could be processed by {node:?}");
        }
        let due = |set: &&Set| set.kind == TimerKind::EventTime && set.due <= model.watermark.0.millis();
        let mut due = model.timers.values().filter(due).peekable();
        let now = self.pipeline_time().millis();
        let due_by_clock = |set: &&Set| set.kind == TimerKind::ProcessingTime && set.due <= now;
        // Those by event time go first.
        let by_clock = model.timers.values().filter(due_by_clock).filter(|_| due.peek().is_none());
        for set in by_clock.collect::<Vec<_>>().into_iter().chain(due) {
            assert!(taken.contains(&set.partition), "{set:?} could fire");
        }
    }

    /// The next time on the machine's clock at which something is to be done.
    fn next_due(&self) -> Option<ProcessingTime> {
        let waiting = self.model.stages.values().flat_map(|stage| &stage.waiting);
        let residuals = waiting.map(|instance| instance.not_before).filter(|at| *at > self.latest);
        let by_wall = self.test_clock.is_none();
        let timers = self.model.stages.values().flat_map(|stage| stage.timers.values());
        let timers = timers.filter(|set| by_wall && set.kind == TimerKind::ProcessingTime);
        let timers = timers.map(|set| ProcessingTime::from_millis(set.due)).filter(|at| *at > self.latest);
        let groups = self.groups.values().filter(|_| by_wall).filter_map(|groups| groups.wake);
        let groups = groups.filter(|at| *at > self.latest);
        residuals.chain(timers).chain(groups).min()
    }

    /// The job is over: all is done, and is what it should be.
    pub(super) fn check_end(&mut self, in_flight: usize) {
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
        assert!(self.awaits.values().all(Awaits::is_empty));
        for (side, live) in &mut self.live {
            // Whatever nobody waits for any more may come after the end.
            while !live.asks.is_empty() {
                live.take_in();
            }
            assert_eq!(live.reached, EventTime::MAX);
            let all = self.model.delivered[side.0].iter().map(|(value, _)| *value);
            assert_eq!(live.values, all.collect::<Vec<_>>());
        }
        expected::check(&expected::Given {
            case: self.case,
            delivered: &self.model.delivered,
            groups: &self.groups,
            dropped: &self.dropped,
            read: &self.read,
        });
        let dropped = self.groups.values().any(|groups| !groups.dropped.is_empty());
        self.seen.extend(dropped.then_some(Seen::DroppedByGroups));
        self.seen.insert(if self.drained { Seen::Drained } else { Seen::Done });
    }
}

fn partitions(taken: &Taken) -> BTreeSet<Partition> {
    let blocks = taken.instances.iter().map(|instance| instance.block.partition);
    blocks.chain(taken.timers.iter().map(|set| set.partition)).collect()
}
