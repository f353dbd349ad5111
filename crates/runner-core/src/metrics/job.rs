//! The metrics of one job, committed and attempted.

use std::collections::BTreeMap;

use beam_model::pipeline::MonitoringInfo;

use super::MetricsAccumulator;
use crate::backend::MetricResults;

/// Both ways of counting a job's metrics.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    committed: MetricsAccumulator,
    attempted: MetricsAccumulator,
    /// What bundles that run have reported so far, by their number.
    running: BTreeMap<u64, Vec<MonitoringInfo>>,
    /// What each worker has reported of itself as a whole, by its id.
    workers: BTreeMap<String, Vec<MonitoringInfo>>,
}

impl JobMetrics {
    /// Counts what a bundle reported that is now committed.
    pub fn bundle_committed(&mut self, infos: &[MonitoringInfo]) {
        self.committed.add(infos);
        self.attempted.add(infos);
    }

    /// Counts what an attempt reported that came to nothing.
    pub fn bundle_failed(&mut self, infos: &[MonitoringInfo]) {
        self.attempted.add(infos);
    }

    /// An attempt of this bundle runs and has reported this so far. It counts as attempted, in place of what it
    /// reported before, until [`Self::attempt_over`].
    pub fn attempt_running(&mut self, bundle: u64, infos: Vec<MonitoringInfo>) {
        self.running.insert(bundle, infos);
    }

    /// The attempt of this bundle runs no more. Returns what it reported while it did.
    pub fn attempt_over(&mut self, bundle: u64) -> Vec<MonitoringInfo> {
        self.running.remove(&bundle).unwrap_or_default()
    }

    /// A worker has reported this of all that it has done since it began. It counts as attempted, in place of what the
    /// worker reported before: a process does not forget what came of bundles that failed.
    pub fn worker_reported(&mut self, worker: String, infos: Vec<MonitoringInfo>) {
        self.workers.insert(worker, infos);
    }

    /// How many reports were left out because their payload did not have the form of their type.
    pub fn malformed(&self) -> u64 {
        self.attempted.malformed()
    }

    pub fn results(&self) -> MetricResults {
        let mut attempted = self.attempted.clone();
        let tentative = self.running.values().chain(self.workers.values());
        tentative.for_each(|infos| attempted.add(infos));
        MetricResults { attempted: attempted.snapshot(), committed: self.committed.snapshot() }
    }
}
