//! Which windows each key has, where windows merge: those that hold its elements, none of which are to be
//! merged with one another any more.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;

use super::bundle::{Owner, WindowChange};

/// Windows of a key that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowMerge {
    /// Those that the key had. Where only one can have its way, the last of them has. The result may be among
    /// them.
    pub parts: Vec<Bytes>,
    pub result: Bytes,
}

/// The committed windows, by key and by window: both encoded.
#[derive(Default)]
pub(super) struct ActiveWindows {
    by_key: HashMap<Bytes, BTreeSet<Bytes>>,
    by_window: HashMap<Bytes, HashSet<Bytes>>,
    /// How many windows keys have.
    pairs: u64,
}

/// About what a window of a key takes, in memory: its places, and the key and the window, which are mostly short.
const PAIR_BYTES: u64 = 256;

impl ActiveWindows {
    pub(super) fn of(&self, key: &[u8]) -> Vec<Bytes> {
        self.by_key.get(key).map(|windows| windows.iter().cloned().collect()).unwrap_or_default()
    }

    /// About how many bytes it takes.
    pub(super) fn memory(&self) -> u64 {
        self.pairs * PAIR_BYTES
    }

    pub(super) fn change(&mut self, change: WindowChange) {
        match change {
            WindowChange::Open(owner) => self.open(&owner),
            WindowChange::Close(owner) => self.close(&owner),
        }
    }

    /// Forgets the windows that have expired.
    pub(super) fn expire(&mut self, has_expired: impl Fn(&[u8]) -> bool) {
        let Self { by_key, by_window, pairs } = self;
        by_window.retain(|window, keys| {
            let expired = has_expired(window);
            if expired {
                keys.iter().for_each(|key| remove(by_key, key, window));
                *pairs = pairs.saturating_sub(keys.len() as u64);
            }
            !expired
        });
    }

    fn open(&mut self, owner: &Owner) {
        // What comes from an element holds on to the whole of its block.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let window = self.by_window.get_key_value(&owner.window).map(|(window, _)| window.clone());
        let window = window.unwrap_or_else(|| own(&owner.window));
        let key = self.by_key.get_key_value(&owner.key).map(|(key, _)| key.clone());
        let key = key.unwrap_or_else(|| own(&owner.key));
        self.by_key.entry(key.clone()).or_default().insert(window.clone());
        if self.by_window.entry(window).or_default().insert(key) {
            self.pairs += 1;
        }
    }

    fn close(&mut self, owner: &Owner) {
        remove(&mut self.by_key, &owner.key, &owner.window);
        if let Some(keys) = self.by_window.get_mut(&owner.window) {
            if keys.remove(&owner.key) {
                self.pairs = self.pairs.saturating_sub(1);
            }
            if keys.is_empty() {
                self.by_window.remove(&owner.window);
            }
        }
    }
}

fn remove(by_key: &mut HashMap<Bytes, BTreeSet<Bytes>>, key: &Bytes, window: &Bytes) {
    if let Some(windows) = by_key.get_mut(key) {
        windows.remove(window);
        if windows.is_empty() {
            by_key.remove(key);
        }
    }
}
