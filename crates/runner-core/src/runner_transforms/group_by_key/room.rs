//! The memory that a GroupByKey has, and how it keeps within it.

use std::sync::Arc;

use super::BLOCK_BYTES;
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
/// Values of several keys and windows that go to disk together, so as to be read together. As many such frames as are a
/// [`Sizes::load`] are kept while panes are put together, and each time that memory was short may have made one that is needed.
const FRAMES_IN_BUDGET: u64 = 512;
const FRAME_BYTES: (u64, u64) = (16 << 10, 64 << 10);
/// Values of a key and window that are fewer bytes are not worth a place on disk, unless that is much of the budget.
const PARTS_IN_BUDGET: u64 = 1024;
const LARGEST_SMALLEST_PART: u64 = 128;

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
    /// How large a frame of values of several keys and windows is.
    pub(super) frame: usize,
    /// The smallest part of a frame.
    pub(super) part: usize,
    floor: u64,
    pub(super) share: u64,
}

impl Sizes {
    fn of(limit: u64) -> Self {
        let load = (limit / LOADS_IN_BUDGET).max(SMALLEST_LOAD);
        Self {
            chunk: (limit / CHUNKS_IN_BUDGET).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1) as usize,
            block: (limit / BLOCKS_IN_BUDGET).clamp(SMALLEST_BLOCK, BLOCK_BYTES as u64) as usize,
            load,
            large_group: load.max(SMALLEST_LARGE_GROUP),
            frame: (limit / FRAMES_IN_BUDGET).clamp(FRAME_BYTES.0, FRAME_BYTES.1) as usize,
            part: (limit / PARTS_IN_BUDGET).clamp(1, LARGEST_SMALLEST_PART) as usize,
            floor: limit / FLOORS_IN_BUDGET,
            share: limit / SHARES_IN_BUDGET,
        }
    }
}

/// What can give its memory to the storage.
pub(super) trait Spill {
    /// Bytes of memory that it takes.
    fn memory(&self) -> u64;

    /// About how many of them it is worth while to give up.
    fn spillable(&self) -> u64;

    /// Gives up what is largest; so many bytes if it has them, or fewer if it is asked again. [`Spill::spillable`] is less then.
    ///
    /// Errors: the disk is full or broken.
    fn spill(&mut self, bytes: u64, storage: &dyn Storage, sizes: &Sizes) -> Result<(), Fault>;
}

/// Sees to it that a GroupByKey does not take too much memory.
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

    /// To be told what memory `all` takes by now.
    pub(super) fn count(&mut self, all: &impl Spill) {
        self.reserved.resize(all.memory());
    }

    /// The same. Writes the largest of it to disk if that is too much.
    ///
    /// Errors: the disk is full or broken.
    pub(super) fn settle(&mut self, all: &mut impl Spill) -> Result<(), Fault> {
        self.count(all);
        if !self.storage.budget().is_over() {
            return Ok(());
        }
        if all.spillable() <= self.sizes.share {
            self.storage.make_room()?;
        }
        while self.storage.budget().is_over() && all.spillable() > self.sizes.floor {
            let over = self.storage.budget().used().saturating_sub(self.storage.budget().limit());
            all.spill(over, self.storage.as_ref(), &self.sizes)?;
            self.count(all);
        }
        self.storage.make_room()
    }
}
