//! Groups, a block at a time.
//!
//! A log at a time is read into memory, as long as that is small; logs that are in memory anyway come first. One that is too
//! large is divided. One that cannot be divided has a single large group ([`super::large`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use beam_model::coders::CoderError;
use beam_model::coders::windowed_value::write_header;
use beam_model::time::EventTime;
use bytes::Bytes;

use super::super::room::Room;
use super::super::{Merged, Pane, Window, malformed};
use super::log::{AllLogs, Log};
use super::merge::merge;
use super::table::Table;
use super::{Kept, split};
use crate::fault::Fault;
use crate::plan::{Grain, Grouping, Merging, OutputTime};
use crate::ports::Reservation;
use crate::runner_transforms::iterables::Iterables;

/// The pane of a group's one firing: first, last and on time.
const ONLY_PANE: &[u8] = &[0x07];

/// All that is said of a group before its values.
pub(super) struct Head<'a> {
    pub(super) key: &'a [u8],
    pub(super) window: &'a [u8],
    /// Of its elements, put together.
    pub(super) time: EventTime,
}

/// Writes groups out, a block at a time.
pub(in super::super) struct Blocks {
    pub(super) how: How,
    grain: Grain,
    /// What is left to do; the next is the last.
    pub(super) work: Vec<Log>,
    ready: VecDeque<Pane>,
    /// A block that is not large enough yet.
    open: Vec<u8>,
    /// For what is ready or open.
    reserved: Reservation,
}

/// How groups are made, whatever they are made of.
pub(super) struct How {
    pub(super) grouping: Grouping,
    pub(super) name: String,
    pub(super) kept: Kept,
    pub(super) merged: HashMap<Vec<Window>, Merged>,
    pub(super) iterables: Option<Arc<Iterables>>,
    pub(super) room: Room,
}

impl Blocks {
    pub(super) fn new(how: How, logs: Vec<Log>, grain: Grain) -> Self {
        let mut work = logs;
        work.retain(|log| log.bytes() > 0);
        work.reverse();
        // What is in memory makes room for the others as it goes. Those that are equal keep their order.
        work.sort_by_key(|log| std::cmp::Reverse(log.spilled_bytes()));
        let reserved = how.room.reserve(0);
        Self { how, grain, work, ready: VecDeque::new(), open: Vec::new(), reserved }
    }

    /// Makes groups of a log, or smaller logs.
    fn process(&mut self, log: Log) -> Result<(), Fault> {
        if log.bytes() <= self.how.room.sizes.load {
            return self.group(log);
        }
        if split::is_divisible(&log) {
            let parts = split::by_hash(log, self.how.kept, &mut self.how.room, &mut self.work)?;
            self.work.extend(parts.into_iter().filter(|part| part.bytes() > 0));
            return Ok(());
        }
        self.process_large(log)
    }

    /// Makes groups of all that is in a log, in memory.
    pub(super) fn group(&mut self, log: Log) -> Result<(), Fault> {
        // As records, and as groups.
        let _reserved = self.how.room.reserve(log.bytes() * 2);
        self.how.room.settle(&mut AllLogs([&mut self.work]))?;
        let chunks: Vec<Bytes> = log.take().collect::<Result<_, _>>()?;
        let mut table = Table::of(&chunks, self.how.kept, self.how.grouping.output_time)?;
        let first = std::mem::take(&mut self.open);
        let mut out = Out { blocks: vec![first], grain: self.grain, block_bytes: self.how.room.sizes.block };
        if matches!(self.how.grouping.merging, Merging::Never) {
            for number in 0..table.entries.len() {
                let window = table.first(&chunks, &table.entries[number])?.window;
                self.place(&mut out, &mut table, &chunks, window, &[number])?;
            }
        } else {
            for entries in table.by_key(&chunks)? {
                let mut windows = Vec::with_capacity(entries.len());
                for number in &entries {
                    windows.push(table.first(&chunks, &table.entries[*number])?.window);
                }
                let merged = merge(&self.how.grouping.merging, &self.how.merged, &windows);
                for group in merged.map_err(|error| malformed(&self.how.name, error))? {
                    let parts: Vec<usize> = group.parts.iter().map(|part| entries[*part]).collect();
                    self.place(&mut out, &mut table, &chunks, &group.window, &parts)?;
                }
            }
        }
        table.scatter(chunks, &mut out.blocks)?;
        self.finish_blocks(out);
        Ok(())
    }

