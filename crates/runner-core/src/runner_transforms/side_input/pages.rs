//! Encoded elements in pages, each of whole elements: a page of an answer each.

use bytes::Bytes;

use crate::fault::Fault;
use crate::ports::{StatePage, Storage, StoredBlock};

/// A page of an answer is at most about this large, in bytes, a single element aside; less if that is more than a small part of
/// the memory.
const PAGE_BYTES: (u64, u64) = (4 << 10, 1 << 20);
const PAGES_IN_BUDGET: u64 = 256;

/// How large pages are.
pub(in crate::runner_transforms) fn page_bytes(storage: &dyn Storage) -> usize {
    (storage.budget().limit() / PAGES_IN_BUDGET).clamp(PAGE_BYTES.0, PAGE_BYTES.1) as usize
}

/// Elements on their way into pages.
#[derive(Default)]
pub(in crate::runner_transforms) struct PageBuilder {
    full: Vec<StoredBlock>,
    open: Vec<u8>,
}

impl PageBuilder {
    /// What is not in the storage yet.
    pub(super) fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Errors: the storage has no room.
    pub(in crate::runner_transforms) fn add(
        &mut self,
        element: &[u8],
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        self.open.extend_from_slice(element);
        if self.open.len() >= page_bytes(storage) { self.end_page(storage) } else { Ok(()) }
    }

    /// Adds a page of whole elements; a large one stays as it is.
    ///
    /// Errors: the storage has no room.
    pub(in crate::runner_transforms) fn add_page(
        &mut self,
        page: StoredBlock,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        if page.len() < page_bytes(storage) as u64 / 2 {
            return self.add(&page.read()?, storage);
        }
        self.end_page(storage)?;
        self.full.push(page);
        Ok(())
    }

    /// What is open becomes a page, whatever its size.
    ///
    /// Errors: the storage has no room.
    pub(super) fn end_page(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        if !self.open.is_empty() {
            self.full.push(storage.put(std::mem::take(&mut self.open).into())?);
        }
        Ok(())
    }

    /// Errors: the storage has no room.
    pub(in crate::runner_transforms) fn finish(
        mut self,
        storage: &dyn Storage,
    ) -> Result<Vec<StoredBlock>, Fault> {
        self.end_page(storage)?;
        Ok(self.full)
    }
}

/// The page that a continuation names; the first if it is empty.
///
/// Errors: it was never given out, or the page cannot be read back.
pub(in crate::runner_transforms) fn page(
    pages: &[StoredBlock],
    continuation: &[u8],
) -> Result<StatePage, Fault> {
    let index = index(continuation)?;
    if pages.is_empty() && index == 0 {
        return Ok(StatePage::default());
    }
    let data = pages.get(index).ok_or_else(no_such_page)?.read()?;
    Ok(StatePage { data, continuation: token(index + 1, pages.len()) })
}

/// What a continuation counts to; 0 if it is empty.
pub(super) fn index(continuation: &[u8]) -> Result<usize, Fault> {
    match continuation {
        [] => Ok(0),
        bytes => Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| no_such_page())?) as usize),
    }
}

/// The continuation for the page `next` of so many; empty if there is none.
pub(super) fn token(next: usize, pages: usize) -> Bytes {
    match u32::try_from(next) {
        Ok(token) if next < pages => Bytes::copy_from_slice(&token.to_be_bytes()),
        _ => Bytes::new(),
    }
}

pub(super) fn no_such_page() -> Fault {
    Fault::environment("a worker asked for a page of a side input that there is not")
}
