//! Keys that have anything, by a small number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Window;
use super::cell::Cell;

/// Names a key as long as it has anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyId(usize);

/// The windows of one key. Intervals are in the order of their ends.
pub(super) type Windows = BTreeMap<Window, Cell>;

pub(super) struct Keyed {
    pub(super) key: Arc<[u8]>,
    pub(super) windows: Windows,
}

#[derive(Default)]
pub(super) struct Keys {
    slots: Vec<Option<Keyed>>,
    free: Vec<usize>,
    ids: HashMap<Arc<[u8]>, KeyId>,
    /// Bytes of memory that they take without their windows.
    memory: usize,
}

/// What a key takes besides its bytes: its slot, its place among the ids, and its buffer's own head.
const KEY_OVERHEAD: usize = 160;

impl Keys {
    pub(super) fn id(&mut self, key: &[u8]) -> KeyId {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        let key: Arc<[u8]> = key.into();
        let keyed = Some(Keyed { key: key.clone(), windows: Windows::new() });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = keyed;
                slot
            }
            None => {
                self.slots.push(keyed);
                self.slots.len() - 1
            }
        };
        self.memory += KEY_OVERHEAD + key.len();
        self.ids.insert(key, KeyId(slot));
        KeyId(slot)
    }

    /// Bytes of memory that they take, without their windows.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// All that they have.
    pub(super) fn windows(&self) -> impl Iterator<Item = (&Window, &Cell)> {
        self.slots.iter().flatten().flat_map(|keyed| &keyed.windows)
    }

    pub(super) fn windows_mut(&mut self) -> impl Iterator<Item = (&Window, &mut Cell)> {
        self.slots.iter_mut().flatten().flat_map(|keyed| &mut keyed.windows)
    }

    pub(super) fn get(&self, id: KeyId) -> Option<&Keyed> {
        self.slots.get(id.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: KeyId) -> Option<&mut Keyed> {
        self.slots.get_mut(id.0)?.as_mut()
    }

    /// Forgets the key if it has no windows left.
    pub(super) fn remove_if_empty(&mut self, id: KeyId) {
        if let Some(slot) = self.slots.get_mut(id.0)
            && let Some(keyed) = slot.take_if(|keyed| keyed.windows.is_empty())
        {
            self.memory -= KEY_OVERHEAD + keyed.key.len();
            self.ids.remove(&keyed.key);
            self.free.push(id.0);
        }
    }

    /// How many keys have anything.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
