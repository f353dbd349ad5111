//! Where every element and timer is, and what all watermarks are by their definition, reckoned anew from
//! everything after every step.

use std::collections::{BTreeMap, VecDeque};

use super::super::super::super::*;
use super::work::{Batch, Element};
use crate::plan::TimerKind;

/// A block before a stage. A collection that is read twice has two.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) block: Block<Batch>,
    /// When it may be processed: of what is to come back later.
    pub(super) not_before: ProcessingTime,
    /// The watermark of the stage, and that of its input, when it came.
    pub(super) stage_watermark: EventTime,
    pub(super) input_watermark: EventTime,
}

impl Instance {
    /// As long as this is here, the stage's watermark is not past it.
    pub(super) fn bound(&self) -> EventTime {
        self.block.hold.max(self.stage_watermark)
    }
}

/// A timer that is set, or fires.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(super) timer: Timer,
    pub(super) kind: TimerKind,
    pub(super) partition: Partition,
    /// In the time of its kind.
    pub(super) due: i64,
    /// As long as this is here, the stage's output watermark is not past it.
    pub(super) bound: EventTime,
}

/// What a running bundle has.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    pub(super) instances: Vec<Instance>,
    pub(super) timers: Vec<Set>,
}

#[derive(Default)]
pub(super) struct StageModel {
    pub(super) waiting: Vec<Instance>,
    pub(super) timers: BTreeMap<TimerId, Set>,
    pub(super) running: BTreeMap<BundleId, Taken>,
    pub(super) watermark: Watermark,
    pub(super) output: Watermark,
    pub(super) expired: Watermark,
}

/// Begins at the first event time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermark(pub(super) EventTime);

impl Default for Watermark {
    fn default() -> Self {
        Self(EventTime::MIN)
    }
}

impl Watermark {
    fn rise(&mut self, to: EventTime) {
        self.0 = self.0.max(to);
    }
}

/// A GroupByKey, or what waits for side inputs: it matters what it has been asked and answered.
pub(super) struct CollectorModel {
    pub(super) asks: VecDeque<AskModel>,
    pub(super) answered: EventTime,
    pub(super) hold: EventTime,
    pub(super) output: Watermark,
}

#[derive(Clone, Debug)]
pub(super) enum AskModel {
    Add(Vec<EventTime>),
    Advance(EventTime),
}

pub(super) struct Model {
    pub(super) plan: Arc<ExecutionPlan>,
    pub(super) watermarks: Vec<EventTime>,
    pub(super) stages: BTreeMap<NodeId, StageModel>,
    pub(super) collectors: BTreeMap<NodeId, CollectorModel>,
    /// Elements that one of them is to be given in this step.
    pub(super) to_collect: BTreeMap<NodeId, VecDeque<Vec<u64>>>,
    /// All values that have ever been in a collection, and their times.
    pub(super) delivered: Vec<Vec<(u64, EventTime)>>,
}

