//! Side inputs that go on changing, and elements that wait for them: an element may look as soon as the side input is
//! known to be as far as its time.

use std::collections::{BTreeMap, VecDeque};

use super::super::super::super::*;
use super::groups::{Ask, Given};
use super::work::{Batch, Element};

/// A side input that goes on changing: what it has not taken in, and how far it is.
pub(super) struct Live {
    pub(super) asks: VecDeque<Change>,
    pub(super) told: EventTime,
    pub(super) reached: EventTime,
    pub(super) values: Vec<u64>,
}

pub(super) enum Change {
    Add(Vec<u64>),
    Advance(EventTime),
}

impl Default for Live {
    fn default() -> Self {
        let start = EventTime::MIN;
        Self { asks: VecDeque::new(), told: start, reached: start, values: Vec::new() }
    }
}

impl Live {
    /// Takes in the oldest change.
    pub(super) fn take_in(&mut self) {
        match self.asks.pop_front().unwrap() {
            Change::Add(values) => self.values.extend(values),
            Change::Advance(watermark) => self.reached = watermark,
        }
    }
}

/// How far each side input is.
pub(super) type Reached = BTreeMap<CollectionId, EventTime>;

/// What waits before a stage.
pub(super) struct Awaits {
    side_inputs: Vec<CollectionId>,
    /// What it has been asked, and how far side inputs were then.
    asks: VecDeque<(Ask, Reached)>,
    pub(super) told: EventTime,
    waiting: Vec<Element>,
    going: Option<(Vec<Element>, Collected)>,
}

impl Awaits {
    pub(super) fn new(side_inputs: Vec<CollectionId>) -> Self {
        Self { side_inputs, asks: VecDeque::new(), told: EventTime::MIN, waiting: Vec::new(), going: None }
    }

    pub(super) fn ask(&mut self, ask: Ask, reached: Reached) {
        self.asks.push_back((ask, reached));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.asks.is_empty() && self.going.is_none()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.is_idle() && self.waiting.is_empty()
    }

    /// Answers the oldest question; `some`: how many elements at once, of so many.
    pub(super) fn answer(&mut self, some: impl FnOnce(usize) -> usize) -> Given {
        let mut going = self.going.take().unwrap_or_else(|| self.take_in());
        let count = some(going.0.len() + 1).min(going.0.len());
        let elements = going.0.drain(..count).collect();
        let done = going.0.is_empty().then_some(going.1);
        self.going = done.is_none().then_some(going);
        Given { elements, done }
    }

    fn take_in(&mut self) -> (Vec<Element>, Collected) {
        let (ask, reached) = self.asks.pop_front().unwrap();
        if let Ask::Add(blocks, _) = ask {
            self.waiting.extend(blocks.into_iter().flat_map(|block: Block<Batch>| block.data.elements));
        }
        let is_ready = |element: &Element| {
            self.side_inputs.iter().all(|side| may_look(element, reached.get(side).copied()))
        };
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(is_ready);
        self.waiting = waiting;
        let last = EventTime(EventTime::MAX.0 - 1);
        let hold = self.waiting.iter().map(|element| element.time.min(last)).min();
        (ready, Collected { hold: hold.unwrap_or(EventTime::MAX), wake: None })
    }
}

/// Whether an element may look at a side input that is this far.
pub(super) fn may_look(element: &Element, reached: Option<EventTime>) -> bool {
    reached.is_some_and(|reached| element.time <= reached)
}
