//! Which workers stand by, and for which worker pools there may be any.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use super::standby::Standby;
use crate::environment::WorkerPool;
use crate::server::Shared;

/// So many pools are remembered as unfit; of more the oldest is tried again, which costs it one worker.
const MOST_UNFIT: usize = 64;

pub(crate) struct Standbys {
    inner: Mutex<Inner>,
    /// Set when the server ends: there are no standbys from then on.
    closing: CancellationToken,
    tasks: TaskTracker,
    /// The beginning of their ids. Several servers may use one pool, which knows its workers by their ids alone.
    id_prefix: String,
    started: AtomicUsize,
}

#[derive(Default)]
struct Inner {
    /// Oldest first.
    waiting: Vec<Arc<Standby>>,
    /// Pools whose workers want to know of a job before they connect.
    unfit: VecDeque<WorkerPool>,
}

impl Default for Standbys {
    fn default() -> Self {
        let unique = RandomState::new().hash_one(SystemTime::now());
        Self {
            inner: Mutex::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            id_prefix: format!("standby-{unique:016x}"),
            started: AtomicUsize::new(0),
        }
    }
}

impl Standbys {
    /// Sees to it that so many workers of the pool stand by, if the server is to have any.
    pub(crate) fn keep(&self, pool: &WorkerPool, count: usize, shared: &Arc<Shared>) {
        let time = shared.config.standby_time;
        if time.is_zero() {
            return;
        }
        for standby in self.fill_up(pool, count, shared.config.worker_connect_timeout) {
            self.tasks.spawn(standby.attend(time, shared.clone()));
        }
    }

    /// Those that have to be started so that there are `count`.
    fn fill_up(&self, pool: &WorkerPool, count: usize, connect_timeout: Duration) -> Vec<Arc<Standby>> {
        let mut inner = self.inner();
        // Looked at under the lock: `close` first cancels, then looks what there is.
        if self.closing.is_cancelled() || inner.unfit.contains(pool) {
            return Vec::new();
        }
        let there = inner.waiting.iter().filter(|it| it.pool == *pool && !it.is_gone()).count();
        let new = (there..count).map(|_| {
            let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
            let id = format!("{}-{number}", self.id_prefix);
            Arc::new(Standby::new(id, pool.clone(), Instant::now() + connect_timeout))
        });
        let new: Vec<_> = new.collect();
        inner.waiting.extend(new.iter().cloned());
        new
    }

    /// Whether a worker of the pool could be had at once.
    pub(crate) fn is_ready(&self, pool: &WorkerPool) -> bool {
        let inner = self.inner();
        inner.waiting.iter().any(|it| it.pool == *pool && it.is_connected() && !it.is_gone())
    }

    /// How many there are, of all pools.
    pub(crate) fn connected(&self) -> usize {
        self.inner().waiting.iter().filter(|it| it.is_connected() && !it.is_gone()).count()
    }

    /// Takes one of the pool's away for `lease`: the one that has stood by for longest or, if none is connected, been
    /// starting for longest. It is known until `lease` returns, which must be soon.
    pub(super) fn take<T>(&self, pool: &WorkerPool, lease: impl FnOnce(&Arc<Standby>) -> T) -> Option<T> {
        let mut inner = self.inner();
        let usable = |it: &Arc<Standby>| it.pool == *pool && !it.is_gone();
        let connected = inner.waiting.iter().position(|it| usable(it) && it.is_connected());
        let index = connected.or_else(|| inner.waiting.iter().position(usable))?;
        let leased = lease(inner.waiting.get(index)?);
        inner.waiting.remove(index);
        Some(leased)
    }

    /// False: it is not there any more.
    pub(super) fn forget(&self, standby: &Arc<Standby>) -> bool {
        let mut inner = self.inner();
        let before = inner.waiting.len();
        inner.waiting.retain(|it| !Arc::ptr_eq(it, standby));
        inner.waiting.len() < before
    }

    /// The standby with this id, if there is one.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Standby>> {
        // Most calls are by workers with jobs.
        if !id.starts_with(&self.id_prefix) {
            return None;
        }
        self.inner().waiting.iter().find(|it| it.id == id).cloned()
    }

    /// The pool's workers cannot stand by: they want to know of a job first.
    pub(super) fn exclude(&self, pool: &WorkerPool) {
        let mut inner = self.inner();
        if inner.unfit.contains(pool) {
            return;
        }
        if inner.unfit.len() == MOST_UNFIT {
            inner.unfit.pop_front();
        }
        inner.unfit.push_back(pool.clone());
        let of_pool: Vec<_> = inner.waiting.iter().filter(|it| it.pool == *pool).cloned().collect();
        drop(inner);
        of_pool.iter().for_each(|standby| standby.end("wants to know of a job before it works"));
    }

    /// From now on there are none, and those that there are end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
    }

    /// Waits until all have ended, for `timeout` at most.
    pub(crate) async fn closed(&self, timeout: Duration) {
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!("workers that stood by are left that do not end");
        }
    }

    pub(super) fn closing(&self) -> WaitForCancellationFuture<'_> {
        self.closing.cancelled()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
