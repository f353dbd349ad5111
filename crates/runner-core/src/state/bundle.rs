//! What one attempt of a bundle sees and writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::bag::{self, BagWrites};
use super::cells::{ByState, Cells};
use super::map::{Multimap, MultimapView, MultimapWrites};
use super::ordered_list::{self, OrderedList, OrderedListWrites, Span};
use super::store::{StateNumber, StateStore};
use super::{MapValues, UserStateKind, WindowMerge};
use crate::fault::Fault;
use crate::ports::{Reservation, StateHandler, StateKey, StatePage, Storage};

/// What a key's writes take besides their bytes.
const KEY_OVERHEAD: u64 = 256;

/// The user state of one attempt of a bundle: what is committed, and its own writes over that. Nobody else
/// sees the writes before [`Self::commit`]; dropping it discards them.
pub struct BundleState {
    store: Arc<StateStore>,
    uncommitted: Mutex<Uncommitted>,
}

#[derive(Default)]
struct Uncommitted {
    writes: Writes,
    bytes: u64,
    windows: Vec<WindowChange>,
    /// For what is written.
    reserved: Option<Reservation>,
}

pub(super) type Writes = HashMap<Owner, CellWrites>;

/// A key has a window, or has it no more.
#[derive(Debug)]
pub(super) enum WindowChange {
    Open(Owner),
    Close(Owner),
}

/// Whose state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) window: Bytes,
    pub(super) key: Bytes,
}

/// What is written for a key in a window.
#[derive(Default)]
pub(super) struct CellWrites {
    /// There if this takes the place of what is committed.
    base: Option<Arc<Cells>>,
    bags: ByState<BagWrites>,
    multimaps: ByState<MultimapWrites>,
    ordered_lists: ByState<OrderedListWrites>,
}

impl BundleState {
    pub(super) fn new(store: Arc<StateStore>) -> Self {
        Self { store, uncommitted: Mutex::default() }
    }

    /// Makes all writes so far visible at once. Takes time by what was written, not by what is stored, and waits for no disk.
    pub fn commit(&self) {
        let Uncommitted { writes, windows, .. } = std::mem::take(&mut *self.uncommitted());
        if !writes.is_empty() || !windows.is_empty() {
            self.store.apply(writes, windows);
        }
    }

    /// The windows that a key has, as far as it is committed; in the order of their encodings. Only of stages
    /// whose windows merge.
    pub fn active_windows(&self, key: &[u8]) -> Vec<Bytes> {
        self.store.active_windows(key)
    }

    /// A key has this window from now on.
    pub fn open_window(&self, key: &Bytes, window: &Bytes) {
        let owner = Owner { window: window.clone(), key: key.clone() };
        self.uncommitted().windows.push(WindowChange::Open(owner));
    }

    /// Makes one of windows of a key. To be called with all such merges of a key at once, before anything is
    /// written: what is merged is what is committed.
    ///
    /// The state of all parts becomes that of the result: what they hold together, in their order. Where there
    /// can be but one value (a value state, a key of a map) it is that of the last part that has one.
    ///
    /// Errors: what is committed cannot be read back, or there is no room for it.
    pub fn merge_windows(&self, key: &Bytes, merges: &[WindowMerge]) -> Result<(), Fault> {
        let owner = |window: &Bytes| Owner { window: window.clone(), key: key.clone() };
        let results = merges.iter().map(|merge| self.store.merged_cells(key, &merge.parts));
        let results = results.collect::<Result<Vec<_>, _>>()?;
        let mut uncommitted = self.uncommitted();
        for part in merges.iter().flat_map(|merge| &merge.parts) {
            uncommitted.windows.push(WindowChange::Close(owner(part)));
            uncommitted.writes.insert(owner(part), CellWrites::over(Arc::default()));
        }
        for (merge, cells) in merges.iter().zip(results) {
            uncommitted.windows.push(WindowChange::Open(owner(&merge.result)));
            uncommitted.writes.insert(owner(&merge.result), CellWrites::over(cells));
        }
        Ok(())
    }

    /// What merging windows has put together in a bag, if that was appended in several parts: in how many, and all
    /// of it.
    ///
    /// Errors: there is no such bag, or it cannot be read back.
    pub fn put_together(&self, bag: &StateKey) -> Result<Option<(u32, Vec<u8>)>, Fault> {
        let Request { owner, state, .. } = self.read_key(bag)?;
        let uncommitted = self.uncommitted();
        let base = uncommitted.writes.get(&owner).and_then(|writes| writes.base.as_ref());
        let Some(values) = base.and_then(|cells| cells.bags.get(state)) else { return Ok(None) };
        let Some(count) = u32::try_from(values.appends()).ok().filter(|count| *count > 1) else {
            return Ok(None);
        };
        let mut whole = Vec::new();
        values.parts().try_for_each(|part| part.append_to(&mut whole))?;
        Ok(Some((count, whole)))
    }

