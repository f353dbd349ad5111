//! A side input that goes on changing while it is read: what it has is published again and again, as
//! [`Snapshot`]s that share what is the same in them.

mod shards;
mod values;

use std::sync::{Arc, OnceLock};

use beam_model::coders::windowed_value::read_header;
use beam_model::coders::{Coder, CoderError};
use beam_model::time::EventTime;
use bytes::Bytes;
use indexmap::IndexMap;

use super::malformed;
use super::side_input::{PageBuilder, Question, SideInputView, page};
use crate::fault::Fault;
use crate::plan::{AccessPattern, Collection, Contents, LiveView, Ready};
use crate::ports::StatePage;
use shards::Shards;
use values::{Firing, Fresh, Values};

/// Takes in the elements of a side input that has no end.
pub struct LiveSideInput {
    id: String,
    element: Arc<Coder>,
    current: Snapshot,
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
}

/// The contents of a window, by key; by the empty key if keys do not matter. Pages are made when they are
/// asked for: few versions of a window ever are.
#[derive(Default)]
struct Window {
    values: Shards<Values>,
    elements: OnceLock<Vec<Bytes>>,
    keys: OnceLock<Vec<Bytes>>,
    entries: OnceLock<Vec<Bytes>>,
}

/// What has come at once, by window and key.
type Batch = IndexMap<Box<[u8]>, IndexMap<Box<[u8]>, Fresh>>;

impl LiveSideInput {
    pub fn new(collection: &Collection, view: LiveView) -> Self {
        let reads = |pattern| collection.side_input_patterns.contains(&pattern).then(Shards::default);
        let current = Snapshot {
            view,
            window: collection.window_coder.clone(),
            iterable: reads(AccessPattern::Iterable),
            multimap: reads(AccessPattern::Multimap),
            watermark: EventTime::MIN,
            version: 0,
        };
        Self { id: collection.id.clone(), element: collection.element_coder.clone(), current }
    }

    /// Adds blocks that have come at once: all that one bundle, or one firing of a trigger, has made.
    ///
    /// Errors: a block is not what the coders say.
    pub fn add<'a>(&mut self, blocks: impl IntoIterator<Item = &'a Bytes>) -> Result<(), Fault> {
        let (mut iterable, mut multimap) = (Batch::new(), Batch::new());
        for block in blocks {
            let mut rest: &[u8] = block;
            while !rest.is_empty() {
                let len = self.read_element(rest, &mut iterable, &mut multimap);
                rest = &rest[len.map_err(|error| malformed(&self.id, error))?..];
            }
        }
        self.current.version += 1;
        let contents = self.current.view.contents;
        if let Some(windows) = &mut self.current.iterable {
            merge(windows, contents, iterable);
        }
        if let Some(windows) = &mut self.current.multimap {
            merge(windows, contents, multimap);
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

fn merge(windows: &mut Shards<Arc<Window>>, contents: Contents, batch: Batch) {
    for (window, keys) in batch {
        let window = windows.entry(&window);
        let mut values = window.values.clone();
        for (key, fresh) in keys {
            values.entry(&key).add(contents, fresh);
        }
        *window = Arc::new(Window { values, ..Window::default() });
    }
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
        let pages = match question {
            Question::Iterable => iterable().map(|window| window.elements()),
            Question::ValuesOf(key) => {
                multimap().and_then(|window| window.values.get(key)).map(|values| values.pages.as_slice())
            }
            Question::Keys => multimap().map(|window| window.keys()),
            Question::KeysAndValues => multimap().map(|window| window.entries()),
        };
        page(pages.unwrap_or_default(), continuation)
    }
}

impl Window {
    fn elements(&self) -> &[Bytes] {
        self.elements.get_or_init(|| self.pages(|pages, _, values| pages.extend(&values.pages)))
    }

    fn keys(&self) -> &[Bytes] {
        self.keys.get_or_init(|| self.pages(|pages, key, _| pages.add(key)))
    }

    fn entries(&self) -> &[Bytes] {
        self.entries.get_or_init(|| {
            self.pages(|pages, key, values| {
                let mut entry = key.to_vec();
                entry.extend_from_slice(&values.count.to_be_bytes());
                values.pages.iter().for_each(|page| entry.extend_from_slice(page));
                pages.add(&entry);
            })
        })
    }

    fn pages(&self, add: impl Fn(&mut PageBuilder, &[u8], &Values)) -> Vec<Bytes> {
        let mut pages = PageBuilder::default();
        self.values.iter().for_each(|(key, values)| add(&mut pages, key, values));
        pages.finish()
    }
}

#[cfg(test)]
mod tests;
