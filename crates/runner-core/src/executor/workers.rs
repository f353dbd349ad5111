//! On whom the bundles of a stage run.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attempt;
use crate::plan::{ExecutionPlan, Merging, NodeId, Stage};
use crate::ports::{JobBundleFactory, StageBundleFactory};

/// The workers of one stage.
pub(super) struct StageWorkers {
    ordinary: Arc<dyn StageBundleFactory>,
    /// Truncates restrictions before it processes them; there if some may never end.
    drain: Option<Arc<dyn StageBundleFactory>>,
    /// Merges the windows of its state and timers; there if only the SDK can.
    merge: Option<Arc<dyn StageBundleFactory>>,
    /// Merge the accumulators of its combining states, in the order of `Stage::combines`.
    combine: Vec<Arc<dyn StageBundleFactory>>,
}

impl StageWorkers {
    pub(super) fn of(plan: &ExecutionPlan, workers: &dyn JobBundleFactory) -> BTreeMap<NodeId, Self> {
        let workers_of = |stage: &Stage| Self {
            ordinary: workers.stage(stage.spec.clone()),
            drain: stage.drain.as_ref().map(|spec| workers.stage(spec.clone())),
            merge: stage.keyed.as_ref().and_then(|keyed| match &keyed.merging {
                Merging::Never | Merging::Sessions => None,
                Merging::BySdk(merge) => Some(workers.stage(merge.spec.clone())),
            }),
            combine: stage.combines.iter().map(|combine| workers.stage(combine.spec.clone())).collect(),
        };
        plan.stages().map(|(node, stage)| (node, workers_of(stage))).collect()
    }

    pub(super) fn of_bundle(&self, draining: bool) -> attempt::Workers {
        let drain = self.drain.as_ref().filter(|_| draining);
        attempt::Workers {
            stage: drain.unwrap_or(&self.ordinary).clone(),
            merge: self.merge.clone(),
            combine: self.combine.clone(),
        }
    }
}
