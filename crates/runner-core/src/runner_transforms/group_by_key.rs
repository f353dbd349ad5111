//! GroupByKey on encoded keys: two keys are the same if their encodings are.
//!
//! Elements are added block by block as bundles are committed. When all are there, windows are merged
//! if the strategy says so, and the groups come out in the order in which their keys were first seen.

use std::collections::HashMap;

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::coders::{CoderError, IntervalWindow};
use beam_model::time::EventTime;
use bytes::Bytes;
use indexmap::IndexMap;

use super::malformed;
use crate::fault::Fault;
use crate::plan::{Grain, Grouping, Merging, OutputTime};

/// The pane of a group's one firing: first, last and on time.
const ONLY_PANE: &[u8] = &[0x07];
/// Groups are handed on in blocks of about this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// An encoded window.
pub type Window = Box<[u8]>;

/// What is said of a set of windows: by what windows they are replaced.
pub type Merged = HashMap<Window, Window>;

/// A GroupByKey that takes in elements.
pub struct GroupByKey {
    grouping: Grouping,
    name: String,
    keys: IndexMap<Box<[u8]>, KeyGroups>,
}

/// The values of one key by window.
enum KeyGroups {
    One(Window, Group),
    Many(IndexMap<Window, Group>),
}

/// Values of one key and window.
struct Group {
    /// Encoded values, one after another.
    values: Vec<u8>,
    count: u32,
    timestamp: EventTime,
}

impl GroupByKey {
    /// `name`: what the user calls the transform, for errors.
    pub fn new(grouping: Grouping, name: String) -> Self {
        Self { grouping, name, keys: IndexMap::new() }
    }

    /// Adds a block of elements `KV<K, V>`.
    ///
    /// Errors: the block is not what the coders say.
    pub fn add(&mut self, block: &Bytes) -> Result<(), Fault> {
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            let len = self.add_element(rest).map_err(|error| malformed(&self.name, error))?;
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

    /// The distinct sets of windows that only the SDK can merge.
    pub fn windows_to_merge(&self) -> Vec<Vec<Window>> {
        if !matches!(self.grouping.merging, Merging::BySdk(_)) {
            return Vec::new();
        }
        let mut sets: Vec<_> = self.keys.values().map(KeyGroups::window_set).collect();
        sets.sort();
        sets.dedup();
        sets
    }

    /// The groups as blocks of elements `KV<K, Iterable<V>>`. `merged` answers
    /// [`GroupByKey::windows_to_merge`].
    ///
    /// Errors: a window whose end is not known to its coder, or too large a group.
    pub fn into_groups(
        self,
        grain: Grain,
        merged: HashMap<Vec<Window>, Merged>,
    ) -> impl Iterator<Item = Result<Bytes, Fault>> {
        let Self { grouping, name, keys } = self;
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
        Self { values: value.to_vec(), count: 1, timestamp }
    }

    fn add(&mut self, value: &[u8], timestamp: EventTime, combine: OutputTime) {
        self.values.extend_from_slice(value);
        self.count = self.count.saturating_add(1);
        self.timestamp = combine.of(self.timestamp, timestamp);
    }

    fn append(&mut self, other: Group, combine: OutputTime) {
        self.values.extend_from_slice(&other.values);
        self.count = self.count.saturating_add(other.count);
        self.timestamp = combine.of(self.timestamp, other.timestamp);
    }
}

impl OutputTime {
    /// Of two elements' times, the one to keep. For the end of the window neither counts, but the
    /// later one stands in where only the SDK knows the window's end.
    fn of(self, a: EventTime, b: EventTime) -> EventTime {
        match self {
            Self::Earliest => a.min(b),
            Self::Latest | Self::EndOfWindow => a.max(b),
        }
    }
}

type Groups = std::vec::IntoIter<(Window, Group)>;

/// Writes groups out, a block at a time.
struct Blocks {
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
    let count = i32::try_from(group.count).map_err(|_| CoderError::Malformed {
        what: "iterable",
        reason: "one key has more than 2^31 - 1 values",
    })?;
    out.reserve(key.len() + window.len() + group.values.len() + 32);
    write_header(out, timestamp, [window], ONLY_PANE)?;
    out.extend_from_slice(key);
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&group.values);
    Ok(())
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
    let encoded = merged.into_iter().map(|(window, group)| {
        let mut bytes = Vec::with_capacity(16);
        window.write(&mut bytes);
        (bytes.into(), group)
    });
    Ok(encoded.collect())
}
