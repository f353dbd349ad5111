//! The memory that a GroupByKey has, and how it keeps within it.

use std::sync::Arc;

use super::super::BLOCK_BYTES;
use super::log::Log;
use crate::fault::Fault;
use crate::ports::{Reservation, Storage};

/// So many logs have a chunk open at a time; all of these together are to be a small part of the budget.
const CHUNKS_IN_BUDGET: u64 = 2048;
const CHUNK_BYTES: (u64, u64) = (4 << 10, 256 << 10);
/// So many blocks of groups are a budget, unless that makes blocks too small or too large.
const BLOCKS_IN_BUDGET: u64 = 64;
const SMALLEST_BLOCK: u64 = 16 << 10;
/// A log is read into memory as a whole if it is no larger than this part of the budget. It is there twice for a moment: as
/// records and as groups.
const LOADS_IN_BUDGET: u64 = 8;
const SMALLEST_LOAD: u64 = 1 << 10;
/// Values of one key and window that are more than [`Sizes::load`], and more than this, are not given to workers at once.
const SMALLEST_LARGE_GROUP: u64 = 1 << 20;
/// A GroupByKey that has no more than this part of the budget lets others make room.
const FLOORS_IN_BUDGET: u64 = 64;
/// A GroupByKey that has more than this part of the budget makes room itself.
const SHARES_IN_BUDGET: u64 = 4;

/// Sizes in bytes that depend on the budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// How large a chunk of a log may get.
    pub(super) chunk: usize,
    /// About how large a block of groups is.
    pub(super) block: usize,
    /// How large a log may be to be grouped in memory.
    pub(super) load: u64,
    /// From what size on values of one key and window stay here until workers ask for them.
    pub(super) large_group: u64,
    floor: u64,
    share: u64,
}

impl Sizes {
    fn of(limit: u64) -> Self {
        let load = (limit / LOADS_IN_BUDGET).max(SMALLEST_LOAD);
        Self {
            chunk: (limit / CHUNKS_IN_BUDGET).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1) as usize,
            block: (limit / BLOCKS_IN_BUDGET).clamp(SMALLEST_BLOCK, BLOCK_BYTES as u64) as usize,
            load,
            large_group: load.max(SMALLEST_LARGE_GROUP),
            floor: limit / FLOORS_IN_BUDGET,
            share: limit / SHARES_IN_BUDGET,
        }
    }
}

/// Sees to it that logs do not take too much memory.
pub(super) struct Room {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) sizes: Sizes,
    reserved: Reservation,
}

impl Room {
    pub(super) fn new(storage: Arc<dyn Storage>) -> Self {
        let budget = storage.budget();
        let (sizes, reserved) = (Sizes::of(budget.limit()), budget.reserve(0));
        Self { storage, sizes, reserved }
    }

    pub(super) fn reserve(&self, bytes: u64) -> Reservation {
        self.storage.budget().reserve(bytes)
    }

    /// To be told what memory logs take by now; these are all of them. Writes the largest to disk if that is too much.
    ///
    /// Errors: the disk is full or broken.
    pub(super) fn settle(&mut self, logs: &mut [&mut [Log]]) -> Result<(), Fault> {
        let mut memory = memory_of(logs);
        self.reserved.resize(memory);
        if self.storage.budget().is_over() && memory <= self.sizes.share {
            self.storage.make_room()?;
        }
        while self.storage.budget().is_over() && memory > self.sizes.floor {
            let all = logs.iter_mut().flat_map(|logs| logs.iter_mut());
            let Some(largest) = all.max_by_key(|log| log.memory()) else { break };
            largest.spill(self.storage.as_ref())?;
            memory = memory_of(logs);
            self.reserved.resize(memory);
        }
        self.storage.make_room()
    }
}

fn memory_of(logs: &[&mut [Log]]) -> u64 {
    logs.iter().flat_map(|logs| logs.iter()).map(|log| log.memory() as u64).sum()
}
