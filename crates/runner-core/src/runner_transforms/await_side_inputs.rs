//! Elements of a main input that wait until side inputs are ready for their windows.

use std::sync::Arc;

use beam_model::time::EventTime;
use indexmap::IndexMap;

use super::elements::Elements;
use super::group_by_key::Window;
use crate::fault::Fault;
use crate::plan::Collection;
use crate::ports::{Reservation, Storage, StoredBlock};

/// What waits, by the windows that it is in: all elements with the same windows wait for the same.
pub struct Waiting {
    groups: IndexMap<Vec<Window>, Group>,
    /// For what is not in the storage.
    reserved: Reservation,
}

/// Elements of a group become a block when they have so many bytes.
const BLOCK_BYTES: usize = 256 << 10;

struct Group {
    full: Vec<StoredBlock>,
    open: Vec<u8>,
    earliest: EventTime,
    /// What the elements' blocks held.
    held: Vec<Arc<dyn Send + Sync>>,
}

impl Group {
    fn end_block(&mut self, reserved: &mut Reservation, storage: &dyn Storage) -> Result<(), Fault> {
        if !self.open.is_empty() {
            reserved.shrink(self.open.len() as u64);
            self.full.push(storage.put(std::mem::take(&mut self.open).into())?);
        }
        Ok(())
    }
}

impl Waiting {
    pub fn new(storage: &dyn Storage) -> Self {
        Self { groups: IndexMap::new(), reserved: storage.budget().reserve(0) }
    }

    /// Adds a block of elements. May wait for a disk.
    ///
    /// Errors: the block is not what the coders say, it cannot be read back, or the storage has no room.
    pub fn add(
        &mut self,
        collection: &Collection,
        block: &StoredBlock,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        let mut holding: Option<Vec<Window>> = None;
        for element in Elements::new(collection, block.read()?) {
            let element = element?;
            let windows: Vec<Window> =
                element.windows()?.iter().map(|window| window.as_ref().into()).collect();
            let timestamp = element.timestamp()?;
            let same = holding.as_ref() == Some(&windows);
            if !same && block.held().is_some() {
                holding = Some(windows.clone());
            }
            let new = || Group { full: Vec::new(), open: Vec::new(), earliest: timestamp, held: Vec::new() };
            let group = self.groups.entry(windows).or_insert_with(new);
            if !same {
                group.held.extend(block.held().cloned());
            }
            group.open.extend_from_slice(&element.data);
            self.reserved.grow(element.data.len() as u64);
            group.earliest = group.earliest.min(timestamp);
            if group.open.len() >= BLOCK_BYTES {
                group.end_block(&mut self.reserved, storage)?;
            }
        }
        if storage.budget().is_over() {
            for group in self.groups.values_mut() {
                group.end_block(&mut self.reserved, storage)?;
            }
        }
        Ok(())
    }

    /// The windows of all that waits; some more than once.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.groups.keys().flatten()
    }

    /// Takes out what need not wait any longer, as blocks of elements: of an element all windows have to be
    /// ready, since it is not divided.
    ///
    /// Errors: the storage has no room.
    pub fn release(
        &mut self,
        is_ready: impl Fn(&Window) -> bool,
        storage: &dyn Storage,
    ) -> Result<Vec<StoredBlock>, Fault> {
        let mut released = Vec::new();
        let ready = |windows: &Vec<Window>, _: &mut Group| windows.iter().all(&is_ready);
        for (_, mut group) in self.groups.extract_if(.., ready) {
            group.end_block(&mut self.reserved, storage)?;
            let Group { full, held, .. } = group;
            match held.is_empty() {
                true => released.extend(full),
                false => {
                    let held: Arc<dyn Send + Sync> = Arc::new(held);
                    released.extend(full.into_iter().map(|block| block.holding(held.clone())));
                }
            }
        }
        Ok(released)
    }

    /// The event time of the earliest that waits; [`EventTime::MAX`] if nothing does.
    pub fn hold(&self) -> EventTime {
        // At the end of time nothing waits any more.
        let last = EventTime(EventTime::MAX.0 - 1);
        self.groups.values().map(|group| group.earliest.min(last)).min().unwrap_or(EventTime::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use beam_model::coders::windowed_value::write_header;
    use beam_model::coders::{Coder, IntervalWindow};
    use bytes::Bytes;

    use super::*;
    use crate::plan::Grain;
    use crate::ports::memory::MemoryStorage;

    fn window(start: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        IntervalWindow { start: EventTime(start), end: EventTime(start + 10) }.write(&mut bytes);
        bytes
    }

    fn element(time: i64, windows: &[i64], value: u8) -> Vec<u8> {
        let mut out = Vec::new();
        let windows: Vec<_> = windows.iter().map(|start| window(*start)).collect();
        write_header(&mut out, EventTime(time), windows.iter().map(Vec::as_slice), &[0x0F]).unwrap();
        out.push(value);
        out
    }

    #[test]
    fn elements_wait_for_all_their_windows_and_hold_the_watermark() {
        let collection = Collection {
            id: "main".to_owned(),
            element_coder: Arc::new(Coder::VarInt),
            window_coder: Arc::new(Coder::IntervalWindow),
            grain: Grain::Block,
            by_key: false,
            timed: true,
            side_input_patterns: Vec::new(),
            live: None,
        };
        let storage = MemoryStorage::unlimited();
        let storage = storage.as_ref();
        let mut waiting = Waiting::new(storage);
        assert_eq!(waiting.hold(), EventTime::MAX);
        let (a, b) = (element(7, &[0], 1), element(5, &[0, 10], 2));
        let (c, d) = (element(3, &[0], 3), element(EventTime::MAX.0, &[20], 4));
        let block = storage.put([a.clone(), b.clone(), c.clone(), d.clone()].concat().into()).unwrap();
        waiting.add(&collection, &block, storage).unwrap();
        let release = |waiting: &mut Waiting, is_ready: &dyn Fn(&Window) -> bool| {
            let blocks = waiting.release(is_ready, storage).unwrap();
            blocks.iter().map(|block| block.read().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(waiting.hold(), EventTime(3));
        assert!(release(&mut waiting, &|_| false).is_empty());
        assert_eq!(release(&mut waiting, &|ready| **ready == window(0)), [[a, c].concat()]);
        assert_eq!(waiting.hold(), EventTime(5));
        let windows: Vec<_> = waiting.windows().map(|window| window.to_vec()).collect();
        assert_eq!(windows, [window(0), window(10), window(20)]);
        assert_eq!(release(&mut waiting, &|ready| **ready != window(20)), [b]);
        assert!(waiting.hold() < EventTime::MAX, "whatever waits holds the end back");
        assert_eq!(release(&mut waiting, &|_| true), [d]);
        assert_eq!(waiting.hold(), EventTime::MAX);
        assert!(
            waiting.add(&collection, &StoredBlock::in_memory(Bytes::from_static(b"\x80")), storage).is_err()
        );
    }
}
