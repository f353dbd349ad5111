//! Beam's metrics out of Flink's accumulators.
//!
//! The runner in the cluster keeps all of a job's metrics in one accumulator, whose text is a
//! `GetJobMetricsResponse` as JSON. It counts what was attempted; an attempt that Flink restarts takes its counts
//! with it.

use std::collections::BTreeMap;

use beam_model::urns::monitoring_info::monitoring_info_labels;
use runner_core::backend::MetricResults;

use super::error::FlinkError;
use super::json;
use super::rest::Accumulators;

const METRICS_CONTAINERS: &str = "__metricscontainers";

/// What the job has counted so far; nothing if it has no accumulator yet. The runner names transforms by their ids;
/// users know them by `names`.
pub(super) fn read(
    accumulators: &Accumulators,
    names: &BTreeMap<String, String>,
) -> Result<MetricResults, FlinkError> {
    let Some(all) = accumulators.of_tasks.iter().find(|one| one.name == METRICS_CONTAINERS) else {
        return Ok(MetricResults::default());
    };
    let mut metrics = json::read_metrics(&all.value)?.metrics.unwrap_or_default();
    for info in metrics.attempted.iter_mut().chain(&mut metrics.committed) {
        if let Some(label) = info.labels.get_mut(monitoring_info_labels::TRANSFORM)
            && let Some(name) = names.get(label)
        {
            label.clone_from(name);
        }
    }
    Ok(MetricResults { attempted: metrics.attempted, committed: metrics.committed })
}

/// The same once the job has come to its end in one go: what was attempted is what was committed.
pub(super) fn as_committed(metrics: MetricResults) -> MetricResults {
    match metrics.committed.is_empty() {
        true => MetricResults { committed: metrics.attempted.clone(), ..metrics },
        false => metrics,
    }
}
