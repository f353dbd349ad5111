//! The committed state of a share of the keys: in memory, or in the storage as a whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use beam_model::coders::CoderError;
use bytes::Bytes;

use super::bundle::{CellWrites, Owner, Writes};
use super::cells::Cells;
use super::codec::{Reader, Writer};
use crate::fault::Fault;
use crate::ports::{Reservation, Storage, StoredBlock};

/// State is written in blocks of about this many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// What a key takes in a map, and its writes before they are applied, besides their bytes.
const KEY_OVERHEAD: u64 = 160;

/// A share of the keys.
pub(super) struct Partition {
    cells: Option<Committed>,
    /// What `cells` is, or would be. Not there if `cells` has changed since.
    stored: Option<Stored>,
    /// What has happened and is not in `cells` yet, in its order.
    pending: Vec<Pending>,
    /// Why nothing can be said of it any more.
    broken: Option<Fault>,
    /// When it was last asked for something, by the store's count.
    pub(super) used: u64,
}

/// Written down.
struct Stored {
    blocks: Vec<StoredBlock>,
    /// Of large values.
    pages: Vec<StoredBlock>,
    windows: HashSet<Box<[u8]>>,
}

enum Pending {
    Commit(Writes, Reservation),
    Expire(HashSet<Box<[u8]>>),
}

/// By window, then key: both encoded. There are few windows and many keys.
pub(super) struct Committed {
    windows: HashMap<Box<[u8]>, ByKey>,
    /// Of keys, windows and values.
    bytes: u64,
    memory: Reservation,
}

type ByKey = HashMap<Box<[u8]>, Arc<Cells>>;

impl Partition {
    pub(super) fn new(storage: &dyn Storage) -> Self {
        Self {
            cells: Some(Committed::new(storage)),
            stored: None,
            pending: Vec::new(),
            broken: None,
            used: 0,
        }
    }

    /// What it takes in memory.
    pub(super) fn memory(&self) -> u64 {
        let pending = self.pending.iter().map(|pending| match pending {
            Pending::Commit(_, reserved) => reserved.bytes(),
            Pending::Expire(_) => 0,
        });
        self.cells.as_ref().map_or(0, |cells| cells.memory.bytes()) + pending.sum::<u64>()
    }

    /// Adds the writes of a bundle, all or none of them. Nothing is waited for.
    pub(super) fn commit(&mut self, writes: Writes, storage: &dyn Storage) {
        let memory = writes.iter().map(|(owner, writes)| {
            (owner.window.len() + owner.key.len()) as u64 + KEY_OVERHEAD + writes.bytes()
        });
        let reserved = storage.budget().reserve(memory.sum());
        self.pending.push(Pending::Commit(writes, reserved));
    }

    /// Forgets the windows that have expired.
    pub(super) fn expire(&mut self, has_expired: impl Fn(&[u8]) -> bool) {
        let mut windows: HashSet<&[u8]> = HashSet::new();
        windows.extend(self.cells.iter().flat_map(|cells| cells.windows.keys()).map(AsRef::as_ref));
        windows.extend(self.stored.iter().flat_map(|stored| &stored.windows).map(AsRef::as_ref));
        for pending in &self.pending {
            if let Pending::Commit(writes, _) = pending {
                windows.extend(writes.keys().map(|owner| owner.window.as_ref()));
            }
        }
        let expired: HashSet<Box<[u8]>> =
            windows.iter().filter(|window| has_expired(window)).map(|window| (*window).into()).collect();
        if expired.is_empty() {
            return;
        }
        match &mut self.cells {
            Some(cells) if self.pending.is_empty() => {
                cells.expire(&expired);
                self.stored = None;
            }
            Some(_) | None => self.pending.push(Pending::Expire(expired)),
        }
    }

    /// All that is committed, read back if it has to be.
    ///
    /// Errors: it cannot be read back, or the storage has no room.
    pub(super) fn settled(&mut self, storage: &dyn Storage) -> Result<&Committed, Fault> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let cells = match self.cells.take() {
            Some(cells) => cells,
            None => Committed::read(self.stored.as_ref(), storage)?,
        };
        let cells = self.cells.insert(cells);
        for pending in std::mem::take(&mut self.pending) {
            self.stored = None;
            let applied = match pending {
                Pending::Commit(writes, _reserved) => cells.apply(writes, storage),
                Pending::Expire(windows) => {
                    cells.expire(&windows);
                    Ok(())
                }
            };
            if let Err(fault) = applied {
                // It is half done. Nobody may see that.
                self.broken = Some(fault.clone());
                return Err(fault);
            }
        }
        Ok(cells)
    }

    /// Has it take no memory.
    ///
    /// Errors: the storage has no room; it stays in memory then.
    pub(super) fn evict(&mut self, storage: &dyn Storage) -> Result<(), Fault> {
        if self.cells.is_none() && self.pending.is_empty() {
            return Ok(());
        }
        self.settled(storage)?;
        let Some(cells) = self.cells.take_if(|cells| !cells.windows.is_empty()) else { return Ok(()) };
        if self.stored.is_none() {
            match cells.write(storage) {
                Ok(stored) => self.stored = Some(stored),
                Err(fault) => {
                    self.cells = Some(cells);
                    return Err(fault);
                }
            }
        }
        Ok(())
    }
}

