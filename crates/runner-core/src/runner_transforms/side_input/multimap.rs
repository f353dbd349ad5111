//! A side input by key, while it is built and after. While it is built, what does not fit in memory becomes runs, which are
//! merged in the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;

use super::pages::{self, PageBuilder, no_such_page, page, page_bytes};
use super::run::{Entries, Entry, Run, RunBuilder, hash_of};
use crate::fault::Fault;
use crate::ports::{StatePage, Storage, StoredBlock};

/// What a key takes in a map besides its bytes and those of its values.
const KEY_OVERHEAD: u64 = 176;

/// The keys of one window that are in memory.
#[derive(Default)]
pub(super) struct Recent {
    keys: IndexMap<Box<[u8]>, Values>,
}

#[derive(Default)]
struct Values {
    full: Vec<StoredBlock>,
    open: BytesMut,
    count: u32,
}

impl Recent {
    /// Adds a value. Returns how many bytes more this takes by now, which may be fewer.
    ///
    /// Errors: the storage has no room.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8], storage: &dyn Storage) -> Result<i64, Fault> {
        let mut more = value.len() as i64;
        let index = match self.keys.get_index_of(key) {
            Some(index) => index,
            None => {
                more += (key.len() as u64 + KEY_OVERHEAD) as i64;
                self.keys.insert_full(key.into(), Values::default()).0
            }
        };
        let values = &mut self.keys[index];
        values.open.extend_from_slice(value);
        values.count = values.count.saturating_add(1);
        if values.open.len() >= page_bytes(storage) {
            more -= values.open.len() as i64;
            values.full.push(storage.put(values.open.split().freeze())?);
        }
        Ok(more)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All of it as a run.
    ///
    /// Errors: the storage has no room.
    pub(super) fn into_run(self, storage: &dyn Storage) -> Result<Run, Fault> {
        let hashed = self.keys.into_iter().map(|(key, values)| (hash_of(&key), key, values));
        let mut sorted: Vec<_> = hashed.collect();
        sorted.sort_unstable_by(|(a, a_key, _), (b, b_key, _)| (a, a_key).cmp(&(b, b_key)));
        let mut run = RunBuilder::default();
        for (hash, key, Values { full, open, count }) in sorted {
            run.add(Entry { hash, key: key.into(), count, full, rest: open.freeze() }, storage)?;
        }
        run.finish(storage)
    }
}

/// A window of a side input by key, when all is there.
pub(super) struct Multimap {
    keys: Vec<StoredBlock>,
    values: Run,
}

impl Multimap {
    /// Of runs in the order in which they were made.
    ///
    /// Errors: the storage has no room, or something cannot be read back.
    pub(super) fn new(mut runs: Vec<Run>, storage: &dyn Storage) -> Result<Self, Fault> {
        let values = match runs.len() {
            0 | 1 => runs.pop().unwrap_or_default(),
            _ => merge(&runs, storage)?,
        };
        let mut keys = PageBuilder::default();
        for page in 0..values.pages() {
            let Some(mut entries) = values.entries(page)? else { break };
            while let Some(entry) = entries.next()? {
                keys.add(&entry.key, storage)?;
            }
        }
        Ok(Self { keys: keys.finish(storage)?, values })
    }

    pub(super) fn keys(&self, continuation: &[u8]) -> Result<StatePage, Fault> {
        page(&self.keys, continuation)
    }

    pub(super) fn values_of(&self, key: &[u8], continuation: &[u8]) -> Result<StatePage, Fault> {
        let entry = self.values.get(key)?.unwrap_or_default();
        if entry.full.is_empty() && continuation.is_empty() {
            // A copy of the few bytes that are asked for, not a page that is held for them.
            return Ok(StatePage { data: Bytes::copy_from_slice(&entry.rest), continuation: Bytes::new() });
        }
        page(&entry.full, continuation)
    }

    /// Each key with its values as `KV<K, Iterable<V>>`.
    pub(super) fn entries(&self, continuation: &[u8], storage: &dyn Storage) -> Result<StatePage, Fault> {
        let mut index = pages::index(continuation)?;
        if index > 0 && index >= self.values.pages() {
            return Err(no_such_page());
        }
        let mut data = Vec::new();
        while data.len() < page_bytes(storage)
            && let Some(mut entries) = self.values.entries(index)?
        {
            while let Some(entry) = entries.next()? {
                data.extend_from_slice(&entry.key);
                data.extend_from_slice(&entry.count.to_be_bytes());
                for page in &entry.full {
                    data.extend_from_slice(&page.read()?);
                }
                data.extend_from_slice(&entry.rest);
            }
            index += 1;
        }
        Ok(StatePage { data: data.into(), continuation: pages::token(index, self.values.pages()) })
    }
}

/// One run of several: a key's values are in the order of the runs.
fn merge(runs: &[Run], storage: &dyn Storage) -> Result<Run, Fault> {
    let mut cursors = runs.iter().map(Cursor::new).collect::<Result<Vec<_>, _>>()?;
    let mut next = BinaryHeap::new();
    for (number, cursor) in cursors.iter().enumerate() {
        next.extend(cursor.place(number).map(Reverse));
    }
    let mut merged = RunBuilder::default();
    let mut open: Option<Entry> = None;
    while let Some(Reverse((_, _, number))) = next.pop() {
        let Some(cursor) = cursors.get_mut(number) else { break };
        let entry = cursor.advance()?;
        next.extend(cursor.place(number).map(Reverse));
        let Some(entry) = entry else { continue };
        match &mut open {
            Some(known) if known.key == entry.key => known.append(entry, storage)?,
            _ => {
                if let Some(done) = open.replace(entry) {
                    merged.add(done, storage)?;
                }
            }
        }
    }
    if let Some(last) = open {
        merged.add(last, storage)?;
    }
    merged.finish(storage)
}

/// A place in a run.
struct Cursor<'a> {
    run: &'a Run,
    page: usize,
    entries: Option<Entries<'a>>,
    entry: Option<Entry>,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a Run) -> Result<Self, Fault> {
        let mut cursor = Self { run, page: 0, entries: run.entries(0)?, entry: None };
        cursor.advance()?;
        Ok(cursor)
    }

    /// How this is sorted: by hash, then key, then run.
    fn place(&self, run: usize) -> Option<(u64, Bytes, usize)> {
        self.entry.as_ref().map(|entry| (entry.hash, entry.key.clone(), run))
    }

    /// Takes the entry and goes on to the next.
    fn advance(&mut self) -> Result<Option<Entry>, Fault> {
        let entry = self.entry.take();
        while let Some(entries) = &mut self.entries {
            self.entry = entries.next()?;
            if self.entry.is_some() {
                break;
            }
            self.page += 1;
            self.entries = self.run.entries(self.page)?;
        }
        Ok(entry)
    }
}
