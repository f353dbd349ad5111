//! What waits before a stage, and how far its watermarks are.

use std::collections::{BTreeMap, HashSet, VecDeque};

use beam_model::time::{EventTime, ProcessingTime};

use std::time::Duration;

use super::bundle::Content;
use super::holds::Holds;
use super::last_turns::{LastTurns, Next, Turn, is_over};
use super::timers::{Timers, Times};
use super::{Block, Partition, Timer, TimerChange};
use crate::plan::{KeyedStage, TimerKind};

pub(super) struct StageState<B> {
    queue: Queue<B>,
    /// What running bundles have given back, each as one bundle to be.
    split_off: VecDeque<Vec<Block<B>>>,
    pub(super) pending_bytes: u64,
    pub(super) in_flight: usize,
    /// Side inputs that are not complete, of those that the stage needs whole.
    pub(super) side_inputs_missing: usize,
    /// Of blocks that wait, run, or are to come back later.
    holds: Holds,
    /// The watermark of the collection that it reads.
    input: EventTime,
    /// The watermark up to which all input has been worked off.
    watermark: EventTime,
    /// The watermark of what it makes.
    output: EventTime,
    /// Event times whose windows running bundles may still need the state of.
    windows_in_use: Holds,
    /// Windows that ended before this have been told to be over.
    expired: EventTime,
}

/// Blocks cut off for a bundle, and the keys that nobody else may have meanwhile.
pub(super) type Cut<B> = (Vec<Block<B>>, Vec<Partition>);

enum Queue<B> {
    Plain(VecDeque<Block<B>>),
    Keyed(Box<KeyedQueue<B>>),
}

/// For a stage with state or timers: elements by share of keys.
struct KeyedQueue<B> {
    pending: BTreeMap<Partition, VecDeque<Block<B>>>,
    /// Shares of keys that a bundle has.
    locked: HashSet<Partition>,
    timers: Timers,
    /// There once nothing more comes but processing-time timers, and the turn that it is.
    last_turns: Option<LastTurns>,
    turn: Option<Turn>,
    kinds: Vec<TimerKind>,
    /// What is made by timers comes before any timer of a later stage fires, as all of bounded input does.
    bounded: bool,
    /// There if a key's elements are to come in the order of their time: how late they may be, in
    /// milliseconds.
    sorted: Option<i64>,
}

impl<B> StageState<B> {
    pub(super) fn new(side_inputs: usize, keyed: Option<&KeyedStage>, streaming: bool) -> Self {
        let queue = match keyed {
            None => Queue::Plain(VecDeque::new()),
            Some(keyed) => Queue::Keyed(Box::new(KeyedQueue {
                pending: BTreeMap::new(),
                locked: HashSet::new(),
                timers: Timers::default(),
                last_turns: None,
                turn: None,
                kinds: keyed.families.iter().map(|family| family.kind).collect(),
                bounded: !streaming,
                sorted: keyed.time_sorted.then_some(keyed.allowed_lateness),
            })),
        };
        Self {
            queue,
            split_off: VecDeque::new(),
            pending_bytes: 0,
            in_flight: 0,
            side_inputs_missing: side_inputs,
            holds: Holds::default(),
            input: EventTime::MIN,
            watermark: EventTime::MIN,
            output: EventTime::MIN,
            windows_in_use: Holds::default(),
            expired: EventTime::MIN,
        }
    }

    /// Takes in elements. They hold the watermark until [`StageState::finish`].
    pub(super) fn push(&mut self, blocks: impl IntoIterator<Item = Block<B>>) {
        for block in blocks {
            self.holds.add(block.hold);
            self.enqueue(block);
        }
    }

    /// Holds the watermark for a block that is to come back later, by [`StageState::enqueue`].
    pub(super) fn hold(&mut self, block: &Block<B>) {
        self.holds.add(block.hold);
    }

    /// Queues a block whose hold is there already.
    pub(super) fn enqueue(&mut self, block: Block<B>) {
        self.pending_bytes += block.bytes;
        match &mut self.queue {
            Queue::Plain(queue) => queue.push_back(block),
            Queue::Keyed(queue) => queue.pending.entry(block.partition).or_default().push_back(block),
        }
    }

    /// A running bundle works on other blocks from now on.
    pub(super) fn replace_running(&mut self, before: &[Block<B>], now: &[Block<B>]) {
        now.iter().for_each(|block| self.holds.add(block.hold));
        before.iter().for_each(|block| self.holds.release(block.hold));
    }

    /// Takes in what a running bundle gave back. It does not wait for other input to make a bundle.
    pub(super) fn push_split_off(&mut self, blocks: Vec<Block<B>>) {
        blocks.iter().for_each(|block| self.holds.add(block.hold));
        self.pending_bytes += blocks.iter().map(|block| block.bytes).sum::<u64>();
        if !blocks.is_empty() {
            self.split_off.push_back(blocks);
        }
    }

