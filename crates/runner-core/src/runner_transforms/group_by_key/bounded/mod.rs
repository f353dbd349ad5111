//! Grouping of a bounded input, also if it is larger than memory.
//!
//! Nothing is looked up as elements come: each is kept as a [`record`] in one of many [`log`]s, chosen by the hash of its key.
//! When memory is short ([`super::room`]) the largest logs go to disk. When all elements are there one log after the other is
//! grouped ([`blocks`]): a [`table`] says what belongs together, windows are [merged](merge) if the strategy says so, and
//! each value is copied to its place. A log that is too large for that is [divided](split).
//!
//! Groups come out by log; those of a log come in the order in which they were first seen. A small input has one log.

mod blocks;
mod large;
mod log;
mod merge;
mod record;
mod split;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;
use std::sync::Arc;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::room::Room;
use super::{Merged, Window, malformed};
use crate::fault::Fault;
use crate::metrics::Dropped;
use crate::plan::{Grain, Grouping, Merging, OutputTime};
use crate::ports::Storage;
use crate::runner_transforms::iterables::Iterables;
pub(super) use blocks::Blocks;
use blocks::How;
use log::{AllLogs, Log};
use record::{Record, Records, Times};
use split::damaged;

/// An input has one log until it is as large as this.
const ONE_LOG_BYTES: u64 = 256 << 10;

pub(super) struct Bounded {
    grouping: Grouping,
    name: String,
    kept: Kept,
    room: Room,
    iterables: Option<Arc<Iterables>>,
    logs: Logs,
    merged: HashMap<Vec<Window>, Merged>,
    /// All elements are there.
    complete: bool,
    pub(super) dropped: Dropped,
}

enum Logs {
    One(Log),
    /// As [`split::first_part`] divides them.
    Many {
        logs: Vec<Log>,
        candidate: Option<u64>,
    },
}

/// How records are kept.
#[derive(Clone, Copy, Debug)]
struct Kept {
    times: Times,
    /// Windows of a key never merge, so that each can be somewhere else.
    by_window: bool,
}

impl Kept {
    fn of(grouping: &Grouping) -> Self {
        // The end of a window that only the SDK can read is not known, and times of elements stand in.
        let knows_ends = matches!(grouping.window_coder, Coder::GlobalWindow | Coder::IntervalWindow);
        let forgotten = grouping.output_time == OutputTime::EndOfWindow && knows_ends;
        Self {
            times: if forgotten { Times::Forgotten } else { Times::Kept },
            by_window: matches!(grouping.merging, Merging::Never),
        }
    }

    /// Records that may be in one group have the same.
    fn hash(self, record: &Record<'_>) -> u64 {
        if self.by_window { record.hash_of_key_and_window() } else { record.hash_of_key() }
    }
}

impl Bounded {
    pub(super) fn new(
        grouping: Grouping,
        name: String,
        storage: Arc<dyn Storage>,
        iterables: Option<Arc<Iterables>>,
    ) -> Self {
        Self {
            kept: Kept::of(&grouping),
            grouping,
            name,
            room: Room::new(storage),
            iterables,
            logs: Logs::One(Log::new(0)),
            merged: HashMap::new(),
            complete: false,
            dropped: Dropped::default(),
        }
    }

    pub(super) fn add(&mut self, block: &Bytes) -> Result<(), Fault> {
        let mut rest: &[u8] = block;
        let mut unsettled = 0;
        while !rest.is_empty() {
            let len = self.add_element(rest).map_err(|error| malformed(&self.name, error))?;
            rest = &rest[len..];
            unsettled += len;
            if unsettled >= self.room.sizes.chunk {
                self.settle()?;
                unsettled = 0;
            }
        }
        self.settle()
    }

