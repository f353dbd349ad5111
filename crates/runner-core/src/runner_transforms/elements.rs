//! Cutting blocks between elements.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::sync::Arc;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::malformed;
use crate::engine::{Block, Partition};
use crate::fault::Fault;
use crate::plan::{Collection, Grain};
use crate::ports::{Reservation, Storage, StoredBlock};

/// Into how many shares keys are divided. More than any number of workers; few enough that each share of
/// a block is worth a block.
pub(crate) const PARTITIONS: u64 = 128;
/// A share of the keys of a bundle's output becomes a block when it has so many bytes; fewer if all shares together would be more
/// than a small part of the memory.
const SHARE_BYTES: (u64, u64) = (4 << 10, 256 << 10);
const SHARES_IN_BUDGET: u64 = 32 * PARTITIONS;
/// A block that is more than twice as large is cut into pieces of about this size, since blocks are on their way to a worker as a
/// whole; into smaller ones if that is much of the memory.
const PIECE_BYTES: (u64, u64) = (64 << 10, 1 << 20);
const PIECES_IN_BUDGET: u64 = 64;
/// What is smaller is copied: it may be all that is left of the message that it came in.
const COPIED_BYTES: usize = 4 << 10;

/// The blocks of one collection as the plan wants them, put into the storage: as they are, an element each, or by key; with
/// the time of the earliest element if the plan asks for that.
///
/// Errors: a block is not what the coders say, or the storage has no room.
pub fn cut(
    collection: &Collection,
    blocks: impl IntoIterator<Item = Bytes>,
    storage: &dyn Storage,
) -> Result<Vec<Block<StoredBlock>>, Fault> {
    let mut cutter = Cutter::new(storage);
    blocks.into_iter().try_for_each(|block| cutter.add(collection, block, storage))?;
    cutter.finish(storage)
}

/// The same for blocks that are in the storage. What comes of one holds what it holds.
///
/// Errors: as [`cut`], or a block cannot be read back.
pub fn cut_stored(
    collection: &Collection,
    blocks: impl IntoIterator<Item = StoredBlock>,
    storage: &dyn Storage,
) -> Result<Vec<Block<StoredBlock>>, Fault> {
    let mut cut_blocks = Vec::new();
    let mut cutter = Cutter::new(storage);
    for stored in blocks {
        if !Cutter::parses(collection) {
            cut_blocks.push(block(stored));
            continue;
        }
        match stored.held() {
            None => cutter.add(collection, stored.read()?, storage)?,
            Some(held) => {
                // Blocks stay in their order: it may be that of panes of one key.
                let before = std::mem::replace(&mut cutter, Cutter::new(storage));
                cut_blocks.extend(before.finish(storage)?);
                let cut = cut(collection, [stored.read()?], storage)?.into_iter();
                cut_blocks.extend(cut.map(|it| Block { data: it.data.holding(held.clone()), ..it }));
            }
        }
    }
    cut_blocks.extend(cutter.finish(storage)?);
    Ok(cut_blocks)
}

/// A block that takes the place of another one.
///
/// Errors: the storage has no room.
pub fn put_instead(of: &StoredBlock, data: Bytes, storage: &dyn Storage) -> Result<StoredBlock, Fault> {
    let stored = storage.put(data)?;
    Ok(match of.held() {
        Some(held) => stored.holding(held.clone()),
        None => stored,
    })
}

/// The same for blocks that come one after another, all of one collection.
pub struct Cutter {
    blocks: Vec<Block<StoredBlock>>,
    /// Elements that are no block yet.
    shares: BTreeMap<Partition, Share>,
    reserved: Reservation,
}

struct Share {
    data: Vec<u8>,
    /// The time of the earliest element.
    earliest: EventTime,
}

impl Cutter {
    pub fn new(storage: &dyn Storage) -> Self {
        Self { blocks: Vec::new(), shares: BTreeMap::new(), reserved: storage.budget().reserve(0) }
    }

    /// Whether [`Self::add`] looks at each element.
    pub fn parses(collection: &Collection) -> bool {
        collection.by_key || collection.timed || collection.grain == Grain::Element
    }

    /// Whether it looks at the elements of a block of so many bytes.
    pub fn looks_at(collection: &Collection, bytes: u64, storage: &dyn Storage) -> bool {
        Self::parses(collection) || bytes > 2 * piece_bytes(storage)
    }

