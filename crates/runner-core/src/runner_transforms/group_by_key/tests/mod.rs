//! GroupByKeys of unbounded inputs, with triggers. Those of bounded ones are tested beside the other
//! runner transforms.

mod memory;
mod merging;
mod panes;
mod properties;
mod time;
mod transcripts;

use std::sync::Arc;

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::coders::{Coder, IntervalWindow, PaneInfo, Timing, varint};
use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;

use super::{GroupByKey, Input};
use crate::plan::testing::grouping;
use crate::plan::{AccumulationMode, Firing, Grain, Grouping, Merging, TimestampTransform, Trigger};
use crate::ports::Storage;

/// How elements get their windows, by their event times.
#[derive(Clone, Copy, Debug)]
enum Windows {
    Fixed(i64),
    /// Windows of a size, one beginning with every period.
    Sliding(i64, i64),
    Sessions(i64),
}

impl Windows {
    fn of(self, time: i64) -> Vec<(i64, i64)> {
        match self {
            Self::Fixed(size) => {
                let start = time - time.rem_euclid(size);
                vec![(start, start + size)]
            }
            Self::Sliding(size, period) => {
                let last = time - time.rem_euclid(period);
                let starts = (0..).map(|n| last - n * period).take_while(|start| *start > time - size);
                starts.map(|start| (start, start + size)).collect()
            }
            Self::Sessions(gap) => vec![(time, time + gap)],
        }
    }
}

/// A pane as it came out.
#[derive(Clone, Debug, PartialEq)]
struct Pane {
    key: String,
    /// Start and end.
    window: (i64, i64),
    time: i64,
    values: Vec<u64>,
    info: PaneInfo,
}

/// A GroupByKey of `KV<bytes, varint>` under test.
struct Grouped {
    windows: Windows,
    groups: GroupByKey,
    now: i64,
}

impl Grouped {
    fn new(windows: Windows, grouping: Grouping) -> Self {
        Self { windows, groups: GroupByKey::in_memory(grouping), now: 0 }
    }

    /// One whose memory is that of `storage`.
    fn kept_in(windows: Windows, grouping: Grouping, storage: Arc<dyn Storage>) -> Self {
        let groups = GroupByKey::new(grouping, "Group".to_owned(), storage, None);
        Self { windows, groups, now: 0 }
    }

    /// Adds elements of key "k" whose values are their numbers, all of one bundle, and returns what fires.
    fn add(&mut self, elements: &[(i64, u64)]) -> Vec<Pane> {
        let keyed: Vec<_> = elements.iter().map(|(time, value)| ("k", *time, *value)).collect();
        self.add_keyed(&keyed)
    }

    fn add_keyed(&mut self, elements: &[(&str, i64, u64)]) -> Vec<Pane> {
        let mut block = Vec::new();
        for (key, time, value) in elements {
            let windows = self.windows.of(*time);
            block.extend(element(key, *time, &windows, *value));
        }
        self.groups.add(&block.into(), ProcessingTime::from_millis(self.now)).unwrap();
        self.take()
    }

    fn watermark(&mut self, watermark: i64) -> Vec<Pane> {
        self.groups.advance_watermark(EventTime(watermark)).unwrap();
        self.take()
    }

    /// The watermark reaches the end of time.
    fn close(&mut self) -> Vec<Pane> {
        self.watermark(EventTime::MAX.0)
    }

    fn clock(&mut self, now: i64) -> Vec<Pane> {
        self.now = now;
        self.groups.advance_processing_time(ProcessingTime::from_millis(now)).unwrap();
        self.take()
    }

    fn take(&mut self) -> Vec<Pane> {
        self.groups.take_panes(Grain::Element).map(|block| read(&block.unwrap().data)).collect()
    }

    fn buffered_keys(&self) -> usize {
        match &self.groups.input {
            Input::Unbounded(unbounded) => unbounded.keys(),
            Input::Bounded(_) => panic!("the input is bounded"),
        }
    }
}

fn element(key: &str, time: i64, windows: &[(i64, i64)], value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let windows: Vec<_> = windows.iter().map(|window| interval(*window)).collect();
    let windows = windows.iter().map(Vec::as_slice);
    write_header(&mut bytes, EventTime(time), windows, PaneInfo::NO_FIRING_ENCODED).unwrap();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    varint::write(&mut bytes, value);
    bytes
}

fn interval((start, end): (i64, i64)) -> Vec<u8> {
    let mut bytes = Vec::new();
    IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut bytes);
    bytes
}

/// Reads the one pane of a block.
fn read(block: &Bytes) -> Pane {
    let header = read_header(&Coder::IntervalWindow, block).unwrap();
    let (window, _) = IntervalWindow::read(header.windows.as_single().unwrap()).unwrap();
    let (key, len) = varint::read_prefixed(&block[header.header_len..]).unwrap();
    let rest = &block[header.header_len + len..];
    let (count, mut rest) = rest.split_first_chunk::<4>().unwrap();
    let mut values = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (value, len) = varint::read(rest).unwrap();
        values.push(value);
        rest = &rest[len..];
    }
    assert!(rest.is_empty(), "one pane a block");
    Pane {
        key: String::from_utf8(key.to_vec()).unwrap(),
        window: (window.start.0, window.end.0),
        time: header.timestamp.0,
        values,
        info: header.pane_info().unwrap(),
    }
}

/// Interval windows, end of window, no lateness, accumulating.
fn by(trigger: Trigger) -> Grouping {
    let firing = Firing { trigger, accumulation_mode: AccumulationMode::Accumulating, ..Firing::default() };
    Grouping { firing, bounded: false, ..grouping(Coder::IntervalWindow) }
}

fn discarding(grouping: Grouping) -> Grouping {
    let firing = Firing { accumulation_mode: AccumulationMode::Discarding, ..grouping.firing };
    Grouping { firing, ..grouping }
}

fn lateness(grouping: Grouping, allowed_lateness: i64) -> Grouping {
    Grouping { firing: Firing { allowed_lateness, ..grouping.firing }, ..grouping }
}

fn sessions(grouping: Grouping) -> Grouping {
    Grouping { merging: Merging::Sessions, ..grouping }
}

fn count(count: u32) -> Trigger {
    Trigger::ElementCount(count)
}

fn delay(millis: i64) -> Trigger {
    Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(millis)])
}

fn end_of_window(early: Option<Trigger>, late: Option<Trigger>) -> Trigger {
    Trigger::AfterEndOfWindow { early: early.map(Box::new), late: late.map(Box::new) }
}

fn repeat(trigger: Trigger) -> Trigger {
    Trigger::Repeat(Box::new(trigger))
}

/// Panes by their window and values.
fn contents(panes: &[Pane]) -> Vec<((i64, i64), Vec<u64>)> {
    let sorted = |pane: &Pane| {
        let mut values = pane.values.clone();
        values.sort();
        (pane.window, values)
    };
    panes.iter().map(sorted).collect()
}

/// Timing, index, nonspeculative index, first, last.
type Info = (Timing, i64, i64, bool, bool);

fn infos(panes: &[Pane]) -> Vec<Info> {
    let info = |pane: &Pane| {
        let PaneInfo { is_first, is_last, timing, index, nonspeculative_index } = pane.info;
        (timing, index, nonspeculative_index, is_first, is_last)
    };
    panes.iter().map(info).collect()
}
