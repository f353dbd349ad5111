//! What workers may cache of a stage's user state from one bundle to the next.
//!
//! A worker keeps what it has read and written under a token, for all keys of the stage at once, and asks no more
//! for it while it gets the same token. So a worker's token changes whenever something may have changed that the
//! worker does not know of:
//!
//! - A bundle has keys of which another worker had a bundle since the worker had one itself. Keys are told apart
//!   by their partition.
//! - An attempt on the worker was not committed: what it has written is in the worker's cache.
//!
//! A token is never given out again once it has changed. With one worker in an environment it stays the same for
//! as long as no bundle fails; with several it is worth something while the same keys stay with the same worker.
//!
//! All this takes for granted that a stage's state is changed by its own bundles alone, and that no two of them
//! have the same keys at a time. A stage whose windows merge has no tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::engine::Partition;

/// The tokens of one stage.
#[derive(Default)]
pub struct UserStateCaches(Mutex<Caches>);

#[derive(Default)]
struct Caches {
    /// Generations, by worker.
    current: HashMap<Arc<str>, u64>,
    /// Which worker had a bundle with these keys last.
    last: HashMap<Partition, Arc<str>>,
    generations: u64,
}

/// The use that one attempt of a bundle makes of its worker's cache. Dropped without [`Self::commit`], it has
/// spoiled the cache.
pub struct CacheUse {
    stage: Arc<UserStateCaches>,
    partitions: Vec<Partition>,
    given: Mutex<Option<(Arc<str>, u64)>>,
}

impl UserStateCaches {
    /// For an attempt of a bundle that has all keys of these partitions, and no others.
    pub fn begin(self: &Arc<Self>, partitions: Vec<Partition>) -> CacheUse {
        CacheUse { stage: self.clone(), partitions, given: Mutex::default() }
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caches {
    fn take(&mut self, worker: &str, partitions: &[Partition]) -> (Arc<str>, u64) {
        let worker = match self.current.get_key_value(worker) {
            Some((worker, _)) => worker.clone(),
            None => worker.into(),
        };
        let elsewhere = |partition| self.last.get(partition).is_some_and(|last| *last != worker);
        if partitions.iter().any(elsewhere) {
            self.current.remove(&worker);
        }
        for partition in partitions {
            self.last.insert(*partition, worker.clone());
        }
        let generation = *self.current.entry(worker.clone()).or_insert_with(|| {
            self.generations += 1;
            self.generations
        });
        (worker, generation)
    }
}

impl CacheUse {
    /// The token for this attempt on `worker`.
    pub fn token(&self, worker: &str) -> Bytes {
        let mut given = self.given();
        let (_, generation) = given.get_or_insert_with(|| self.stage.caches().take(worker, &self.partitions));
        // Harnesses use other tokens of their own, e.g. instruction ids.
        format!("user-state-{generation}").into()
    }

    /// What the attempt has written counts.
    pub fn commit(&self) {
        self.given().take();
    }

    /// What the attempt has written does not count. To be called before its keys may be in another attempt.
    pub fn discard(&self) {
        if let Some((worker, generation)) = self.given().take() {
            let mut caches = self.stage.caches();
            if caches.current.get(&worker) == Some(&generation) {
                caches.current.remove(&worker);
            }
        }
    }

    fn given(&self) -> MutexGuard<'_, Option<(Arc<str>, u64)>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CacheUse {
    fn drop(&mut self) {
        self.discard();
    }
}
