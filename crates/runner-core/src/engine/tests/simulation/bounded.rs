//! Bounded input: all of a collection comes before any of it is grouped.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::super::super::*;
use super::{Random, mix, run};
use crate::plan::testing::PlanBuilder;
use crate::plan::{EnvironmentIndex, Stage};

const NOW: ProcessingTime = ProcessingTime::from_millis(0);
const CASES: u64 = 400;
const ENVIRONMENTS: usize = 2;
const GROUPS: u64 = 3;
/// More elements than this in a collection are left off by everyone, so that cases stay small.
const MOST_ELEMENTS: usize = 2_000;

/// Elements of a block.
type Elements = Vec<u64>;

/// A plan whose ends are GroupByKeys that nobody reads: what they are given is the job's result.
fn random_plan(random: &mut Random) -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    builder.plan.environments = (0..ENVIRONMENTS).map(|n| format!("env{n}")).collect();
    let mut made = vec![builder.impulse()];
    for _ in 0..2 + random.below(9) {
        let input = made[random.below(made.len())];
        match random.below(8) {
            0 => made.push(builder.impulse()),
            1 => made.push(builder.group(input)),
            2 => {
                let inputs: Vec<_> = (0..random.below(4)).map(|_| made[random.below(made.len())]).collect();
                made.push(builder.flatten(&inputs));
            }
            3 => made.push(builder.redistribute(input)),
            _ => {
                let sides = if random.one_in(3) { 1 + random.below(2) } else { 0 };
                let sides: Vec<_> = (0..sides).map(|_| made[random.below(made.len())]).collect();
                let outputs = random.below(3);
                made.extend(builder.stage(input, &sides, outputs));
                let stage = builder.last_stage();
                stage.environment = EnvironmentIndex(random.below(ENVIRONMENTS));
                stage.restriction_reader = random.one_in(3).then(|| "transform".to_owned());
            }
        }
    }
    for collection in made {
        builder.group(collection);
    }
    builder.build()
}

/// What a stage makes of an element for its output number `output`: nothing, an element, or two.
fn process(node: NodeId, output: usize, element: u64, side: u64) -> Elements {
    let made = mix(mix(element, side), (node.0 * 7 + output) as u64);
    (0..made % 3).map(|n| mix(made, n)).collect()
}

/// What side inputs come to; the order of their elements is nobody's business.
fn digest(sides: impl Iterator<Item = u64>) -> u64 {
    sides.fold(0, u64::wrapping_add)
}

/// One element for each group, of the multiset of its elements.
fn group(elements: &[u64]) -> Elements {
    let mut groups: BTreeMap<u64, Elements> = BTreeMap::new();
    elements.iter().for_each(|element| groups.entry(element % GROUPS).or_default().push(*element));
    groups
        .into_values()
        .map(|mut group| {
            group.sort();
            group.into_iter().fold(1, mix)
        })
        .collect()
}

/// The elements of every collection, or `None` if they become too many.
fn compute(plan: &ExecutionPlan) -> Option<Vec<Elements>> {
    let mut all = vec![Elements::new(); plan.collections.len()];
    for (index, node) in plan.nodes.iter().enumerate() {
        match node {
            Node::Impulse { output } => all[output.0] = vec![0],
            Node::TestStream(_) => panic!("no plan here has one"),
            Node::Flatten { inputs, output } => {
                all[output.0] = inputs.iter().flat_map(|input| all[input.0].clone()).collect()
            }
            Node::AwaitSideInputs { .. } => panic!("all input is bounded"),
            Node::Redistribute { input, output } => all[output.0] = all[input.0].clone(),
            Node::GroupByKey { input, output, .. } => all[output.0] = group(&all[input.0]),
            Node::Stage(stage) => {
                let side = digest(stage.side_inputs.iter().flat_map(|side| all[side.collection.0].clone()));
                for (n, output) in outputs(stage) {
                    let elements = all[stage.input.0].iter();
                    all[output.0] = elements.flat_map(|e| process(NodeId(index), n, *e, side)).collect();
                }
            }
        }
    }
    all.iter().all(|elements| elements.len() <= MOST_ELEMENTS).then_some(all)
}

fn outputs(stage: &Stage) -> impl Iterator<Item = (usize, CollectionId)> {
    (0..stage.sinks.len()).map(|n| (n, stage.sinks[&format!("sink{n}")]))
}

/// What the engine has asked for and not been answered.
enum Open {
    Run {
        node: NodeId,
        bundle: BundleId,
        attempt: Attempt,
        blocks: Vec<Block<Elements>>,
    },
    /// `is_split`: it has come about.
    Split {
        bundle: BundleId,
        attempt: Attempt,
        is_split: bool,
    },
    SideInput(CollectionId),
}

