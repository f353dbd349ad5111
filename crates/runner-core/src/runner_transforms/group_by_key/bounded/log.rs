//! Records one after another, in memory and on disk.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;

use super::super::room::{Sizes, Spill};
use super::record::{Record, Times};
use crate::fault::Fault;
use crate::ports::{Storage, StoredBlock};

/// The first chunk of a log has this size; each one after it twice that of the one before, up to a limit.
const FIRST_CHUNK: usize = 1 << 10;
/// Chunks are written to disk together until they have this size.
const WRITE_BYTES: usize = 512 << 10;

/// Records in the order in which they came. The oldest are on disk, if any are.
#[derive(Debug)]
pub(super) struct Log {
    /// By how many splits the records came here. Each uses other bits of their hashes.
    pub(super) level: u32,
    spilled: Vec<StoredBlock>,
    full: VecDeque<Vec<u8>>,
    open: Vec<u8>,
    memory: usize,
    bytes: u64,
    spilled_bytes: u64,
    hashes: Hashes,
}

/// What is known of the hashes of a log's records.
#[derive(Clone, Copy, Debug)]
enum Hashes {
    None,
    One(u64),
    /// If one hash has more than half of the bytes, then it is this one. It is ahead of all others by so many bytes, in the
    /// sense of a majority vote.
    Several {
        candidate: u64,
        lead: u64,
    },
}

impl Log {
    pub(super) fn new(level: u32) -> Self {
        Self {
            level,
            spilled: Vec::new(),
            full: VecDeque::new(),
            open: Vec::new(),
            memory: 0,
            bytes: 0,
            spilled_bytes: 0,
            hashes: Hashes::None,
        }
    }

    /// Appends a record. `largest`: how large chunks may get, if no record is larger.
    pub(super) fn push(&mut self, record: &Record<'_>, hash: u64, times: Times, largest: usize) {
        let most = record.most();
        if self.open.capacity() - self.open.len() < most {
            self.start_chunk(most, largest);
        }
        let before = self.open.len();
        record.write(&mut self.open, times);
        let len = (self.open.len() - before) as u64;
        self.hashes.add(hash, len, self.bytes);
        self.bytes += len;
    }

    fn start_chunk(&mut self, least: usize, largest: usize) {
        let size = (self.open.capacity() * 2).clamp(FIRST_CHUNK, largest.max(FIRST_CHUNK)).max(least);
        let before = mem::replace(&mut self.open, Vec::with_capacity(size));
        self.memory += self.open.capacity();
        if before.is_empty() {
            self.memory -= before.capacity();
        } else {
            self.full.push_back(before);
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of all records.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of those records that are on disk.
    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    /// All records have the same hash.
    pub(super) fn is_of_one_hash(&self) -> bool {
        matches!(self.hashes, Hashes::None | Hashes::One(_))
    }

    /// The hash that may have more than half of all bytes.
    pub(super) fn candidate(&self) -> Option<u64> {
        match self.hashes {
            Hashes::None => None,
            Hashes::One(hash) | Hashes::Several { candidate: hash, .. } => Some(hash),
        }
    }

    /// Gives all records that are in memory to the storage. With an error, those that it has not taken stay.
    pub(super) fn spill(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        let open = mem::take(&mut self.open);
        if open.is_empty() {
            self.memory -= open.capacity();
        } else {
            self.full.push_back(open);
        }
        while !self.full.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            for chunk in &self.full {
                if count > 0 && bytes + chunk.len() > WRITE_BYTES {
                    break;
                }
                count += 1;
                bytes += chunk.len();
            }
            let block = match self.full.make_contiguous().get(..count) {
                Some([only]) => storage.write(only)?,
                Some(several) => storage.write(&several.concat())?,
                None => break,
            };
            self.spilled_bytes += block.len();
            self.spilled.push(block);
            for chunk in self.full.drain(..count) {
                self.memory -= chunk.capacity();
            }
        }
        Ok(())
    }

    /// All records, a chunk at a time. What has been read stays.
    pub(super) fn read(&self) -> impl Iterator<Item = Result<Bytes, Fault>> {
        let memory = self.full.iter().chain([&self.open]).filter(|chunk| !chunk.is_empty());
        let memory = memory.map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
        self.spilled.iter().map(StoredBlock::read).chain(memory)
    }

    /// All records, a chunk at a time. What is dropped is gone, also from disk.
    pub(super) fn take(self) -> impl Iterator<Item = Result<Bytes, Fault>> {
        let memory = self.full.into_iter().chain([self.open]).filter(|chunk| !chunk.is_empty());
        let spilled = self.spilled.into_iter().map(|block| block.read());
        spilled.chain(memory.map(|chunk| Ok(Bytes::from(chunk))))
    }
}

/// All logs of a GroupByKey, some here and some there.
pub(super) struct AllLogs<'a, const N: usize>(pub(super) [&'a mut [Log]; N]);

impl<const N: usize> Spill for AllLogs<'_, N> {
    fn memory(&self) -> u64 {
        self.0.iter().flat_map(|logs| logs.iter()).map(|log| log.memory() as u64).sum()
    }

    fn spillable(&self) -> u64 {
        self.memory()
    }

    fn spill(&mut self, _bytes: u64, storage: &dyn Storage, _sizes: &Sizes) -> Result<(), Fault> {
        let all = self.0.iter_mut().flat_map(|logs| logs.iter_mut());
        all.max_by_key(|log| log.memory()).map_or(Ok(()), |largest| largest.spill(storage))
    }
}

impl Hashes {
    /// `all`: bytes of those before.
    fn add(&mut self, hash: u64, bytes: u64, all: u64) {
        match self {
            Self::None => *self = Self::One(hash),
            Self::One(only) if *only == hash => {}
            Self::One(only) => *self = Self::Several { candidate: *only, lead: all.saturating_sub(bytes) },
            Self::Several { candidate, lead } if *candidate == hash => *lead += bytes,
            Self::Several { lead, .. } if *lead >= bytes => *lead -= bytes,
            Self::Several { candidate, lead } => (*candidate, *lead) = (hash, bytes - *lead),
        }
    }
}
