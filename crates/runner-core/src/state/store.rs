//! What is committed.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::active_windows::ActiveWindows;
use super::bundle::{BundleState, CellWrites, Owner, WindowChange, Writes};
use super::map::Multimap;
use super::ordered_list::OrderedList;
use super::values::Values;
use super::{UserState, UserStateKind};

/// All user state of one stage of one job: committed values only.
pub struct StateStore {
    /// For people.
    pub(super) stage: String,
    /// By transform and state id: its number and kind.
    declared: HashMap<String, HashMap<String, Declared>>,
    /// By number.
    kinds: Vec<UserStateKind>,
    committed: RwLock<Committed>,
}

/// A state of the stage.
pub(super) struct Declared {
    pub(super) number: StateNumber,
    pub(super) kind: UserStateKind,
}

/// Tells the states of a stage apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateNumber(u32);

/// By window, then key: both encoded. There are few windows and many keys.
#[derive(Default)]
struct Committed {
    windows: HashMap<Box<[u8]>, ByKey>,
    bytes: u64,
    /// Of stages whose windows merge.
    active: ActiveWindows,
}

type ByKey = HashMap<Box<[u8]>, Arc<Cells>>;

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

impl StateStore {
    /// Empty. `stage` is for messages; a worker can ask for the declared states only.
    pub fn new(stage: impl Into<String>, states: impl IntoIterator<Item = UserState>) -> Self {
        let mut declared: HashMap<String, HashMap<String, Declared>> = HashMap::new();
        let mut kinds = Vec::new();
        for (number, UserState { transform_id, state_id, kind }) in (0..).zip(states) {
            kinds.push(kind.clone());
            let state = Declared { number: StateNumber(number), kind };
            declared.entry(transform_id).or_default().insert(state_id, state);
        }
        Self { stage: stage.into(), declared, kinds, committed: RwLock::default() }
    }

    /// The state for one attempt of a bundle. No two that run at a time may use the same key.
    pub fn begin(self: &Arc<Self>) -> BundleState {
        BundleState::new(self.clone())
    }

    /// Forgets all state of the windows that have expired.
    pub fn expire(&self, has_expired: impl Fn(&[u8]) -> bool) {
        let mut committed = self.committed.write().unwrap_or_else(PoisonError::into_inner);
        let Committed { windows, bytes: total, active } = &mut *committed;
        active.expire(&has_expired);
        windows.retain(|window, keys| {
            let expired = has_expired(window);
            if expired {
                *total -= keys.iter().map(|(key, cells)| bytes(window, key, cells)).sum::<u64>();
            }
            !expired
        });
    }

    /// Bytes of keys, windows and values.
    pub fn bytes(&self) -> u64 {
        self.committed.read().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// How many keys have state, counted once for each window.
    pub fn cells(&self) -> usize {
        let committed = self.committed.read().unwrap_or_else(PoisonError::into_inner);
        committed.windows.values().map(HashMap::len).sum()
    }

    pub(super) fn declared(&self, transform_id: &str, state_id: &str) -> Option<&Declared> {
        self.declared.get(transform_id)?.get(state_id)
    }

    pub(super) fn cells_of(&self, window: &[u8], key: &[u8]) -> Option<Arc<Cells>> {
        let committed = self.committed.read().unwrap_or_else(PoisonError::into_inner);
        committed.windows.get(window)?.get(key).cloned()
    }

    /// The windows of a key, if they merge.
    pub(super) fn active_windows(&self, key: &[u8]) -> Vec<Bytes> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner).active.of(key)
    }

    /// What windows of a key hold together. Not copied if only one holds anything.
    pub(super) fn merged_cells(&self, key: &[u8], windows: &[Bytes]) -> Arc<Cells> {
        let mut cells = windows.iter().filter_map(|window| self.cells_of(window, key));
        let Some(mut merged) = cells.next() else { return Arc::default() };
        cells.for_each(|later| Arc::make_mut(&mut merged).absorb(&later, |state| self.kind(state)));
        merged
    }

    fn kind(&self, state: StateNumber) -> Option<&UserStateKind> {
        self.kinds.get(usize::try_from(state.0).ok()?)
    }

    /// Applies all writes, or none to whoever looks.
    pub(super) fn apply(&self, mut writes: Writes, windows: Vec<WindowChange>) {
        let mut committed = self.committed.write().unwrap_or_else(PoisonError::into_inner);
        windows.into_iter().for_each(|change| committed.active.change(change));
        // First all that is replaced is removed, so that nobody else has what takes a place, and it need not be
        // copied to be written to.
        let bases: Vec<_> = writes
            .iter_mut()
            .filter_map(|(owner, writes)| {
                let base = writes.take_base()?;
                committed.remove(&owner.window, &owner.key);
                Some((owner.clone(), base))
            })
            .collect();
        for (Owner { window, key }, base) in bases {
            committed.insert(&window, &key, base);
        }
        for (owner, writes) in writes {
            committed.apply(&owner.window, &owner.key, writes);
        }
    }
}

impl Committed {
    fn apply(&mut self, window: &[u8], key: &[u8], writes: CellWrites) {
        match self.windows.get_mut(window).and_then(|keys| keys.get_mut(key)) {
            Some(cells) => {
                let before = bytes(window, key, cells);
                // Nobody else looks at this key now, so nothing is copied.
                writes.commit(Arc::make_mut(cells));
                self.bytes = self.bytes - before + bytes(window, key, cells);
                if cells.is_empty() {
                    self.remove(window, key);
                }
            }
            None => {
                let mut cells = Cells::default();
                writes.commit(&mut cells);
                self.insert(window, key, Arc::new(cells));
            }
        }
    }

    fn remove(&mut self, window: &[u8], key: &[u8]) {
        let Some(keys) = self.windows.get_mut(window) else { return };
        if let Some(cells) = keys.remove(key) {
            self.bytes -= bytes(window, key, &cells);
        }
        if keys.is_empty() {
            self.windows.remove(window);
        }
    }

    fn insert(&mut self, window: &[u8], key: &[u8], cells: Arc<Cells>) {
        if cells.is_empty() {
            return;
        }
        self.bytes += bytes(window, key, &cells);
        match self.windows.get_mut(window) {
            Some(keys) => drop(keys.insert(key.into(), cells)),
            None => drop(self.windows.insert(window.into(), HashMap::from([(key.into(), cells)]))),
        }
    }
}

fn bytes(window: &[u8], key: &[u8], cells: &Cells) -> u64 {
    window.len() as u64 + key.len() as u64 + cells.bytes()
}

impl Cells {
    fn bytes(&self) -> u64 {
        let bags: u64 = self.bags.iter().map(Values::bytes).sum();
        let multimaps: u64 = self.multimaps.iter().map(Multimap::bytes).sum();
        bags + multimaps + self.ordered_lists.iter().map(OrderedList::bytes).sum::<u64>()
    }

    fn is_empty(&self) -> bool {
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