/// The world around the engine.
struct World {
    plan: Arc<ExecutionPlan>,
    random: Random,
    slots: Vec<usize>,
    open: Vec<Open>,
    /// Replies given before, to be given again.
    old: Vec<(BundleId, Attempt, Option<CollectionId>)>,
    running: BTreeMap<BundleId, usize>,
    committed: HashSet<BundleId>,
    grouped: BTreeMap<NodeId, Elements>,
    sealed: BTreeSet<NodeId>,
    /// For each thing that a GroupByKey has been asked and has not answered, what it still has to give out.
    asked: BTreeMap<NodeId, VecDeque<Elements>>,
    now: ProcessingTime,
    wake: Option<ProcessingTime>,
    side: BTreeMap<CollectionId, Elements>,
    side_ready: BTreeSet<CollectionId>,
    outcome: Option<Outcome>,
    /// Splits of running bundles, and those among them that the engine has asked for.
    splits: usize,
    asked_splits: usize,
}

fn block(elements: Elements) -> Block<Elements> {
    Block {
        bytes: 8 * elements.len() as u64,
        data: elements,
        partition: Partition(0),
        hold: EventTime::MIN,
        truncated: false,
    }
}

impl World {
    fn carry_out(&mut self, actions: Vec<EngineAction<Elements>>) {
        for action in actions {
            assert!(self.outcome.is_none(), "{action:?} after the end");
            match action {
                EngineAction::Run { node, bundle, attempt, blocks, .. } => {
                    self.run(node, bundle, attempt, blocks)
                }
                EngineAction::Split { bundle, attempt, fraction_of_remainder } => {
                    let environment = self.running[&bundle];
                    let busy = self.running.values().filter(|other| **other == environment).count();
                    assert!(busy < self.slots[environment], "there is nobody to share with");
                    assert!(fraction_of_remainder > 0.0 && fraction_of_remainder < 1.0);
                    self.open.push(Open::Split { bundle, attempt, is_split: false });
                }
                EngineAction::Commit { bundle, .. } => {
                    assert!(self.committed.insert(bundle), "{bundle:?} is committed twice");
                    self.running.remove(&bundle);
                }
                EngineAction::Collect { node, blocks, .. } => {
                    assert!(!self.sealed.contains(&node), "elements for a sealed GroupByKey");
                    self.grouped.entry(node).or_default().extend(blocks.into_iter().flat_map(|b| b.data));
                    self.asked.entry(node).or_default().push_back(Vec::new());
                }
                EngineAction::Advance { node, watermark, .. } => {
                    assert_eq!(watermark, EventTime::MAX, "on bounded input");
                    assert!(self.sealed.insert(node), "sealed twice");
                    let groups = group(self.grouped.get(&node).map_or(&[], Vec::as_slice));
                    self.asked.entry(node).or_default().push_back(groups);
                }
                EngineAction::AddToSideInput { collection, blocks } => {
                    self.side.entry(collection).or_default().extend(blocks.into_iter().flat_map(|b| b.data));
                }
                EngineAction::SealSideInput { collection } => self.open.push(Open::SideInput(collection)),
                EngineAction::WakeAt { at } => self.wake = Some(at),
                EngineAction::Checkpoint { .. }
                | EngineAction::AdvanceSideInput { .. }
                | EngineAction::NextTestStreamEvent
                | EngineAction::TimersDropped { .. }
                | EngineAction::Expire { .. } => panic!("{action:?} on bounded input"),
                EngineAction::End(outcome) => self.outcome = Some(outcome),
            }
        }
    }

    fn run(&mut self, node: NodeId, bundle: BundleId, attempt: Attempt, blocks: Vec<Block<Elements>>) {
        let Node::Stage(stage) = &self.plan.nodes[node.0] else { panic!("a bundle of no stage") };
        assert!(!blocks.is_empty(), "an empty bundle");
        for side in &stage.side_inputs {
            assert!(self.side_ready.contains(&side.collection), "a side input is not ready");
        }
        let environment = stage.environment.0;
        self.running.insert(bundle, environment);
        let busy = self.running.values().filter(|other| **other == environment).count();
        assert!(busy <= self.slots[environment], "{busy} bundles in {} slots", self.slots[environment]);
        self.open.push(Open::Run { node, bundle, attempt, blocks });
    }

