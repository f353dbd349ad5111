//! The state of a key in a window.

use super::map::Multimap;
use super::ordered_list::OrderedList;
use super::store::StateNumber;
use super::values::Values;

/// What a state, or a key of a map, takes besides its values.
const ENTRY_OVERHEAD: usize = 128;

/// All state of a key in a window. None of it is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Cells {
    pub(super) bags: ByState<Values>,
    pub(super) multimaps: ByState<Multimap>,
    pub(super) ordered_lists: ByState<OrderedList>,
}

/// Something for each of a few states. There may be one of these for each of very many keys.
#[derive(Clone, Debug)]
pub(super) struct ByState<T>(Vec<(StateNumber, T)>);

impl Cells {
    /// Bytes of values and of keys of maps.
    pub(super) fn bytes(&self) -> u64 {
        let bags: u64 = self.bags.iter().map(Values::bytes).sum();
        let multimaps: u64 = self.multimaps.iter().map(Multimap::bytes).sum();
        bags + multimaps + self.ordered_lists.iter().map(OrderedList::bytes).sum::<u64>()
    }

    /// About how many bytes of memory this takes besides what is in the storage.
    pub(super) fn memory(&self) -> u64 {
        let bags = self.bags.iter().map(|bag| bag.tail.len());
        // Pages are rare here; they count as if they were in no storage.
        let maps = self.multimaps.iter().map(|map| map.bytes() as usize + map.keys.len() * ENTRY_OVERHEAD);
        let lists = self
            .ordered_lists
            .iter()
            .map(|list| list.bytes() as usize + list.elements.len() * ENTRY_OVERHEAD);
        bags.chain(maps).chain(lists).map(|bytes| (bytes + ENTRY_OVERHEAD) as u64).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bags.0.is_empty() && self.multimaps.0.is_empty() && self.ordered_lists.0.is_empty()
    }
}

impl<T> Default for ByState<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByState<T> {
    pub(super) fn get(&self, state: StateNumber) -> Option<&T> {
        self.0.iter().find(|(number, _)| *number == state).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn iter_numbered(&self) -> impl Iterator<Item = (StateNumber, &T)> {
        self.0.iter().map(|(number, value)| (*number, value))
    }

    /// Lets `change` have the state's value, or a new one, and keeps it unless it is `empty` then.
    pub(super) fn update<R>(
        &mut self,
        state: StateNumber,
        change: impl FnOnce(&mut T) -> R,
        empty: impl FnOnce(&T) -> bool,
    ) -> R
    where
        T: Default,
    {
        let index = match self.0.iter().position(|(number, _)| *number == state) {
            Some(index) => index,
            None => {
                // Most keys have as many states as this, so no room is left for more.
                self.0.reserve_exact(1);
                self.0.push((state, T::default()));
                self.0.len() - 1
            }
        };
        let value = &mut self.0[index].1;
        let changed = change(value);
        if empty(value) {
            self.0.swap_remove(index);
        }
        changed
    }

    /// The same for values that are always kept.
    pub(super) fn change<R>(&mut self, state: StateNumber, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Default,
    {
        self.update(state, change, |_| false)
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (StateNumber, T)> {
        self.0.into_iter()
    }
}