    fn add_element(&mut self, element: &[u8]) -> Result<usize, CoderError> {
        let header = read_header(&self.grouping.window_coder, element)?;
        let key_start = header.header_len;
        let value_start = key_start + self.grouping.key_coder.skip(&element[key_start..])?;
        let end = value_start + self.grouping.value_coder.skip(&element[value_start..])?;
        if self.complete {
            self.dropped.late += header.windows.len() as u64;
            return Ok(end);
        }
        let (key, value) = (&element[key_start..value_start], &element[value_start..end]);
        let (times, largest) = (self.kept.times, self.room.sizes.chunk);
        for window in header.windows.iter() {
            let record = Record { window, key, value, time: header.timestamp };
            let hash = self.kept.hash(&record);
            let log = match &mut self.logs {
                Logs::One(log) => Some(log),
                Logs::Many { logs, candidate } => logs.get_mut(split::first_part(hash, *candidate)),
            };
            if let Some(log) = log {
                log.push(&record, hash, times, largest);
            }
        }
        Ok(end)
    }

    /// Keeps within the memory that there is.
    fn settle(&mut self) -> Result<(), Fault> {
        if let Logs::One(log) = &mut self.logs
            && log.bytes() > ONE_LOG_BYTES
            && split::is_divisible(log)
        {
            let candidate = log.candidate();
            let one = mem::replace(log, Log::new(0));
            let logs = split::by_hash(one, self.kept, &mut self.room, &mut [])?;
            self.logs = Logs::Many { logs, candidate };
        }
        self.room.settle(&mut AllLogs([self.logs.all()]))
    }

    pub(super) fn advance_watermark(&mut self, watermark: EventTime) {
        self.complete |= watermark >= EventTime::MAX;
    }

    pub(super) fn hold(&self) -> EventTime {
        if self.complete || self.logs.is_empty() { EventTime::MAX } else { EventTime::MIN }
    }

    /// Errors: what was kept cannot be read back.
    pub(super) fn windows_to_merge(&mut self) -> Result<Vec<Vec<Window>>, Fault> {
        let mut sets = BTreeSet::new();
        if matches!(self.grouping.merging, Merging::BySdk(_)) {
            for log in self.logs.all() {
                sets.append(&mut window_sets(log, self.kept)?);
            }
        }
        Ok(sets.into_iter().collect())
    }

    pub(super) fn merge_windows(&mut self, answers: HashMap<Vec<Window>, Merged>) {
        self.merged.extend(answers);
    }

    /// All groups if all elements are there, else none.
    pub(super) fn take_groups(&mut self, grain: Grain) -> Blocks {
        let (mut logs, mut merged) = (Vec::new(), HashMap::new());
        if self.complete {
            logs = mem::replace(&mut self.logs, Logs::One(Log::new(0))).into_all();
            merged = mem::take(&mut self.merged);
        }
        let next = Room::new(self.room.storage.clone());
        let room = mem::replace(&mut self.room, next);
        let (grouping, name, iterables) = (self.grouping.clone(), self.name.clone(), self.iterables.clone());
        Blocks::new(How { grouping, name, kept: self.kept, merged, iterables, room }, logs, grain)
    }
}

impl Logs {
    fn all(&mut self) -> &mut [Log] {
        match self {
            Self::One(log) => std::slice::from_mut(log),
            Self::Many { logs, .. } => logs,
        }
    }

    fn into_all(self) -> Vec<Log> {
        match self {
            Self::One(log) => vec![log],
            Self::Many { logs, .. } => logs,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::One(log) => log.bytes() == 0,
            // There are many only when there are elements.
            Self::Many { .. } => false,
        }
    }
}

/// The distinct sets of windows that the keys of a log have.
fn window_sets(log: &Log, kept: Kept) -> Result<BTreeSet<Vec<Window>>, Fault> {
    let mut keys: BTreeMap<Box<[u8]>, BTreeSet<Window>> = BTreeMap::new();
    for chunk in log.read() {
        let chunk = chunk?;
        for record in Records::of(&chunk, kept.times) {
            let (_, record) = record.map_err(damaged)?;
            match keys.get_mut(record.key) {
                Some(windows) if windows.contains(record.window) => {}
                Some(windows) => drop(windows.insert(record.window.into())),
                None => drop(keys.insert(record.key.into(), BTreeSet::from([record.window.into()]))),
            }
        }
    }
    Ok(keys.into_values().map(|windows| windows.into_iter().collect()).collect())
}
