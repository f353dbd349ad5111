//! 6 · Around the heart: carries the engine's actions out and tells it what came of them.
//!
//! One task per job owns the engine and everything that only it may touch ([`run`]). Bundles run in
//! tasks of their own ([`attempt`]), as do GroupByKeys and side inputs ([`collectors`]), and report by
//! one channel.

mod attempt;
mod await_side_inputs;
mod bundles;
mod clock;
mod collectors;
mod handed_out;
mod late;
mod merging;
mod outputs;
mod progress;
mod room;
mod splits;
mod spread;
mod state;
mod test_stream;
mod timers;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use beam_model::time::EventTime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::backend::Outcome;
use crate::engine::{Attempt, BundleId, BundlePolicy, Engine, EngineAction, EngineEvent};
use crate::fault::Fault;
use crate::meters::{Load, WaitingShare};
use crate::plan::{CollectionId, ExecutionPlan, Node, NodeId, StageSideInput};
use crate::ports::{
    BundleControl, BundleResult, JobBundleFactory, Reservation, StageBundleFactory, Storage, StoredBlock,
};
use crate::runner_transforms::iterables::Iterables;
use crate::runner_transforms::live_side_input::Snapshot;
use crate::runner_transforms::side_input::SideInput;
use crate::runner_transforms::{elements, impulse_element};
use crate::state::{StateStore, UserStateCaches};
use attempt::Content;
use bundles::Uncommitted;
use clock::Alarm;
pub use clock::Clock;
use collectors::{Collectors, LiveViews, SideInputCollector, What};
pub use progress::Progress;
use progress::with_user_names;
use spread::Spread;
use test_stream::Player;
use workers::StageWorkers;

/// How long callbacks of committed bundles may take once the job is over.
const FINALIZATION_LIMIT: Duration = Duration::from_secs(30);
/// How often workers are asked for the metrics of their process; besides that, when the job ends.
const WORKER_METRICS_EVERY: Duration = Duration::from_secs(10);
/// What a timer takes in memory, about: itself, its key and window, and its place among the others, in bytes.
const TIMER_BYTES: u64 = 512;
/// Results that may wait for the engine; who has more waits.
const EVENT_QUEUE: usize = 1024;

/// One job to execute.
pub struct Execution {
    pub plan: Arc<ExecutionPlan>,
    pub workers: Arc<dyn JobBundleFactory>,
    pub policy: BundlePolicy,
    pub inject: FaultInjection,
    pub progress: Arc<Progress>,
    /// Keeps what the job has made and not yet used.
    pub storage: Arc<dyn Storage>,
    /// What the user wants of the job.
    pub wish: watch::Receiver<Wish>,
    pub clock: Clock,
    /// How long after the end of a stage's input its processing-time timers may go on setting others.
    pub last_timers: Duration,
}

/// What a user can ask of a running job. Later ones win over earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    #[default]
    GoOn,
    /// To read no more, and end when all that has been read is done.
    Drain,
    /// To give up at once.
    Cancel,
}

/// Failures made on purpose, to test that results do not depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FaultInjection {
    #[default]
    None,
    /// The first attempt of every bundle fails after it has done all its work.
    FirstAttempts,
}

/// What a task reports.
enum Report {
    Attempt { bundle: BundleId, attempt: Attempt, result: attempt::Outcome },
    SideInput { collection: CollectionId, ready: Arc<SideInput> },
    LiveSideInput { collection: CollectionId, snapshot: Arc<Snapshot> },
    Event(EngineEvent<StoredBlock>),
}

