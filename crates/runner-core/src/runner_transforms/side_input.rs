//! A PCollection that workers may ask for: by window, and by key.

use std::collections::HashMap;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use bytes::Bytes;
use indexmap::IndexMap;

use super::malformed;
use crate::fault::Fault;
use crate::plan::{AccessPattern, Collection};
use crate::ports::StatePage;

/// A page of an answer is at most about this large, in bytes, a single element aside.
pub(super) const PAGE_BYTES: usize = 1 << 20;

/// Takes in the elements of a side input.
pub struct SideInputBuilder {
    id: String,
    element: std::sync::Arc<Coder>,
    window: std::sync::Arc<Coder>,
    iterable: Option<HashMap<Box<[u8]>, PageBuilder>>,
    multimap: Option<HashMap<Box<[u8]>, KeyValuesByKey>>,
}

type KeyValuesByKey = IndexMap<Box<[u8]>, KeyValues>;

/// A side input with all its elements.
pub struct SideInput {
    iterable: HashMap<Box<[u8]>, Vec<Bytes>>,
    multimap: HashMap<Box<[u8]>, Multimap>,
}

struct Multimap {
    keys: Vec<Bytes>,
    /// Of each key its values; each entry as `KV<K, Iterable<V>>` in `entries`.
    values: HashMap<Box<[u8]>, Vec<Bytes>>,
    entries: Vec<Bytes>,
}

#[derive(Default)]
struct KeyValues {
    pages: PageBuilder,
    count: u32,
}

/// Something that workers may ask for a PCollection.
pub trait SideInputView: Send + Sync {
    /// The page of an answer that `continuation` names; empty means the first.
    ///
    /// Errors: a continuation that was never given out.
    fn get(&self, window: &[u8], question: Question<'_>, continuation: &[u8]) -> Result<StatePage, Fault>;
}

/// Encoded elements in pages, each of whole elements.
#[derive(Default)]
pub(super) struct PageBuilder {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl PageBuilder {
    pub(super) fn add(&mut self, element: &[u8]) {
        self.open.extend_from_slice(element);
        if self.open.len() >= PAGE_BYTES {
            self.full.push(std::mem::take(&mut self.open).into());
        }
    }

    /// Adds pages of whole elements; large ones stay as they are.
    pub(super) fn extend(&mut self, pages: &[Bytes]) {
        for page in pages {
            if page.len() < PAGE_BYTES / 2 {
                self.add(page);
                continue;
            }
            if !self.open.is_empty() {
                self.full.push(std::mem::take(&mut self.open).into());
            }
            self.full.push(page.clone());
        }
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.into());
        }
        self.full
    }
}

impl SideInputBuilder {
    pub fn new(collection: &Collection) -> Self {
        let reads = |pattern| collection.side_input_patterns.contains(&pattern);
        Self {
            id: collection.id.clone(),
            element: collection.element_coder.clone(),
            window: collection.window_coder.clone(),
            iterable: reads(AccessPattern::Iterable).then(HashMap::new),
            multimap: reads(AccessPattern::Multimap).then(HashMap::new),
        }
    }

    /// Adds a block of elements.
    ///
    /// Errors: the block is not what the coders say.
    pub fn add(&mut self, block: &Bytes) -> Result<(), Fault> {
        let mut rest: &[u8] = block;
        while !rest.is_empty() {
            let len = self.add_element(rest).map_err(|error| malformed(&self.id, error))?;
            rest = &rest[len..];
        }
        Ok(())
    }

    fn add_element(&mut self, encoded: &[u8]) -> Result<usize, CoderError> {
        let coder = self.window.clone();
        let header = read_header(&coder, encoded)?;
        let value = &encoded[header.header_len..];
        let end = self.element.skip(value)?;
        let value = &value[..end];
        if let Some(iterable) = &mut self.iterable {
            for window in header.windows.iter() {
                entry(iterable, window).add(value);
            }
        }
        if let Some(multimap) = &mut self.multimap {
            let Coder::Kv(key_coder, _) = self.element.as_ref() else {
                return Err(CoderError::Malformed {
                    what: "side input",
                    reason: "read as a map, it has no keys",
                });
            };
            let (key, value) = value.split_at(key_coder.skip(value)?);
            for window in header.windows.iter() {
                let values = indexed_entry(entry(multimap, window), key);
                values.pages.add(value);
                values.count = values.count.saturating_add(1);
            }
        }
        Ok(header.header_len + end)
    }

    pub fn finish(self) -> SideInput {
        let iterable = self.iterable.unwrap_or_default().into_iter();
        let multimap = self.multimap.unwrap_or_default().into_iter();
        SideInput {
            iterable: iterable.map(|(window, pages)| (window, pages.finish())).collect(),
            multimap: multimap.map(|(window, keys)| (window, Multimap::new(keys))).collect(),
        }
    }
}

impl Multimap {
    fn new(map: KeyValuesByKey) -> Self {
        let (mut keys, mut entries, mut values) =
            (PageBuilder::default(), PageBuilder::default(), HashMap::new());
        for (key, of_key) in map {
            keys.add(&key);
            let pages = of_key.pages.finish();
            let mut entry = key.to_vec();
            entry.extend_from_slice(&of_key.count.to_be_bytes());
            pages.iter().for_each(|page| entry.extend_from_slice(page));
            entries.add(&entry);
            values.insert(key, pages);
        }
        Self { keys: keys.finish(), values, entries: entries.finish() }
    }
}

/// Which part of a side input is asked for.
pub enum Question<'a> {
    Iterable,
    ValuesOf(&'a [u8]),
    Keys,
    KeysAndValues,
}

impl SideInputView for SideInput {
    fn get(&self, window: &[u8], question: Question<'_>, continuation: &[u8]) -> Result<StatePage, Fault> {
        let none = Vec::new();
        let multimap = self.multimap.get(window);
        let pages = match question {
            Question::Iterable => self.iterable.get(window),
            Question::ValuesOf(key) => multimap.and_then(|map| map.values.get(key)),
            Question::Keys => multimap.map(|map| &map.keys),
            Question::KeysAndValues => multimap.map(|map| &map.entries),
        };
        page(pages.unwrap_or(&none), continuation)
    }
}

pub(super) fn page(pages: &[Bytes], continuation: &[u8]) -> Result<StatePage, Fault> {
    let bad = || Fault::environment("a worker asked for a page of a side input that there is not");
    let index = match continuation {
        [] => 0,
        bytes => u32::from_be_bytes(bytes.try_into().map_err(|_| bad())?) as usize,
    };
    if pages.is_empty() && index == 0 {
        return Ok(StatePage::default());
    }
    let data = pages.get(index).ok_or_else(bad)?.clone();
    let next = index + 1;
    let continuation = match u32::try_from(next) {
        Ok(token) if next < pages.len() => Bytes::copy_from_slice(&token.to_be_bytes()),
        _ => Bytes::new(),
    };
    Ok(StatePage { data, continuation })
}

fn entry<'a, V: Default>(map: &'a mut HashMap<Box<[u8]>, V>, key: &[u8]) -> &'a mut V {
    map.entry(key.into()).or_default()
}

fn indexed_entry<'a>(map: &'a mut KeyValuesByKey, key: &[u8]) -> &'a mut KeyValues {
    let index = match map.get_index_of(key) {
        Some(index) => index,
        None => map.insert_full(key.into(), KeyValues::default()).0,
    };
    &mut map[index]
}
