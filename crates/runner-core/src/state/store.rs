//! What is committed.
//!
//! Keys are divided into shares, as a stage's input is. What of them does not fit in memory is written down share by share, those
//! that were asked for longest ago first, and read back when somebody asks for a key of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use bytes::Bytes;

use super::active_windows::ActiveWindows;
use super::bundle::{BundleState, WindowChange, Writes};
use super::cells::Cells;
use super::partition::Partition;
use super::{UserState, UserStateKind};
use crate::fault::Fault;
use crate::ports::{Reservation, Storage};
use crate::runner_transforms::elements::{PARTITIONS, partition_of};

/// A store keeps this part of the budget in memory, even if there is no room: else what is asked for next might have to be read
/// every time.
const KEPT_IN_BUDGET: u64 = 32;
/// Partitions that were asked for something last stay in memory while bundles run: these will ask for more of them. Bundles have
/// their elements, and timers that fire, partition by partition.
const KEPT_PARTITIONS: usize = 4;

/// All user state of one stage of one job: committed values only.
pub struct StateStore {
    /// For people.
    pub(super) stage: String,
    /// By transform and state id: its number and kind.
    declared: HashMap<String, HashMap<String, Declared>>,
    /// By number.
    kinds: Vec<UserStateKind>,
    pub(super) storage: Arc<dyn Storage>,
    partitions: Vec<Mutex<Partition>>,
    /// Counts up whenever a partition is asked for something.
    clock: AtomicU64,
    /// Of stages whose windows merge.
    active: RwLock<(ActiveWindows, Reservation)>,
}

/// A state of the stage.
pub(super) struct Declared {
    pub(super) number: StateNumber,
    pub(super) kind: UserStateKind,
}

/// Tells the states of a stage apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StateNumber(pub(super) u32);

impl StateStore {
    /// Empty. `stage` is for messages; a worker can ask for the declared states only.
    pub fn new(
        stage: impl Into<String>,
        states: impl IntoIterator<Item = UserState>,
        storage: Arc<dyn Storage>,
    ) -> Self {
        let mut declared: HashMap<String, HashMap<String, Declared>> = HashMap::new();
        let mut kinds = Vec::new();
        for (number, UserState { transform_id, state_id, kind }) in (0..).zip(states) {
            kinds.push(kind.clone());
            let state = Declared { number: StateNumber(number), kind };
            declared.entry(transform_id).or_default().insert(state_id, state);
        }
        let partitions = (0..PARTITIONS).map(|_| Mutex::new(Partition::new(storage.as_ref()))).collect();
        let active = RwLock::new((ActiveWindows::default(), storage.budget().reserve(0)));
        Self { stage: stage.into(), declared, kinds, storage, partitions, clock: AtomicU64::new(0), active }
    }

    /// The state for one attempt of a bundle. No two that run at a time may use the same key.
    pub fn begin(self: &Arc<Self>) -> BundleState {
        BundleState::new(self.clone())
    }

    /// Forgets all state of the windows that have expired.
    pub fn expire(&self, has_expired: impl Fn(&[u8]) -> bool) {
        {
            let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
            let (windows, reserved) = &mut *active;
            windows.expire(&has_expired);
            reserved.resize(windows.memory());
        }
        for partition in &self.partitions {
            partition.lock().unwrap_or_else(PoisonError::into_inner).expire(&has_expired);
        }
    }

    /// If there is no room, gives what was asked for longest ago to the storage. Waits for a disk.
    ///
    /// Errors: the storage has no room either.
    pub fn make_room(&self) -> Result<(), Fault> {
        self.make_room_but_for(0)
    }

    /// The same for a bundle that will go on asking.
    pub(super) fn make_room_for_bundle(&self) -> Result<(), Fault> {
        self.make_room_but_for(KEPT_PARTITIONS)
    }

    /// `last`: so many partitions, those that were asked for something last, stay.
    fn make_room_but_for(&self, last: usize) -> Result<(), Fault> {
        let budget = self.storage.budget();
        if !budget.is_over() {
            return Ok(());
        }
        self.storage.make_room()?;
        let mut in_memory: Vec<_> = self.partitions.iter().filter_map(candidate).collect();
        in_memory.sort_unstable_by_key(|(used, ..)| *used);
        in_memory.truncate(in_memory.len().saturating_sub(last));
        let mut left: u64 = in_memory.iter().map(|(_, memory, _)| memory).sum();
        for (_, memory, partition) in in_memory {
            if !budget.is_over() || left <= budget.limit() / KEPT_IN_BUDGET {
                break;
            }
            if let Some(mut partition) = free(partition) {
                partition.evict(self.storage.as_ref())?;
                left = left.saturating_sub(memory);
            }
        }
        Ok(())
    }