/// Runs a job to its end. Bundles still running then are given up; the workers are the caller's to close.
pub async fn run(execution: Execution) -> Outcome {
    let (reports, inbox) = mpsc::channel(EVENT_QUEUE);
    let plan = execution.plan.clone();
    let slots = plan.environments.iter().map(|id| execution.workers.parallelism(id).max(1)).collect();
    let engine = Engine::new(plan.clone(), slots, execution.policy).with_last_timers(execution.last_timers);
    // All stages are named before the first worker starts, so that it can be told of all at once.
    let stages = StageWorkers::of(&plan, execution.workers.as_ref());
    let mut tasks = JoinSet::new();
    let (workers, progress) = (execution.workers.clone(), execution.progress.clone());
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(WORKER_METRICS_EVERY).await;
            progress.ask_workers(workers.as_ref()).await;
        }
    });
    let player =
        Player::new(plan.clone(), execution.workers.clone(), execution.storage.clone(), reports.clone());
    let player = player.map(|(player, play)| {
        tasks.spawn(play);
        player
    });
    let iterables = Arc::new(Iterables::default());
    let (progress, storage) = (execution.progress.clone(), execution.storage.clone());
    let job = Job {
        player,
        collectors: Collectors::new(reports.clone(), progress, storage, iterables.clone()),
        iterables,
        engine,
        reports,
        stages,
        spread: Arc::new(Spread::new(&plan)),
        side_inputs: state::Views::default(),
        live: LiveViews::new(),
        states: HashMap::new(),
        caches: HashMap::new(),
        uncommitted: HashMap::new(),
        controls: HashMap::new(),
        inputs: HashMap::new(),
        wake: None,
        began: Instant::now(),
        granted: Wish::GoOn,
        tasks,
        finalizers: JoinSet::new(),
        waiting: WaitingShare::new(execution.progress.meters.clone()),
        timers: execution.storage.budget().reserve(0),
        execution,
    };
    job.run(inbox).await
}

/// So few bytes are dealt with where they are; handing them to another thread costs more.
const INLINE_BYTES: u64 = 64 << 10;

/// Whether taking in so many bytes, or reading them, may keep a thread for long: many of them have to be looked at, or they may
/// have to go to a disk or come from one.
fn may_wait(storage: &dyn Storage, looked_at: u64, bytes: u64) -> bool {
    let budget = storage.budget();
    let short = || budget.on_disk() > 0 || budget.used().saturating_add(bytes) > budget.limit();
    looked_at > INLINE_BYTES || (storage.waits() && short())
}

struct Job {
    execution: Execution,
    engine: Engine<StoredBlock>,
    /// There if the pipeline has a TestStream.
    player: Option<Player>,
    reports: mpsc::Sender<Report>,
    stages: BTreeMap<NodeId, StageWorkers>,
    spread: Arc<Spread>,
    side_inputs: state::Views,
    /// Those of them that go on changing, as they are now.
    live: LiveViews,
    /// The committed user state of each stage that has some.
    states: HashMap<NodeId, Arc<StateStore>>,
    /// What workers know of it.
    caches: HashMap<NodeId, Arc<UserStateCaches>>,
    collectors: Collectors,
    /// Values of groups that stay here until workers ask for them.
    iterables: Arc<Iterables>,
    /// What a successful attempt said, until the engine commits it or not.
    uncommitted: HashMap<(BundleId, Attempt), Uncommitted>,
    /// How to ask running bundles something.
    controls: HashMap<BundleId, BundleControl>,
    /// What they are to process, and on whom.
    inputs: HashMap<BundleId, (Arc<splits::Input>, Arc<dyn StageBundleFactory>)>,
    /// When the engine wants to be woken.
    wake: Option<Alarm>,
    began: Instant,
    /// The last wish that the engine has been told.
    granted: Wish,
    /// Everything that runs for the job; ended when this is dropped.
    tasks: JoinSet<()>,
    finalizers: JoinSet<()>,
    waiting: WaitingShare,
    /// For timers that are set. They stay in memory; others make room for them.
    timers: Reservation,
}

impl Job {
    async fn run(mut self, mut inbox: mpsc::Receiver<Report>) -> Outcome {
        let impulse = elements::block(StoredBlock::in_memory(impulse_element()));
        let mut next = Some(EngineEvent::Started { impulse });
        let mut wish = self.execution.wish.clone();
        loop {
            if let Some(event) = next.take()
                && let Some(outcome) = self.step(event)
            {
                self.tasks.abort_all();
                self.finish_finalizers().await;
                self.last_worker_metrics(&outcome).await;
                return outcome;
            }
            let granted = self.granted;
            next = tokio::select! {
                // In the same order each time, what comes seldom first: none of it can keep the rest waiting.
                biased;
                wish = wished(&mut wish, granted) => {
                    self.execution.workers.waited_for_others();
                    self.grant(wish)
                }
                Some(ended) = self.tasks.join_next() => broken_off(ended),
                Some(_) = self.finalizers.join_next() => None,
                () = rung(&mut self.wake) => {
                    self.execution.workers.waited_for_others();
                    self.wake = None;
                    Some(EngineEvent::Woken)
                }
                report = inbox.recv() => report.map(|report| self.receive(report)),
            };
        }
    }

