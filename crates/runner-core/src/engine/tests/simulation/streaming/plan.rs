//! Random plans of unbounded input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use beam_model::coders::Coder;

use super::super::super::super::*;
use super::super::Random;
use super::work::{Batch, Element};
use crate::plan::testing::PlanBuilder;
use crate::plan::{
    AccumulationMode, ClosingBehavior, Contents, EnvironmentIndex, Firing, Grain, KeyedStage, LiveView,
    Merging, OnTimeBehavior, OutputTime, Ready, TimerFamily, TimerKind, TimestampTransform, Trigger,
};

pub(super) const ENVIRONMENTS: usize = 2;

/// How elements get their windows before a GroupByKey, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Windows {
    Fixed(i64),
    Sessions(i64),
}

/// What one seed makes.
pub(super) struct Case {
    pub(super) plan: Arc<ExecutionPlan>,
    /// How many records each element stands for, for stages that read restrictions; `None`: without end.
    pub(super) records: BTreeMap<NodeId, Option<u64>>,
    pub(super) windows: BTreeMap<NodeId, Windows>,
    /// Whether elements come that are late.
    pub(super) late: bool,
    /// Blocks of one element each.
    pub(super) singles: bool,
    /// How large an element is.
    pub(super) bytes: u64,
    /// What the TestStream does, last step first.
    pub(super) script: Vec<TestStreamStep<Batch>>,
    /// After how many events the job is drained.
    pub(super) drain_after: Option<usize>,
}

struct Builder<'a> {
    random: &'a mut Random,
    plan: PlanBuilder,
    made: Vec<CollectionId>,
    records: BTreeMap<NodeId, Option<u64>>,
    windows: BTreeMap<NodeId, Windows>,
    read_singly: BTreeSet<CollectionId>,
    accumulates: bool,
}

pub(super) fn random_case(random: &mut Random) -> Case {
    let mut plan = PlanBuilder::new();
    plan.plan.streaming = true;
    plan.plan.environments = (0..ENVIRONMENTS).map(|n| format!("env{n}")).collect();
    let mut builder = Builder {
        random,
        plan,
        made: Vec::new(),
        records: BTreeMap::new(),
        windows: BTreeMap::new(),
        read_singly: BTreeSet::new(),
        accumulates: false,
    };
    let outputs = builder.test_stream();
    let drained = builder.random.one_in(3);
    builder.sources(outputs.is_empty(), drained);
    for _ in 0..1 + builder.random.below(6) {
        builder.transform();
    }
    let late = builder.random.one_in(2);
    let script = script(builder.random, &outputs, late);
    let has_end = builder.records.values().all(Option::is_some);
    let drain_after = (drained || !has_end).then(|| builder.random.below(400));
    builder.live_side_inputs();
    let Builder { mut plan, read_singly, records, windows, .. } = builder;
    let singles = !read_singly.is_empty();
    for collection in &mut plan.plan.collections {
        collection.timed = true;
        collection.grain = if singles { Grain::Element } else { Grain::Block };
    }
    // A few of the large ones are more than may wait.
    let bytes = if random.one_in(3) { 20 << 20 } else { 8 };
    Case { plan: plan.build(), records, windows, late, singles, bytes, script, drain_after }
}

