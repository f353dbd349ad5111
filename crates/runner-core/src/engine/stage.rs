//! What waits before a stage.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::bundle::Content;
use super::timers::Timers;
use super::{Block, Partition, TimerChange};
use crate::plan::{KeyedStage, TimerKind};

pub(super) struct StageState<B> {
    queue: Queue<B>,
    pub(super) pending_bytes: u64,
    pub(super) in_flight: usize,
    /// Residuals that wait for their time.
    pub(super) delayed: usize,
    pub(super) side_inputs_missing: usize,
    /// No more input will come, residuals aside.
    pub(super) input_complete: bool,
    /// All is done, and told to the readers.
    pub(super) complete: bool,
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
    kinds: Vec<TimerKind>,
    /// A bundle needs all elements of its keys, so that they can be sorted.
    sorted: bool,
}

impl<B> StageState<B> {
    pub(super) fn new(side_inputs: usize, keyed: Option<&KeyedStage>) -> Self {
        let queue = match keyed {
            None => Queue::Plain(VecDeque::new()),
            Some(keyed) => Queue::Keyed(Box::new(KeyedQueue {
                pending: BTreeMap::new(),
                locked: HashSet::new(),
                timers: Timers::default(),
                kinds: keyed.families.iter().map(|family| family.kind).collect(),
                sorted: keyed.time_sorted,
            })),
        };
        Self {
            queue,
            pending_bytes: 0,
            in_flight: 0,
            delayed: 0,
            side_inputs_missing: side_inputs,
            input_complete: false,
            complete: false,
        }
    }

    pub(super) fn push(&mut self, blocks: impl IntoIterator<Item = Block<B>>) {
        for block in blocks {
            self.pending_bytes += block.bytes;
            match &mut self.queue {
                Queue::Plain(queue) => queue.push_back(block),
                Queue::Keyed(queue) => queue.pending.entry(block.partition).or_default().push_back(block),
            }
        }
    }

    /// How many blocks wait.
    pub(super) fn waiting(&self) -> usize {
        match &self.queue {
            Queue::Plain(queue) => queue.len(),
            Queue::Keyed(queue) => queue.pending.values().map(VecDeque::len).sum(),
        }
    }

    /// Whether no bundle may be cut before all input is there.
    pub(super) fn must_wait(&self) -> bool {
        let sorted = matches!(&self.queue, Queue::Keyed(queue) if queue.sorted);
        sorted && !self.input_complete
    }

    pub(super) fn is_done(&self) -> bool {
        let no_timers = match &self.queue {
            Queue::Plain(_) => true,
            Queue::Keyed(queue) => queue.timers.is_empty(),
        };
        !self.complete
            && self.input_complete
            && self.waiting() == 0
            && self.in_flight == 0
            && self.delayed == 0
            && no_timers
    }

    /// Takes blocks off the front until `full` says that the bundle has enough of them, after
    /// (blocks, bytes). `None` if nothing waits that may be taken.
    pub(super) fn take(&mut self, full: impl Fn(usize, u64) -> bool) -> Option<Cut<B>> {
        let mut bundle = Bundle { taken: Vec::new(), bytes: 0, full };
        let mut partitions = Vec::new();
        match &mut self.queue {
            Queue::Plain(queue) => {
                bundle.fill(queue, false);
            }
            Queue::Keyed(queue) => {
                let free: Vec<_> =
                    queue.pending.keys().filter(|key| !queue.locked.contains(key)).copied().collect();
                for partition in free {
                    let Some(blocks) = queue.pending.get_mut(&partition) else { continue };
                    let full = bundle.fill(blocks, queue.sorted);
                    if blocks.is_empty() {
                        queue.pending.remove(&partition);
                    }
                    queue.locked.insert(partition);
                    partitions.push(partition);
                    if full {
                        break;
                    }
                }
            }
        }
        self.pending_bytes -= bundle.bytes;
        (!bundle.taken.is_empty()).then_some((bundle.taken, partitions))
    }

    /// Takes timers that are to fire: none before all elements have been seen.
    pub(super) fn take_timers(&mut self, one: bool) -> Option<Content<B>> {
        if !self.input_complete || self.waiting() > 0 || self.side_inputs_missing > 0 || self.delayed > 0 {
            return None;
        }
        let Queue::Keyed(queue) = &mut self.queue else { return None };
        let limit = if one { 1 } else { usize::MAX };
        let due = queue.timers.take_due(&queue.locked, self.in_flight == 0, limit);
        let mut partitions: Vec<_> = due.iter().map(|(_, partition)| *partition).collect();
        partitions.sort();
        partitions.dedup();
        queue.locked.extend(&partitions);
        let timers: Vec<_> = due.into_iter().map(|(timer, _)| timer).collect();
        (!timers.is_empty()).then_some(Content { blocks: Vec::new(), timers, partitions })
    }

    pub(super) fn unlock(&mut self, partitions: &[Partition]) {
        if let Queue::Keyed(queue) = &mut self.queue {
            partitions.iter().for_each(|partition| {
                queue.locked.remove(partition);
            });
        }
    }

    pub(super) fn change_timers(&mut self, changes: Vec<TimerChange>) {
        if let Queue::Keyed(queue) = &mut self.queue {
            queue.timers.change(changes, &queue.kinds);
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
    /// Takes from the front of `queue` until the bundle is full; all of it if `whole`. Says whether the
    /// bundle is full.
    fn fill(&mut self, queue: &mut VecDeque<Block<B>>, whole: bool) -> bool {
        let mut full = false;
        while let Some(block) = queue.pop_front() {
            self.bytes += block.bytes;
            self.taken.push(block);
            full = (self.full)(self.taken.len(), self.bytes);
            if full && !whole {
                return true;
            }
        }
        full
    }
}
