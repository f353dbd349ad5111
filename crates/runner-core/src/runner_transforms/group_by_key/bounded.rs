//! Grouping of a bounded input. When all elements are there, windows are merged if the strategy says so,
//! and the groups come out in the order in which their keys were first seen.

use std::collections::HashMap;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{CoderError, IntervalWindow};
use beam_model::time::EventTime;
use bytes::Bytes;
use indexmap::IndexMap;

use super::fired::write_pane;
use super::sessions::encoded;
use super::values::Values;
use super::{BLOCK_BYTES, Merged, Window, malformed};
use crate::fault::Fault;
use crate::metrics::Dropped;
use crate::plan::{Grain, Grouping, Merging, OutputTime};

/// The pane of a group's one firing: first, last and on time.
const ONLY_PANE: &[u8] = &[0x07];

pub(super) struct Bounded {
    grouping: Grouping,
    keys: IndexMap<Box<[u8]>, KeyGroups>,
    merged: HashMap<Vec<Window>, Merged>,
    /// All elements are there.
    complete: bool,
    pub(super) dropped: Dropped,
}

/// The values of one key by window.
enum KeyGroups {
    One(Window, Group),
    Many(IndexMap<Window, Group>),
}

/// Values of one key and window.
struct Group {
    values: Values,
    timestamp: EventTime,
}

impl Bounded {
    pub(super) fn new(grouping: Grouping) -> Self {
        let (keys, merged) = (IndexMap::new(), HashMap::new());
        Self { grouping, keys, merged, complete: false, dropped: Dropped::default() }
    }

    pub(super) fn add(&mut self, block: &Bytes) -> Result<(), CoderError> {
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            let len = self.add_element(rest)?;
            rest = &rest[len..];
        }
        Ok(())
    }

    fn add_element(&mut self, element: &[u8]) -> Result<usize, CoderError> {
        let header = read_header(&self.grouping.window_coder, element)?;
        let key_start = header.header_len;
        let value_start = key_start + self.grouping.key_coder.skip(&element[key_start..])?;
        let end = value_start + self.grouping.value_coder.skip(&element[value_start..])?;
        let (key, value) = (&element[key_start..value_start], &element[value_start..end]);
        if self.complete {
            self.dropped.late += header.windows.len() as u64;
            return Ok(end);
        }
        let combine = self.grouping.output_time;
        for window in header.windows.iter() {
            match self.keys.get_mut(key) {
                Some(groups) => groups.add(window, value, header.timestamp, combine),
                None => {
                    let groups = KeyGroups::One(window.into(), Group::new(value, header.timestamp));
                    self.keys.insert(key.into(), groups);
                }
            }
        }
        Ok(end)
    }

    pub(super) fn advance_watermark(&mut self, watermark: EventTime) {
        self.complete |= watermark >= EventTime::MAX;
    }

    pub(super) fn hold(&self) -> EventTime {
        if self.complete || self.keys.is_empty() { EventTime::MAX } else { EventTime::MIN }
    }

    pub(super) fn windows_to_merge(&self) -> Vec<Vec<Window>> {
        if !matches!(self.grouping.merging, Merging::BySdk(_)) {
            return Vec::new();
        }
        let mut sets: Vec<_> = self.keys.values().map(KeyGroups::window_set).collect();
        sets.sort();
        sets.dedup();
        sets
    }

    pub(super) fn merge_windows(&mut self, answers: HashMap<Vec<Window>, Merged>) {
        self.merged.extend(answers);
    }

    /// All groups if all elements are there, else none.
    pub(super) fn take_groups(&mut self, grain: Grain, name: &str) -> Blocks {
        let (mut keys, mut merged) = (IndexMap::new(), HashMap::new());
        if self.complete {
            std::mem::swap(&mut keys, &mut self.keys);
            std::mem::swap(&mut merged, &mut self.merged);
        }
        let (grouping, name) = (self.grouping.clone(), name.to_owned());
        Blocks { keys: keys.into_iter(), open: None, grouping, name, grain, merged, done: false }
    }
}

impl KeyGroups {
    fn add(&mut self, window: &[u8], value: &[u8], timestamp: EventTime, combine: OutputTime) {
        match self {
            Self::One(only, group) if **only == *window => group.add(value, timestamp, combine),
            Self::One(..) => {
                let one = std::mem::replace(self, Self::Many(IndexMap::new()));
                if let (Self::One(only, group), Self::Many(map)) = (one, &mut *self) {
                    map.insert(only, group);
                    map.insert(window.into(), Group::new(value, timestamp));
                }
            }
            Self::Many(map) => match map.get_mut(window) {
                Some(group) => group.add(value, timestamp, combine),
                None => {
                    map.insert(window.into(), Group::new(value, timestamp));
                }
            },
        }
    }

