//! Processing time: who waits for which, and the one wake-up call that is asked for.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use beam_model::time::{EventTime, ProcessingTime};

use super::{Block, Engine, EngineAction};
use crate::plan::NodeId;

/// Waits for a point in processing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Waiter {
    /// A residual that is to be resumed.
    Residual(u64),
    /// A node with triggers or timers.
    Node(NodeId),
    /// A stage that gets nothing more, for its next turn of processing-time timers.
    LastTurn(NodeId),
    /// Running bundles that may be asked to split.
    Splits,
}

/// Both clocks of a job: that of the machine, by which residuals come back, and the pipeline's own, by which
/// timers and triggers go. They differ if a TestStream says what time it is.
pub(super) struct Clock<B> {
    wall: ProcessingTime,
    pipeline: PipelineClock,
    queue: BTreeSet<(ProcessingTime, Waiter)>,
    nodes: HashMap<NodeId, ProcessingTime>,
    splits: Option<ProcessingTime>,
    residuals: HashMap<u64, (NodeId, Block<B>)>,
    next_residual: u64,
    /// The wake-up call that has been asked for and has not come.
    asked: Option<ProcessingTime>,
}

/// What time it is for timers and triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PipelineClock {
    /// That of the machine.
    Wall,
    /// Nothing is ever due: on bounded input all elements come first.
    Stopped,
    /// What a TestStream says; it begins at 0.
    Test(ProcessingTime),
}

impl<B> Clock<B> {
    pub(super) fn new(pipeline: PipelineClock) -> Self {
        Self {
            wall: ProcessingTime::MIN,
            pipeline,
            queue: BTreeSet::new(),
            nodes: HashMap::new(),
            splits: None,
            residuals: HashMap::new(),
            next_residual: 0,
            asked: None,
        }
    }

    /// The machine's clock shows this. It may be set back; then time stands still until it has caught up.
    pub(super) fn set_wall(&mut self, now: ProcessingTime) {
        self.wall = self.wall.max(now);
    }

    /// What the machine's clock shows.
    pub(super) fn wall(&self) -> ProcessingTime {
        self.wall
    }

    /// What timers and triggers go by.
    pub(super) fn now(&self) -> ProcessingTime {
        match self.pipeline {
            PipelineClock::Wall => self.wall,
            PipelineClock::Stopped => ProcessingTime::MIN,
            PipelineClock::Test(now) => now,
        }
    }

    /// When a processing-time timer is due by the pipeline's clock. Under a TestStream that begins at 0, and
    /// timers are set by it; but what a worker has reckoned from the machine's clock is to come after as long.
    pub(super) fn due(&self, fire: EventTime) -> EventTime {
        const YEAR: u64 = 365 * 24 * 3_600_000;
        let ahead = fire.millis().saturating_sub(self.wall.millis());
        match self.pipeline {
            PipelineClock::Test(now) if ahead.unsigned_abs() < YEAR => {
                EventTime(now.saturating_add(ahead).millis())
            }
            PipelineClock::Test(_) | PipelineClock::Wall | PipelineClock::Stopped => fire,
        }
    }

    /// A stage waits for this time of the machine's clock.
    pub(super) fn stage_waits(&mut self, stage: NodeId, until: ProcessingTime) {
        self.queue.insert((until, Waiter::LastTurn(stage)));
    }

    /// A TestStream says that time goes on.
    pub(super) fn advance_test(&mut self, millis: i64) {
        if let PipelineClock::Test(now) = &mut self.pipeline {
            *now = now.saturating_add(millis);
        }
    }

    /// A TestStream is over: nothing has to wait any more.
    pub(super) fn end_test(&mut self) {
        if let PipelineClock::Test(now) = &mut self.pipeline {
            *now = ProcessingTime::MAX;
        }
    }

