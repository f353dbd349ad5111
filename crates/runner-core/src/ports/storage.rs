//! Memory that a whole server shares, and where that goes which does not fit.
//!
//! Everyone who keeps data of jobs holds a [`Reservation`] of the one [`MemoryBudget`] for it. A reservation never fails: who
//! finds the budget [over](MemoryBudget::is_over) its limit makes room at once, before anything else is taken in, by giving
//! data to the [`Storage`]. What can be given away whole and is read back whole, once, is a [`StoredBlock`] from the beginning;
//! the storage then sees to it by itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::fault::Fault;

/// How much memory data of jobs may take, and takes. All sizes are in bytes.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    spilled: AtomicU64,
    writes: AtomicU64,
    read_back: AtomicU64,
    reads: AtomicU64,
    on_disk: AtomicU64,
}

impl MemoryBudget {
    pub fn new(limit: u64) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        Arc::new(Self {
            limit,
            used: zero(),
            peak: zero(),
            spilled: zero(),
            writes: zero(),
            read_back: zero(),
            reads: zero(),
            on_disk: zero(),
        })
    }

    /// One that is never over.
    pub fn unlimited() -> Arc<Self> {
        Self::new(u64::MAX)
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most that was ever reserved.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// All that was ever given away, as it was in memory.
    pub fn spilled(&self) -> u64 {
        self.spilled.load(Ordering::Relaxed)
    }

    /// How often something was given away.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// All that was ever read back, as it then was in memory; more than [`Self::spilled`] if some of it was read more than once.
    pub fn read_back(&self) -> u64 {
        self.read_back.load(Ordering::Relaxed)
    }

    /// How often something was read back.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// What is on disk now, as it is there: compressed.
    pub fn on_disk(&self) -> u64 {
        self.on_disk.load(Ordering::Relaxed)
    }

    /// More is reserved than the limit allows.
    pub fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes);
        reservation
    }

    /// For a [`Storage`]: `bytes` of memory were given away, all at once.
    pub fn count_spilled(&self, bytes: u64) {
        self.spilled.fetch_add(bytes, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// For a [`Storage`]: `bytes` were read back, all at once.
    pub fn count_read(&self, bytes: u64) {
        self.read_back.fetch_add(bytes, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// For a [`Storage`]: so many bytes more are on disk.
    pub fn grow_on_disk(&self, bytes: u64) {
        self.on_disk.fetch_add(bytes, Ordering::Relaxed);
    }

    /// For a [`Storage`]: so many bytes fewer are on disk.
    pub fn shrink_on_disk(&self, bytes: u64) {
        self.on_disk.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory that somebody has; given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    pub fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.budget.peak.fetch_max(used, Ordering::Relaxed);
    }

    /// Gives back `bytes`, or all if there are fewer.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn resize(&mut self, bytes: u64) {
        if bytes > self.bytes { self.grow(bytes - self.bytes) } else { self.shrink(self.bytes - bytes) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Bytes that never change, in memory or on disk as the storage sees fit. Clones are the same block; when the last is
/// dropped its memory or its place on disk is free.
#[derive(Clone)]
pub struct StoredBlock {
    content: Arc<dyn StoredContent>,
    /// What the block refers to, and what therefore has to stay as long as it does.
    holding: Option<Arc<dyn Send + Sync>>,
    /// Goes with the block.
    _guard: Option<Arc<dyn Send + Sync>>,
}

/// What a [`Storage`] makes a [`StoredBlock`] of.
pub trait StoredContent: Send + Sync {
    /// Bytes, as they were put in.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes. May read from disk. What is returned is not in the budget if the block is on disk.
    ///
    /// Errors: it cannot be read back ([`crate::fault::Blame::Runner`]).
    fn read(&self) -> Result<Bytes, Fault>;
}

impl StoredBlock {
    pub fn new(content: Arc<dyn StoredContent>) -> Self {
        Self { content, holding: None, _guard: None }
    }

    /// Bytes that are always in memory and not in any budget: for what is small, or counted elsewhere.
    pub fn in_memory(data: Bytes) -> Self {
        Self::new(Arc::new(InMemory(data)))
    }

    /// The same block; `what` lives at least as long as it does.
    pub fn holding(self, what: Arc<dyn Send + Sync>) -> Self {
        Self { holding: Some(what), ..self }
    }

    /// The same block; `guard` is dropped when this and all clones of it are. Nothing that is made of the block has it.
    pub fn guarded(self, guard: Arc<dyn Send + Sync>) -> Self {
        Self { _guard: Some(guard), ..self }
    }

    /// What the block holds, so that another one made of it can.
    pub fn held(&self) -> Option<&Arc<dyn Send + Sync>> {
        self.holding.as_ref()
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.content.len()
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// As [`StoredContent::read`].
    pub fn read(&self) -> Result<Bytes, Fault> {
        self.content.read()
    }
}

impl fmt::Debug for StoredBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBlock").field("len", &self.len()).finish_non_exhaustive()
    }
}

struct InMemory(Bytes);

impl StoredContent for InMemory {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self) -> Result<Bytes, Fault> {
        Ok(self.0.clone())
    }
}

/// Keeps blocks, in memory while there is room. Called from many threads.
///
/// All but reading may write to disk, and so make whoever calls them wait: that is how producers are held back.
/// What fails with a full disk has changed nothing: blocks in memory stay there.
pub trait Storage: Send + Sync {
    /// The memory of which all blocks and all who call this have a part.
    fn budget(&self) -> &Arc<MemoryBudget>;

    /// Keeps a block in memory, until there is no room for it. It is in the budget as long as it is in memory. Slices of
    /// one buffer count as if each were a buffer of its own.
    ///
    /// Errors: room has to be made, and the disk is full or broken ([`crate::fault::Blame::Runner`]).
    fn put(&self, data: Bytes) -> Result<StoredBlock, Fault>;

    /// Keeps a block where it takes no memory. Worth it from some 10 kB; blocks of about 1 MB are best.
    ///
    /// Errors: as [`Storage::put`].
    fn write(&self, data: &[u8]) -> Result<StoredBlock, Fault>;

    /// Whether those who call this may have to wait for a disk.
    fn waits(&self) -> bool {
        true
    }

    /// If the budget is over its limit, takes blocks out of memory until it is not, or none are left there. Those put in
    /// last go first: blocks are mostly read in the order in which they came.
    ///
    /// Errors: as [`Storage::put`].
    fn make_room(&self) -> Result<(), Fault>;
}
