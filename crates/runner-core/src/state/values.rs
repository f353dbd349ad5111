//! Encoded elements in the order in which they were appended.

use bytes::Bytes;

use super::paging::{PAGE_BYTES, Part};
use crate::fault::Fault;
use crate::ports::{Storage, StoredBlock};

/// Small appends are copied together: they would hold on to the messages that they came in. What has become a page is in the
/// storage.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub(super) full: Vec<StoredBlock>,
    pub(super) tail: Vec<u8>,
    bytes: u64,
    appends: u64,
}

impl Values {
    /// As they were: pages, what comes after them, and how often something was appended.
    pub(super) fn of(full: Vec<StoredBlock>, tail: Vec<u8>, appends: u64) -> Self {
        let bytes = full.iter().map(StoredBlock::len).sum::<u64>() + tail.len() as u64;
        Self { full, tail, bytes, appends }
    }

    /// Errors: the storage has no room.
    pub(super) fn append(&mut self, data: Bytes, storage: &dyn Storage) -> Result<(), Fault> {
        self.push(data, storage)?;
        self.appends = self.appends.saturating_add(1);
        Ok(())
    }

    /// Appends all of `later`. Takes time by what is in `later`, not by what is here.
    ///
    /// Errors: the storage has no room.
    pub(super) fn extend(&mut self, later: Self, storage: &dyn Storage) -> Result<(), Fault> {
        if self.is_empty() {
            *self = later;
            return Ok(());
        }
        self.appends = self.appends.saturating_add(later.appends);
        if !later.full.is_empty() {
            self.end_page(storage)?;
            self.bytes += later.full.iter().map(StoredBlock::len).sum::<u64>();
            self.full.extend(later.full);
        }
        self.push(later.tail.into(), storage)
    }

    fn push(&mut self, data: Bytes, storage: &dyn Storage) -> Result<(), Fault> {
        let bytes = data.len() as u64;
        if data.len() >= PAGE_BYTES {
            self.end_page(storage)?;
            self.full.push(storage.put(data)?);
        } else {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= PAGE_BYTES {
                self.end_page(storage)?;
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    fn end_page(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        if !self.tail.is_empty() {
            self.full.push(storage.put(std::mem::take(&mut self.tail).into())?);
        }
        Ok(())
    }

    /// Whether nothing was ever appended. An append of no bytes is something: elements may take none.
    pub(super) fn is_empty(&self) -> bool {
        self.appends == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn appends(&self) -> u64 {
        self.appends
    }

    /// Parts of whole elements, none of them empty.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let tail = (!self.tail.is_empty()).then_some(Part::Slice(&self.tail));
        self.full.iter().map(Part::Page).chain(tail)
    }
}
