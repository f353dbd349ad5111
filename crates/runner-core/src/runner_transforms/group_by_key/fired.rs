//! Panes that have fired, as elements `KV<K, Iterable<V>>`.
//!
//! They keep their values as they had them, in memory or not, until somebody takes them: only then, and block by block, are
//! they put together.

use std::sync::Arc;
use std::vec;

use beam_model::coders::windowed_value::write_header;
use beam_model::coders::{Coder, CoderError, PaneInfo};
use beam_model::time::EventTime;

use super::frames::{self, Frames};
use super::room::{Room, Sizes, Spill};
use super::values::Values;
use super::{Pane, malformed};
use crate::fault::Fault;
use crate::plan::Grain;
use crate::ports::{Storage, StoredBlock};
use crate::runner_transforms::iterables::Iterables;

/// Panes one after another.
#[derive(Debug, Default)]
pub(super) struct Fired {
    /// What comes before the values of each, without their number.
    heads: Vec<u8>,
    panes: Vec<FiredPane>,
    /// Bytes of memory that the values take.
    memory: usize,
    /// Of these bytes of values.
    in_memory: usize,
    /// Bytes of all panes.
    len: u64,
}

#[derive(Debug)]
struct FiredPane {
    head_len: usize,
    values: Values,
}

impl FiredPane {
    /// Bytes, once it is put together.
    fn len(&self) -> u64 {
        self.head_len as u64 + size_of::<i32>() as u64 + self.values.len()
    }
}

impl Fired {
    pub(super) fn push(
        &mut self,
        time: EventTime,
        window: &[u8],
        pane: &PaneInfo,
        key: &[u8],
        values: Values,
    ) -> Result<(), CoderError> {
        values.count()?;
        let before = self.heads.len();
        let mut encoded = Vec::with_capacity(8);
        pane.write(&mut encoded);
        write_header(&mut self.heads, time, [window], &encoded)?;
        self.heads.extend_from_slice(key);
        let pane = FiredPane { head_len: self.heads.len() - before, values };
        self.memory += pane.values.memory();
        self.in_memory += pane.values.in_memory().len();
        self.len += pane.len();
        self.panes.push(pane);
        Ok(())
    }

    /// Bytes of all panes, once they are put together.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes of memory that they take.
    pub(super) fn memory(&self) -> usize {
        self.heads.capacity() + self.panes.capacity() * size_of::<FiredPane>() + self.memory
    }

    /// Bytes of values that are in memory.
    pub(super) fn in_memory(&self) -> usize {
        self.in_memory
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Values> {
        self.panes.iter().map(|pane| &pane.values)
    }

    /// Gives to the storage what has at least so many bytes in memory.
    ///
    /// Errors: the disk is full or broken.
    pub(super) fn spill(&mut self, least: usize, storage: &dyn Storage, sizes: &Sizes) -> Result<(), Fault> {
        let all = self.panes.iter_mut().map(|pane| &mut pane.values);
        let mut chosen: Vec<&mut Values> = all.filter(|values| values.in_memory().len() >= least).collect();
        frames::write(&mut chosen, sizes, storage)?;
        self.memory = self.values().map(Values::memory).sum();
        self.in_memory = self.values().map(|values| values.in_memory().len()).sum();
        Ok(())
    }

    /// Takes all panes away, to be cut into blocks.
    pub(super) fn take(&mut self, grain: Grain, room: Room, of: Of) -> FiredBlocks {
        let Self { heads, panes, memory, in_memory, .. } = std::mem::take(self);
        let frames = Frames::new(&room);
        let rest = Rest { heads, at: 0, panes: panes.into_iter(), memory, in_memory, left: 0 };
        FiredBlocks { rest, grain, room, frames, of }
    }
}

/// Of which GroupByKey panes are.
#[derive(Clone)]
pub(super) struct Of {
    pub(super) name: String,
    pub(super) value_coder: Coder,
    /// Keeps values that are too many, if those who read the panes know how to ask for them.
    pub(super) iterables: Option<Arc<Iterables>>,
}

/// Panes on their way out.
pub(super) struct FiredBlocks {
    rest: Rest,
    grain: Grain,
    room: Room,
    frames: Frames,
    of: Of,
}

impl FiredBlocks {
    fn block(&mut self) -> Result<Option<Pane>, Fault> {
        let (count, bytes) = self.rest.block(self.grain, &self.room.sizes);
        if count == 0 {
            return Ok(None);
        }
        if count == 1
            && bytes >= self.room.sizes.large_group
            && let Some(iterables) = self.of.iterables.clone()
        {
            return self.with_token(&iterables);
        }
        let _reserved = self.room.reserve(bytes);
        self.room.settle(&mut self.rest)?;
        let mut block = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        for _ in 0..count {
            let Some(values) = self.rest.next(&mut block) else { break };
            let count = values.count().map_err(|error| malformed(&self.of.name, error))?;
            block.extend_from_slice(&count.to_be_bytes());
            values.read(&mut self.frames, |bytes| {
                block.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        Ok(Some(Pane { data: block.into(), iterable: None }))
    }

    /// A pane whose values stay here.
    fn with_token(&mut self, iterables: &Arc<Iterables>) -> Result<Option<Pane>, Fault> {
        let mut data = Vec::new();
        let Some(values) = self.rest.next(&mut data) else { return Ok(None) };
        let mut pages = Pages::new(&self.of, &self.room);
        values.read(&mut self.frames, |bytes| pages.add(bytes))?;
        let iterable = iterables.keep(pages.finish()?);
        iterable.write(&mut data);
        Ok(Some(Pane { data: data.into(), iterable: Some(iterable) }))
    }
}

impl Iterator for FiredBlocks {
    type Item = Result<Pane, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.block().transpose()
    }
}

/// Panes that are still to come.
struct Rest {
    heads: Vec<u8>,
    /// Where the next head begins.
    at: usize,
    panes: vec::IntoIter<FiredPane>,
    memory: usize,
    in_memory: usize,
    /// Of these bytes, those that were left when others were given to the storage.
    left: usize,
}

impl Rest {
    /// How many panes the next block has, and how many bytes about.
    fn block(&self, grain: Grain, sizes: &Sizes) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        for pane in self.panes.as_slice() {
            let large = pane.len() >= sizes.block as u64;
            let full = match grain {
                Grain::Element => count > 0,
                Grain::Block => bytes >= sizes.block as u64 || (large && count > 0),
            };
            if full {
                break;
            }
            (count, bytes) = (count + 1, bytes + pane.len());
        }
        (count, bytes)
    }

    /// Appends the head of the next pane to `out`.
    fn next(&mut self, out: &mut Vec<u8>) -> Option<Values> {
        let FiredPane { head_len, values } = self.panes.next()?;
        out.extend_from_slice(self.heads.get(self.at..self.at + head_len).unwrap_or_default());
        self.at += head_len;
        self.memory -= values.memory();
        self.in_memory -= values.in_memory().len();
        self.left = self.left.min(self.in_memory);
        Some(values)
    }
}

impl Spill for Rest {
    fn memory(&self) -> u64 {
        (self.heads.capacity() + self.panes.len() * size_of::<FiredPane>() + self.memory) as u64
    }