    /// The oldest of what running bundles gave back.
    pub(super) fn take_split_off(&mut self) -> Option<Vec<Block<B>>> {
        let blocks = self.split_off.pop_front()?;
        self.pending_bytes -= blocks.iter().map(|block| block.bytes).sum::<u64>();
        Some(blocks)
    }

    /// How many blocks wait.
    pub(super) fn waiting(&self) -> usize {
        let split_off: usize = self.split_off.iter().map(Vec::len).sum();
        split_off
            + match &self.queue {
                Queue::Plain(queue) => queue.len(),
                Queue::Keyed(queue) => queue.pending.values().map(VecDeque::len).sum(),
            }
    }

    /// How many timers are set.
    pub(super) fn timers_waiting(&self) -> usize {
        match &self.queue {
            Queue::Plain(_) => 0,
            Queue::Keyed(queue) => queue.timers.len(),
        }
    }

    /// Whether it has state or timers.
    pub(super) fn is_keyed(&self) -> bool {
        matches!(self.queue, Queue::Keyed(_))
    }

    /// Whether no more input will come, residuals aside.
    pub(super) fn input_complete(&self) -> bool {
        self.input == EventTime::MAX
    }

    /// Whether all is done.
    pub(super) fn is_complete(&self) -> bool {
        self.output == EventTime::MAX
    }

    /// Whether it may have to wait for more than a worker, however much input it has.
    pub(super) fn must_wait(&self) -> bool {
        let sorted = matches!(&self.queue, Queue::Keyed(queue) if queue.sorted.is_some());
        sorted || self.side_inputs_missing > 0
    }

    pub(super) fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Moves the watermarks on as far as they may go, `input` being that of the collection that it reads.
    /// Returns that of what it makes.
    pub(super) fn advance(&mut self, input: EventTime) -> EventTime {
        self.input = self.input.max(input);
        self.watermark = self.watermark.max(self.input.min(self.holds.earliest()));
        let timers = match &self.queue {
            Queue::Plain(_) => EventTime::MAX,
            Queue::Keyed(queue) if queue.bounded && queue.timers.hold() < EventTime::MAX => EventTime::MIN,
            Queue::Keyed(queue) => queue.timers.hold(),
        };
        self.output = self.output.max(self.watermark.min(timers));
        self.output
    }

    /// The event time before which windows are over for good, if it has gone on since it was asked last.
    pub(super) fn newly_expired(&mut self) -> Option<EventTime> {
        let Queue::Keyed(queue) = &self.queue else { return None };
        let expired =
            self.watermark.min(queue.timers.earliest_event_time()).min(self.windows_in_use.earliest());
        // What waits for processing time fires at the end, and finds the state of the global window.
        let expired = match queue.timers.waits_for_processing_time() {
            true => expired.min(EventTime::GLOBAL_WINDOW_MAX),
            false => expired,
        };
        let newly = expired > self.expired;
        self.expired = self.expired.max(expired);
        newly.then_some(expired)
    }

    /// When something is due in processing time that is not yet.
    pub(super) fn next_wake(&self, now: ProcessingTime) -> Option<ProcessingTime> {
        match &self.queue {
            Queue::Plain(_) => None,
            Queue::Keyed(queue) => queue.timers.next_wake(now),
        }
    }

    /// Takes blocks off the front until `full` says that the bundle has enough of them, after
    /// (blocks, bytes). `None` if nothing waits that may be taken.
    pub(super) fn take(&mut self, full: impl Fn(usize, u64) -> bool) -> Option<Cut<B>> {
        let mut bundle = Bundle { taken: Vec::new(), bytes: 0, full };
        let mut partitions = Vec::new();
        match &mut self.queue {
            Queue::Plain(queue) => {
                bundle.fill(queue);
            }
            Queue::Keyed(queue) => queue.fill(self.input, &mut bundle, &mut partitions),
        }
        self.pending_bytes -= bundle.bytes;
        (!bundle.taken.is_empty()).then_some((bundle.taken, partitions))
    }

    /// Takes timers that are to fire, if there are many as a share for one of `slots`.
    pub(super) fn take_timers(&mut self, now: ProcessingTime, one: bool, slots: usize) -> Option<Content<B>> {
        if self.side_inputs_missing > 0 {
            return None;
        }
        let Queue::Keyed(queue) = &mut self.queue else { return None };
        let idle = self.in_flight == 0;
        let times = Times { watermark: self.watermark, now, idle, turn: queue.turn.take().filter(|_| idle) };
        let limit = if one { 1 } else { usize::MAX };
        let shares = slots.saturating_sub(self.in_flight).max(1);
        let due = queue.timers.take_due(times, &queue.locked, limit, shares);
        let mut partitions: Vec<_> = due.iter().map(|(_, partition)| *partition).collect();
        partitions.sort();
        partitions.dedup();
        queue.locked.extend(&partitions);
        let timers: Vec<_> = due.into_iter().map(|(timer, _)| timer).collect();
        (!timers.is_empty()).then_some(Content { blocks: Vec::new(), timers, partitions })
    }

