//! GroupByKey on encoded elements: two keys are the same if their encodings are.
//!
//! A pure state machine: what comes out depends on the calls alone. It is told of elements, of the
//! watermark and of processing time, and asked for the panes that have fired.
//!
//! [`bounded`] takes in a bounded input, of any size: each key and window has one pane when all is there, whatever the
//! trigger; early results of what ends anyway would be worth nothing.
//! [`unbounded`] follows triggers: a [`cell`] for each key and window has the values, the state of its
//! [`trigger`] and the number of its [`pane`]; [`index`] knows which cells are due; [`sessions`] says
//! which windows merge. What has [`fired`] is put together as it is taken.
//!
//! Both keep to the memory that there is ([`room`]). Of unbounded input, [`buffers`] says what of all that there is takes memory,
//! and [`frames`] have values on disk.

mod bounded;
mod buffers;
mod cell;
mod fired;
mod frames;
mod index;
mod keys;
mod pane;
mod room;
mod sessions;
mod trigger;
mod unbounded;
mod values;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;

use super::iterables::{Iterables, StoredIterable};
use super::malformed;
use crate::fault::Fault;
use crate::metrics::Dropped;
use crate::plan::{Grain, Grouping};
use crate::ports::Storage;
use bounded::{Blocks, Bounded};
use fired::{FiredBlocks, Of};
use room::Room;
pub(crate) use sessions::merge_sessions;
use unbounded::Unbounded;

/// Panes are handed on in blocks of about this many bytes.
const BLOCK_BYTES: usize = 1 << 20;

/// An encoded window.
pub type Window = Box<[u8]>;

/// What is said of a set of windows: by what windows they are replaced. Those it does not name stay.
pub type Merged = HashMap<Window, Window>;

/// A GroupByKey that takes in elements.
pub struct GroupByKey {
    input: Input,
}

enum Input {
    Bounded(Box<Bounded>),
    Unbounded(Box<Unbounded>),
}

impl GroupByKey {
    /// `name`: what the user calls the transform, for errors. `storage`: takes what does not fit in memory. `iterables`: keeps
    /// the values of groups that are too large for memory, if those who read the groups understand
    /// `beam:coder:state_backed_iterable:v1`; else such groups are handed on as a whole.
    pub fn new(
        grouping: Grouping,
        name: String,
        storage: Arc<dyn Storage>,
        iterables: Option<Arc<Iterables>>,
    ) -> Self {
        let input = if grouping.bounded {
            Input::Bounded(Box::new(Bounded::new(grouping, name, storage, iterables)))
        } else {
            let of = Of { name, value_coder: grouping.value_coder.clone(), iterables };
            Input::Unbounded(Box::new(Unbounded::new(grouping, Room::new(storage), of)))
        };
        Self { input }
    }

    /// One called Group, with no limit to its memory.
    #[cfg(test)]
    pub(crate) fn in_memory(grouping: Grouping) -> Self {
        Self::new(grouping, "Group".to_owned(), crate::ports::memory::MemoryStorage::unlimited(), None)
    }

    /// Adds elements `KV<K, V>`, all that one bundle has made of them. Triggers see them as a whole. `now`: the processing time.
    ///
    /// Elements whose window has expired, or whose trigger has finished, are dropped and counted.
    ///
    /// Errors: the block is not what the coders say, or does not fit in memory and cannot be written to disk.
    pub fn add_all(
        &mut self,
        mut blocks: impl Iterator<Item = Result<Bytes, Fault>>,
        now: ProcessingTime,
    ) -> Result<(), Fault> {
        match &mut self.input {
            Input::Bounded(bounded) => blocks.try_for_each(|block| bounded.add(&block?)),
            Input::Unbounded(unbounded) => unbounded.add(blocks, now),
        }
    }

    /// The same for one block.
    pub fn add(&mut self, block: &Bytes, now: ProcessingTime) -> Result<(), Fault> {
        self.add_all(std::iter::once(Ok(block.clone())), now)
    }

    /// The input's watermark has come to `watermark`: no more elements are expected with an earlier event
    /// time. Fires what is due. A bounded input has nothing to fire before [`EventTime::MAX`].
    ///
    /// Errors: a pane is too large for its encoding, or does not fit in memory and cannot be written to disk.
    pub fn advance_watermark(&mut self, watermark: EventTime) -> Result<(), Fault> {
        match &mut self.input {
            Input::Bounded(bounded) => {
                bounded.advance_watermark(watermark);
                Ok(())
            }
            Input::Unbounded(unbounded) => unbounded.advance_watermark(watermark),
        }
    }