    fn spillable(&self) -> u64 {
        (self.in_memory - self.left) as u64
    }

    /// What is wanted last.
    fn spill(&mut self, bytes: u64, storage: &dyn Storage, sizes: &Sizes) -> Result<(), Fault> {
        let goal = bytes.max(sizes.share / 2);
        let (mut chosen, mut sum) = (Vec::new(), 0);
        let mut panes = self.panes.as_mut_slice().iter_mut().rev();
        while sum < goal
            && let Some(FiredPane { values, .. }) = panes.next()
        {
            let len = values.in_memory().len();
            if len >= sizes.part {
                sum += len as u64;
                chosen.push(values);
            }
        }
        chosen.reverse();
        let memory = |chosen: &[&mut Values]| -> (usize, usize) {
            let memory = chosen.iter().map(|values| values.memory()).sum();
            (memory, chosen.iter().map(|values| values.in_memory().len()).sum())
        };
        let before = memory(&chosen);
        frames::write(&mut chosen, sizes, storage)?;
        let now = memory(&chosen);
        self.memory = self.memory + now.0 - before.0;
        self.in_memory = self.in_memory + now.1 - before.1;
        self.left = self.in_memory;
        Ok(())
    }
}

/// Values on their way into pages that workers ask for.
struct Pages<'a> {
    of: &'a Of,
    room: &'a Room,
    full: Vec<StoredBlock>,
    open: Vec<u8>,
    /// So many bytes of `open` are whole values.
    whole: usize,
}

impl<'a> Pages<'a> {
    fn new(of: &'a Of, room: &'a Room) -> Self {
        Self { of, room, full: Vec::new(), open: Vec::new(), whole: 0 }
    }

    /// Errors: the storage has no room.
    fn add(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.open.extend_from_slice(bytes);
        // The last value may go on in the next piece.
        while let Some(rest) = self.open.get(self.whole..).filter(|rest| !rest.is_empty())
            && let Ok(len) = self.of.value_coder.skip(rest)
            && len > 0
        {
            self.whole += len;
            if self.whole >= self.room.sizes.block {
                self.end_page()?;
            }
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), Fault> {
        let rest = self.open.split_off(self.whole);
        let page = std::mem::replace(&mut self.open, rest);
        self.whole = 0;
        self.full.push(self.room.storage.put(page.into())?);
        Ok(())
    }

    /// Errors: the storage has no room, or the last value has no end.
    fn finish(mut self) -> Result<Vec<StoredBlock>, Fault> {
        if self.whole < self.open.len() {
            let name = &self.of.name;
            return Err(Fault::runner(format!("a value that was kept for {name} came back without its end")));
        }
        if self.whole > 0 {
            self.end_page()?;
        }
        Ok(self.full)
    }
}
