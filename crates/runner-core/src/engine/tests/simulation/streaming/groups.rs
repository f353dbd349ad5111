//! GroupByKeys: the real ones, on encoded elements.

use std::collections::{BTreeMap, VecDeque};

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::coders::{Coder, IntervalWindow, PaneInfo, Timing, varint};
use bytes::Bytes;

use super::super::super::super::*;
use super::plan::Windows;
use super::work::{Batch, Element, key_of};
use crate::plan::{AccumulationMode, Grain, Grouping};
use crate::ports::Storage;
use crate::runner_transforms::group_by_key::GroupByKey;

type Window = (i64, i64);

/// A GroupByKey, what it has been asked, and a naive account of what it has to give out.
pub(super) struct Groups {
    groups: GroupByKey,
    grouping: Grouping,
    windows: Windows,
    pub(super) asks: VecDeque<Ask>,
    /// What it is giving out.
    going: Option<(Vec<Element>, Collected)>,
    /// The last watermark that it has been told, and that it has taken in.
    pub(super) told: EventTime,
    reached: EventTime,
    /// When it wants to be told the time.
    pub(super) wake: Option<ProcessingTime>,
    added: BTreeMap<(u16, Window), Vec<u64>>,
    fired: BTreeMap<(u16, Window), Vec<Vec<u64>>>,
    /// Values that were too late, and their times.
    pub(super) dropped: Vec<(u64, EventTime)>,
}

pub(super) enum Ask {
    Add(Vec<Block<Batch>>, ProcessingTime),
    Advance(EventTime, ProcessingTime),
}

/// Some of what it gives out.
pub(super) struct Given {
    pub(super) elements: Vec<Element>,
    pub(super) done: Option<Collected>,
}

impl Groups {
    pub(super) fn new(grouping: &Grouping, windows: Windows, storage: Arc<dyn Storage>) -> Self {
        Self {
            groups: GroupByKey::new(grouping.clone(), "Group".to_owned(), storage, None),
            grouping: grouping.clone(),
            windows,
            asks: VecDeque::new(),
            going: None,
            told: EventTime::MIN,
            reached: EventTime::MIN,
            wake: None,
            added: BTreeMap::new(),
            fired: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    /// Whether it has not said yet all that it has to answer.
    pub(super) fn is_answering(&self) -> bool {
        self.going.is_some()
    }

    /// Answers the oldest question; `some`: how many elements at once, of so many.
    pub(super) fn answer(&mut self, some: impl FnOnce(usize) -> usize) -> Given {
        if self.going.is_none() {
            let elements = self.take_in();
            let done = Collected { hold: self.groups.hold(), wake: self.groups.next_wake() };
            self.going = Some((elements, done));
        }
        let Some((rest, done)) = &mut self.going else { unreachable!() };
        let count = some(rest.len() + 1).min(rest.len());
        let elements = rest.drain(..count).collect();
        let done = rest.is_empty().then_some(*done);
        if let Some(done) = done {
            self.going = None;
            self.wake = done.wake;
        }
        Given { elements, done }
    }

    fn take_in(&mut self) -> Vec<Element> {
        match self.asks.pop_front().unwrap() {
            Ask::Add(blocks, now) => {
                let elements = blocks.into_iter().flat_map(|block| block.data.elements);
                let mut bytes = Vec::new();
                for element in elements {
                    for value in &element.values {
                        self.add(*value, &element, &mut bytes);
                    }
                }
                self.groups.add(&bytes.into(), now).unwrap();
            }
            Ask::Advance(watermark, now) => {
                self.reached = watermark;
                self.groups.advance_processing_time(now).unwrap();
                self.groups.advance_watermark(watermark).unwrap();
            }
        }
        let panes: Vec<_> = self.groups.take_panes(Grain::Element).map(|pane| pane.unwrap().data).collect();
        panes.iter().map(|pane| self.pane(pane)).collect()
    }

    fn add(&mut self, value: u64, element: &Element, bytes: &mut Vec<u8>) {
        let time = element.time.millis();
        let window = match self.windows {
            Windows::Fixed(size) => (time - time.rem_euclid(size), time - time.rem_euclid(size) + size),
            Windows::Sessions(gap) => (time, time + gap),
        };
        let expiry = EventTime(window.1 - 1 + self.grouping.firing.allowed_lateness);
        if expiry < self.reached {
            assert!(element.late, "{element:?} is dropped, and was not late");
            self.dropped.push((value, element.time));
        } else {
            self.added.entry((key_of(value), window)).or_default().push(value);
        }
        let mut encoded = Vec::new();
        IntervalWindow { start: EventTime(window.0), end: EventTime(window.1) }.write(&mut encoded);
        let windows = [encoded.as_slice()];
        write_header(bytes, element.time, windows, PaneInfo::NO_FIRING_ENCODED).unwrap();
        varint::write_prefixed(bytes, key_of(value).to_string().as_bytes());
        varint::write(bytes, value);
    }

    fn pane(&mut self, block: &Bytes) -> Element {
        let header = read_header(&Coder::IntervalWindow, block).unwrap();
        let (window, _) = IntervalWindow::read(header.windows.as_single().unwrap()).unwrap();
        let (key, len) = varint::read_prefixed(&block[header.header_len..]).unwrap();
        let key: u16 = std::str::from_utf8(key).unwrap().parse().unwrap();
        let (count, mut rest) = block[header.header_len + len..].split_first_chunk::<4>().unwrap();
        let mut values = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (value, len) = varint::read(rest).unwrap();
            values.push(value);
            rest = &rest[len..];
        }
        let window = (window.start.millis(), window.end.millis());
        self.fired.entry((key, window)).or_default().push(values.clone());
        // Only what says that it is late may be.
        let late = header.pane_info().unwrap().timing == Timing::Late;
        Element::of(values, header.timestamp, if late { EventTime::MAX } else { header.timestamp })
    }

    fn accumulates(&self) -> bool {
        self.grouping.firing.accumulation_mode == AccumulationMode::Accumulating
    }

    /// Whether all that comes out is what has been put in, less what was dropped.
    pub(super) fn is_plain(&self) -> bool {
        !self.accumulates()
    }

    /// The time of all groups of a window, if that depends on nothing else.
    pub(super) fn time_of_group(&self, time: EventTime) -> Option<EventTime> {
        match (self.windows, self.grouping.output_time) {
            (Windows::Fixed(size), crate::plan::OutputTime::EndOfWindow) => {
                Some(EventTime(time.millis() - time.millis().rem_euclid(size) + size - 1))
            }
            _ => None,
        }
    }

    /// All is done: whether every window had all of its values.
    pub(super) fn check(&mut self) {
        assert!(self.asks.is_empty() && self.going.is_none());
        assert_eq!((self.groups.hold(), self.groups.next_wake()), (EventTime::MAX, None));
        let dropped = self.groups.dropped();
        assert_eq!((dropped.late, dropped.closed), (self.dropped.len() as u64, 0));
        if matches!(self.windows, Windows::Sessions(_)) {
            // Which windows there were is a matter of the schedule, if elements were late.
            return;
        }
        let accumulates = self.accumulates();
        for (window, panes) in &mut self.fired {
            let mut arrived = if accumulates { panes.pop().unwrap() } else { panes.concat() };
            let mut added = self.added.remove(window).unwrap_or_default();
            arrived.sort();
            added.sort();
            assert_eq!(arrived, added, "values of {window:?}");
        }
        assert!(self.added.is_empty(), "{:?} have never fired", self.added);
    }
}
