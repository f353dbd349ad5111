//! Elements of a main input that wait until side inputs are ready for their windows.

use beam_model::time::EventTime;
use bytes::Bytes;
use indexmap::IndexMap;

use super::elements::Elements;
use super::group_by_key::Window;
use crate::fault::Fault;
use crate::plan::Collection;

/// What waits, by the windows that it is in: all elements with the same windows wait for the same.
#[derive(Default)]
pub struct Waiting {
    groups: IndexMap<Vec<Window>, Group>,
}

struct Group {
    elements: Vec<u8>,
    earliest: EventTime,
}

impl Waiting {
    /// Adds a block of elements.
    ///
    /// Errors: the block is not what the coders say.
    pub fn add(&mut self, collection: &Collection, block: &Bytes) -> Result<(), Fault> {
        for element in Elements::new(collection, block.clone()) {
            let element = element?;
            let windows: Vec<Window> =
                element.windows()?.iter().map(|window| window.as_ref().into()).collect();
            let timestamp = element.timestamp()?;
            let new = || Group { elements: Vec::new(), earliest: timestamp };
            let group = self.groups.entry(windows).or_insert_with(new);
            group.elements.extend_from_slice(&element.data);
            group.earliest = group.earliest.min(timestamp);
        }
        Ok(())
    }

    /// The windows of all that waits; some more than once.
    pub fn windows(&self) -> impl Iterator<Item = &Window> {
        self.groups.keys().flatten()
    }

    /// Takes out what need not wait any longer, as blocks of elements: of an element all windows have to be
    /// ready, since it is not divided.
    pub fn release(&mut self, is_ready: impl Fn(&Window) -> bool) -> Vec<Bytes> {
        let mut released = Vec::new();
        self.groups.retain(|windows, group| {
            let ready = windows.iter().all(&is_ready);
            if ready {
                released.push(std::mem::take(&mut group.elements).into());
            }
            !ready
        });
        released
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

    use super::*;
    use crate::plan::Grain;

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
        let mut waiting = Waiting::default();
        assert_eq!(waiting.hold(), EventTime::MAX);
        let (a, b) = (element(7, &[0], 1), element(5, &[0, 10], 2));
        let (c, d) = (element(3, &[0], 3), element(EventTime::MAX.0, &[20], 4));
        let block = [a.clone(), b.clone(), c.clone(), d.clone()].concat().into();
        waiting.add(&collection, &block).unwrap();
        assert_eq!(waiting.hold(), EventTime(3));
        assert!(waiting.release(|_| false).is_empty());
        assert_eq!(waiting.release(|ready| **ready == window(0)), [[a, c].concat()]);
        assert_eq!(waiting.hold(), EventTime(5));
        let windows: Vec<_> = waiting.windows().map(|window| window.to_vec()).collect();
        assert_eq!(windows, [window(0), window(10), window(20)]);
        assert_eq!(waiting.release(|ready| **ready != window(20)), [b]);
        assert!(waiting.hold() < EventTime::MAX, "whatever waits holds the end back");
        assert_eq!(waiting.release(|_| true), [d]);
        assert_eq!(waiting.hold(), EventTime::MAX);
        assert!(waiting.add(&collection, &Bytes::from_static(b"\x80")).is_err());
    }
}
