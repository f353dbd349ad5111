//! The engine's parts beside naive models of them.

use std::collections::{BTreeMap, HashSet};

use beam_model::coders::Coder;
use bytes::Bytes;
use proptest::prelude::*;

use super::super::bundle::Content;
use super::super::clock::{Clock, PipelineClock};
use super::super::holds::Holds;
use super::super::last_turns::Turn;
use super::super::stage::StageState;
use super::super::timers::{Timers, Times};
use super::*;
use crate::plan::{KeyedStage, TimerFamily, TimerKind};

const KINDS: [TimerKind; 3] = [TimerKind::EventTime, TimerKind::ProcessingTime, TimerKind::Expiration];
const LAST: EventTime = EventTime(EventTime::MAX.0 - 1);

fn time() -> impl Strategy<Value = EventTime> {
    prop_oneof![
        20 => (0_i64..30).prop_map(EventTime),
        1 => Just(EventTime::MIN),
        1 => Just(EventTime::MAX),
    ]
}

/// The least of what is held, none of which may let a watermark come to its end.
fn least(holds: &[EventTime]) -> EventTime {
    holds.iter().map(|hold| (*hold).min(LAST)).min().unwrap_or(EventTime::MAX)
}

fn timer(family: usize, key: u8, tag: u8, fire: EventTime, hold: EventTime) -> Timer {
    let bytes = |byte: u8| Bytes::copy_from_slice(&[byte]);
    let id = TimerId { family, key: bytes(key), window: Bytes::new(), tag: bytes(tag) };
    Timer { id, fire, hold, pane: Bytes::new(), expiry: EventTime::MAX }
}

fn partition_of(timer: &Timer) -> Partition {
    Partition(u16::from(timer.id.key[0]) % 2)
}

#[derive(Clone, Debug)]
enum Op {
    Set(Timer),
    Clear(Timer),
    Take {
        watermark: EventTime,
        now: i64,
        idle: bool,
        locked: Option<u16>,
        limit: usize,
    },
    /// The oldest bundle of timers is committed.
    Fired,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any_timer = || {
        (0..3_usize, 0..3_u8, 0..3_u8, time(), time())
            .prop_map(|(family, key, tag, fire, hold)| timer(family, key, tag, fire, hold))
    };
    let limit = prop_oneof![Just(1_usize), Just(2), Just(usize::MAX)];
    let take = (time(), 0_i64..30, any::<bool>(), prop::option::of(0_u16..2), limit)
        .prop_map(|(watermark, now, idle, locked, limit)| Op::Take { watermark, now, idle, locked, limit });
    let op = prop_oneof![4 => any_timer().prop_map(Op::Set), 1 => any_timer().prop_map(Op::Clear), 3 => take, 1 => Just(Op::Fired)];
    prop::collection::vec(op, 1..40)
}

/// Timers that are set, in the order in which they were.
#[derive(Default)]
struct NaiveTimers {
    set: Vec<Timer>,
    firing: Vec<Vec<Timer>>,
}

impl NaiveTimers {
    fn due(&self, kind: TimerKind, times: Times) -> Vec<Timer> {
        let over = times.watermark == EventTime::MAX;
        let is_due = |timer: &&Timer| match kind {
            TimerKind::EventTime => timer.fire <= times.watermark,
            TimerKind::ProcessingTime => timer.fire.millis() <= times.now.millis() || over && times.idle,
            TimerKind::Expiration => timer.fire < times.watermark || over,
        };
        self.of(kind).filter(is_due).cloned().collect()
    }

    fn of(&self, kind: TimerKind) -> impl Iterator<Item = &Timer> {
        self.set.iter().filter(move |timer| KINDS[timer.id.family] == kind)
    }

    fn kind(&self, times: Times) -> Option<TimerKind> {
        let over = times.watermark == EventTime::MAX;
        let waits = over && (!times.idle || self.of(TimerKind::ProcessingTime).next().is_some());
        let may = |kind: &TimerKind| !waits || *kind != TimerKind::Expiration;
        KINDS.into_iter().filter(may).find(|kind| !self.due(*kind, times).is_empty())
    }

