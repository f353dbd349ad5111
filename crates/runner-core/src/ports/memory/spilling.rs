//! For tests: storage that never has room.

use std::sync::Arc;

use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::{MemoryBudget, Storage, StoredBlock, StoredContent};

/// Every block is as if on a disk, and whatever else anyone has is too much.
pub(crate) struct SpillingStorage {
    budget: Arc<MemoryBudget>,
}

impl SpillingStorage {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { budget: MemoryBudget::new(0) })
    }
}

impl Storage for SpillingStorage {
    fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    fn put(&self, data: Bytes) -> Result<StoredBlock, Fault> {
        self.write(&data)
    }

    fn write(&self, data: &[u8]) -> Result<StoredBlock, Fault> {
        self.budget.count_spilled(data.len() as u64);
        self.budget.grow_on_disk(data.len() as u64);
        Ok(StoredBlock::new(Arc::new(OnDisk { data: data.into(), budget: self.budget.clone() })))
    }

    fn make_room(&self) -> Result<(), Fault> {
        Ok(())
    }
}

struct OnDisk {
    data: Box<[u8]>,
    budget: Arc<MemoryBudget>,
}

impl StoredContent for OnDisk {
    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    fn read(&self) -> Result<Bytes, Fault> {
        self.budget.count_read(self.data.len() as u64);
        Ok(Bytes::copy_from_slice(&self.data))
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        self.budget.shrink_on_disk(self.data.len() as u64);
    }
}
