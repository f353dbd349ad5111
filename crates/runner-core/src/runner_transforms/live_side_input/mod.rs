//! A side input that goes on changing while it is read: what it has is published again and again, as
//! [`Snapshot`]s that share what is the same in them.

mod shards;
mod values;

use std::sync::{Arc, OnceLock};

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use beam_model::time::EventTime;
use indexmap::IndexMap;

use super::malformed;
use super::side_input::{PageBuilder, Question, SideInputView, page};
use crate::fault::Fault;
use crate::plan::{AccessPattern, Collection, Contents, LiveView, Ready};
use crate::ports::{Reservation, StatePage, Storage, StoredBlock};
use shards::Shards;
use values::{Firing, Fresh, Values};

/// Takes in the elements of a side input that has no end.
pub struct LiveSideInput {
    id: String,
    element: Arc<Coder>,
    current: Snapshot,
    /// For windows and keys.
    reserved: Reservation,
    /// What elements refer to.
    held: Vec<Arc<dyn Send + Sync>>,
}

/// What a side input has at some time.
#[derive(Clone)]
pub struct Snapshot {
    view: LiveView,
    window: Arc<Coder>,
    /// Windows that something is in.
    iterable: Option<Shards<Arc<Window>>>,
    multimap: Option<Shards<Arc<Window>>>,
    watermark: EventTime,
    /// How often something was added.
    version: u64,
    storage: Arc<dyn Storage>,
}

/// The contents of a window, by key; by the empty key if keys do not matter. Pages are made when they are
/// asked for: few versions of a window ever are.
#[derive(Default)]
struct Window {
    values: Shards<Values>,
    elements: OnceLock<Vec<StoredBlock>>,
    keys: OnceLock<Vec<StoredBlock>>,
    entries: OnceLock<Vec<StoredBlock>>,
}

/// What a key takes in a map besides its bytes.
const KEY_OVERHEAD: u64 = 128;

/// What has come at once, by window and key.
type Batch = IndexMap<Box<[u8]>, IndexMap<Box<[u8]>, Fresh>>;

impl LiveSideInput {
    pub fn new(collection: &Collection, view: LiveView, storage: Arc<dyn Storage>) -> Self {
        let reads = |pattern| collection.side_input_patterns.contains(&pattern).then(Shards::default);
        let current = Snapshot {
            view,
            window: collection.window_coder.clone(),
            iterable: reads(AccessPattern::Iterable),
            multimap: reads(AccessPattern::Multimap),
            watermark: EventTime::MIN,
            version: 0,
            storage: storage.clone(),
        };
        let reserved = storage.budget().reserve(0);
        let (id, element) = (collection.id.clone(), collection.element_coder.clone());
        Self { id, element, current, reserved, held: Vec::new() }
    }

    /// Adds blocks that have come at once: all that one bundle, or one firing of a trigger, has made.
    ///
    /// Errors: a block is not what the coders say, it cannot be read back, or the storage has no room.
    pub fn add<'a>(&mut self, blocks: impl IntoIterator<Item = &'a StoredBlock>) -> Result<(), Fault> {
        let (mut iterable, mut multimap) = (Batch::new(), Batch::new());
        for block in blocks {
            self.held.extend(block.held().cloned());
            let block = &block.read()?;
            let mut rest: &[u8] = block;
            while !rest.is_empty() {
                let len = self.read_element(rest, &mut iterable, &mut multimap);
                rest = &rest[len.map_err(|error| malformed(&self.id, error))?..];
            }
        }
        self.current.version += 1;
        let (contents, storage) = (self.current.view.contents, self.current.storage.clone());
        let parts = [(&mut self.current.iterable, iterable), (&mut self.current.multimap, multimap)];
        for (windows, batch) in parts {
            if let Some(windows) = windows {
                merge(windows, contents, batch, &mut self.reserved, storage.as_ref())?;
            }
        }
        Ok(())
    }

    /// No element before `watermark` is to be expected any more.
    pub fn advance_watermark(&mut self, watermark: EventTime) {
        self.current.watermark = self.current.watermark.max(watermark);
    }

    /// What it has now.
    pub fn snapshot(&self) -> Snapshot {
        self.current.clone()
    }

    /// Returns the element's length.
    fn read_element(
        &self,
        encoded: &[u8],
        iterable: &mut Batch,
        multimap: &mut Batch,
    ) -> Result<usize, CoderError> {
        let header = read_header(&self.current.window, encoded)?;
        let element = &encoded[header.header_len..];
        let element = &element[..self.element.skip(element)?];
        let firing = Firing::of(header.pane_info()?);
        let contents = self.current.view.contents;
        let key_len = match self.element.as_ref() {
            Coder::Kv(key, _) => Some(key.skip(element)?),
            _ => None,
        };
        for window in header.windows.iter() {
            if self.current.iterable.is_some() {
                let key = match contents {
                    Contents::All => &[],
                    // Each key has panes of its own.
                    Contents::NewestPane | Contents::NewestFiring => &element[..key_len.unwrap_or(0)],
                };
                fresh(iterable, window, key, firing).add(contents, firing, element);
            }
            if self.current.multimap.is_some() {
                let len = key_len.ok_or(CoderError::Malformed {
                    what: "side input",
                    reason: "read as a map, it has no keys",
                })?;
                let (key, value) = element.split_at(len);
                fresh(multimap, window, key, firing).add(contents, firing, value);
            }
        }
        Ok(header.header_len + element.len())
    }
}