impl Model {
    pub(super) fn new(plan: Arc<ExecutionPlan>) -> Self {
        let mut stages = BTreeMap::new();
        let mut collectors = BTreeMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            match node {
                Node::Stage(_) => {
                    stages.insert(NodeId(index), StageModel::default());
                }
                Node::GroupByKey { .. } | Node::AwaitSideInputs { .. } => {
                    let collector = CollectorModel {
                        asks: VecDeque::new(),
                        answered: EventTime::MIN,
                        hold: EventTime::MAX,
                        output: Watermark::default(),
                    };
                    collectors.insert(NodeId(index), collector);
                }
                Node::Impulse { .. }
                | Node::TestStream(_)
                | Node::Flatten { .. }
                | Node::Redistribute { .. } => {}
            }
        }
        Self {
            watermarks: vec![EventTime::MIN; plan.collections.len()],
            delivered: vec![Vec::new(); plan.collections.len()],
            to_collect: BTreeMap::new(),
            stages,
            collectors,
            plan,
        }
    }

    /// Elements of a collection come to all that read it.
    pub(super) fn deliver(&mut self, collection: CollectionId, blocks: &[Block<Batch>]) {
        if blocks.is_empty() {
            return;
        }
        let values = |element: &Element| {
            let time = element.time;
            element.values.iter().map(move |value| (*value, time)).collect::<Vec<_>>()
        };
        let elements = blocks.iter().flat_map(|block| &block.data.elements);
        self.delivered[collection.0].extend(elements.flat_map(values));
        for (index, node) in self.plan.clone().nodes.iter().enumerate() {
            for _ in node.inputs().iter().filter(|input| **input == collection) {
                match node {
                    Node::Stage(_) => {
                        blocks.iter().for_each(|block| {
                            self.arrive(NodeId(index), block.clone(), ProcessingTime::MIN);
                        });
                    }
                    Node::GroupByKey { .. } | Node::AwaitSideInputs { .. } => {
                        let serials = blocks.iter().map(|block| block.data.serial).collect();
                        self.to_collect.entry(NodeId(index)).or_default().push_back(serials);
                        let holds = blocks.iter().map(|block| block.hold).collect();
                        let collector = self.collectors.get_mut(&NodeId(index)).unwrap();
                        collector.asks.push_back(AskModel::Add(holds));
                    }
                    Node::Flatten { output, .. } | Node::Redistribute { output, .. } => {
                        self.deliver(*output, blocks)
                    }
                    Node::Impulse { .. } | Node::TestStream(_) => panic!("it reads nothing"),
                }
            }
        }
    }

    /// A block comes to a stage.
    pub(super) fn arrive(&mut self, node: NodeId, block: Block<Batch>, not_before: ProcessingTime) {
        let Node::Stage(stage) = &self.plan.nodes[node.0] else { panic!("a block for no stage") };
        let input_watermark = self.watermarks[stage.input.0];
        let stage = self.stages.get_mut(&node).unwrap();
        let stage_watermark = stage.watermark.0;
        stage.waiting.push(Instance { block, not_before, stage_watermark, input_watermark });
    }

    /// `due`: of a processing-time timer.
    pub(super) fn change_timers(
        &mut self,
        node: NodeId,
        changes: Vec<TimerChange>,
        due: impl Fn(i64) -> i64,
    ) {
        let Node::Stage(planned) = &self.plan.nodes[node.0] else { panic!("timers of no stage") };
        let stage = self.stages.get_mut(&node).unwrap();
        for change in changes {
            match change {
                TimerChange::Clear(id) => {
                    stage.timers.remove(&id);
                }
                TimerChange::MergeWindows { .. } => panic!("no windows here merge"),
                TimerChange::Set { timer, partition } => {
                    let kind = planned.keyed.as_ref().unwrap().families[timer.id.family].kind;
                    let fire = timer.fire.millis();
                    let due = match kind {
                        TimerKind::ProcessingTime => due(fire),
                        // At the latest when its window is over.
                        TimerKind::EventTime | TimerKind::Expiration => fire.min(timer.expiry.millis()),
                    };
                    let bound = timer.hold.max(stage.output.0);
                    stage.timers.insert(timer.id.clone(), Set { timer, kind, partition, due, bound });
                }
            }
        }
    }

    /// A GroupByKey has done the oldest thing that it was asked.
    pub(super) fn answered(&mut self, node: NodeId, hold: EventTime) {
        let collector = self.collectors.get_mut(&node).unwrap();
        if let AskModel::Advance(watermark) = collector.asks.pop_front().unwrap() {
            collector.answered = watermark;
        }
        collector.hold = hold;
    }

    /// All watermarks by their definition.
    pub(super) fn settle(&mut self) {
        for (index, node) in self.plan.clone().nodes.iter().enumerate() {
            let id = NodeId(index);
            let reached = match node {
                Node::Impulse { .. } => EventTime::MAX,
                // Only the test stream says how far it is.
                Node::TestStream(_) => continue,
                Node::Flatten { inputs, .. } => {
                    inputs.iter().map(|input| self.watermarks[input.0]).min().unwrap()
                }
                Node::Redistribute { input, .. } => self.watermarks[input.0],
                Node::GroupByKey { .. } | Node::AwaitSideInputs { .. } => {
                    self.collectors.get_mut(&id).unwrap().settle()
                }
                Node::Stage(stage) => {
                    let input = self.watermarks[stage.input.0];
                    self.stages.get_mut(&id).unwrap().settle(input)
                }
            };
            for output in node.outputs() {
                assert!(reached >= self.watermarks[output.0], "the model's watermark goes back");
                self.watermarks[output.0] = reached;
            }
        }
    }
}

/// What is there holds the watermark, however late it is.
fn held(holds: impl Iterator<Item = EventTime>) -> EventTime {
    holds.map(|hold| hold.min(EventTime(EventTime::MAX.0 - 1))).min().unwrap_or(EventTime::MAX)
}

impl CollectorModel {
    fn settle(&mut self) -> EventTime {
        let unanswered = self.asks.iter().flat_map(|ask| match ask {
            AskModel::Add(holds) => holds.clone(),
            AskModel::Advance(_) => Vec::new(),
        });
        self.output.rise(self.answered.min(self.hold).min(held(unanswered)));
        self.output.0
    }
}

impl StageModel {
    fn settle(&mut self, input: EventTime) -> EventTime {
        let running = self.running.values().flat_map(|taken| &taken.instances);
        let blocks = held(self.waiting.iter().chain(running).map(|instance| instance.block.hold));
        self.watermark.rise(input.min(blocks));
        let firing = self.running.values().flat_map(|taken| &taken.timers);
        let timers = held(self.timers.values().chain(firing).map(|set| set.timer.hold));
        self.output.rise(self.watermark.0.min(timers));
        self.output.0
    }

    /// Takes what a bundle has said it has.
    #[track_caller]
    pub(super) fn take(&mut self, blocks: &[Block<Batch>], timers: &[Timer]) -> Taken {
        let mut taken = Taken::default();
        for block in blocks {
            let serial = block.data.serial;
            // The stage may have it twice, by a Flatten, and one of the two come back later than the other.
            let same = self.waiting.iter().enumerate().filter(|(_, it)| it.block.data.serial == serial);
            let found = same.min_by_key(|(_, it)| it.not_before).map(|(index, _)| index);
            let found = found.unwrap_or_else(|| panic!("block {serial} does not wait"));
            taken.instances.push(self.waiting.remove(found));
        }
        for timer in timers {
            let set = self.timers.remove(&timer.id);
            let set = set.unwrap_or_else(|| panic!("{timer:?} fires, and is not set"));
            assert_eq!(set.timer, *timer);
            taken.timers.push(set);
        }
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.timers.is_empty() && self.running.is_empty()
    }
}