    /// If it has nothing but processing-time timers to do any more: which of them fire now, by the machine's clock.
    pub(super) fn last_turn(&mut self, now: ProcessingTime, limit: Duration) -> Option<Next> {
        let idle = is_over(self.watermark) && self.in_flight == 0 && self.side_inputs_missing == 0;
        let Queue::Keyed(queue) = &mut self.queue else { return None };
        queue.turn = None;
        if !idle || !queue.timers.has_processing_time() {
            return None;
        }
        let (timers, set) = (&queue.timers, queue.timers.set_so_far());
        let turns = queue.last_turns.get_or_insert_with(|| LastTurns::new(now, set));
        let next = turns.next(now, limit, set, |turn| timers.fires_in(turn));
        queue.turn = match next {
            Next::Fire(turn) => Some(turn),
            Next::Wait(_) | Next::GiveUp => None,
        };
        Some(next)
    }

    /// Clears all processing-time timers; how many there were.
    pub(super) fn drop_processing_timers(&mut self) -> usize {
        match &mut self.queue {
            Queue::Plain(_) => 0,
            Queue::Keyed(queue) => queue.timers.drop_processing_time(),
        }
    }

    /// A bundle of this begins.
    pub(super) fn begin(&mut self, content: &Content<B>) {
        self.in_flight += 1;
        self.windows_in_use.add(self.in_use(content, self.watermark));
    }

    fn in_use(&self, content: &Content<B>, watermark: EventTime) -> EventTime {
        content.timers.iter().fold(watermark, |earliest, timer| earliest.min(timer.fire.min(timer.expiry)))
    }

    /// A bundle that began at `watermark` is committed. What it made and left undone is known already.
    pub(super) fn finish(&mut self, content: &Content<B>, watermark: EventTime) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.windows_in_use.release(self.in_use(content, watermark));
        content.blocks.iter().for_each(|block| self.holds.release(block.hold));
        if let Queue::Keyed(queue) = &mut self.queue {
            queue.timers.fired(&content.timers);
            content.partitions.iter().for_each(|partition| {
                queue.locked.remove(partition);
            });
        }
    }

    /// Takes in what a bundle did in which these timers `fired`. `due`: when a processing-time timer is due.
    pub(super) fn change_timers(
        &mut self,
        changes: Vec<TimerChange>,
        fired: &[Timer],
        due: impl Fn(EventTime) -> EventTime,
    ) {
        if let Queue::Keyed(queue) = &mut self.queue {
            queue.timers.change(changes, &queue.kinds, fired, due);
        }
    }
}

impl<B> KeyedQueue<B> {
    /// Fills a bundle with elements of keys that no other bundle has.
    fn fill<F: Fn(usize, u64) -> bool>(
        &mut self,
        input: EventTime,
        bundle: &mut Bundle<B, F>,
        partitions: &mut Vec<Partition>,
    ) {
        let free: Vec<_> = self.pending.keys().filter(|key| !self.locked.contains(key)).copied().collect();
        for partition in free {
            let Some(blocks) = self.pending.get_mut(&partition) else { continue };
            let before = bundle.taken.len();
            let full = match self.sorted {
                None => bundle.fill(blocks),
                Some(lateness) => bundle.fill_sorted(blocks, input, lateness),
            };
            if blocks.is_empty() {
                self.pending.remove(&partition);
            }
            if bundle.taken.len() > before {
                self.locked.insert(partition);
                partitions.push(partition);
            }
            if full {
                break;
            }
        }
    }
}

/// A bundle being filled.
struct Bundle<B, F> {
    taken: Vec<Block<B>>,
    bytes: u64,
    full: F,
}

impl<B, F: Fn(usize, u64) -> bool> Bundle<B, F> {
    /// Takes from the front of `queue` until the bundle is full. Says whether it is.
    fn fill(&mut self, queue: &mut VecDeque<Block<B>>) -> bool {
        while let Some(block) = queue.pop_front() {
            // A worker truncates all of a bundle or nothing.
            if self.taken.last().is_some_and(|last| last.truncated != block.truncated) {
                queue.push_front(block);
                return true;
            }
            if self.push(block) {
                return true;
            }
        }
        false
    }

    /// Takes, by time, all that nothing earlier can follow any more, if it is to be counted on that no
    /// element is later than `lateness` allows.
    fn fill_sorted(&mut self, queue: &mut VecDeque<Block<B>>, input: EventTime, lateness: i64) -> bool {
        let ready = |block: &Block<B>| input == EventTime::MAX || block.hold.saturating_add(lateness) < input;
        let (mut taken, rest): (Vec<_>, Vec<_>) = queue.drain(..).partition(ready);
        queue.extend(rest);
        taken.sort_by_key(|block| block.hold);
        let mut full = false;
        for block in taken {
            full |= self.push(block);
        }
        full
    }

    fn push(&mut self, block: Block<B>) -> bool {
        self.bytes += block.bytes;
        self.taken.push(block);
        (self.full)(self.taken.len(), self.bytes)
    }
}