    /// Adds a block of elements. May wait for a disk.
    ///
    /// Errors: as [`cut`].
    pub fn add(&mut self, collection: &Collection, data: Bytes, storage: &dyn Storage) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        match collection.grain {
            Grain::Block if collection.by_key => return self.add_to_shares(collection, data, storage),
            Grain::Block => {
                for data in pieces(collection, data, piece_bytes(storage) as usize)? {
                    let hold = earliest(collection, &data)?;
                    let data = if data.len() < COPIED_BYTES { Bytes::copy_from_slice(&data) } else { data };
                    self.blocks.push(Block { hold, ..put(data, storage)? });
                }
            }
            Grain::Element => {
                for element in Elements::new(collection, data) {
                    let element = element?;
                    let partition = if collection.by_key { element.partition()? } else { Partition(0) };
                    let hold = if collection.timed { element.timestamp()? } else { EventTime::MIN };
                    self.blocks.push(Block { partition, hold, ..put(element.data, storage)? });
                }
            }
        }
        Ok(())
    }

    fn add_to_shares(
        &mut self,
        collection: &Collection,
        data: Bytes,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        let full = (storage.budget().limit() / SHARES_IN_BUDGET).clamp(SHARE_BYTES.0, SHARE_BYTES.1);
        let latest = if collection.timed { EventTime::MAX } else { EventTime::MIN };
        self.reserved.grow(data.len() as u64);
        for element in Elements::new(collection, data) {
            let element = element?;
            let partition = element.partition()?;
            let new = || Share { data: Vec::new(), earliest: latest };
            let share = self.shares.entry(partition).or_insert_with(new);
            share.data.extend_from_slice(&element.data);
            if collection.timed {
                share.earliest = element.timestamp()?.min(share.earliest);
            }
            if share.data.len() as u64 >= full {
                let share = std::mem::replace(share, new());
                self.end_share(partition, share, storage)?;
            }
        }
        Ok(())
    }

    fn end_share(&mut self, partition: Partition, share: Share, storage: &dyn Storage) -> Result<(), Fault> {
        if share.data.is_empty() {
            return Ok(());
        }
        self.reserved.shrink(share.data.len() as u64);
        let Share { data, earliest } = share;
        self.blocks.push(Block { partition, hold: earliest, ..put(data.into(), storage)? });
        Ok(())
    }

    /// All blocks. May wait for a disk.
    ///
    /// Errors: the storage has no room.
    pub fn finish(mut self, storage: &dyn Storage) -> Result<Vec<Block<StoredBlock>>, Fault> {
        for (partition, share) in std::mem::take(&mut self.shares) {
            self.end_share(partition, share, storage)?;
        }
        Ok(self.blocks)
    }
}

fn piece_bytes(storage: &dyn Storage) -> u64 {
    (storage.budget().limit() / PIECES_IN_BUDGET).clamp(PIECE_BYTES.0, PIECE_BYTES.1)
}

/// A block as it is, or in pieces of whole elements if it is large.
fn pieces(collection: &Collection, data: Bytes, size: usize) -> Result<Vec<Bytes>, Fault> {
    if data.len() <= 2 * size {
        return Ok(vec![data]);
    }
    let (mut pieces, mut start, mut end) = (Vec::new(), 0, 0);
    for element in Elements::new(collection, data.clone()) {
        end += element?.data.len();
        if end - start >= size {
            pieces.push(data.slice(start..end));
            start = end;
        }
    }
    if start < end {
        pieces.push(data.slice(start..end));
    }
    Ok(pieces)
}

/// A block of encoded elements in the storage, that belongs to no key and does not say its time.
///
/// Errors: the storage has no room.
pub fn put(data: Bytes, storage: &dyn Storage) -> Result<Block<StoredBlock>, Fault> {
    Ok(block(storage.put(data)?))
}

/// A block that belongs to no key and does not say its time.
pub fn block(data: StoredBlock) -> Block<StoredBlock> {
    Block { bytes: data.len(), data, partition: Partition(0), hold: EventTime::MIN, truncated: false }
}

/// How many elements each of these blocks has. May wait for a disk.
pub fn counts(collection: &Collection, blocks: &[Block<StoredBlock>]) -> Result<Vec<usize>, Fault> {
    let count = |block: &Block<StoredBlock>| {
        Elements::new(collection, block.data.read()?).try_fold(0, |n, element| element.map(|_| n + 1))
    };
    blocks.iter().map(count).collect()
}