impl Builder<'_> {
    fn last(&self) -> NodeId {
        NodeId(self.plan.plan.nodes.len() - 1)
    }

    /// Something made before; rather what was made last.
    fn any(&mut self) -> CollectionId {
        let back = self.random.below(self.made.len()).min(self.random.below(self.made.len()));
        self.made[self.made.len() - 1 - back]
    }

    fn test_stream(&mut self) -> Vec<CollectionId> {
        if self.random.one_in(2) {
            return Vec::new();
        }
        let outputs = 1 + self.random.below(2);
        let outputs = self.plan.test_stream(outputs);
        self.made.extend(&outputs);
        outputs
    }

    /// Impulses whose elements are read as restrictions, with an end or without.
    fn sources(&mut self, needed: bool, drained: bool) {
        for _ in 0..self.random.below(3).max(usize::from(needed)) {
            let mut input = self.plan.impulse();
            if self.random.one_in(3) {
                input = self.stage(input, &[], 1)[0];
            }
            let outputs = 1 + self.random.below(2);
            let made = self.stage(input, &[], outputs);
            let records =
                if drained && self.random.one_in(2) { None } else { Some(1 + self.random.below(30) as u64) };
            self.reads_restrictions(input, records);
            self.made.extend(made);
        }
    }

    fn stage(&mut self, input: CollectionId, sides: &[CollectionId], outputs: usize) -> Vec<CollectionId> {
        let made = self.plan.stage(input, sides, outputs);
        self.plan.last_stage().environment = EnvironmentIndex(self.random.below(ENVIRONMENTS));
        made
    }

    fn reads_restrictions(&mut self, input: CollectionId, records: Option<u64>) {
        self.plan.last_stage().restriction_reader = Some("transform".to_owned());
        self.records.insert(self.last(), records);
        self.read_singly.insert(input);
    }

    fn transform(&mut self) {
        let input = self.any();
        match self.random.below(9) {
            0 | 1 => self.group(input),
            2 => {
                let both = [input, self.any()];
                let inputs = 1 + self.random.below(2);
                let made = self.plan.flatten(&both[..inputs]);
                self.made.push(made);
            }
            3 => {
                let made = self.plan.redistribute(input);
                self.made.push(made);
            }
            4 => {
                let made = self.any_stage(input);
                self.made.extend(made);
                let records = Some(self.random.below(4) as u64);
                self.reads_restrictions(input, records);
            }
            5..=7 => {
                let made = self.any_stage(input);
                self.made.extend(made);
                self.keyed(input);
            }
            _ => {
                let made = self.any_stage(input);
                self.made.extend(made);
            }
        }
    }

    /// Some side inputs go on changing while they are read. That orders the nodes anew.
    fn live_side_inputs(&mut self) {
        let nodes = self.plan.plan.nodes.iter();
        let stages = nodes.filter_map(|node| match node {
            Node::Stage(stage) => Some(stage),
            _ => None,
        });
        let sides: BTreeSet<_> =
            stages.flat_map(|stage| &stage.side_inputs).map(|side| side.collection).collect();
        let made = |plan: &PlanBuilder| -> Vec<BTreeSet<CollectionId>> {
            plan.plan.nodes.iter().map(|node| node.outputs().into_iter().collect()).collect()
        };
        let before = made(&self.plan);
        let live = sides.into_iter().filter(|_| self.random.one_in(2)).collect::<Vec<_>>();
        if live.is_empty() {
            return;
        }
        let view = LiveView { ready: Ready::WithFirstElements, contents: Contents::All };
        let (last, others) = live.split_last().unwrap();
        for side in others {
            self.plan.plan.collections[side.0].live = Some(view);
        }
        self.plan.live(*last, view);
        let after = made(&self.plan);
        let moved = |node: &NodeId| NodeId(after.iter().position(|made| *made == before[node.0]).unwrap());
        self.records = self.records.iter().map(|(node, records)| (moved(node), *records)).collect();
        self.windows = self.windows.iter().map(|(node, windows)| (moved(node), *windows)).collect();
    }

    fn any_stage(&mut self, input: CollectionId) -> Vec<CollectionId> {
        let sides = if self.random.one_in(5) { vec![self.any()] } else { Vec::new() };
        let outputs = 1 + self.random.below(2);
        self.stage(input, &sides, outputs)
    }

    fn keyed(&mut self, input: CollectionId) {
        let kinds = [TimerKind::EventTime, TimerKind::ProcessingTime, TimerKind::Expiration];
        let kinds = &kinds[..2 + self.random.below(2)];
        let family = |kind: &TimerKind| TimerFamily {
            id: format!("{kind:?}"),
            kind: *kind,
            coder: Arc::new(Coder::Bytes),
        };
        let time_sorted = self.random.one_in(4);
        let allowed_lateness = if self.random.one_in(2) { 0 } else { self.random.below(40) as i64 };
        self.plan.last_stage().keyed = Some(KeyedStage {
            transform: "transform".to_owned(),
            window_coder: Arc::new(Coder::IntervalWindow),
            merging: crate::plan::Merging::Never,
            families: kinds.iter().map(family).collect(),
            states: Vec::new(),
            time_sorted,
            allowed_lateness,
        });
        self.plan.plan.collections[input.0].by_key = true;
        if time_sorted {
            self.read_singly.insert(input);
        }
    }

    fn group(&mut self, input: CollectionId) {
        let made = self.plan.group(input);
        self.made.push(made);
        let size = 1 + self.random.below(40) as i64;
        let sessions = self.random.one_in(4);
        self.windows
            .insert(self.last(), if sessions { Windows::Sessions(size) } else { Windows::Fixed(size) });
        let firing = self.firing();
        let random = &mut *self.random;
        let grouping = self.plan.last_grouping();
        grouping.window_coder = Coder::IntervalWindow;
        grouping.bounded = false;
        grouping.merging = if sessions { Merging::Sessions } else { Merging::Never };
        grouping.output_time =
            [OutputTime::EndOfWindow, OutputTime::Earliest, OutputTime::Latest][random.below(3)];
        grouping.firing = firing;
    }

    fn firing(&mut self) -> Firing {
        let trigger = self.trigger();
        let random = &mut *self.random;
        // What accumulates multiplies elements; once is enough.
        let accumulating = !std::mem::replace(&mut self.accumulates, true) && random.one_in(2);
        Firing {
            trigger,
            accumulation_mode: if accumulating {
                AccumulationMode::Accumulating
            } else {
                AccumulationMode::Discarding
            },
            allowed_lateness: if random.one_in(2) { 0 } else { random.below(50) as i64 },
            closing_behavior: if random.one_in(4) {
                ClosingBehavior::EmitAlways
            } else {
                ClosingBehavior::EmitIfNonempty
            },
            on_time_behavior: if random.one_in(2) {
                OnTimeBehavior::FireAlways
            } else {
                OnTimeBehavior::FireIfNonempty
            },
        }
    }

    /// One that never finishes, so that no element is refused but for being late.
    fn trigger(&mut self) -> Trigger {
        let random = &mut *self.random;
        let delay = |random: &mut Random| {
            Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(random.below(60) as i64)])
        };
        let count = |random: &mut Random| Trigger::ElementCount(1 + random.below(4) as u32);
        match random.below(7) {
            0 => Trigger::Never,
            1 => Trigger::Always,
            2 => Trigger::Repeat(Box::new(count(random))),
            3 => Trigger::Repeat(Box::new(delay(random))),
            4 => Trigger::AfterEndOfWindow {
                early: Some(Box::new(delay(random))),
                late: Some(Box::new(count(random))),
            },
            _ => Trigger::Default,
        }
    }
}

fn script(random: &mut Random, outputs: &[CollectionId], late: bool) -> Vec<TestStreamStep<Batch>> {
    let mut steps = Vec::new();
    let mut watermarks = vec![0; outputs.len()];
    let mut instances = 1 << 40;
    for _ in 0..random.below(25) * outputs.len() {
        let index = random.below(outputs.len());
        let (output, watermark) = (outputs[index], watermarks[index]);
        steps.push(match random.below(5) {
            0 => {
                watermarks[index] += random.below(40) as i64;
                TestStreamStep::Watermark { output, watermark: EventTime(watermarks[index]) }
            }
            1 => TestStreamStep::ProcessingTime { millis: random.below(50) as i64 },
            _ => {
                let elements = (0..1 + random.below(3)).map(|_| {
                    let mut time = watermark + random.below(40) as i64;
                    if late && random.one_in(5) {
                        time -= 60;
                    }
                    Element::new(random.next(), EventTime(time))
                });
                let blocks = elements.map(|element| {
                    instances += 1;
                    Batch::block(instances, vec![element])
                });
                TestStreamStep::Elements { output, blocks: blocks.collect() }
            }
        });
    }
    steps.push(TestStreamStep::End);
    steps.reverse();
    steps
}
