//! The metrics of one job, committed and attempted.

use beam_model::pipeline::MonitoringInfo;

use super::MetricsAccumulator;
use crate::backend::MetricResults;

/// Both ways of counting a job's metrics.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    committed: MetricsAccumulator,
    attempted: MetricsAccumulator,
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

    /// How many reports were left out because their payload did not have the form of their type.
    pub fn malformed(&self) -> u64 {
        self.attempted.malformed()
    }

    pub fn results(&self) -> MetricResults {
        MetricResults { attempted: self.attempted.snapshot(), committed: self.committed.snapshot() }
    }
}
