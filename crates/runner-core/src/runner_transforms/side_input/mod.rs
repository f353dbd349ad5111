//! A PCollection that workers may ask for: by window, and by key.

mod multimap;
mod pages;
mod run;

use std::collections::HashMap;
use std::sync::Arc;

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};

use super::malformed;
use crate::fault::Fault;
use crate::plan::{AccessPattern, Collection};
use crate::ports::{Reservation, StatePage, Storage, StoredBlock};
use multimap::{Multimap, Recent};
pub(super) use pages::{PageBuilder, page, page_bytes};
use run::Run;

/// What a window takes besides its keys and pages.
const WINDOW_OVERHEAD: u64 = 256;
/// More than this part of the budget is not taken for what is in no page yet; less if there is no room.
const OPEN_IN_BUDGET: u64 = 8;
const SMALLEST_OPEN_IN_BUDGET: u64 = 64;

/// Takes in the elements of a side input.
pub struct SideInputBuilder {
    id: String,
    element: Arc<Coder>,
    window: Arc<Coder>,
    storage: Arc<dyn Storage>,
    iterable: Option<HashMap<Box<[u8]>, PageBuilder>>,
    multimap: Option<HashMap<Box<[u8]>, MultimapBuilder>>,
    /// For what is not in the storage.
    reserved: Reservation,
    held: Vec<Arc<dyn Send + Sync>>,
}

/// One window by key.
#[derive(Default)]
struct MultimapBuilder {
    runs: Vec<Run>,
    recent: Recent,
}

/// A side input with all its elements.
pub struct SideInput {
    iterable: HashMap<Box<[u8]>, Vec<StoredBlock>>,
    multimap: HashMap<Box<[u8]>, Multimap>,
    storage: Arc<dyn Storage>,
    _reserved: Reservation,
    /// What its elements refer to.
    _held: Vec<Arc<dyn Send + Sync>>,
}

/// Something that workers may ask for a PCollection.
pub trait SideInputView: Send + Sync {
    /// The page of an answer that `continuation` names; empty means the first. May wait for a disk.
    ///
    /// Errors: a continuation that was never given out, or a page that cannot be read back.
    fn get(&self, window: &[u8], question: Question<'_>, continuation: &[u8]) -> Result<StatePage, Fault>;
}

impl SideInputBuilder {
    pub fn new(collection: &Collection, storage: Arc<dyn Storage>) -> Self {
        let reads = |pattern| collection.side_input_patterns.contains(&pattern);
        Self {
            id: collection.id.clone(),
            element: collection.element_coder.clone(),
            window: collection.window_coder.clone(),
            iterable: reads(AccessPattern::Iterable).then(HashMap::new),
            multimap: reads(AccessPattern::Multimap).then(HashMap::new),
            reserved: storage.budget().reserve(0),
            storage,
            held: Vec::new(),
        }
    }

    /// Adds a block of elements. May wait for a disk.
    ///
    /// Errors: the block is not what the coders say, it cannot be read back, or the storage has no room.
    pub fn add(&mut self, block: &StoredBlock) -> Result<(), Fault> {
        self.held.extend(block.held().cloned());
        let block = block.read()?;
        let mut rest: &[u8] = &block;
        while !rest.is_empty() {
            rest = &rest[self.add_element(rest)?..];
            self.make_room()?;
        }
        Ok(())
    }

    /// Returns the element's length.
    fn add_element(&mut self, encoded: &[u8]) -> Result<usize, Fault> {
        let Self { id, element, window, storage, iterable, multimap, reserved, .. } = self;
        let bad = |error| malformed(id, error);
        let storage = storage.as_ref();
        let header = read_header(window, encoded).map_err(bad)?;
        let value = &encoded[header.header_len..];
        let end = element.skip(value).map_err(bad)?;
        let value = &value[..end];
        if let Some(iterable) = iterable {
            for window in header.windows.iter() {
                let pages = entry(iterable, window, reserved);
                let before = pages.open_bytes() as i64;
                pages.add(value, storage)?;
                change(reserved, pages.open_bytes() as i64 - before);
            }
        }
        if let Some(multimap) = multimap {
            let Coder::Kv(key_coder, _) = element.as_ref() else {
                return Err(bad(CoderError::Malformed {
                    what: "side input",
                    reason: "read as a map, it has no keys",
                }));
            };
            let (key, value) = value.split_at(key_coder.skip(value).map_err(bad)?);
            for window in header.windows.iter() {
                let more = entry(multimap, window, reserved).recent.add(key, value, storage)?;
                change(reserved, more);
            }
        }
        Ok(header.header_len + end)
    }

