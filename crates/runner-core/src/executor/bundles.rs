//! Bundles from their start to their commit: what each is given, what it is asked while it runs, and what it leaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use tokio::time::Instant;

use super::attempt::{self, Content};
use super::progress::with_user_names;
use super::{Job, Report, collectors, room, splits, state};
use crate::engine::{Attempt, BundleId, EngineEvent};
use crate::plan::{Merging, Node, NodeId, Stage};
use crate::ports::{BundleControl, BundleRequests, Finalizer};
use crate::state::{BundleState, CacheUse, StateStore};

/// How long a bundle of unbounded input runs at a stretch, if it can be split.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);

/// What a successful attempt said and did, besides what the engine knows.
pub(super) struct Uncommitted {
    pub(super) infos: Vec<MonitoringInfo>,
    pub(super) finalizer: Option<Box<dyn Finalizer>>,
    pub(super) state: Option<Arc<BundleState>>,
    pub(super) cache: Option<Arc<CacheUse>>,
}

impl Job {
    pub(super) fn run_bundle(
        &mut self,
        node: NodeId,
        bundle: BundleId,
        attempt: Attempt,
        input: Arc<splits::Input>,
        mut content: Content,
    ) {
        let plan = self.execution.plan.clone();
        let Node::Stage(stage) = &plan.nodes[node.0] else { return };
        let Some(workers) = self.stages.get(&node).map(|stage| stage.of_bundle(content.draining)) else {
            return;
        };
        let side_inputs = state::SideInputs::new(stage, &self.side_inputs);
        let user = stage.keyed.as_ref().map(|keyed| {
            let store = self.states.entry(node).or_insert_with(|| {
                let storage = self.execution.storage.clone();
                let store = Arc::new(StateStore::new(&stage.spec.name, keyed.states.clone(), storage));
                let room = room::keep_room(store.clone());
                self.tasks.spawn(collectors::report_failure(self.reports.clone(), room));
                store
            });
            Arc::new(store.begin())
        });
        // When windows merge their state is put together here, and workers do not learn of it.
        let cached = stage.keyed.as_ref().filter(|keyed| matches!(keyed.merging, Merging::Never));
        let cache = cached.map(|_| {
            let partitions = std::mem::take(&mut content.partitions);
            Arc::new(self.caches.entry(node).or_default().begin(partitions))
        });
        let (control, requests) = BundleRequests::channel();
        if plan.streaming && stage.restriction_reader.is_some() {
            self.checkpoint_regularly(control.clone());
        }
        self.controls.insert(bundle, control.clone());
        self.inputs.insert(bundle, (input.clone(), workers.stage.clone()));
        let run = attempt::Run {
            plan: plan.clone(),
            storage: self.execution.storage.clone(),
            node,
            bundle,
            attempt,
            input,
            content,
            state: Arc::new(state::StageState {
                side_inputs,
                user,
                cache: cache.clone(),
                storage: self.execution.storage.clone(),
                iterables: self.iterables.clone(),
            }),
            spread: self.spread.clone(),
            inject: self.execution.inject,
            requests,
            control,
            progress: self.execution.progress.clone(),
            reports: self.reports.clone(),
            side_inputs_version: self.side_inputs_version(stage),
        };
        tracing::debug!(stage = stage.spec.name, bundle = bundle.0, attempt = attempt.0, "bundle starts");
        self.execution.progress.meters.bundles.started.add(1);
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let result = run.run(&workers).await;
            if let (Err(_), Some(cache)) = (&result, &cache) {
                cache.discard();
            }
            let _ = reports.send(Report::Attempt { bundle, attempt, result }).await;
        });
    }

    /// What reads restrictions may never end by itself, and nothing of it is seen before it has.
    fn checkpoint_regularly(&mut self, control: BundleControl) {
        let mut watch = tokio::time::interval_at(Instant::now() + CHECKPOINT_EVERY, CHECKPOINT_EVERY);
        self.tasks.spawn(async move {
            while control.is_open() {
                watch.tick().await;
                control.split(0.0).await;
            }
        });
    }

    /// Has a running bundle leave undone what it can.
    pub(super) fn checkpoint(&mut self, bundle: BundleId) {
        // What is bounded ends by itself.
        let streaming = self.execution.plan.streaming;
        if let Some(control) = self.controls.get(&bundle).filter(|_| streaming).cloned() {
            self.tasks.spawn(async move {
                control.split(0.0).await;
            });
        }
    }

    /// Asks a running bundle to share what is left to it.
    pub(super) fn split(&mut self, bundle: BundleId, attempt: Attempt, fraction_of_remainder: f64) {
        let Some(control) = self.controls.get(&bundle).cloned() else { return };
        let Some((input, workers)) = self.inputs.get(&bundle).cloned() else { return };
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let is_split = input.ask(control, workers, fraction_of_remainder).await;
            let event = EngineEvent::SplitAnswered { bundle, attempt, is_split };
            let _ = reports.send(Report::Event(event)).await;
        });
    }

    pub(super) fn commit(&mut self, bundle: BundleId, attempt: Attempt) {
        self.controls.remove(&bundle);
        self.inputs.remove(&bundle);
        let Some(uncommitted) = self.uncommitted.remove(&(bundle, attempt)) else { return };
        let Uncommitted { infos, finalizer, state, cache } = uncommitted;
        if let Some(state) = state {
            state.commit();
        }
        if let Some(cache) = cache {
            cache.commit();
        }
        self.execution.progress.bundles_committed.fetch_add(1, Ordering::Relaxed);
        self.execution.progress.meters.bundles.committed.add(1);
        let infos = with_user_names(infos, &self.execution.plan.transform_names);
        self.execution.progress.metrics().bundle_committed(&infos);
        if let Some(finalizer) = finalizer {
            self.finalizers.spawn(async move {
                if let Err(fault) = finalizer.finalize().await {
                    tracing::warn!(bundle = bundle.0, "a bundle's finalization callback failed: {fault}");
                }
            });
        }
    }

    fn side_inputs_version(&self, stage: &Stage) -> Option<u64> {
        let global = stage.side_inputs.iter().filter(|side| side.map_windows.is_none());
        // Each only ever grows.
        global
            .filter_map(|side| self.live.get(&side.collection))
            .map(|view| view.version())
            .reduce(u64::wrapping_add)
    }
}
