//! 6 · Around the heart: carries the engine's actions out and tells it what came of them.
//!
//! One task per job owns the engine and everything that only it may touch ([`run`]). Bundles run in
//! tasks of their own ([`attempt`]), as do GroupByKeys and side inputs ([`collectors`]), and report by
//! one channel.

mod attempt;
mod collectors;
mod state;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use crate::backend::Outcome;
use crate::engine::{
    Attempt, Block, BundleId, BundlePolicy, Engine, EngineAction, EngineEvent, Partition, Timer,
};
use crate::fault::Fault;
use crate::metrics::JobMetrics;
use crate::plan::{CollectionId, ExecutionPlan, Node, NodeId};
use crate::ports::{BundleResult, Finalizer, JobBundleFactory, StageBundleFactory};
use crate::runner_transforms::side_input::SideInput;
use crate::runner_transforms::{elements, impulse_element};
use crate::state::{BundleState, StateStore};
use collectors::{Collector, Collectors};

/// How long callbacks of committed bundles may take once the job is over.
const FINALIZATION_LIMIT: Duration = Duration::from_secs(30);
/// Results that may wait for the engine; who has more waits.
const EVENT_QUEUE: usize = 1024;

/// One job to execute.
pub struct Execution {
    pub plan: Arc<ExecutionPlan>,
    pub workers: Arc<dyn JobBundleFactory>,
    pub policy: BundlePolicy,
    pub inject: FaultInjection,
    pub progress: Arc<Progress>,
    /// Becomes true when the job is to be given up.
    pub cancel: watch::Receiver<bool>,
}

/// Failures made on purpose, to test that results do not depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultInjection {
    #[default]
    None,
    /// The first attempt of every bundle fails after it has done all its work.
    FirstAttempts,
}

/// What others may see of a running job.
#[derive(Default)]
pub struct Progress {
    pub metrics: Mutex<JobMetrics>,
    pub bundles_committed: AtomicU64,
    pub bundles_failed: AtomicU64,
}

impl Progress {
    fn metrics(&self) -> std::sync::MutexGuard<'_, JobMetrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a task reports.
enum Report {
    Attempt { bundle: BundleId, attempt: Attempt, result: attempt::Outcome },
    SideInput { collection: CollectionId, ready: Arc<SideInput> },
    Event(EngineEvent<Bytes>),
}

/// Runs a job to its end. Bundles still running then are given up; the workers are the caller's to close.
pub async fn run(execution: Execution) -> Outcome {
    let (reports, inbox) = mpsc::channel(EVENT_QUEUE);
    let plan = execution.plan.clone();
    let slots = plan.environments.iter().map(|id| execution.workers.parallelism(id).max(1)).collect();
    let engine = Engine::new(plan.clone(), slots, execution.policy);
    // All stages are named before the first worker starts, so that it can be told of all at once.
    let stages = plan.nodes.iter().enumerate().filter_map(|(index, node)| match node {
        Node::Stage(stage) => Some((NodeId(index), execution.workers.stage(stage.spec.clone()))),
        Node::Impulse { .. }
        | Node::TestStream(_)
        | Node::GroupByKey { .. }
        | Node::Flatten { .. }
        | Node::Redistribute { .. } => None,
    });
    let stages = stages.collect();
    let job = Job {
        collectors: Collectors::new(reports.clone()),
        engine,
        reports,
        stages,
        side_inputs: HashMap::new(),
        states: HashMap::new(),
        uncommitted: HashMap::new(),
        tasks: JoinSet::new(),
        finalizers: JoinSet::new(),
        execution,
    };
    job.run(inbox).await
}

/// What a successful attempt said and did, besides what the engine knows.
struct Uncommitted {
    infos: Vec<MonitoringInfo>,
    finalizer: Option<Box<dyn Finalizer>>,
    state: Option<Arc<BundleState>>,
}

struct Job {
    execution: Execution,
    engine: Engine<Bytes>,
    reports: mpsc::Sender<Report>,
    stages: BTreeMap<NodeId, Arc<dyn StageBundleFactory>>,
    side_inputs: HashMap<CollectionId, Arc<SideInput>>,
    /// The committed user state of each stage that has some.
    states: HashMap<NodeId, Arc<StateStore>>,
    collectors: Collectors,
    /// What a successful attempt said, until the engine commits it or not.
    uncommitted: HashMap<(BundleId, Attempt), Uncommitted>,
    /// Everything that runs for the job; ended when this is dropped.
    tasks: JoinSet<()>,
    finalizers: JoinSet<()>,
}

impl Job {
    async fn run(mut self, mut inbox: mpsc::Receiver<Report>) -> Outcome {
        let impulse = block(impulse_element());
        let mut next = Some(EngineEvent::Started { impulse });
        let mut cancel = self.execution.cancel.clone();
        loop {
            if let Some(event) = next.take()
                && let Some(outcome) = self.step(event)
            {
                self.tasks.abort_all();
                self.finish_finalizers().await;
                return outcome;
            }
            next = tokio::select! {
                report = inbox.recv() => report.map(|report| self.receive(report)),
                Some(ended) = self.tasks.join_next() => broken_off(ended),
                _ = cancelled(&mut cancel) => Some(EngineEvent::CancelRequested),
            };
        }
    }