    /// Finds a place for a group, which is made of these entries, and writes what comes before its values.
    fn place(
        &self,
        out: &mut Out,
        table: &mut Table,
        chunks: &[Bytes],
        window: &[u8],
        parts: &[usize],
    ) -> Result<(), Fault> {
        let entries = || parts.iter().filter_map(|part| table.entries.get(*part));
        let Some(one) = entries().next() else { return Ok(()) };
        let combine = self.how.grouping.output_time;
        let time = entries().fold(one.time, |time, entry| combine.of(time, entry.time));
        let (count, len) =
            entries().fold((0, 0), |(count, len), entry| (count + entry.count, len + entry.len));
        let key = table.first(chunks, one)?.key;
        let head = self.head(&Head { key, window, time }, count)?;
        let (block, mut offset) = out.place(&head, len);
        for part in parts {
            if let Some(entry) = table.entries.get_mut(*part) {
                (entry.block, entry.offset) = (block, offset);
                offset += entry.len;
            }
        }
        Ok(())
    }

    /// What comes before the values of a group that has all of them in it.
    pub(super) fn head(&self, head: &Head<'_>, count: u64) -> Result<Vec<u8>, Fault> {
        let mut encoded = self.head_without_count(head)?;
        let many =
            CoderError::Malformed { what: "iterable", reason: "one key has more than 2^31 - 1 values" };
        let count = i32::try_from(count).map_err(|_| malformed(&self.how.name, many))?;
        encoded.extend_from_slice(&count.to_be_bytes());
        Ok(encoded)
    }

    pub(super) fn head_without_count(&self, head: &Head<'_>) -> Result<Vec<u8>, Fault> {
        let Head { key, window, time } = *head;
        let time = match self.how.grouping.output_time {
            OutputTime::Earliest | OutputTime::Latest => time,
            OutputTime::EndOfWindow => {
                self.how.grouping.window_coder.max_timestamp_of_window(window).unwrap_or(time)
            }
        };
        let mut encoded = Vec::with_capacity(key.len() + window.len() + 32);
        write_header(&mut encoded, time, [window], ONLY_PANE)
            .map_err(|error| malformed(&self.how.name, error))?;
        encoded.extend_from_slice(key);
        Ok(encoded)
    }

    /// Takes blocks in; the last may be too small to be handed on.
    fn finish_blocks(&mut self, mut out: Out) {
        if self.grain == Grain::Block && out.blocks.last().is_some_and(|last| last.len() < out.block_bytes) {
            self.open = out.blocks.pop().unwrap_or_default();
        }
        let blocks = out.blocks.into_iter().filter(|block| !block.is_empty());
        self.ready.extend(blocks.map(|block| Pane { data: block.into(), iterable: None }));
        self.reserve_ready();
    }

    /// Hands on a block that is finished.
    pub(super) fn push(&mut self, pane: Pane) {
        self.ready.push_back(pane);
        self.reserve_ready();
    }

    fn reserve_ready(&mut self) {
        let ready: usize = self.ready.iter().map(|pane| pane.data.len()).sum();
        self.reserved.resize((ready + self.open.capacity()) as u64);
    }
}

impl Iterator for Blocks {
    type Item = Result<Pane, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(pane) = self.ready.pop_front() {
                self.reserved.shrink(pane.data.len() as u64);
                return Some(Ok(pane));
            }
            let Some(log) = self.work.pop() else { break };
            if let Err(fault) = self.process(log) {
                self.work.clear();
                self.open.clear();
                return Some(Err(fault));
            }
        }
        let data = Bytes::from(std::mem::take(&mut self.open));
        self.reserve_ready();
        (!data.is_empty()).then_some(Ok(Pane { data, iterable: None }))
    }
}

/// Blocks that are being laid out.
struct Out {
    /// At least one.
    blocks: Vec<Vec<u8>>,
    grain: Grain,
    block_bytes: usize,
}

impl Out {
    /// Appends `head` and leaves `len` bytes free after it. Returns where these are: in which block, from which byte on.
    fn place(&mut self, head: &[u8], len: usize) -> (usize, usize) {
        let size = head.len() + len;
        let last = self.blocks.last().map_or(0, Vec::len);
        let full = match self.grain {
            Grain::Element => last > 0,
            Grain::Block => last >= self.block_bytes || (last > 0 && size >= self.block_bytes),
        };
        if full || self.blocks.is_empty() {
            self.blocks.push(Vec::new());
        }
        let number = self.blocks.len() - 1;
        let Some(block) = self.blocks.last_mut() else { return (number, 0) };
        if block.is_empty() && size >= self.block_bytes {
            // Memory that is zero from the beginning takes no room before it is written to, when chunks have gone.
            *block = vec![0; size];
            block[..head.len()].copy_from_slice(head);
        } else {
            block.extend_from_slice(head);
            block.resize(block.len() + len, 0);
        }
        (number, block.len() - len)
    }
}