/// Some of the elements of a block, which has that many.
pub fn part(
    collection: &Collection,
    block: &Block<StoredBlock>,
    elements: Range<usize>,
    storage: &dyn Storage,
) -> Result<Block<StoredBlock>, Fault> {
    let (mut start, mut end) = (0, 0);
    let whole = block.data.read()?;
    for (n, element) in Elements::new(collection, whole.clone()).take(elements.end).enumerate() {
        end += element?.data.len();
        if n + 1 == elements.start {
            start = end;
        }
    }
    let data = whole.slice(start..end);
    let hold = if collection.timed { earliest(collection, &data)? } else { block.hold };
    let data = put_instead(&block.data, data, storage)?;
    Ok(Block { bytes: data.len(), data, hold, ..*block })
}

/// The time of a block's earliest element, if the plan asks for it.
fn earliest(collection: &Collection, data: &Bytes) -> Result<EventTime, Fault> {
    if !collection.timed {
        return Ok(EventTime::MIN);
    }
    let mut elements = Elements::new(collection, data.clone());
    elements.try_fold(EventTime::MAX, |earliest, element| Ok(element?.timestamp()?.min(earliest)))
}

/// The partition of an encoded key: the same for equal keys, in every run.
pub fn partition_of(key: &[u8]) -> Partition {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    // The remainder is less than PARTITIONS, which fits.
    Partition((hasher.finish() % PARTITIONS) as u16)
}

/// The elements of some blocks in the order of their event time; those of one time keep their order.
///
/// Errors: a block is not what the coders say, it cannot be read back, or the storage has no room.
pub fn sorted_by_time(
    collection: &Collection,
    blocks: &[StoredBlock],
    storage: &dyn Storage,
) -> Result<StoredBlock, Fault> {
    let mut elements = Vec::new();
    // All of this is in memory for a moment.
    let reserved = storage.budget().reserve(blocks.iter().map(StoredBlock::len).sum::<u64>() * 2);
    let mut held = Vec::new();
    for block in blocks {
        held.extend(block.held().cloned());
        for element in Elements::new(collection, block.read()?) {
            let element = element?;
            elements.push((element.timestamp()?, element.data));
        }
    }
    elements.sort_by_key(|(timestamp, _)| *timestamp);
    let mut sorted = Vec::with_capacity(elements.iter().map(|(_, data)| data.len()).sum());
    elements.iter().for_each(|(_, data)| sorted.extend_from_slice(data));
    drop((elements, reserved));
    let sorted = storage.put(sorted.into())?;
    Ok(if held.is_empty() { sorted } else { sorted.holding(Arc::new(held)) })
}

/// The elements of a block, each a slice of it.
pub struct Elements<'a> {
    collection: &'a Collection,
    rest: Bytes,
}

/// One element.
pub struct Element<'a> {
    collection: &'a Collection,
    pub data: Bytes,
}

impl<'a> Elements<'a> {
    pub fn new(collection: &'a Collection, block: Bytes) -> Self {
        Self { collection, rest: block }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Collection { id, element_coder, window_coder, .. } = self.collection;
        let len = read_header(window_coder, &self.rest)
            .and_then(|header| Ok(header.header_len + element_coder.skip(&self.rest[header.header_len..])?));
        Some(match len {
            Ok(len) => Ok(Element { collection: self.collection, data: self.rest.split_to(len) }),
            Err(error) => {
                self.rest.clear();
                Err(malformed(id, error))
            }
        })
    }
}

impl Element<'_> {
    fn partition(&self) -> Result<Partition, Fault> {
        self.key().map(partition_of)
    }

    /// The encoded key of a `KV<K, V>`.
    pub fn key(&self) -> Result<&[u8], Fault> {
        self.read(|element, window| {
            let header = read_header(window, &self.data)?;
            let value = &self.data[header.header_len..];
            let Coder::Kv(key_coder, _) = element else {
                return Err(CoderError::Malformed { what: "element", reason: "it has no key" });
            };
            Ok(&value[..key_coder.skip(value)?])
        })
    }

    pub fn timestamp(&self) -> Result<EventTime, Fault> {
        self.read(|_, window| Ok(read_header(window, &self.data)?.timestamp))
    }

    /// The encoded windows.
    pub fn windows(&self) -> Result<Vec<Bytes>, Fault> {
        self.read(|_, window| {
            let header = read_header(window, &self.data)?;
            Ok(header.windows.iter().map(Bytes::copy_from_slice).collect())
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Coder, &Coder) -> Result<T, CoderError>) -> Result<T, Fault> {
        let Collection { id, element_coder, window_coder, .. } = self.collection;
        read(element_coder, window_coder).map_err(|error| malformed(id, error))
    }
}
