//! How long workers had nothing to do because of us.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use runner_core::meters::Meters;

/// What moments are counted from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Since when a job may have work for workers that have none: the last time that a bundle of it ended, or that
/// it had had to wait for somebody else. Nobody can have waited for the runner before that.
#[derive(Default)]
pub(crate) struct WorkThere(AtomicU64);

impl WorkThere {
    /// Now there may be.
    pub(crate) fn now(&self) {
        self.0.fetch_max(moment(), Ordering::Relaxed);
    }
}

/// The bundles of one worker, taking turns.
#[derive(Default)]
pub(crate) struct Turns {
    running: AtomicUsize,
    /// When the last one ended; 0 if there was none.
    idle_since: AtomicU64,
}

/// The time of one bundle on its worker.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    work: &'a WorkThere,
    meters: &'a Meters,
    started: Instant,
}

impl Turns {
    /// A bundle begins now.
    pub(crate) fn begin<'a>(&'a self, work: &'a WorkThere, meters: &'a Meters) -> Turn<'a> {
        let idle_since = self.idle_since.load(Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 && idle_since > 0 {
            let since = idle_since.max(work.0.load(Ordering::Relaxed));
            meters.worker_wait.observe(Duration::from_nanos(moment().saturating_sub(since)));
        }
        Turn { turns: self, work, meters, started: Instant::now() }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.meters.bundle_time.observe(self.started.elapsed());
        self.work.now();
        self.turns.idle_since.store(moment(), Ordering::Relaxed);
        self.turns.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nanoseconds since [`EPOCH`], never 0.
fn moment() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(meters: &Meters) -> u64 {
        meters.worker_wait.counts().1
    }

    #[test]
    fn a_worker_waits_between_its_bundles_only() {
        let (turns, work, meters) = (Turns::default(), WorkThere::default(), Meters::default());
        let first = turns.begin(&work, &meters);
        let beside = turns.begin(&work, &meters);
        drop(first);
        drop(beside);
        assert_eq!((waits(&meters), meters.bundle_time.counts().1), (0, 2));
        std::thread::sleep(Duration::from_millis(20));
        drop(turns.begin(&work, &meters));
        assert_eq!(waits(&meters), 1);
        assert!(meters.worker_wait.sum() >= Duration::from_millis(20));
    }

    #[test]
    fn what_passes_while_there_is_no_work_is_not_waited_for_us() {
        let (turns, work, meters) = (Turns::default(), WorkThere::default(), Meters::default());
        drop(turns.begin(&work, &meters));
        let idle = Instant::now();
        std::thread::sleep(Duration::from_millis(50));
        work.now();
        drop(turns.begin(&work, &meters));
        assert_eq!(waits(&meters), 1);
        assert!(meters.worker_wait.sum() + Duration::from_millis(50) <= idle.elapsed());
    }
}