    /// Bytes of keys, windows and values that are written and not committed.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted().bytes
    }

    fn uncommitted(&self) -> MutexGuard<'_, Uncommitted> {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: those of `write`, or there is no room.
    fn write(
        &self,
        owner: &Owner,
        write: impl FnOnce(&mut CellWrites, &dyn Storage) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.write_to(owner, write)?;
        self.store.make_room_for_bundle()
    }

    fn write_to(
        &self,
        owner: &Owner,
        write: impl FnOnce(&mut CellWrites, &dyn Storage) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut uncommitted = self.uncommitted();
        let Uncommitted { writes, bytes, reserved, .. } = &mut *uncommitted;
        let storage = self.store.storage.as_ref();
        if !writes.contains_key(owner) {
            // What comes from a message holds on to the whole of it.
            let Owner { window, key } = owner;
            let owner = Owner { window: Bytes::copy_from_slice(window), key: Bytes::copy_from_slice(key) };
            *bytes += (window.len() + key.len()) as u64;
            writes.insert(owner, CellWrites::default());
        }
        let cells = writes.entry(owner.clone()).or_default();
        *bytes -= cells.bytes();
        let written = write(cells, storage);
        *bytes += cells.bytes();
        let memory = *bytes + writes.len() as u64 * KEY_OVERHEAD;
        reserved.get_or_insert_with(|| storage.budget().reserve(0)).resize(memory);
        written
    }

    /// Finds out what a key is about.
    ///
    /// Errors: it is none of the stage's user state, or the state is of another kind.
    fn read_key<'a>(&'a self, key: &'a StateKey) -> Result<Request<'a>, Fault> {
        let (transform_id, state_id, window, user_key) = match key {
            StateKey::BagUserState { transform_id, state_id, window, key }
            | StateKey::MultimapUserState { transform_id, state_id, window, key, .. }
            | StateKey::MultimapKeysUserState { transform_id, state_id, window, key }
            | StateKey::MultimapEntriesUserState { transform_id, state_id, window, key }
            | StateKey::OrderedListUserState { transform_id, state_id, window, key, .. } => {
                (transform_id, state_id, window, key)
            }
            StateKey::Runner { .. }
            | StateKey::IterableSideInput { .. }
            | StateKey::MultimapSideInput { .. }
            | StateKey::MultimapKeysSideInput { .. }
            | StateKey::MultimapKeysValuesSideInput { .. } => return Err(self.refuse(key)),
        };
        let declared = self.store.declared(transform_id, state_id).ok_or_else(|| self.refuse(key))?;
        let part = match (key, &declared.kind) {
            (StateKey::BagUserState { .. }, UserStateKind::Bag | UserStateKind::Value) => StatePart::Bag,
            (StateKey::MultimapUserState { map_key, .. }, UserStateKind::Multimap(_)) => {
                StatePart::MapKey(map_key)
            }
            (StateKey::MultimapKeysUserState { .. }, UserStateKind::Multimap(_)) => StatePart::MapKeys,
            (StateKey::MultimapEntriesUserState { .. }, UserStateKind::Multimap(values)) => {
                StatePart::MapEntries(values)
            }
            (StateKey::OrderedListUserState { start, end, .. }, UserStateKind::OrderedList) => {
                StatePart::OrderedList(Span::new(*start, *end))
            }
            (
                _,
                UserStateKind::Bag
                | UserStateKind::Value
                | UserStateKind::Multimap(_)
                | UserStateKind::OrderedList,
            ) => return Err(self.refuse(key)),
        };
        let owner = Owner { window: window.clone(), key: user_key.clone() };
        Ok(Request { owner, state: declared.number, part })
    }

    fn refuse(&self, key: &StateKey) -> Fault {
        Fault::environment(format!(
            "{}: a worker asked for state that its stage does not have: {key:?}",
            self.store.stage
        ))
    }
}

/// A key, read.
struct Request<'a> {
    owner: Owner,
    state: StateNumber,
    part: StatePart<'a>,
}

