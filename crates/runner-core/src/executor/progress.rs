//! What others may see of a running job.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beam_model::pipeline::MonitoringInfo;

use crate::meters::Meters;
use crate::metrics::JobMetrics;
use crate::ports::JobBundleFactory;

/// What others may see of a running job.
#[derive(Default)]
pub struct Progress {
    pub metrics: Mutex<JobMetrics>,
    pub bundles_committed: AtomicU64,
    pub bundles_failed: AtomicU64,
    /// What the author of the job is to be told when it has ended.
    pub warnings: Mutex<Vec<String>>,
    /// Of the server, to be counted in.
    pub meters: Arc<Meters>,
}

impl Progress {
    pub(super) fn metrics(&self) -> MutexGuard<'_, JobMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Has the metrics be those that workers have as a whole by now.
    pub(super) async fn ask_workers(&self, workers: &dyn JobBundleFactory) {
        for (worker, infos) in workers.worker_metrics().await {
            self.metrics().worker_reported(worker, infos);
        }
    }
}

/// Metrics name transforms by their ids in the pipeline; users know them by name.
pub(super) fn with_user_names(
    mut infos: Vec<MonitoringInfo>,
    names: &BTreeMap<String, String>,
) -> Vec<MonitoringInfo> {
    for info in &mut infos {
        if let Some(label) = info.labels.get_mut("PTRANSFORM")
            && let Some(name) = names.get(label)
        {
            label.clone_from(name);
        }
    }
    infos
}
