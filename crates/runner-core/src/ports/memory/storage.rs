//! Storage without a disk.

use std::sync::Arc;

use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::{MemoryBudget, Reservation, Storage, StoredBlock, StoredContent};

/// Keeps all in memory. What is [put](Storage::put) in counts, and is never taken out; what is
/// [written](Storage::write) does not count, as if it were on disk.
#[derive(Debug)]
pub struct MemoryStorage {
    budget: Arc<MemoryBudget>,
}

impl MemoryStorage {
    pub fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget }
    }

    /// With no limit, so that nobody who asks ever has to make room.
    pub fn unlimited() -> Arc<Self> {
        Arc::new(Self::new(MemoryBudget::unlimited()))
    }
}

impl Storage for MemoryStorage {
    fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    fn put(&self, data: Bytes) -> Result<StoredBlock, Fault> {
        let _reserved = self.budget.reserve(data.len() as u64);
        Ok(StoredBlock::new(Arc::new(Resident { data, _reserved })))
    }

    fn write(&self, data: &[u8]) -> Result<StoredBlock, Fault> {
        self.budget.count_spilled(data.len() as u64);
        Ok(StoredBlock::in_memory(Bytes::copy_from_slice(data)))
    }

    fn waits(&self) -> bool {
        false
    }

    fn make_room(&self) -> Result<(), Fault> {
        Ok(())
    }
}

struct Resident {
    data: Bytes,
    _reserved: Reservation,
}

impl StoredContent for Resident {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn read(&self) -> Result<Bytes, Fault> {
        Ok(self.data.clone())
    }
}
