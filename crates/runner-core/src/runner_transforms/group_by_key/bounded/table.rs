//! Which records of some chunks belong together.

use beam_model::time::EventTime;
use bytes::Bytes;
use hashbrown::HashTable;

use super::Kept;
use super::record::{Record, Records};
use super::split::damaged;
use crate::fault::Fault;
use crate::plan::OutputTime;

/// The records of one key and window.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    hash: u64,
    /// Where the first of them is: in this chunk, from this byte on.
    chunk: u32,
    at: u32,
    pub(super) count: u64,
    /// Bytes of all values.
    pub(super) len: usize,
    pub(super) time: EventTime,
    /// Where its values go: into this block, from this byte on.
    pub(super) block: usize,
    pub(super) offset: usize,
}

/// Chunks, and the entries to which their records belong.
pub(super) struct Table {
    kept: Kept,
    /// In the order in which they were first seen.
    pub(super) entries: Vec<Entry>,
    /// The entry of each record.
    of_record: Vec<u32>,
}

impl Table {
    /// Reads all records. `combine`: how times are put together.
    ///
    /// Errors: the chunks are damaged or too large.
    pub(super) fn of(chunks: &[Bytes], kept: Kept, combine: OutputTime) -> Result<Self, Fault> {
        let mut table = Self { kept, entries: Vec::new(), of_record: Vec::new() };
        let mut index = HashTable::new();
        for (number, chunk) in chunks.iter().enumerate() {
            for record in Records::of(chunk, kept.times) {
                let (at, record) = record.map_err(damaged)?;
                table.add(&mut index, chunks, (number, at), &record, combine)?;
            }
        }
        Ok(table)
    }

    fn add(
        &mut self,
        index: &mut HashTable<u32>,
        chunks: &[Bytes],
        (chunk, at): (usize, usize),
        record: &Record<'_>,
        combine: OutputTime,
    ) -> Result<(), Fault> {
        let hash = record.hash_of_key_and_window();
        let same = |number: &u32| {
            let entry = self.entries.get(*number as usize).filter(|entry| entry.hash == hash);
            let first = entry.and_then(|entry| first(chunks, entry, self.kept));
            first.is_some_and(|first| first.key == record.key && first.window == record.window)
        };
        let known = index.find(spread(hash), same).copied();
        let number = match known {
            Some(number) => number,
            None => {
                let number = small(self.entries.len())?;
                let (count, len, time) = (0, 0, record.time);
                let (chunk, at) = (small(chunk)?, small(at)?);
                self.entries.push(Entry { hash, chunk, at, count, len, time, block: 0, offset: 0 });
                let hash_of =
                    |number: &u32| spread(self.entries.get(*number as usize).map_or(0, |entry| entry.hash));
                index.insert_unique(spread(hash), number, hash_of);
                number
            }
        };
        if let Some(entry) = self.entries.get_mut(number as usize) {
            entry.count += 1;
            entry.len += record.value.len();
            entry.time = combine.of(entry.time, record.time);
        }
        self.of_record.push(number);
        Ok(())
    }

    /// The first record of an entry: its key and window are those of all.
    pub(super) fn first<'a>(&self, chunks: &'a [Bytes], entry: &Entry) -> Result<Record<'a>, Fault> {
        first(chunks, entry, self.kept)
            .ok_or_else(|| Fault::runner("a group's first element is not there any more"))
    }

    /// The entries of each key, in the order in which they were first seen.
    pub(super) fn by_key(&self, chunks: &[Bytes]) -> Result<Vec<Vec<usize>>, Fault> {
        let mut keys: Vec<(u64, Vec<usize>)> = Vec::new();
        let mut index: HashTable<usize> = HashTable::new();
        for (number, entry) in self.entries.iter().enumerate() {
            let record = self.first(chunks, entry)?;
            let hash = record.hash_of_key();
            let same = |key: &usize| {
                let known = keys.get(*key).filter(|(known, _)| *known == hash);
                let known = known.and_then(|(_, entries)| self.entries.get(*entries.first()?));
                known
                    .and_then(|known| first(chunks, known, self.kept))
                    .is_some_and(|known| known.key == record.key)
            };
            match index.find(spread(hash), same).copied() {
                Some(key) => {
                    if let Some((_, entries)) = keys.get_mut(key) {
                        entries.push(number);
                    }
                }
                None => {
                    keys.push((hash, vec![number]));
                    let hash_of = |key: &usize| spread(keys.get(*key).map_or(0, |(hash, _)| *hash));
                    index.insert_unique(spread(hash), keys.len() - 1, hash_of);
                }
            }
        }
        Ok(keys.into_iter().map(|(_, entries)| entries).collect())
    }

    /// Copies each record's value to where its entry is to be. The chunks are those that the table was made of; each goes
    /// as soon as it is done.
    pub(super) fn scatter(mut self, chunks: Vec<Bytes>, blocks: &mut [Vec<u8>]) -> Result<(), Fault> {
        let mut of_record = self.of_record.iter();
        for chunk in chunks {
            for record in Records::of(&chunk, self.kept.times) {
                let (_, record) = record.map_err(damaged)?;
                let entry = of_record.next().and_then(|number| self.entries.get_mut(*number as usize));
                let place = entry.and_then(|entry| {
                    let start = entry.offset;
                    entry.offset += record.value.len();
                    blocks.get_mut(entry.block)?.get_mut(start..entry.offset)
                });
                let place =
                    place.ok_or_else(|| Fault::runner("a group has no place for one of its values"))?;
                place.copy_from_slice(record.value);
            }
        }
        Ok(())
    }
}

fn first<'a>(chunks: &'a [Bytes], entry: &Entry, kept: Kept) -> Option<Record<'a>> {
    let chunk = chunks.get(entry.chunk as usize)?;
    Records::at(chunk, entry.at as usize, kept.times).ok()
}

/// Records that are together have the first bits of their hashes in common; a table looks at the last ones first.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(u64::BITS / 2)
}

fn small(number: usize) -> Result<u32, Fault> {
    u32::try_from(number)
        .map_err(|_| Fault::runner("a GroupByKey has to group more than 4 GB at once; give it less memory"))
}