    fn grant(&mut self, wish: Wish) -> Option<EngineEvent<StoredBlock>> {
        self.granted = wish;
        match wish {
            Wish::GoOn => None,
            Wish::Drain => Some(EngineEvent::DrainRequested),
            Wish::Cancel => Some(EngineEvent::CancelRequested),
        }
    }

    fn receive(&mut self, report: Report) -> EngineEvent<StoredBlock> {
        match report {
            Report::Event(event) => {
                if matches!(event, EngineEvent::TestStream(_)) {
                    self.execution.workers.waited_for_others();
                }
                event
            }
            Report::SideInput { collection, ready } => {
                self.side_inputs.publish(collection, ready);
                EngineEvent::SideInputReady { collection }
            }
            Report::LiveSideInput { collection, snapshot } => {
                self.side_inputs.publish(collection, snapshot.clone());
                self.live.insert(collection, snapshot);
                EngineEvent::SideInputUpdated { collection }
            }
            Report::Attempt { bundle, attempt, result: Ok(done) } => {
                self.execution.progress.metrics().attempt_over(bundle.0);
                let attempt::Done { outputs, residuals, timers, state, cache, result } = done;
                let BundleResult { monitoring_infos: infos, finalizer, .. } = result;
                self.uncommitted.insert((bundle, attempt), Uncommitted { infos, finalizer, state, cache });
                EngineEvent::BundleSucceeded { bundle, attempt, outputs, residuals, timers }
            }
            Report::Attempt { bundle, attempt, result: Err((fault, infos)) } => {
                let infos = with_user_names(infos, &self.execution.plan.transform_names);
                let mut metrics = self.execution.progress.metrics();
                // A worker that is lost does not say what it has done at last.
                let before = metrics.attempt_over(bundle.0);
                metrics.bundle_failed(if infos.is_empty() { &before } else { &infos });
                drop(metrics);
                self.execution.progress.bundles_failed.fetch_add(1, Ordering::Relaxed);
                self.execution.progress.meters.bundles.failed.add(1);
                EngineEvent::BundleFailed { bundle, attempt, fault }
            }
        }
    }

    /// The outcome, if the job is over.
    fn step(&mut self, event: EngineEvent<StoredBlock>) -> Option<Outcome> {
        for action in self.engine.step(self.execution.clock.now(self.began), event) {
            match action {
                EngineAction::End(outcome) => return Some(outcome),
                EngineAction::Run {
                    node,
                    bundle,
                    attempt,
                    blocks,
                    timers,
                    partitions,
                    watermark,
                    draining,
                } => {
                    let input = splits::Input::new(
                        self.execution.plan.clone(),
                        node,
                        blocks,
                        self.execution.storage.clone(),
                    );
                    let content = Content { timers, partitions, watermark, draining };
                    self.run_bundle(node, bundle, attempt, Arc::new(input), content)
                }
                EngineAction::Commit { bundle, attempt } => self.commit(bundle, attempt),
                EngineAction::Checkpoint { bundle } => self.checkpoint(bundle),
                EngineAction::Split { bundle, attempt, fraction_of_remainder } => {
                    self.split(bundle, attempt, fraction_of_remainder)
                }
                EngineAction::Collect { node, blocks, now } => self.collector(node, What::Add(blocks, now)),
                EngineAction::Advance { node, watermark, now } => {
                    self.collector(node, What::Advance(watermark, now))
                }
                EngineAction::AddToSideInput { collection, blocks } => {
                    self.side_input(collection, |side_input| side_input.add(blocks))
                }
                EngineAction::SealSideInput { collection } => {
                    self.side_input(collection, SideInputCollector::seal)
                }
                EngineAction::AdvanceSideInput { collection, watermark } => {
                    self.side_input(collection, |side_input| side_input.advance(watermark))
                }
                EngineAction::Expire { node, watermark } => self.expire(node, watermark),
                EngineAction::TimersDropped { node, count } => self.timers_dropped(node, count),
                EngineAction::NextTestStreamEvent => self.player.iter().for_each(Player::next),
                EngineAction::WakeAt { at } => self.wake = Some(self.execution.clock.alarm(self.began, at)),
            }
        }
        let (blocks, bytes) = self.engine.waiting();
        let (timers, running) = (self.engine.timers_waiting(), self.engine.bundles_in_flight() as u64);
        self.waiting.set(Load { blocks, bytes, timers, running });
        self.timers.resize(timers * TIMER_BYTES);
        None
    }