    /// Gives what is in no page yet to the storage if it is much, or if there is no room for it.
    fn make_room(&mut self) -> Result<(), Fault> {
        let budget = self.storage.budget();
        let open = self.reserved.bytes();
        let share = if budget.is_over() { SMALLEST_OPEN_IN_BUDGET } else { OPEN_IN_BUDGET };
        if open <= budget.limit() / share || open < page_bytes(self.storage.as_ref()) as u64 {
            return Ok(());
        }
        let (storage, mut left) = (self.storage.as_ref(), 0);
        for (window, pages) in self.iterable.iter_mut().flatten() {
            pages.end_page(storage)?;
            left += WINDOW_OVERHEAD + window.len() as u64;
        }
        for (window, map) in self.multimap.iter_mut().flatten() {
            map.end_run(storage)?;
            left += WINDOW_OVERHEAD + window.len() as u64;
        }
        self.reserved.resize(left);
        Ok(())
    }

    /// May wait for a disk.
    ///
    /// Errors: the storage has no room, or something cannot be read back.
    pub fn finish(self) -> Result<SideInput, Fault> {
        let Self { iterable, multimap, storage, mut reserved, held, .. } = self;
        let mut left = 0;
        let mut by_window = HashMap::new();
        for (window, pages) in iterable.into_iter().flatten() {
            left += WINDOW_OVERHEAD + window.len() as u64;
            by_window.insert(window, pages.finish(storage.as_ref())?);
        }
        let mut maps = HashMap::new();
        for (window, mut map) in multimap.into_iter().flatten() {
            left += WINDOW_OVERHEAD + window.len() as u64;
            map.end_run(storage.as_ref())?;
            maps.insert(window, Multimap::new(map.runs, storage.as_ref())?);
        }
        reserved.resize(left);
        Ok(SideInput { iterable: by_window, multimap: maps, storage, _reserved: reserved, _held: held })
    }
}

impl MultimapBuilder {
    fn end_run(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        let recent = std::mem::take(&mut self.recent);
        if !recent.is_empty() {
            self.runs.push(recent.into_run(storage)?);
        }
        Ok(())
    }
}

/// Which part of a side input is asked for.
#[derive(Clone, Copy)]
pub enum Question<'a> {
    Iterable,
    ValuesOf(&'a [u8]),
    Keys,
    KeysAndValues,
}

impl SideInputView for SideInput {
    fn get(&self, window: &[u8], question: Question<'_>, continuation: &[u8]) -> Result<StatePage, Fault> {
        let map = self.multimap.get(window);
        let answer = match question {
            Question::Iterable => self.iterable.get(window).map(|pages| page(pages, continuation)),
            Question::ValuesOf(key) => map.map(|map| map.values_of(key, continuation)),
            Question::Keys => map.map(|map| map.keys(continuation)),
            Question::KeysAndValues => map.map(|map| map.entries(continuation, self.storage.as_ref())),
        };
        answer.unwrap_or_else(|| page(&[], continuation))
    }
}

fn entry<'a, V: Default>(
    map: &'a mut HashMap<Box<[u8]>, V>,
    key: &[u8],
    reserved: &mut Reservation,
) -> &'a mut V {
    map.entry(key.into()).or_insert_with(|| {
        reserved.grow(WINDOW_OVERHEAD + key.len() as u64);
        V::default()
    })
}

/// So many bytes more, or fewer.
fn change(reserved: &mut Reservation, more: i64) {
    match more {
        0.. => reserved.grow(more.unsigned_abs()),
        ..0 => reserved.shrink(more.unsigned_abs()),
    }
}