    /// All that may fire: of each key that no bundle has those of the earliest time, earliest first.
    fn take(&mut self, times: Times, locked: Option<u16>, limit: usize) -> Vec<Timer> {
        let Some(kind) = self.kind(times) else { return Vec::new() };
        let due = self.due(kind, times);
        let first_of_key =
            |timer: &Timer| due.iter().filter(|other| other.id.key == timer.id.key).map(|o| o.fire).min();
        let mut taken: Vec<_> = due
            .iter()
            .filter(|timer| locked != Some(partition_of(timer).0))
            .filter(|timer| first_of_key(timer) == Some(timer.fire))
            .cloned()
            .collect();
        taken.sort_by_key(|timer| timer.fire);
        taken.truncate(limit);
        self.set.retain(|timer| !taken.contains(timer));
        taken
    }

    fn hold(&self) -> EventTime {
        let all = self.set.iter().chain(self.firing.iter().flatten());
        least(&all.map(|timer| timer.hold).collect::<Vec<_>>())
    }
}

#[derive(Clone, Debug)]
enum StageOp {
    Arrive {
        hold: EventTime,
        partition: u16,
    },
    Input(EventTime),
    /// A bundle of so many blocks.
    Take(usize),
    /// One of the running bundles is committed; some of its blocks come back later, some timers are set.
    Finish {
        index: usize,
        delayed: bool,
        timer: Option<(EventTime, EventTime)>,
    },
    /// What was to come later is back.
    Back,
    Fire,
}

fn stage_ops() -> impl Strategy<Value = Vec<StageOp>> {
    let op = prop_oneof![
        3 => (time(), 0_u16..2).prop_map(|(hold, partition)| StageOp::Arrive { hold, partition }),
        2 => time().prop_map(StageOp::Input),
        2 => (1_usize..4).prop_map(StageOp::Take),
        3 => (0_usize..4, any::<bool>(), prop::option::of((time(), time())))
            .prop_map(|(index, delayed, timer)| StageOp::Finish { index, delayed, timer }),
        1 => Just(StageOp::Back),
        1 => Just(StageOp::Fire),
    ];
    prop::collection::vec(op, 1..40)
}

pub(super) fn keyed() -> KeyedStage {
    let family = |kind: &TimerKind| TimerFamily {
        id: format!("{kind:?}"),
        kind: *kind,
        coder: Arc::new(Coder::Bytes),
    };
    KeyedStage {
        transform: "transform".to_owned(),
        window_coder: Arc::new(Coder::GlobalWindow),
        merging: crate::plan::Merging::Never,
        families: KINDS.iter().map(family).collect(),
        states: Vec::new(),
        time_sorted: false,
        allowed_lateness: 0,
    }
}

/// Nobody has waited for it any more, or it has come.
type Waits = BTreeMap<NodeId, i64>;

#[derive(Clone, Debug)]
enum ClockOp {
    Wall(i64),
    Test(i64),
    NodeWaits(usize, Option<i64>),
    Delay(i64),
    Woken,
}

fn clock_ops() -> impl Strategy<Value = Vec<ClockOp>> {
    let op = prop_oneof![
        2 => (0_i64..60).prop_map(ClockOp::Wall),
        1 => (0_i64..20).prop_map(ClockOp::Test),
        2 => (0_usize..3, prop::option::of(0_i64..80)).prop_map(|(node, at)| ClockOp::NodeWaits(node, at)),
        2 => (0_i64..30).prop_map(ClockOp::Delay),
        1 => Just(ClockOp::Woken),
    ];
    prop::collection::vec(op, 1..40)
}

