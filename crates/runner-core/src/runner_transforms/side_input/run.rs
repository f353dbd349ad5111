//! The values of many keys, sorted by the keys' hashes, in pages: of a key it is known in which page it is.
//!
//! An entry in a page is the key's hash, the key, the number of its values, and either the values or where they are: those of a
//! key that has very many are in pages of their own.

use std::hash::{DefaultHasher, Hasher};

use beam_model::coders::{CoderError, varint};
use bytes::{Bytes, BytesMut};

use super::pages::page_bytes;
use crate::fault::Fault;
use crate::ports::{Storage, StoredBlock};

/// To find one key, one page is read.
const RUN_PAGE_BYTES: usize = 64 << 10;

/// Some keys of one window with their values.
#[derive(Default)]
pub(super) struct Run {
    pages: Vec<RunPage>,
}

struct RunPage {
    /// The first hash in it.
    first: u64,
    block: StoredBlock,
    /// Of the keys in it with very many values: the pages of each.
    large: Vec<Vec<StoredBlock>>,
}

/// A key with its values.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) hash: u64,
    pub(super) key: Bytes,
    pub(super) count: u32,
    /// Values before the `rest`, in pages of their own.
    pub(super) full: Vec<StoredBlock>,
    pub(super) rest: Bytes,
}

/// The same for equal keys.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

impl Entry {
    /// Adds the values that a later entry has for the same key.
    ///
    /// Errors: the storage has no room.
    pub(super) fn append(&mut self, later: Self, storage: &dyn Storage) -> Result<(), Fault> {
        self.count = self.count.saturating_add(later.count);
        if !later.full.is_empty() {
            self.end_page(storage)?;
            self.full.extend(later.full);
        }
        if self.rest.is_empty() {
            self.rest = later.rest;
            return Ok(());
        }
        let mut rest = BytesMut::from(std::mem::take(&mut self.rest));
        rest.extend_from_slice(&later.rest);
        self.rest = rest.freeze();
        if self.rest.len() >= page_bytes(storage) { self.end_page(storage) } else { Ok(()) }
    }

    fn end_page(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        if !self.rest.is_empty() {
            self.full.push(storage.put(std::mem::take(&mut self.rest))?);
        }
        Ok(())
    }
}

/// Writes a run. Entries come in the order of their hashes, and of their keys where those are the same.
#[derive(Default)]
pub(super) struct RunBuilder {
    run: Run,
    open: Vec<u8>,
    first: u64,
    large: Vec<Vec<StoredBlock>>,
}

impl RunBuilder {
    /// Errors: the storage has no room.
    pub(super) fn add(&mut self, mut entry: Entry, storage: &dyn Storage) -> Result<(), Fault> {
        if self.open.is_empty() {
            self.first = entry.hash;
        }
        self.open.extend_from_slice(&entry.hash.to_be_bytes());
        varint::write_prefixed(&mut self.open, &entry.key);
        self.open.extend_from_slice(&entry.count.to_be_bytes());
        if entry.full.is_empty() {
            varint::write(&mut self.open, 0);
            varint::write_prefixed(&mut self.open, &entry.rest);
        } else {
            entry.end_page(storage)?;
            self.large.push(entry.full);
            varint::write(&mut self.open, self.large.len() as u64);
        }
        if self.open.len() >= RUN_PAGE_BYTES.min(page_bytes(storage)) {
            self.end_page(storage)
        } else {
            Ok(())
        }
    }

    fn end_page(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        if !self.open.is_empty() {
            let block = storage.put(std::mem::take(&mut self.open).into())?;
            let large = std::mem::take(&mut self.large);
            self.run.pages.push(RunPage { first: self.first, block, large });
        }
        Ok(())
    }

    /// Errors: the storage has no room.
    pub(super) fn finish(mut self, storage: &dyn Storage) -> Result<Run, Fault> {
        self.end_page(storage)?;
        Ok(self.run)
    }
}

impl Run {
    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// What there is of a key.
    ///
    /// Errors: it cannot be read back.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>, Fault> {
        let hash = hash_of(key);
        // Keys of one hash may be in several pages.
        let first = self.pages.partition_point(|page| page.first < hash).saturating_sub(1);
        for page in self.pages.iter().skip(first).take_while(|page| page.first <= hash) {
            let mut entries = page.entries()?;
            while let Some(entry) = entries.next()? {
                if entry.hash == hash && entry.key == key {
                    return Ok(Some(entry));
                }
                if entry.hash > hash {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// The entries of a page; none if there is no such page.
    ///
    /// Errors: it cannot be read back.
    pub(super) fn entries(&self, page: usize) -> Result<Option<Entries<'_>>, Fault> {
        self.pages.get(page).map(RunPage::entries).transpose()
    }
}

impl RunPage {
    fn entries(&self) -> Result<Entries<'_>, Fault> {
        Ok(Entries { rest: self.block.read()?, large: &self.large })
    }
}

/// What is in a page, one entry after another.
pub(super) struct Entries<'a> {
    rest: Bytes,
    large: &'a [Vec<StoredBlock>],
}

impl Entries<'_> {
    /// Errors: the page is damaged.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let damaged =
            |error: CoderError| Fault::runner(format!("a page of a side input is damaged: {error}"));
        let entry = self.read().map_err(damaged)?;
        Ok(Some(entry))
    }

    fn read(&mut self) -> Result<Entry, CoderError> {
        const FIXED: usize = 8;
        let short = CoderError::Malformed { what: "entry", reason: "it ends too early" };
        if self.rest.len() < FIXED {
            return Err(short);
        }
        let hash = bytes::Buf::get_u64(&mut self.rest);
        let key = self.read_prefixed()?;
        if self.rest.len() < size_of::<u32>() {
            return Err(short);
        }
        let count = bytes::Buf::get_u32(&mut self.rest);
        let (large, len) = varint::read(&self.rest)?;
        bytes::Buf::advance(&mut self.rest, len);
        let Some(large) = large.checked_sub(1) else {
            return Ok(Entry { hash, key, count, full: Vec::new(), rest: self.read_prefixed()? });
        };
        let full = usize::try_from(large).ok().and_then(|large| self.large.get(large));
        let full = full.ok_or(short)?.clone();
        Ok(Entry { hash, key, count, full, rest: Bytes::new() })
    }

    /// A slice, so that nothing is copied.
    fn read_prefixed(&mut self) -> Result<Bytes, CoderError> {
        let (bytes, len) = varint::read_prefixed(&self.rest)?;
        let start = len - bytes.len();
        let bytes = self.rest.slice(start..len);
        bytes::Buf::advance(&mut self.rest, len);
        Ok(bytes)
    }
}
