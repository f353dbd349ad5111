//! Cutting blocks between elements.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::malformed;
use crate::engine::{Block, Partition};
use crate::fault::Fault;
use crate::plan::{Collection, Grain};

/// Into how many shares keys are divided. More than any number of workers; few enough that each share of
/// a block is worth a block.
const PARTITIONS: u64 = 128;

/// The blocks of one collection as the plan wants them: as they are, an element each, or by key; with the time
/// of the earliest element if the plan asks for that.
pub fn cut(collection: &Collection, blocks: Vec<Bytes>) -> Result<Vec<Block<Bytes>>, Fault> {
    let blocks = blocks.into_iter().filter(|block| !block.is_empty());
    match collection.grain {
        Grain::Block if !collection.by_key => {
            blocks.map(|data| Ok(Block { hold: earliest(collection, &data)?, ..block(data) })).collect()
        }
        Grain::Block => by_partition(collection, blocks),
        Grain::Element => {
            let mut elements = Vec::new();
            for data in blocks {
                for element in Elements::new(collection, data) {
                    let element = element?;
                    let partition = if collection.by_key { element.partition()? } else { Partition(0) };
                    let hold = if collection.timed { element.timestamp()? } else { EventTime::MIN };
                    elements.push(Block { partition, hold, ..block(element.data) });
                }
            }
            Ok(elements)
        }
    }
}

fn by_partition(
    collection: &Collection,
    blocks: impl Iterator<Item = Bytes>,
) -> Result<Vec<Block<Bytes>>, Fault> {
    let mut shares: BTreeMap<Partition, (Vec<u8>, EventTime)> = BTreeMap::new();
    let latest = if collection.timed { EventTime::MAX } else { EventTime::MIN };
    for data in blocks {
        for element in Elements::new(collection, data) {
            let element = element?;
            let (share, hold) = shares.entry(element.partition()?).or_insert_with(|| (Vec::new(), latest));
            share.extend_from_slice(&element.data);
            if collection.timed {
                *hold = element.timestamp()?.min(*hold);
            }
        }
    }
    let shares = shares.into_iter();
    Ok(shares.map(|(partition, (data, hold))| Block { partition, hold, ..block(data.into()) }).collect())
}

/// How many elements each of these blocks has.
pub fn counts(collection: &Collection, blocks: &[Block<Bytes>]) -> Result<Vec<usize>, Fault> {
    let count = |block: &Block<Bytes>| {
        Elements::new(collection, block.data.clone()).try_fold(0, |n, element| element.map(|_| n + 1))
    };
    blocks.iter().map(count).collect()
}

/// Some of the elements of a block, which has that many.
pub fn part(
    collection: &Collection,
    block: &Block<Bytes>,
    elements: Range<usize>,
) -> Result<Block<Bytes>, Fault> {
    let (mut start, mut end) = (0, 0);
    for (n, element) in Elements::new(collection, block.data.clone()).take(elements.end).enumerate() {
        end += element?.data.len();
        if n + 1 == elements.start {
            start = end;
        }
    }
    let data = block.data.slice(start..end);
    let hold = if collection.timed { earliest(collection, &data)? } else { block.hold };
    Ok(Block { bytes: data.len() as u64, data, hold, ..*block })
}

/// The time of a block's earliest element, if the plan asks for it.
fn earliest(collection: &Collection, data: &Bytes) -> Result<EventTime, Fault> {
    if !collection.timed {
        return Ok(EventTime::MIN);
    }
    let mut elements = Elements::new(collection, data.clone());
    elements.try_fold(EventTime::MAX, |earliest, element| Ok(element?.timestamp()?.min(earliest)))
}

/// A block that belongs to no key and does not say its time.
pub fn block(data: Bytes) -> Block<Bytes> {
    Block { bytes: data.len() as u64, data, partition: Partition(0), hold: EventTime::MIN, truncated: false }
}

/// The partition of an encoded key: the same for equal keys, in every run.
pub fn partition_of(key: &[u8]) -> Partition {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    // The remainder is less than PARTITIONS, which fits.
    Partition((hasher.finish() % PARTITIONS) as u16)
}

/// The elements of some blocks in the order of their event time; those of one time keep their order.
pub fn sorted_by_time(
    collection: &Collection,
    blocks: impl IntoIterator<Item = Bytes>,
) -> Result<Bytes, Fault> {
    let mut elements = Vec::new();
    for block in blocks {
        for element in Elements::new(collection, block) {
            let element = element?;
            elements.push((element.timestamp()?, element.data));
        }
    }
    elements.sort_by_key(|(timestamp, _)| *timestamp);
    let mut sorted = Vec::with_capacity(elements.iter().map(|(_, data)| data.len()).sum());
    elements.iter().for_each(|(_, data)| sorted.extend_from_slice(data));
    Ok(sorted.into())
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
