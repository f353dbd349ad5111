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
}

impl ActiveWindows {
    pub(super) fn of(&self, key: &[u8]) -> Vec<Bytes> {
        self.by_key.get(key).map(|windows| windows.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn change(&mut self, change: WindowChange) {
        match change {
            WindowChange::Open(owner) => self.open(&owner),
            WindowChange::Close(owner) => self.close(&owner),
        }
    }

    /// Forgets the windows that have expired.
    pub(super) fn expire(&mut self, has_expired: impl Fn(&[u8]) -> bool) {
        let Self { by_key, by_window } = self;
        by_window.retain(|window, keys| {
            let expired = has_expired(window);
            if expired {
                keys.iter().for_each(|key| remove(by_key, key, window));
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
        self.by_window.entry(window).or_default().insert(key);
    }

    fn close(&mut self, owner: &Owner) {
        remove(&mut self.by_key, &owner.key, &owner.window);
        if let Some(keys) = self.by_window.get_mut(&owner.window) {
            keys.remove(&owner.key);
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
