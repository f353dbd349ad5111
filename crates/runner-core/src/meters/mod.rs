//! What the runner itself does and costs, over all jobs of a server, to be read at any time.
//!
//! Not the metrics of a user's job: those are [`crate::metrics`]. Whoever works counts here as it goes, by one
//! atomic addition and never under a lock; whoever shows the counts ([`Meters`]' reader) may see one before
//! another that belongs to it.

mod histogram;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{BOUNDS, Histogram};

/// All counts of one server.
#[derive(Debug, Default)]
pub struct Meters {
    /// Elements and timers of bundles, on their way to workers.
    pub to_workers: Flow,
    /// The same, on their way back.
    pub from_workers: Flow,
    pub bundles: Bundles,
    /// From the moment that a worker is there for a bundle until the bundle's end, well or not.
    pub bundle_time: Histogram,
    /// From the end of a worker's last bundle until the request of its next one goes out: what the worker lost
    /// to the runner. Only of time in which the runner had something to do: not while all that could be done
    /// was done by other workers, or depended on time going on.
    pub worker_wait: Histogram,
    /// What waits before stages for a worker, and what workers have.
    pub waiting: Waiting,
    /// Bytes of elements that bundles have made, and that GroupByKeys and side inputs have not taken in yet.
    pub collecting: Gauge,
}

/// One direction of the data plane.
#[derive(Debug, Default)]
pub struct Flow {
    /// Encoded elements and timers, without what gRPC adds.
    pub bytes: Counter,
    /// As the workers count them, bundle by bundle; of a bundle that failed none.
    pub elements: Counter,
}

/// Attempts of bundles.
#[derive(Debug, Default)]
pub struct Bundles {
    pub started: Counter,
    pub committed: Counter,
    pub failed: Counter,
}

/// How much waits.
#[derive(Debug, Default)]
pub struct Waiting {
    pub blocks: Gauge,
    pub bytes: Gauge,
    /// That are set and have not fired.
    pub timers: Gauge,
    /// Bundles that run: nobody waits for a worker for these any more.
    pub running: Gauge,
}

/// What one job has, of each [`Waiting`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub blocks: u64,
    pub bytes: u64,
    pub timers: u64,
    pub running: u64,
}

/// Only ever grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down: the sum of what several jobs have of something, see [`WaitingShare`].
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one job has waiting. Gone when it is dropped.
#[derive(Debug)]
pub struct WaitingShare {
    meters: Arc<Meters>,
    load: Load,
}

impl WaitingShare {
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { meters, load: Load::default() }
    }

    /// So much waits now.
    pub fn set(&mut self, load: Load) {
        let (waiting, known) = (&self.meters.waiting, &mut self.load);
        change(&waiting.blocks, &mut known.blocks, load.blocks);
        change(&waiting.bytes, &mut known.bytes, load.bytes);
        change(&waiting.timers, &mut known.timers, load.timers);
        change(&waiting.running, &mut known.running, load.running);
    }
}

impl Drop for WaitingShare {
    fn drop(&mut self) {
        self.set(Load::default());
    }
}

/// So many bytes are [collected](Meters::collecting), until this is dropped.
#[derive(Debug)]
pub struct Collecting {
    meters: Arc<Meters>,
    bytes: u64,
}

impl Collecting {
    pub fn new(meters: &Arc<Meters>, bytes: u64) -> Self {
        change(&meters.collecting, &mut 0, bytes);
        Self { meters: meters.clone(), bytes }
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        change(&self.meters.collecting, &mut self.bytes, 0);
    }
}

/// Has a share of `gauge` become `new`. The sum of all shares never is below zero, so that it may wrap on the way.
fn change(gauge: &Gauge, share: &mut u64, new: u64) {
    if *share != new {
        gauge.0.fetch_add(new.wrapping_sub(*share), Ordering::Relaxed);
        *share = new;
    }
}