    /// Fires what has waited for this processing time.
    ///
    /// Errors: a pane is too large for its encoding, or does not fit in memory and cannot be written to disk.
    pub fn advance_processing_time(&mut self, now: ProcessingTime) -> Result<(), Fault> {
        match &mut self.input {
            Input::Bounded(_) => Ok(()),
            Input::Unbounded(unbounded) => unbounded.advance_processing_time(now),
        }
    }

    /// The panes that have fired and have not been taken, as blocks of elements `KV<K, Iterable<V>>`. They
    /// are gone from here also if the iterator is dropped before its end. They are encoded, and read back, as the iterator
    /// goes on.
    pub fn take_panes(&mut self, grain: Grain) -> Panes {
        Panes(match &mut self.input {
            Input::Bounded(bounded) => Source::Groups(Box::new(bounded.take_groups(grain))),
            Input::Unbounded(unbounded) => Source::Fired(Box::new(unbounded.take_panes(grain))),
        })
    }

    /// Bytes of the panes that have fired and have not been taken, as far as that is known before they are.
    pub fn fired_bytes(&self) -> u64 {
        match &self.input {
            Input::Bounded(_) => 0,
            Input::Unbounded(unbounded) => unbounded.fired_len(),
        }
    }

    /// The output's watermark must not pass this event time, because of what is buffered;
    /// [`EventTime::MAX`] if nothing is. The output's watermark is the lesser of this and the input's,
    /// and may be told to others once all panes are taken and handed on. No pane that is not late has an
    /// earlier event time.
    pub fn hold(&self) -> EventTime {
        match &self.input {
            Input::Bounded(bounded) => bounded.hold(),
            Input::Unbounded(unbounded) => unbounded.hold(),
        }
    }

    /// The next processing time at which [`GroupByKey::advance_processing_time`] may fire something.
    pub fn next_wake(&self) -> Option<ProcessingTime> {
        match &self.input {
            Input::Bounded(_) => None,
            Input::Unbounded(unbounded) => unbounded.next_wake(),
        }
    }

    /// What was dropped so far.
    pub fn dropped(&self) -> Dropped {
        match &self.input {
            Input::Bounded(bounded) => bounded.dropped,
            Input::Unbounded(unbounded) => unbounded.dropped,
        }
    }

    /// The distinct sets of windows that only the SDK can merge, and has to before they can fire. To be
    /// asked after each [`GroupByKey::add`]; for a bounded input it is enough to ask when all is there.
    ///
    /// Errors: elements that are on disk cannot be read back.
    pub fn windows_to_merge(&mut self) -> Result<Vec<Vec<Window>>, Fault> {
        match &mut self.input {
            Input::Bounded(bounded) => bounded.windows_to_merge(),
            Input::Unbounded(unbounded) => Ok(unbounded.windows_to_merge()),
        }
    }

    /// Takes in the answer to [`GroupByKey::windows_to_merge`], and fires what has waited for it. Sets
    /// without an answer go on waiting if the input is unbounded, and stay as they are if it is bounded.
    ///
    /// Errors: a pane is too large for its encoding, or does not fit in memory and cannot be written to disk.
    pub fn merge_windows(&mut self, answers: HashMap<Vec<Window>, Merged>) -> Result<(), Fault> {
        match &mut self.input {
            Input::Bounded(bounded) => {
                bounded.merge_windows(answers);
                Ok(())
            }
            Input::Unbounded(unbounded) => unbounded.merge_windows(&answers),
        }
    }
}

/// A block of panes.
#[derive(Clone, Debug)]
pub struct Pane {
    pub data: Bytes,
    /// What the one pane that is in the block refers to; there as long as somebody has this.
    pub iterable: Option<Arc<StoredIterable>>,
}

/// Blocks of panes.
pub struct Panes(Source);

enum Source {
    Groups(Box<Blocks>),
    Fired(Box<FiredBlocks>),
}

impl Iterator for Panes {
    /// Errors: windows that are none, too large a pane, or elements that cannot be read back from disk.
    type Item = Result<Pane, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Groups(blocks) => blocks.next(),
            Source::Fired(blocks) => blocks.next(),
        }
    }
}