    fn window_set(&self) -> Vec<Window> {
        match self {
            Self::One(window, _) => vec![window.clone()],
            Self::Many(map) => {
                let mut windows: Vec<_> = map.keys().cloned().collect();
                windows.sort();
                windows
            }
        }
    }

    fn into_windows(self) -> Vec<(Window, Group)> {
        match self {
            Self::One(window, group) => vec![(window, group)],
            Self::Many(map) => map.into_iter().collect(),
        }
    }
}

impl Group {
    fn new(value: &[u8], timestamp: EventTime) -> Self {
        Self { values: Values::of(value), timestamp }
    }

    fn add(&mut self, value: &[u8], timestamp: EventTime, combine: OutputTime) {
        self.values.push(value);
        self.timestamp = combine.of(self.timestamp, timestamp);
    }

    fn append(&mut self, other: Group, combine: OutputTime) {
        self.values.append(other.values);
        self.timestamp = combine.of(self.timestamp, other.timestamp);
    }
}

type Groups = std::vec::IntoIter<(Window, Group)>;

/// Writes groups out, a block at a time.
pub(super) struct Blocks {
    keys: indexmap::map::IntoIter<Box<[u8]>, KeyGroups>,
    /// The key whose groups are being written, and those left of them.
    open: Option<(Box<[u8]>, Groups)>,
    grouping: Grouping,
    name: String,
    grain: Grain,
    merged: HashMap<Vec<Window>, Merged>,
    done: bool,
}

impl Blocks {
    /// Appends the next group, and says whether there was one.
    fn write_next(&mut self, block: &mut Vec<u8>) -> Result<bool, CoderError> {
        loop {
            if let Some((key, groups)) = &mut self.open
                && let Some((window, group)) = groups.next()
            {
                write_group(block, &self.grouping, key, &window, &group)?;
                return Ok(true);
            }
            let Some((key, groups)) = self.keys.next() else { return Ok(false) };
            let groups = merge(&self.grouping, &self.merged, groups)?;
            self.open = Some((key, groups.into_iter()));
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<Bytes, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut block = Vec::new();
        while !self.done {
            match self.write_next(&mut block) {
                Ok(true) if block.len() >= BLOCK_BYTES || self.grain == Grain::Element => break,
                Ok(true) => {}
                Ok(false) => self.done = true,
                Err(error) => {
                    self.done = true;
                    return Some(Err(malformed(&self.name, error)));
                }
            }
        }
        (!block.is_empty()).then(|| Ok(block.into()))
    }
}

fn write_group(
    out: &mut Vec<u8>,
    grouping: &Grouping,
    key: &[u8],
    window: &[u8],
    group: &Group,
) -> Result<(), CoderError> {
    let timestamp = match grouping.output_time {
        OutputTime::Earliest | OutputTime::Latest => group.timestamp,
        OutputTime::EndOfWindow => {
            grouping.window_coder.max_timestamp_of_window(window).unwrap_or(group.timestamp)
        }
    };
    write_pane(out, timestamp, window, ONLY_PANE, key, &group.values)
}

fn merge(
    grouping: &Grouping,
    merged: &HashMap<Vec<Window>, Merged>,
    groups: KeyGroups,
) -> Result<Vec<(Window, Group)>, CoderError> {
    match &grouping.merging {
        Merging::Never => Ok(groups.into_windows()),
        Merging::Sessions => merge_sessions(groups.into_windows(), grouping.output_time),
        Merging::BySdk(_) => {
            let replaced = merged.get(&groups.window_set());
            let mut result: IndexMap<Window, Group> = IndexMap::new();
            for (window, group) in groups.into_windows() {
                let target = replaced.and_then(|replaced| replaced.get(&window)).cloned().unwrap_or(window);
                match result.get_mut(&target) {
                    Some(known) => known.append(group, grouping.output_time),
                    None => {
                        result.insert(target, group);
                    }
                }
            }
            Ok(result.into_iter().collect())
        }
    }
}

/// Intervals that overlap become one that spans them; intervals that only touch do not.
fn merge_sessions(
    groups: Vec<(Window, Group)>,
    combine: OutputTime,
) -> Result<Vec<(Window, Group)>, CoderError> {
    let mut sessions = Vec::with_capacity(groups.len());
    for (window, group) in groups {
        sessions.push((IntervalWindow::read(&window)?.0, group));
    }
    sessions.sort_by_key(|(window, _)| (window.start, window.end));
    let mut merged: Vec<(IntervalWindow, Group)> = Vec::new();
    for (window, group) in sessions {
        match merged.last_mut() {
            Some((session, all)) if window.start < session.end => {
                session.end = session.end.max(window.end);
                all.append(group, combine);
            }
            _ => merged.push((window, group)),
        }
    }
    Ok(merged.into_iter().map(|(window, group)| (encoded(&window), group)).collect())
}