    /// A node waits for this time, or for none. What is due already is not waited for.
    pub(super) fn node_waits(&mut self, node: NodeId, until: Option<ProcessingTime>) {
        let stopped = self.pipeline == PipelineClock::Stopped;
        let until = until.filter(|until| !stopped && *until > self.now());
        let before = match until {
            Some(until) => self.nodes.insert(node, until),
            None => self.nodes.remove(&node),
        };
        if before == until {
            return;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, Waiter::Node(node)));
        }
        if let Some(until) = until {
            self.queue.insert((until, Waiter::Node(node)));
        }
    }

    /// Running bundles may be asked to split at this time, or none is to be.
    pub(super) fn splits_wait(&mut self, until: Option<ProcessingTime>) {
        if self.splits == until {
            return;
        }
        if let Some(before) = std::mem::replace(&mut self.splits, until) {
            self.queue.remove(&(before, Waiter::Splits));
        }
        self.queue.extend(until.map(|until| (until, Waiter::Splits)));
    }

    /// Whether a wake-up call is under way.
    pub(super) fn wakes(&self) -> bool {
        self.asked.is_some()
    }

    fn is_due(&self, at: ProcessingTime, waiter: Waiter) -> bool {
        match waiter {
            Waiter::Residual(_) | Waiter::LastTurn(_) | Waiter::Splits => at <= self.wall,
            Waiter::Node(_) => at <= self.now(),
        }
    }

    /// The nodes that something is due for, and residuals whose time has come; they wait no longer.
    fn take_due(&mut self) -> (Vec<NodeId>, Vec<(NodeId, Block<B>)>) {
        let latest = self.wall.max(self.now());
        let passed = self.queue.iter().take_while(|(at, _)| *at <= latest);
        let due: Vec<_> = passed.filter(|(at, waiter)| self.is_due(*at, *waiter)).copied().collect();
        let (mut nodes, mut residuals) = (Vec::new(), Vec::new());
        for (at, waiter) in due {
            self.queue.remove(&(at, waiter));
            match waiter {
                Waiter::Node(node) => {
                    self.nodes.remove(&node);
                    nodes.push(node);
                }
                Waiter::LastTurn(stage) => nodes.push(stage),
                Waiter::Splits => self.splits = None,
                Waiter::Residual(id) => residuals.extend(self.residuals.remove(&id)),
            }
        }
        (nodes, residuals)
    }

    /// When the machine's clock has to be looked at again, if that is sooner than what has been asked for.
    fn wake(&mut self) -> Option<ProcessingTime> {
        let by_wall = |waiter: &Waiter| match waiter {
            Waiter::Residual(_) | Waiter::LastTurn(_) | Waiter::Splits => true,
            Waiter::Node(_) => self.pipeline == PipelineClock::Wall,
        };
        let next = self.queue.iter().find(|(_, waiter)| by_wall(waiter)).map(|(at, _)| *at)?;
        let sooner = self.asked.is_none_or(|asked| next < asked);
        sooner.then(|| {
            self.asked = Some(next);
            next
        })
    }
}

impl<B: Clone> Engine<B> {
    /// Has a block come back to its stage after a while.
    pub(super) fn delay(&mut self, node: NodeId, block: Block<B>, after: Duration) {
        let Some(stage) = self.stages.get_mut(&node) else { return };
        stage.hold(&block);
        let clock = &mut self.clock;
        let at = clock.wall.after(after);
        let id = clock.next_residual;
        clock.next_residual += 1;
        clock.residuals.insert(id, (node, block));
        clock.queue.insert((at, Waiter::Residual(id)));
    }

    /// Whatever has waited for the time that it is now.
    pub(super) fn time_has_come(&mut self) {
        let (nodes, residuals) = self.clock.take_due();
        for (node, block) in residuals {
            if let Some(stage) = self.stages.get_mut(&node) {
                stage.enqueue(block);
            }
        }
        for node in nodes {
            self.poke(node);
        }
    }

    /// All residuals come back at once: nobody waits for their time any more.
    pub(super) fn hurry_residuals(&mut self) {
        let clock = &mut self.clock;
        clock.queue.retain(|(_, waiter)| !matches!(waiter, Waiter::Residual(_)));
        let mut residuals: Vec<_> = clock.residuals.drain().collect();
        residuals.sort_by_key(|(id, _)| *id);
        for (_, (node, block)) in residuals {
            if let Some(stage) = self.stages.get_mut(&node) {
                stage.enqueue(block);
            }
        }
    }

    pub(super) fn woken(&mut self) {
        self.clock.asked = None;
    }

    pub(super) fn ask_to_be_woken(&mut self) {
        if let Some(at) = self.clock.wake() {
            self.actions.push(EngineAction::WakeAt { at });
        }
    }
}
