//! Beam's metrics out of Flink's accumulators.
//!
//! The runner in the cluster keeps all of a job's metrics in one accumulator, whose text is a
//! `GetJobMetricsResponse` as JSON. It counts what was attempted; an attempt that Flink restarts takes its counts
//! with it.

use runner_core::backend::MetricResults;

use super::error::FlinkError;
use super::json;
use super::rest::Accumulators;

const METRICS_CONTAINERS: &str = "__metricscontainers";

/// What the job has counted so far; nothing if it has no accumulator yet.
pub(super) fn read(accumulators: &Accumulators) -> Result<MetricResults, FlinkError> {
    let Some(all) = accumulators.of_tasks.iter().find(|one| one.name == METRICS_CONTAINERS) else {
        return Ok(MetricResults::default());
    };
    let metrics = json::read_metrics(&all.value)?.metrics.unwrap_or_default();
    Ok(MetricResults { attempted: metrics.attempted, committed: metrics.committed })
}

/// The same once the job has come to its end in one go: what was attempted is what was committed.
pub(super) fn as_committed(metrics: MetricResults) -> MetricResults {
    match metrics.committed.is_empty() {
        true => MetricResults { committed: metrics.attempted.clone(), ..metrics },
        false => metrics,
    }
}