    /// Something that the engine waits for, or a reply it has had before.
    fn next_event(&mut self) -> EngineEvent<Elements> {
        if !self.old.is_empty() && self.random.one_in(4) {
            return self.old_reply();
        }
        if self.random.one_in(8)
            && let Some(split) = self.split_any()
        {
            return split;
        }
        let asked: Vec<_> = self.asked.keys().copied().collect();
        let choices = self.open.len() + asked.len() + usize::from(self.wake.is_some());
        assert!(choices > 0, "nothing is under way, and the job has not ended");
        let chosen = self.random.below(choices);
        if let Some(node) = chosen.checked_sub(self.open.len()).and_then(|index| asked.get(index)) {
            return self.collected(*node);
        }
        if chosen >= self.open.len() {
            self.now = self.wake.take().unwrap();
            return EngineEvent::Woken;
        }
        match self.open.swap_remove(chosen) {
            Open::Run { node, bundle, attempt, blocks } => self.reply(node, bundle, attempt, blocks),
            Open::Split { bundle, attempt, is_split } => {
                if !is_split
                    && self.random.one_in(2)
                    && let Some(split) = self.split(bundle, attempt)
                {
                    self.asked_splits += 1;
                    self.open.push(Open::Split { bundle, attempt, is_split: true });
                    return split;
                }
                EngineEvent::SplitAnswered { bundle, attempt, is_split }
            }
            Open::SideInput(collection) => {
                self.side_ready.insert(collection);
                EngineEvent::SideInputReady { collection }
            }
        }
    }

    /// A bundle is split that nobody has asked.
    fn split_any(&mut self) -> Option<EngineEvent<Elements>> {
        let running = self.open.iter().filter_map(|open| match open {
            Open::Run { bundle, attempt, .. } => Some((*bundle, *attempt)),
            Open::Split { .. } | Open::SideInput(_) => None,
        });
        let running: Vec<_> = running.collect();
        let (bundle, attempt) = *running.get(self.random.below(running.len()))?;
        self.split(bundle, attempt)
    }

    /// An attempt, if it runs, gives back some of its elements, or none.
    fn split(&mut self, wanted: BundleId, tried: Attempt) -> Option<EngineEvent<Elements>> {
        let mut input: Elements = self.open.iter().find_map(|open| match open {
            Open::Run { bundle, attempt, blocks, .. } => {
                let is_it = (*bundle, *attempt) == (wanted, tried);
                is_it.then(|| blocks.iter().flat_map(|block| block.data.clone()).collect())
            }
            Open::Split { .. } | Open::SideInput(_) => None,
        })?;
        let left = input.split_off(1 + self.random.below(input.len()));
        let (kept, left) = (self.blocks(input), self.blocks(left));
        for open in &mut self.open {
            match open {
                Open::Run { bundle, blocks, .. } if *bundle == wanted => blocks.clone_from(&kept),
                Open::Run { .. } | Open::Split { .. } | Open::SideInput(_) => {}
            }
        }
        self.splits += 1;
        let mut given_back = Vec::new();
        for block in left {
            given_back.push((block, Duration::from_secs(u64::from(self.random.one_in(4)))));
        }
        Some(EngineEvent::BundleSplit { bundle: wanted, attempt: tried, kept, given_back })
    }

    /// A GroupByKey gives out some of what it has to, or all.
    fn collected(&mut self, node: NodeId) -> EngineEvent<Elements> {
        let asks = self.asked.get_mut(&node).unwrap();
        let rest = asks.front_mut().unwrap();
        let some = rest.split_off(rest.len() - self.random.below(rest.len() + 1));
        let done = rest.is_empty() && self.random.one_in(2);
        if done {
            asks.pop_front();
            if asks.is_empty() {
                self.asked.remove(&node);
            }
        }
        let hold = if self.sealed.contains(&node) { EventTime::MAX } else { EventTime::MIN };
        let done = done.then_some(Collected { hold, wake: None });
        EngineEvent::Collected { node, blocks: self.blocks(some), done }
    }

    fn old_reply(&mut self) -> EngineEvent<Elements> {
        let (bundle, attempt, output) = self.old[self.random.below(self.old.len())];
        if self.random.one_in(3) {
            return EngineEvent::BundleFailed { bundle, attempt, fault: Fault::user("late").fatal() };
        }
        if self.random.one_in(2) {
            let given_back = vec![(block(vec![13]), Duration::ZERO)];
            return EngineEvent::BundleSplit { bundle, attempt, kept: vec![block(vec![13])], given_back };
        }
        let outputs = output.map(|output| (output, vec![block(vec![13])])).into_iter().collect();
        EngineEvent::BundleSucceeded {
            bundle,
            attempt,
            outputs,
            residuals: vec![(block(vec![13]), Duration::ZERO)],
            timers: Vec::new(),
        }
    }