    fn receive(&mut self, report: Report) -> EngineEvent<Bytes> {
        match report {
            Report::Event(EngineEvent::Grouped { node, blocks, last }) => self.by_key(node, blocks, last),
            Report::Event(event) => event,
            Report::SideInput { collection, ready } => {
                self.side_inputs.insert(collection, ready);
                EngineEvent::SideInputReady { collection }
            }
            Report::Attempt { bundle, attempt, result: Ok(done) } => {
                let attempt::Done { outputs, residuals, timers, state, result } = done;
                let BundleResult { monitoring_infos: infos, finalizer, .. } = result;
                self.uncommitted.insert((bundle, attempt), Uncommitted { infos, finalizer, state });
                EngineEvent::BundleSucceeded { bundle, attempt, outputs, residuals, timers }
            }
            Report::Attempt { bundle, attempt, result: Err((fault, infos)) } => {
                let infos = with_user_names(infos, &self.execution.plan.transform_names);
                self.execution.progress.metrics().bundle_failed(&infos);
                self.execution.progress.bundles_failed.fetch_add(1, Ordering::Relaxed);
                EngineEvent::BundleFailed { bundle, attempt, fault }
            }
        }
    }

    /// The outcome, if the job is over.
    fn step(&mut self, event: EngineEvent<Bytes>) -> Option<Outcome> {
        for action in self.engine.step(event) {
            match action {
                EngineAction::End(outcome) => return Some(outcome),
                EngineAction::Run { node, bundle, attempt, blocks, timers } => {
                    self.run_bundle(node, bundle, attempt, blocks, timers)
                }
                EngineAction::Commit { bundle, attempt } => self.commit(bundle, attempt),
                EngineAction::Group { node, blocks } => self.group(node, |collector| collector.add(blocks)),
                EngineAction::Seal { node } => self.group(node, Collector::seal),
                EngineAction::AddToSideInput { collection, blocks } => {
                    self.side_input(collection, |collector| collector.add(blocks))
                }
                EngineAction::SealSideInput { collection } => self.side_input(collection, Collector::seal),
                EngineAction::Wake { wake, after } => {
                    let reports = self.reports.clone();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(after).await;
                        let _ = reports.send(Report::Event(EngineEvent::Woken { wake })).await;
                    });
                }
            }
        }
        None
    }

    /// Groups that a stage reads by key are divided by key before the engine sees them.
    fn by_key(&self, node: NodeId, blocks: Vec<Block<Bytes>>, last: bool) -> EngineEvent<Bytes> {
        let plan = &self.execution.plan;
        let output = match &plan.nodes[node.0] {
            Node::GroupByKey { output, .. } => &plan.collections[output.0],
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::Stage(_)
            | Node::Flatten { .. }
            | Node::Redistribute { .. } => {
                return EngineEvent::Grouped { node, blocks, last };
            }
        };
        if !output.by_key {
            return EngineEvent::Grouped { node, blocks, last };
        }
        match elements::cut(output, blocks.into_iter().map(|block| block.data).collect()) {
            Ok(blocks) => EngineEvent::Grouped { node, blocks, last },
            Err(fault) => EngineEvent::Failed(fault),
        }
    }

    fn group(&mut self, node: NodeId, ask: impl FnOnce(&Collector)) {
        let plan = &self.execution.plan;
        if let Node::GroupByKey { output, grouping, name, .. } = &plan.nodes[node.0] {
            let workers = &self.execution.workers;
            let grain = plan.collections[output.0].grain;
            ask(self.collectors.grouping(node, grouping, name, grain, workers, &mut self.tasks));
        }
    }

    fn side_input(&mut self, collection: CollectionId, ask: impl FnOnce(&Collector)) {
        let planned = &self.execution.plan.collections[collection.0];
        ask(self.collectors.side_input(collection, planned, &mut self.tasks));
    }

    fn run_bundle(
        &mut self,
        node: NodeId,
        bundle: BundleId,
        attempt: Attempt,
        blocks: Vec<Block<Bytes>>,
        timers: Vec<Timer>,
    ) {
        let plan = self.execution.plan.clone();
        let Node::Stage(stage) = &plan.nodes[node.0] else { return };
        let Some(factory) = self.stages.get(&node).cloned() else { return };
        let side_inputs = state::SideInputs::new(stage, &self.side_inputs);
        let user = stage.keyed.as_ref().map(|keyed| {
            let store = || Arc::new(StateStore::new(&stage.spec.name, keyed.states.clone()));
            Arc::new(self.states.entry(node).or_insert_with(store).begin())
        });
        let run = attempt::Run {
            plan: plan.clone(),
            node,
            bundle,
            attempt,
            blocks,
            timers,
            state: Arc::new(state::StageState { side_inputs, user }),
            inject: self.execution.inject,
        };
        tracing::debug!(stage = stage.spec.name, bundle = bundle.0, attempt = attempt.0, "bundle starts");
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let result = run.run(factory.as_ref()).await;
            let _ = reports.send(Report::Attempt { bundle, attempt, result }).await;
        });
    }

    fn commit(&mut self, bundle: BundleId, attempt: Attempt) {
        let Some(uncommitted) = self.uncommitted.remove(&(bundle, attempt)) else { return };
        let Uncommitted { infos, finalizer, state } = uncommitted;
        if let Some(state) = state {
            state.commit();
        }
        self.execution.progress.bundles_committed.fetch_add(1, Ordering::Relaxed);
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

    async fn finish_finalizers(&mut self) {
        let all = async { while self.finalizers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINALIZATION_LIMIT, all).await.is_err() {
            tracing::warn!("finalization callbacks did not end in {FINALIZATION_LIMIT:?}; they are given up");
        }
    }
}

/// A task that panicked reports nothing, and the job would wait for it for ever.
fn broken_off(ended: Result<(), JoinError>) -> Option<EngineEvent<Bytes>> {
    let error = ended.err().filter(JoinError::is_panic)?;
    let message = format!("a task of the job broke off, which is a fault of Beamline's: {error}");
    Some(EngineEvent::Failed(Fault::runner(message)))
}

/// A block that belongs to no key.
fn block(data: Bytes) -> Block<Bytes> {
    elements::block(data, Partition(0))
}

/// Waits until the job is to be given up; for ever if nobody can ask for that any more.
async fn cancelled(cancel: &mut watch::Receiver<bool>) {
    if cancel.wait_for(|asked| *asked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Metrics name transforms by their ids in the pipeline; users know them by name.
fn with_user_names(mut infos: Vec<MonitoringInfo>, names: &BTreeMap<String, String>) -> Vec<MonitoringInfo> {
    for info in &mut infos {
        if let Some(label) = info.labels.get_mut("PTRANSFORM")
            && let Some(name) = names.get(label)
        {
            label.clone_from(name);
        }
    }
    infos
}