    fn collector(&mut self, node: NodeId, what: What) {
        let plan = self.execution.plan.clone();
        if let Some(collector) =
            self.collectors.collector(node, &plan, &self.execution.workers, &mut self.tasks)
        {
            let views = match &plan.nodes[node.0] {
                // Bundles of what it lets go see these or later ones.
                Node::AwaitSideInputs { side_inputs, .. } => {
                    let live = |side: &StageSideInput| self.live.get_key_value(&side.collection);
                    side_inputs.iter().filter_map(live).map(|(id, view)| (*id, view.clone())).collect()
                }
                Node::Impulse { .. }
                | Node::TestStream(_)
                | Node::Stage(_)
                | Node::GroupByKey { .. }
                | Node::Flatten { .. }
                | Node::Redistribute { .. } => LiveViews::new(),
            };
            collector.ask(what, views);
        }
    }

    /// Forgets the state of windows that were over before `watermark`.
    fn expire(&mut self, node: NodeId, watermark: EventTime) {
        if let (Node::Stage(stage), Some(store)) =
            (&self.execution.plan.nodes[node.0], self.states.get(&node))
            && let Some(keyed) = &stage.keyed
        {
            store.expire(|window| late::has_expired(keyed, window, watermark));
        }
    }

    fn timers_dropped(&self, node: NodeId, count: usize) {
        let plan = &self.execution.plan;
        let Node::Stage(stage) = &plan.nodes[node.0] else { return };
        let transform = stage.keyed.as_ref().map_or(&stage.source, |keyed| &keyed.transform);
        let name = plan.transform_names.get(transform).unwrap_or(&stage.spec.name);
        let after = self.execution.last_timers.as_secs();
        let warning = format!(
            "{count} processing-time timers of {name} were left out: the job was drained, and they went on being \
             set {after} s after the end of their input"
        );
        tracing::warn!("{warning}");
        self.execution.progress.warn(warning);
    }

    fn side_input(&mut self, collection: CollectionId, ask: impl FnOnce(&SideInputCollector)) {
        let planned = &self.execution.plan.collections[collection.0];
        ask(self.collectors.side_input(collection, planned, &mut self.tasks));
    }

    /// Nobody waits for what a worker has to say whose bundle was called off.
    async fn last_worker_metrics(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Done | Outcome::Drained | Outcome::Failed(_) => {
                self.execution.progress.ask_workers(self.execution.workers.as_ref()).await
            }
            Outcome::Cancelled => {}
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
fn broken_off(ended: Result<(), JoinError>) -> Option<EngineEvent<StoredBlock>> {
    let error = ended.err().filter(JoinError::is_panic)?;
    let message = format!("a task of the job broke off, which is a fault of Beamline's: {error}");
    Some(EngineEvent::Failed(Fault::runner(message)))
}

async fn rung(alarm: &mut Option<Alarm>) {
    match alarm {
        Some(alarm) => alarm.await,
        None => std::future::pending().await,
    }
}

/// Waits until more is wished than has been granted; for ever if nobody can wish for anything any more.
async fn wished(wish: &mut watch::Receiver<Wish>, granted: Wish) -> Wish {
    if wish.wait_for(|wish| *wish > granted).await.is_err() {
        std::future::pending::<()>().await;
    }
    *wish.borrow()
}
