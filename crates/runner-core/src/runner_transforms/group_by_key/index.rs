//! By time: which cells have to be looked at, and how far they let the output watermark go.

use std::collections::{BTreeMap, BTreeSet};

use beam_model::time::{EventTime, ProcessingTime};

use super::Window;
use super::keys::KeyId;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// A cell is due when the watermark has passed its time.
    watermark: BTreeSet<(EventTime, KeyId, Window)>,
    /// A cell is due when processing time has reached its time.
    clock: BTreeSet<(ProcessingTime, KeyId, Window)>,
    /// How many cells hold the output watermark where.
    holds: BTreeMap<EventTime, usize>,
}

/// Where one cell is in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) watermark: Option<EventTime>,
    pub(super) clock: Option<ProcessingTime>,
    pub(super) hold: Option<EventTime>,
}

impl Index {
    /// Puts a cell from one place to another.
    pub(super) fn set(&mut self, key: KeyId, window: &Window, entry: &mut Entry, to: Entry) {
        if entry.watermark != to.watermark {
            if let Some(time) = entry.watermark {
                self.watermark.remove(&(time, key, window.clone()));
            }
            if let Some(time) = to.watermark {
                self.watermark.insert((time, key, window.clone()));
            }
        }
        if entry.clock != to.clock {
            if let Some(time) = entry.clock {
                self.clock.remove(&(time, key, window.clone()));
            }
            if let Some(time) = to.clock {
                self.clock.insert((time, key, window.clone()));
            }
        }
        if entry.hold != to.hold {
            if let Some(time) = entry.hold {
                self.release(time);
            }
            if let Some(time) = to.hold {
                *self.holds.entry(time).or_default() += 1;
            }
        }
        *entry = to;
    }

    fn release(&mut self, time: EventTime) {
        if let Some(count) = self.holds.get_mut(&time) {
            *count -= 1;
            if *count == 0 {
                self.holds.remove(&time);
            }
        }
    }

    /// Takes out a cell whose time is before the watermark, the earliest first. It stays away until its
    /// entry changes.
    pub(super) fn pop_before(&mut self, watermark: EventTime) -> Option<(KeyId, Window)> {
        self.watermark.first().filter(|(time, ..)| *time < watermark)?;
        self.watermark.pop_first().map(|(_, key, window)| (key, window))
    }

    /// Takes out a cell whose processing time has come.
    pub(super) fn pop_due(&mut self, now: ProcessingTime) -> Option<(KeyId, Window)> {
        self.clock.first().filter(|(time, ..)| *time <= now)?;
        self.clock.pop_first().map(|(_, key, window)| (key, window))
    }

    pub(super) fn hold(&self) -> EventTime {
        self.holds.first_key_value().map_or(EventTime::MAX, |(time, _)| *time)
    }

    pub(super) fn next_wake(&self) -> Option<ProcessingTime> {
        self.clock.first().map(|(time, ..)| *time)
    }
}