impl Committed {
    fn new(storage: &dyn Storage) -> Self {
        Self { windows: HashMap::new(), bytes: 0, memory: storage.budget().reserve(0) }
    }

    pub(super) fn get(&self, window: &[u8], key: &[u8]) -> Option<&Arc<Cells>> {
        self.windows.get(window)?.get(key)
    }

    /// Bytes of keys, windows and values.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many keys have state, counted once for each window.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.windows.values().map(HashMap::len).sum()
    }

    fn read(stored: Option<&Stored>, storage: &dyn Storage) -> Result<Self, Fault> {
        let mut cells = Self::new(storage);
        let Some(stored) = stored else { return Ok(cells) };
        let damaged =
            |error: CoderError| Fault::runner(format!("state that was written is damaged: {error}"));
        let mut pages = stored.pages.iter().cloned();
        for block in &stored.blocks {
            let block = block.read()?;
            let mut reader = Reader::new(&block, &mut pages);
            while !reader.is_empty() {
                let (window, key, state) = reader.cells().map_err(damaged)?;
                cells.insert(window, key, Arc::new(state));
            }
        }
        Ok(cells)
    }

    fn write(&self, storage: &dyn Storage) -> Result<Stored, Fault> {
        let windows = self.windows.keys().cloned().collect();
        let mut stored = Stored { blocks: Vec::new(), pages: Vec::new(), windows };
        let mut writer = Writer::default();
        for (window, keys) in &self.windows {
            for (key, cells) in keys {
                writer.cells(window, key, cells);
                if writer.out.len() >= BLOCK_BYTES {
                    stored.blocks.push(storage.write(&writer.out)?);
                    writer.out.clear();
                }
            }
        }
        if !writer.out.is_empty() {
            stored.blocks.push(storage.write(&writer.out)?);
        }
        stored.pages = writer.pages;
        Ok(stored)
    }

    fn expire(&mut self, expired: &HashSet<Box<[u8]>>) {
        for window in expired {
            for (key, cells) in self.windows.remove(window).into_iter().flatten() {
                self.bytes -= bytes(window, &key, &cells);
                self.memory.shrink(memory(&key, &cells));
            }
        }
    }

    fn apply(&mut self, mut writes: Writes, storage: &dyn Storage) -> Result<(), Fault> {
        // First all that is replaced is removed, so that nobody else has what takes a place, and it need not be
        // copied to be written to.
        let bases: Vec<_> = writes
            .iter_mut()
            .filter_map(|(owner, writes)| {
                let base = writes.take_base()?;
                self.remove(&owner.window, &owner.key);
                Some((owner.clone(), base))
            })
            .collect();
        for (Owner { window, key }, base) in bases {
            self.insert(&window, &key, base);
        }
        writes
            .into_iter()
            .try_for_each(|(owner, writes)| self.change(&owner.window, &owner.key, writes, storage))
    }

    fn change(
        &mut self,
        window: &Bytes,
        key: &Bytes,
        writes: CellWrites,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        let known = self.windows.get_mut(window.as_ref()).and_then(|keys| keys.get_mut(key.as_ref()));
        let Some(cells) = known else {
            let mut cells = Cells::default();
            writes.commit(&mut cells, storage)?;
            self.insert(window, key, Arc::new(cells));
            return Ok(());
        };
        let before = (bytes(window, key, cells), memory(key, cells));
        // Nobody else looks at this key now, so nothing is copied.
        writes.commit(Arc::make_mut(cells), storage)?;
        self.bytes = self.bytes - before.0 + bytes(window, key, cells);
        let now = memory(key, cells);
        let is_empty = cells.is_empty();
        self.memory.grow(now);
        self.memory.shrink(before.1);
        if is_empty {
            self.remove(window, key);
        }
        Ok(())
    }

    fn remove(&mut self, window: &[u8], key: &[u8]) {
        let Some(keys) = self.windows.get_mut(window) else { return };
        if let Some(cells) = keys.remove(key) {
            self.bytes -= bytes(window, key, &cells);
            self.memory.shrink(memory(key, &cells));
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
        self.memory.grow(memory(key, &cells));
        match self.windows.get_mut(window) {
            Some(keys) => drop(keys.insert(key.into(), cells)),
            None => drop(self.windows.insert(window.into(), HashMap::from([(key.into(), cells)]))),
        }
    }
}

fn bytes(window: &[u8], key: &[u8], cells: &Cells) -> u64 {
    window.len() as u64 + key.len() as u64 + cells.bytes()
}

fn memory(key: &[u8], cells: &Cells) -> u64 {
    key.len() as u64 + KEY_OVERHEAD + cells.memory()
}
