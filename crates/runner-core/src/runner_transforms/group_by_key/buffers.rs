//! The memory of all keys and windows, and of the panes that have fired.

use super::Window;
use super::cell::Cell;
use super::fired::Fired;
use super::frames;
use super::keys::Keys;
use super::room::{Sizes, Spill};
use super::values::Values;
use crate::fault::Fault;
use crate::ports::Storage;

/// What all cells take, kept count of: there may be very many.
#[derive(Debug, Default)]
pub(super) struct Tally {
    memory: usize,
    /// Bytes of values that are in memory.
    in_memory: usize,
    /// Of these, and those of panes, what was left when others were last given to the storage. To look for what is largest takes
    /// time, so it is done when there is something new.
    left: usize,
}

impl Tally {
    pub(super) fn add(&mut self, cell: &Cell) {
        self.memory += cell.memory();
        self.in_memory += cell.values.in_memory().len();
    }

    /// To be told before a cell changes.
    pub(super) fn remove(&mut self, cell: &Cell) {
        self.memory -= cell.memory();
        self.in_memory -= cell.values.in_memory().len();
    }

    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.memory, self.in_memory) == (other.memory, other.in_memory)
    }
}

/// All that a GroupByKey of unbounded input has in memory.
pub(super) struct Buffers<'a> {
    keys: &'a mut Keys,
    fired: &'a mut Fired,
    tally: &'a mut Tally,
}

impl<'a> Buffers<'a> {
    pub(super) fn new(keys: &'a mut Keys, fired: &'a mut Fired, tally: &'a mut Tally) -> Self {
        tally.left = tally.left.min(tally.in_memory + fired.in_memory());
        Self { keys, fired, tally }
    }

    fn in_memory(&self) -> usize {
        self.tally.in_memory + self.fired.in_memory()
    }
}

impl Spill for Buffers<'_> {
    fn memory(&self) -> u64 {
        (self.keys.memory() + self.tally.memory + self.fired.memory()) as u64
    }

    fn spillable(&self) -> u64 {
        self.in_memory().saturating_sub(self.tally.left) as u64
    }

    fn spill(&mut self, bytes: u64, storage: &dyn Storage, sizes: &Sizes) -> Result<(), Fault> {
        let in_cells = self.keys.windows().map(|(_, cell)| &cell.values);
        let least = frames::least(self.fired.values().chain(in_cells), bytes, sizes);
        self.fired.spill(least, storage, sizes)?;
        let cells = self.keys.windows_mut().filter(|(_, cell)| cell.values.in_memory().len() >= least);
        let mut chosen: Vec<(&Window, &mut Cell)> = cells.collect();
        // Those of a window are wanted one after another, by the numbers of their keys.
        chosen.sort_by_key(|(window, _)| *window);
        chosen.iter().for_each(|(_, cell)| self.tally.remove(cell));
        let mut values: Vec<&mut Values> = chosen.iter_mut().map(|(_, cell)| &mut cell.values).collect();
        let written = frames::write(&mut values, sizes, storage);
        chosen.iter().for_each(|(_, cell)| self.tally.add(cell));
        self.tally.left = self.in_memory();
        written
    }
}
