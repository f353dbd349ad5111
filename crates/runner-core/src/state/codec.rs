//! State as bytes, to be put where it takes no memory. Pages of large values stay what they are, in the order in which they are
//! met.

use std::collections::BTreeMap;

use beam_model::coders::{CoderError, varint};

use super::cells::{ByState, Cells};
use super::map::Multimap;
use super::ordered_list::OrderedList;
use super::store::StateNumber;
use super::values::Values;
use crate::ports::StoredBlock;

/// Takes down state of one key after another.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
    pub(super) pages: Vec<StoredBlock>,
}

impl Writer {
    pub(super) fn cells(&mut self, window: &[u8], key: &[u8], cells: &Cells) {
        varint::write_prefixed(&mut self.out, window);
        varint::write_prefixed(&mut self.out, key);
        self.states(&cells.bags, |writer, values| writer.values(values));
        self.states(&cells.multimaps, |writer, map| {
            varint::write(&mut writer.out, map.keys.len() as u64);
            for (key, values) in &map.keys {
                varint::write_prefixed(&mut writer.out, key);
                writer.values(values);
            }
        });
        self.states(&cells.ordered_lists, |writer, list| {
            varint::write(&mut writer.out, list.elements.len() as u64);
            for (key, values) in &list.elements {
                varint::write_signed(&mut writer.out, *key);
                writer.values(values);
            }
        });
    }

    fn states<T>(&mut self, states: &ByState<T>, write: impl Fn(&mut Self, &T)) {
        varint::write(&mut self.out, states.iter().count() as u64);
        for (StateNumber(number), state) in states.iter_numbered() {
            varint::write(&mut self.out, u64::from(number));
            write(self, state);
        }
    }

    fn values(&mut self, values: &Values) {
        varint::write(&mut self.out, values.appends());
        varint::write(&mut self.out, values.full.len() as u64);
        self.pages.extend(values.full.iter().cloned());
        varint::write_prefixed(&mut self.out, &values.tail);
    }
}

/// Reads what a [`Writer`] has written: its bytes, and its pages one after another.
pub(super) struct Reader<'a, P> {
    rest: &'a [u8],
    pages: &'a mut P,
}

impl<'a, P: Iterator<Item = StoredBlock>> Reader<'a, P> {
    pub(super) fn new(rest: &'a [u8], pages: &'a mut P) -> Self {
        Self { rest, pages }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// A window, a key, and its state.
    pub(super) fn cells(&mut self) -> Result<(&'a [u8], &'a [u8], Cells), CoderError> {
        let (window, key) = (self.prefixed()?, self.prefixed()?);
        let bags = self.states(Self::values)?;
        let multimaps = self.states(|reader| {
            let entries: Result<BTreeMap<_, _>, _> =
                (0..reader.number()?).map(|_| Ok((reader.prefixed()?.into(), reader.values()?))).collect();
            entries.map(Multimap::of)
        })?;
        let ordered_lists = self.states(|reader| {
            let elements: Result<BTreeMap<_, _>, _> =
                (0..reader.number()?).map(|_| Ok((reader.number()? as i64, reader.values()?))).collect();
            elements.map(OrderedList::of)
        })?;
        Ok((window, key, Cells { bags, multimaps, ordered_lists }))
    }

    fn states<T: Default>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, CoderError>,
    ) -> Result<ByState<T>, CoderError> {
        let mut states = ByState::default();
        for _ in 0..self.number()? {
            let number = u32::try_from(self.number()?).map_err(|_| damaged())?;
            let state = read(self)?;
            states.change(StateNumber(number), |known| *known = state);
        }
        Ok(states)
    }

    fn values(&mut self) -> Result<Values, CoderError> {
        let appends = self.number()?;
        let full = (0..self.number()?).map(|_| self.pages.next().ok_or_else(damaged));
        let full = full.collect::<Result<Vec<_>, _>>()?;
        Ok(Values::of(full, self.prefixed()?.to_vec(), appends))
    }

    fn number(&mut self) -> Result<u64, CoderError> {
        let (number, len) = varint::read(self.rest)?;
        self.rest = self.rest.get(len..).unwrap_or_default();
        Ok(number)
    }

    fn prefixed(&mut self) -> Result<&'a [u8], CoderError> {
        let (bytes, len) = varint::read_prefixed(self.rest)?;
        self.rest = self.rest.get(len..).unwrap_or_default();
        Ok(bytes)
    }
}

fn damaged() -> CoderError {
    CoderError::Malformed { what: "state", reason: "it is not as it was written" }
}