    /// Elements in blocks, cut at random.
    fn blocks(&mut self, mut elements: Elements) -> Vec<Block<Elements>> {
        let mut blocks = Vec::new();
        while !elements.is_empty() {
            let keep = self.random.below(elements.len());
            blocks.push(block(elements.split_off(keep)));
        }
        blocks
    }

    fn reply(
        &mut self,
        node: NodeId,
        bundle: BundleId,
        attempt: Attempt,
        blocks: Vec<Block<Elements>>,
    ) -> EngineEvent<Elements> {
        let plan = self.plan.clone();
        let Node::Stage(stage) = &plan.nodes[node.0] else { panic!("a bundle of no stage") };
        self.old.push((bundle, attempt, outputs(stage).next().map(|(_, output)| output)));
        if attempt.0 < MAX_ATTEMPTS && self.random.one_in(4) {
            return EngineEvent::BundleFailed { bundle, attempt, fault: Fault::environment("on purpose") };
        }
        let mut input: Elements = blocks.into_iter().flat_map(|block| block.data).collect();
        let mut residuals = Vec::new();
        if stage.restriction_reader.is_some() && self.random.one_in(2) {
            let left = input.split_off(self.random.below(input.len() + 1));
            for block in self.blocks(left) {
                residuals.push((block, Duration::from_secs(self.random.below(2) as u64)));
            }
        }
        let side = stage.side_inputs.iter().flat_map(|side| self.side.get(&side.collection).cloned());
        let side = digest(side.flatten());
        let made = outputs(stage).map(|(n, output)| {
            let elements = input.iter().flat_map(|element| process(node, n, *element, side));
            (output, elements.collect::<Elements>())
        });
        let made: Vec<_> = made.collect();
        let outputs = made.into_iter().map(|(output, elements)| (output, self.blocks(elements))).collect();
        EngineEvent::BundleSucceeded { bundle, attempt, outputs, residuals, timers: Vec::new() }
    }
}

fn random_policy(random: &mut Random) -> BundlePolicy {
    match random.below(4) {
        0 => BundlePolicy::EachBlock,
        1 => BundlePolicy::Whole,
        2 => BundlePolicy::Bytes(random.below(64) as u64),
        _ => BundlePolicy::DEFAULT,
    }
}

/// Returns how many bundles were committed, how many splits there were, and how many of them asked for.
fn simulate(seed: u64) -> [usize; 3] {
    let mut random = Random::new(seed);
    let (plan, expected) = loop {
        let plan = random_plan(&mut random);
        if let Some(expected) = compute(&plan) {
            break (plan, expected);
        }
    };
    let slots: Vec<_> = (0..ENVIRONMENTS).map(|_| 1 + random.below(3)).collect();
    let mut engine = Engine::new(plan.clone(), slots.clone(), random_policy(&mut random));
    let mut world = World {
        plan: plan.clone(),
        random,
        slots,
        open: Vec::new(),
        old: Vec::new(),
        running: BTreeMap::new(),
        committed: HashSet::new(),
        grouped: BTreeMap::new(),
        sealed: BTreeSet::new(),
        asked: BTreeMap::new(),
        now: NOW,
        wake: None,
        side: BTreeMap::new(),
        side_ready: BTreeSet::new(),
        outcome: None,
        splits: 0,
        asked_splits: 0,
    };
    world.carry_out(engine.step(NOW, EngineEvent::Started { impulse: block(vec![0]) }));
    while world.outcome.is_none() {
        let event = world.next_event();
        world.carry_out(engine.step(world.now, event));
    }
    assert!(matches!(world.outcome, Some(Outcome::Done)), "{:?}", world.outcome);
    assert_eq!(engine.bundles_in_flight(), 0);
    for (index, node) in plan.nodes.iter().enumerate() {
        if let Node::GroupByKey { input, .. } = node {
            let mut arrived = world.grouped.remove(&NodeId(index)).unwrap_or_default();
            let mut wanted = expected[input.0].clone();
            arrived.sort();
            wanted.sort();
            assert_eq!(arrived, wanted, "elements of {}", plan.collections[input.0].id);
        }
    }
    [world.committed.len(), world.splits, world.asked_splits]
}

#[test]
fn results_do_not_depend_on_the_schedule() {
    let seen = run(CASES, simulate);
    // Few cases show little.
    if seen.len() as u64 >= CASES {
        let [bundles, splits, asked] = [0, 1, 2].map(|n| seen.iter().map(|seen| seen[n]).sum::<usize>());
        assert!(bundles > splits && splits > asked && asked > 50, "{bundles} {splits} {asked}");
    }
}