/// What of a state is asked for.
enum StatePart<'a> {
    Bag,
    MapKey(&'a Bytes),
    MapKeys,
    MapEntries(&'a MapValues),
    /// `None`: an empty range.
    OrderedList(Option<Span>),
}

impl StateHandler for BundleState {
    fn get(&self, key: &StateKey, continuation: &Bytes) -> Result<StatePage, Fault> {
        let Request { owner, state, part } = self.read_key(key)?;
        let committed = self.store.cells_of(&owner.window, &owner.key)?;
        let uncommitted = self.uncommitted();
        let writes = uncommitted.writes.get(&owner);
        let base = writes.and_then(|writes| writes.base.as_deref());
        let committed = base.or(committed.as_deref());
        let page = match part {
            StatePart::Bag => {
                let writes = writes.and_then(|writes| writes.bags.get(state));
                bag::get(committed.and_then(|cells| cells.bags.get(state)), writes, continuation)
            }
            StatePart::MapKey(map_key) => multimap(committed, writes, state).values(map_key, continuation),
            StatePart::MapKeys => multimap(committed, writes, state).keys(continuation),
            StatePart::MapEntries(values) => multimap(committed, writes, state).entries(values, continuation),
            StatePart::OrderedList(None) => Ok(StatePage::default()),
            StatePart::OrderedList(Some(span)) => {
                let writes = writes.and_then(|writes| writes.ordered_lists.get(state));
                let committed = committed.and_then(|cells| cells.ordered_lists.get(state));
                ordered_list::get(committed, writes, span, continuation)
            }
        };
        page.map_err(|fault| fault.at(&self.store.stage))
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), Fault> {
        let Request { owner, state, part } = self.read_key(key)?;
        match part {
            StatePart::Bag => self.write(&owner, |cells, storage| {
                cells.bags.change(state, |bag| bag.appended.append(data, storage))
            }),
            StatePart::MapKey(map_key) => self.write(&owner, |cells, storage| {
                cells.multimaps.change(state, |map| map.append(map_key, data, storage))
            }),
            StatePart::OrderedList(_) => {
                let appended = self.write(&owner, |cells, storage| {
                    cells.ordered_lists.change(state, |list| list.append(&data, storage))
                });
                appended.map_err(|fault| fault.at(&self.store.stage))
            }
            StatePart::MapKeys | StatePart::MapEntries(_) => Err(Fault::environment(format!(
                "{}: a worker appended to the keys of a map as a whole, which can only be read and cleared",
                self.store.stage
            ))),
        }
    }

    fn clear(&self, key: &StateKey) -> Result<(), Fault> {
        let Request { owner, state, part } = self.read_key(key)?;
        if matches!(part, StatePart::OrderedList(None)) {
            return Ok(());
        }
        self.write(&owner, |cells, _| {
            match part {
                StatePart::Bag => cells.bags.change(state, BagWrites::clear),
                StatePart::MapKey(map_key) => cells.multimaps.change(state, |map| map.clear_key(map_key)),
                StatePart::MapKeys | StatePart::MapEntries(_) => {
                    cells.multimaps.change(state, MultimapWrites::clear)
                }
                StatePart::OrderedList(None) => {}
                StatePart::OrderedList(Some(span)) => {
                    cells.ordered_lists.change(state, |list| list.clear(span))
                }
            }
            Ok(())
        })
    }
}

fn multimap<'a>(
    committed: Option<&'a Cells>,
    writes: Option<&'a CellWrites>,
    state: StateNumber,
) -> MultimapView<'a> {
    MultimapView {
        committed: committed.and_then(|cells| cells.multimaps.get(state)),
        writes: writes.and_then(|writes| writes.multimaps.get(state)),
    }
}

impl CellWrites {
    fn over(base: Arc<Cells>) -> Self {
        Self { base: Some(base), ..Self::default() }
    }

    /// What takes the place of what is committed, if anything does.
    pub(super) fn take_base(&mut self) -> Option<Arc<Cells>> {
        self.base.take()
    }

    pub(super) fn bytes(&self) -> u64 {
        let bags: u64 = self.bags.iter().map(|bag| bag.appended.bytes()).sum();
        let multimaps: u64 = self.multimaps.iter().map(MultimapWrites::bytes).sum();
        bags + multimaps + self.ordered_lists.iter().map(OrderedListWrites::bytes).sum::<u64>()
    }

    /// Errors: the storage has no room.
    pub(super) fn commit(self, cells: &mut Cells, storage: &dyn Storage) -> Result<(), Fault> {
        for (state, writes) in self.bags.into_iter() {
            // A bag to which nothing but no bytes was appended is as good as an empty one.
            cells.bags.update(state, |bag| writes.commit(bag, storage), |bag| bag.bytes() == 0)?;
        }
        for (state, writes) in self.multimaps.into_iter() {
            cells.multimaps.update(state, |map| writes.commit(map, storage), Multimap::is_empty)?;
        }
        for (state, writes) in self.ordered_lists.into_iter() {
            cells.ordered_lists.update(state, |list| writes.commit(list, storage), OrderedList::is_empty)?;
        }
        Ok(())
    }
}