fn fresh<'a>(batch: &'a mut Batch, window: &[u8], key: &[u8], firing: Firing) -> &'a mut Fresh {
    let window = match batch.get_index_of(window) {
        Some(index) => index,
        None => batch.insert_full(window.into(), IndexMap::new()).0,
    };
    let keys = &mut batch[window];
    let key = match keys.get_index_of(key) {
        Some(index) => index,
        None => keys.insert_full(key.into(), Fresh::new(firing)).0,
    };
    &mut keys[key]
}

fn merge(
    windows: &mut Shards<Arc<Window>>,
    contents: Contents,
    batch: Batch,
    reserved: &mut Reservation,
    storage: &dyn Storage,
) -> Result<(), Fault> {
    for (window, keys) in batch {
        let window = windows.entry(&window);
        let mut values = window.values.clone();
        for (key, fresh) in keys {
            let known = values.entry(&key);
            if known.count == 0 {
                reserved.grow(KEY_OVERHEAD + key.len() as u64);
            }
            known.add(contents, fresh, storage)?;
        }
        *window = Arc::new(Window { values, ..Window::default() });
    }
    Ok(())
}

impl Snapshot {
    /// Grows with whatever it has more than an earlier one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether an element of the main input that looks into this window need not wait any longer.
    pub fn is_ready(&self, window: &[u8]) -> bool {
        let end = self.window.max_timestamp_of_window(window);
        if self.watermark == EventTime::MAX || end.as_ref().is_ok_and(|end| *end < self.watermark) {
            return true;
        }
        // Of a window whose end only the SDK knows, what is there is all that can be waited for.
        let soon = self.view.ready == Ready::WithFirstElements || end.is_err();
        let has_elements =
            |windows: &Option<Shards<_>>| windows.as_ref().is_some_and(|all| all.get(window).is_some());
        soon && (has_elements(&self.iterable) || has_elements(&self.multimap))
    }
}

impl SideInputView for Snapshot {
    fn get(&self, window: &[u8], question: Question<'_>, continuation: &[u8]) -> Result<StatePage, Fault> {
        let iterable = || self.iterable.as_ref()?.get(window);
        let multimap = || self.multimap.as_ref()?.get(window);
        let storage = self.storage.as_ref();
        let pages = match question {
            Question::Iterable => iterable().map(|window| window.elements(storage)).transpose()?,
            Question::ValuesOf(key) => {
                multimap().and_then(|window| window.values.get(key)).map(|values| values.pages.as_slice())
            }
            Question::Keys => multimap().map(|window| window.keys(storage)).transpose()?,
            Question::KeysAndValues => multimap().map(|window| window.entries(storage)).transpose()?,
        };
        page(pages.unwrap_or_default(), continuation)
    }
}

impl Window {
    fn elements(&self, storage: &dyn Storage) -> Result<&[StoredBlock], Fault> {
        self.pages(&self.elements, storage, |pages, _, values| {
            values.pages.iter().try_for_each(|page| pages.add_page(page.clone(), storage))
        })
    }

    fn keys(&self, storage: &dyn Storage) -> Result<&[StoredBlock], Fault> {
        self.pages(&self.keys, storage, |pages, key, _| pages.add(key, storage))
    }

    fn entries(&self, storage: &dyn Storage) -> Result<&[StoredBlock], Fault> {
        self.pages(&self.entries, storage, |pages, key, values| {
            let mut entry = key.to_vec();
            entry.extend_from_slice(&values.count.to_be_bytes());
            for page in &values.pages {
                entry.extend_from_slice(&page.read()?);
            }
            pages.add(&entry, storage)
        })
    }

    /// Pages as they were made, or are now: for each key what `add` says.
    fn pages<'a>(
        &self,
        made: &'a OnceLock<Vec<StoredBlock>>,
        storage: &dyn Storage,
        add: impl Fn(&mut PageBuilder, &[u8], &Values) -> Result<(), Fault>,
    ) -> Result<&'a [StoredBlock], Fault> {
        if let Some(pages) = made.get() {
            return Ok(pages);
        }
        let mut pages = PageBuilder::default();
        self.values.iter().try_for_each(|(key, values)| add(&mut pages, key, values))?;
        let pages = pages.finish(storage)?;
        Ok(made.get_or_init(|| pages))
    }
}

#[cfg(test)]
mod tests;