    /// What takes state that does not fit in memory.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Whether there is an end to the memory.
    pub fn is_limited(&self) -> bool {
        self.storage.budget().limit() < u64::MAX
    }

    /// Whether [`Self::make_room`] may have to do something.
    pub fn has_to_make_room(&self) -> bool {
        self.storage.budget().is_over()
    }

    /// Bytes of keys, windows and values.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.count(|cells| cells.bytes())
    }

    /// How many keys have state, counted once for each window.
    #[cfg(test)]
    pub(super) fn cells(&self) -> u64 {
        self.count(|cells| cells.count() as u64)
    }

    #[cfg(test)]
    fn count(&self, count: impl Fn(&super::partition::Committed) -> u64) -> u64 {
        let partitions = self.partitions.iter().map(|partition| partition.lock().unwrap());
        partitions.map(|mut partition| count(partition.settled(self.storage.as_ref()).unwrap())).sum()
    }

    pub(super) fn declared(&self, transform_id: &str, state_id: &str) -> Option<&Declared> {
        self.declared.get(transform_id)?.get(state_id)
    }

    /// May wait for a disk.
    ///
    /// Errors: it cannot be read back, or there is no room for it.
    pub(super) fn cells_of(&self, window: &[u8], key: &[u8]) -> Result<Option<Arc<Cells>>, Fault> {
        let Some(partition) = self.partitions.get(usize::from(partition_of(key).0)) else { return Ok(None) };
        let cells = {
            let mut partition = partition.lock().unwrap_or_else(PoisonError::into_inner);
            partition.used = self.clock.fetch_add(1, Ordering::Relaxed);
            partition.settled(self.storage.as_ref())?.get(window, key).cloned()
        };
        self.make_room_for_bundle()?;
        Ok(cells)
    }

    /// The windows of a key, if they merge.
    pub(super) fn active_windows(&self, key: &[u8]) -> Vec<Bytes> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).0.of(key)
    }

    /// What windows of a key hold together. Not copied if only one holds anything.
    ///
    /// Errors: as [`Self::cells_of`].
    pub(super) fn merged_cells(&self, key: &[u8], windows: &[Bytes]) -> Result<Arc<Cells>, Fault> {
        let mut merged: Option<Arc<Cells>> = None;
        for window in windows {
            let Some(cells) = self.cells_of(window, key)? else { continue };
            match &mut merged {
                None => merged = Some(cells),
                Some(merged) => {
                    let storage = self.storage.as_ref();
                    Arc::make_mut(merged).absorb(&cells, |state| self.kind(state), storage)?;
                }
            }
        }
        Ok(merged.unwrap_or_default())
    }

    fn kind(&self, state: StateNumber) -> Option<&UserStateKind> {
        self.kinds.get(usize::try_from(state.0).ok()?)
    }

    /// Takes in all writes: whoever asks for a key from now on sees those of it. Nothing is waited for.
    pub(super) fn apply(&self, writes: Writes, windows: Vec<WindowChange>) {
        if !windows.is_empty() {
            let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
            let (known, reserved) = &mut *active;
            windows.into_iter().for_each(|change| known.change(change));
            reserved.resize(known.memory());
        }
        let mut by_partition: HashMap<_, Writes> = HashMap::new();
        for (owner, writes) in writes {
            by_partition.entry(partition_of(&owner.key)).or_default().insert(owner, writes);
        }
        for (partition, writes) in by_partition {
            if let Some(partition) = self.partitions.get(usize::from(partition.0)) {
                let mut partition = partition.lock().unwrap_or_else(PoisonError::into_inner);
                partition.commit(writes, self.storage.as_ref());
            }
        }
    }
}

/// When a partition was last asked for something, and what it has in memory. Not if somebody is at it now.
fn candidate(partition: &Mutex<Partition>) -> Option<(u64, u64, &Mutex<Partition>)> {
    let (used, memory) = free(partition).map(|partition| (partition.used, partition.memory()))?;
    (memory > 0).then_some((used, memory, partition))
}

/// The partition, if nobody is at it now.
fn free(partition: &Mutex<Partition>) -> Option<MutexGuard<'_, Partition>> {
    match partition.try_lock() {
        Ok(partition) => Some(partition),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