proptest! {
    #[test]
    fn holds_are_a_multiset(ops in prop::collection::vec((any::<bool>(), time()), 0..60)) {
        let (mut holds, mut naive) = (Holds::default(), Vec::new());
        for (adds, time) in ops {
            if adds {
                holds.add(time);
                naive.push(time);
            } else if let Some(index) = naive.iter().position(|held| *held == time) {
                holds.release(time);
                naive.swap_remove(index);
            }
            prop_assert_eq!(holds.earliest(), least(&naive));
        }
    }

    #[test]
    fn timers_by_a_naive_model(ops in ops()) {
        let (mut timers, mut naive) = (Timers::default(), NaiveTimers::default());
        for op in ops {
            match op {
                Op::Set(timer) => {
                    naive.set.retain(|other| other.id != timer.id);
                    naive.set.push(timer.clone());
                    let change = TimerChange::Set { partition: partition_of(&timer), timer };
                    timers.change(vec![change], &KINDS, &[], |fire| fire);
                }
                Op::Clear(timer) => {
                    naive.set.retain(|other| other.id != timer.id);
                    timers.change(vec![TimerChange::Clear(timer.id)], &KINDS, &[], |fire| fire);
                }
                Op::Take { watermark, now, idle, locked, limit } => {
                    let over = watermark == EventTime::MAX && idle;
                    let turn = over.then_some(Turn { set_before: u64::MAX, last: false });
                    let times = Times { watermark, now: ProcessingTime::from_millis(now), idle, turn };
                    let keys: HashSet<_> = locked.map(Partition).into_iter().collect();
                    let taken = timers.take_due(times, &keys, limit, 2);
                    for (timer, partition) in &taken {
                        prop_assert_eq!(*partition, partition_of(timer));
                    }
                    let taken: Vec<_> = taken.into_iter().map(|(timer, _)| timer).collect();
                    prop_assert_eq!(&taken, &naive.take(times, locked, limit));
                    naive.firing.push(taken);
                }
                Op::Fired if !naive.firing.is_empty() => timers.fired(&naive.firing.remove(0)),
                Op::Fired => {}
            }
            prop_assert_eq!(timers.hold(), naive.hold());
            let of_event_time = naive.set.iter().filter(|timer| KINDS[timer.id.family] != TimerKind::ProcessingTime);
            let earliest = of_event_time.map(|timer| timer.fire).min().unwrap_or(EventTime::MAX);
            prop_assert_eq!(timers.earliest_event_time(), earliest);
            let later = naive.of(TimerKind::ProcessingTime).map(|timer| timer.fire.millis()).filter(|at| *at > 15);
            prop_assert_eq!(timers.next_wake(ProcessingTime::from_millis(15)).map(ProcessingTime::millis), later.min());
        }
    }

    #[test]
    fn stage_watermarks_by_a_naive_model(by_key in any::<bool>(), ops in stage_ops()) {
        let keyed = keyed();
        let mut stage: StageState<u64> = StageState::new(0, by_key.then_some(&keyed), true);
        // All blocks that are there, wherever they are, and all timers.
        let (mut there, mut timers): (Vec<EventTime>, Vec<EventTime>) = (Vec::new(), Vec::new());
        let mut running: Vec<(Content<u64>, EventTime)> = Vec::new();
        let mut delayed: Vec<Block<u64>> = Vec::new();
        let (mut input, mut watermark, mut output) = (EventTime::MIN, EventTime::MIN, EventTime::MIN);
        let (mut waiting, mut set) = (0, 0_u8);
        for op in ops {
            match op {
                StageOp::Arrive { hold, partition } => {
                    let partition = Partition(partition);
                    stage.push([Block { data: 0, bytes: 1, partition, hold, truncated: false }]);
                    there.push(hold);
                    waiting += 1;
                }
                StageOp::Input(to) => input = input.max(to),
                StageOp::Take(count) => {
                    if let Some((blocks, partitions)) = stage.take(|blocks, _| blocks >= count) {
                        waiting -= blocks.len();
                        let content = Content { blocks, timers: Vec::new(), partitions };
                        stage.begin(&content);
                        running.push((content, stage.watermark()));
                    }
                }
                StageOp::Fire if by_key => {
                    if let Some(content) = stage.take_timers(ProcessingTime::MIN, false, 2) {
                        stage.begin(&content);
                        running.push((content, stage.watermark()));
                    }
                }
                StageOp::Finish { index, delayed: comes_back, timer: sets } if !running.is_empty() => {
                    let (content, began) = running.swap_remove(index % running.len());
                    for block in content.blocks.iter().filter(|_| comes_back) {
                        stage.hold(block);
                        there.push(block.hold);
                        delayed.push(block.clone());
                    }
                    if let Some((fire, hold)) = sets.filter(|_| by_key) {
                        let timer = timer(0, 0, set, fire, hold);
                        set = set.wrapping_add(1);
                        timers.push(hold);
                        let change = TimerChange::Set { partition: partition_of(&timer), timer };
                        stage.change_timers(vec![change], &content.timers, |fire| fire);
                    }
                    stage.finish(&content, began);
                    for block in &content.blocks {
                        there.swap_remove(there.iter().position(|hold| *hold == block.hold).unwrap());
                    }
                    for timer in &content.timers {
                        timers.swap_remove(timers.iter().position(|hold| *hold == timer.hold).unwrap());
                    }
                }
                StageOp::Back => {
                    for block in delayed.drain(..) {
                        stage.enqueue(block);
                        waiting += 1;
                    }
                }
                StageOp::Finish { .. } | StageOp::Fire => {}
            }
            watermark = watermark.max(input.min(least(&there)));
            output = output.max(watermark.min(least(&timers)));
            prop_assert_eq!(stage.advance(input), output);
            prop_assert_eq!(stage.watermark(), watermark);
            prop_assert_eq!((stage.waiting(), stage.pending_bytes), (waiting, waiting as u64));
            prop_assert_eq!(stage.is_complete(), output == EventTime::MAX);
        }
    }

    #[test]
    fn the_clock_by_a_naive_model(tested in any::<bool>(), ops in clock_ops()) {
        let pipeline = if tested { PipelineClock::Test(ProcessingTime::from_millis(0)) } else { PipelineClock::Wall };
        let mut plan = PlanBuilder::new();
        let impulse = plan.impulse();
        plan.stage(impulse, &[], 0);
        let mut engine: Engine<usize> = Engine::new(plan.build(), vec![1], BundlePolicy::Whole);
        engine.clock = Clock::new(pipeline);
        let stage = NodeId(1);
        let (mut wall, mut test) = (0_i64, 0_i64);
        let (mut nodes, mut residuals, mut asked) = (Waits::new(), Vec::new(), None::<i64>);
        let mut back = 0;
        engine.clock.set_wall(ProcessingTime::from_millis(0));
        for op in ops {
            match op {
                ClockOp::Wall(to) => {
                    wall = wall.max(to);
                    engine.clock.set_wall(ProcessingTime::from_millis(to));
                }
                ClockOp::Test(by) => {
                    test += by;
                    engine.clock.advance_test(by);
                }
                ClockOp::NodeWaits(node, until) => {
                    let now = if tested { test } else { wall };
                    engine.clock.node_waits(NodeId(node), until.map(ProcessingTime::from_millis));
                    match until.filter(|until| *until > now) {
                        Some(until) => nodes.insert(NodeId(node), until),
                        None => nodes.remove(&NodeId(node)),
                    };
                }
                ClockOp::Delay(millis) => {
                    let hold = EventTime(0);
                    let block = Block { data: 0, bytes: 1, partition: Partition(0), hold, truncated: false };
                    engine.delay(stage, block, Duration::from_millis(millis.unsigned_abs()));
                    residuals.push(wall + millis);
                }
                ClockOp::Woken => {
                    engine.woken();
                    asked = None;
                }
            }
            let now = if tested { test } else { wall };
            prop_assert_eq!(engine.clock.now(), ProcessingTime::from_millis(now));
            engine.changed.clear();
            engine.time_has_come();
            let due: Vec<_> = nodes.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
            prop_assert_eq!(engine.changed.iter().copied().collect::<Vec<_>>(), due);
            nodes.retain(|_, at| *at > now);
            back += residuals.iter().filter(|at| **at <= wall).count();
            residuals.retain(|at| *at > wall);
            prop_assert_eq!(engine.stages[&stage].waiting(), back);
            engine.actions.clear();
            engine.ask_to_be_woken();
            let by_wall = nodes.values().filter(|_| !tested).chain(&residuals);
            let next = by_wall.min().copied().filter(|next| asked.is_none_or(|asked| *next < asked));
            let asks: Vec<_> = engine.actions.iter().map(|action| match action {
                EngineAction::WakeAt { at } => at.millis(),
                other => panic!("{other:?}"),
            }).collect();
            prop_assert_eq!(asks, next.into_iter().collect::<Vec<_>>());
            asked = next.or(asked);
            prop_assert_eq!(engine.clock.wakes(), asked.is_some());
        }
    }
}
