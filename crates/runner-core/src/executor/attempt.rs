//! One attempt of a bundle: inputs out to a worker, outputs and residuals back. Meanwhile what it gives back goes to
//! the engine, and how far it is to the job's metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use beam_model::time::EventTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::collectors::compute;
use super::merging::{self, MergedInput, Merger};
use super::outputs::{ByCollection, Outputs};
use super::splits::{Input, Split};
use super::spread::Spread;
use super::state::StageState;
use super::{FaultInjection, Progress, Report, late, timers, with_user_names};
use crate::engine::{Attempt, Block, BundleId, EngineEvent, MAX_ATTEMPTS, Partition, Timer, TimerChange};
use crate::fault::{Blame, Fault, Retry};
use crate::metrics::Dropped;
use crate::plan::{Collection, CombineStage, ExecutionPlan, KeyedStage, Node, NodeId, Stage};
use crate::ports::{
    BundleControl, BundleInput, BundleRequests, BundleResult, RemoteBundle, Residual, StageBundleFactory,
    Storage, StoredBlock,
};
use crate::runner_transforms::elements;
use crate::state::{BundleState, CacheUse};

/// How often a bundle is asked how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Splits that wait to be told to the engine. A worker answers one question at a time.
const SPLITS: usize = 16;

/// What a successful attempt brings.
pub(super) struct Done {
    pub(super) outputs: ByCollection,
    pub(super) residuals: Vec<(Block<StoredBlock>, Duration)>,
    pub(super) timers: Vec<TimerChange>,
    /// What it wrote to user state, to be committed.
    pub(super) state: Option<Arc<BundleState>>,
    /// What its worker may have kept of that.
    pub(super) cache: Option<Arc<CacheUse>>,
    pub(super) result: BundleResult,
}

/// With a failure come the metrics of the work that was done for nothing.
pub(super) type Outcome = Result<Done, (Fault, Vec<MonitoringInfo>)>;

/// What a bundle is made of, its elements aside.
pub(super) struct Content {
    pub(super) timers: Vec<Timer>,
    /// The keys that only this bundle has.
    pub(super) partitions: Vec<Partition>,
    /// What belongs only to windows that were over before this is dropped.
    pub(super) watermark: EventTime,
    /// Whether restrictions are to be truncated.
    pub(super) draining: bool,
}

pub(super) struct Run {
    pub(super) plan: Arc<ExecutionPlan>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) node: NodeId,
    pub(super) bundle: BundleId,
    pub(super) attempt: Attempt,
    pub(super) input: Arc<Input>,
    pub(super) content: Content,
    pub(super) state: Arc<StageState>,
    pub(super) spread: Arc<Spread>,
    pub(super) inject: FaultInjection,
    pub(super) requests: BundleRequests,
    /// The other end of `requests`.
    pub(super) control: BundleControl,
    /// Of side inputs in the global window that go on changing.
    pub(super) side_inputs_version: Option<u64>,
    pub(super) progress: Arc<Progress>,
    pub(super) reports: mpsc::Sender<Report>,
}

/// The workers of a stage that a bundle needs.
pub(super) struct Workers {
    pub(super) stage: Arc<dyn StageBundleFactory>,
    /// There if windows of the stage are merged by the SDK.
    pub(super) merge: Option<Arc<dyn StageBundleFactory>>,
    /// Merge the accumulators of its combining states, in the order of `Stage::combines`.
    pub(super) combine: Vec<Arc<dyn StageBundleFactory>>,
}

impl Run {
    pub(super) async fn run(mut self, workers: &Workers) -> Outcome {
        let plan = self.plan.clone();
        let Node::Stage(stage) = &plan.nodes[self.node.0] else {
            return Err((Fault::runner("only stages have bundles"), Vec::new()));
        };
        let (split, splits) = mpsc::channel(SPLITS);
        let outputs = Arc::new(Outputs::new(
            self.plan.clone(),
            self.node,
            self.storage.clone(),
            self.input.clone(),
            split,
        ));
        let failed = |fault| (fault, Vec::new());
        let input = &plan.collections[stage.input.0];
        let (watermark, draining) = (self.content.watermark, self.content.draining);
        let mut due = std::mem::take(&mut self.content.timers);
        if self.storage.budget().on_disk() > 0 {
            // Those of one key stay in their order. State is read back partition by partition.
            due.sort_by_cached_key(|timer| elements::partition_of(&timer.id.key));
        }
        let blocks = self.input.blocks.iter().map(|block| block.data.clone()).collect();
        let mut dropped = Dropped::default();
        let merged = match &stage.keyed {
            None => MergedInput { blocks, ..Default::default() },
            Some(keyed) => {
                let (open, late) = late::drop_late(keyed, input, blocks, watermark, self.storage.as_ref())
                    .map_err(failed)?;
                dropped = Dropped { late, closed: 0 };
                let (combines, state, storage) = (&stage.combines, &self.state, self.storage.as_ref());
                let by_key = ByKey { stage: keyed, combines, input, watermark, state, workers, storage };
                by_key.prepare(open).await.map_err(failed)?
            }
        };
        let MergedInput { blocks, mut timers, results } = merged;
        let firing = stage.keyed.as_ref().map(|keyed| timers::firing(keyed, &due));
        let firing = firing.transpose().map_err(failed)?.unwrap_or_default();
        let given = blocks.clone().into_iter().map(|block| block.read());
        let bundle = RemoteBundle {
            instruction: format!("bundle-{}-attempt-{}", self.bundle.0, self.attempt.0),
            inputs: vec![BundleInput {
                transform_id: stage.source.clone(),
                blocks: Box::new(given),
                elements: self.input.elements.clone(),
            }],
            timers: firing,
            state: self.state.clone(),
            outputs: outputs.clone(),
            requests: std::mem::replace(&mut self.requests, BundleRequests::none()),
            side_inputs_version: self.side_inputs_version,
        };
        let result = self.attend(stage, workers.stage.process(bundle), splits).await;
        let answered = Instant::now();
        let mut result = result.map_err(|fault| (locate(fault, stage, self.attempt), Vec::new()))?;
        result.monitoring_infos.retain(|info| stage.counts(info));
        if self.inject == FaultInjection::FirstAttempts && self.attempt == Attempt(1) {
            let fault = Fault::user("injected failure").at(&stage.spec.name);
            return Err((fault, result.monitoring_infos));
        }
        // What is left of what was truncated is not to be truncated again.
        let truncated = draining || self.input.blocks.iter().any(|block| block.truncated);
        let mut residuals =
            residuals(&plan, stage, &mut result, truncated, self.storage.as_ref()).map_err(failed)?;
        if let Some(first) = result.first_residual_element(&stage.source) {
            // Elements that the worker gave back whole go to the next bundle.
            let given_back = self.input.rest(first).map_err(failed)?;
            residuals.extend(given_back.into_iter().map(|block| (block, Duration::ZERO)));
        }
        let set = outputs.take_timers();
        let (spread, storage) = (self.spread.clone(), self.storage.clone());
        let outputs_plan = plan.clone();
        let taken = move || spread.cut(&outputs_plan, outputs.take()?, storage.as_ref());
        let outputs = compute(self.storage.as_ref(), 0, taken).await.map_err(failed)?;
        if let Some(keyed) = &stage.keyed {
            timers.extend(timers::expirations(keyed, input, &blocks, results).map_err(failed)?);
            timers.extend(set);
        }
        if let Some(keyed) = &stage.keyed {
            result.monitoring_infos.extend(dropped.monitoring_infos(&keyed.transform));
        }
        let (state, cache) = (self.state.user.clone(), self.state.cache.clone());
        for (_, delay) in &mut residuals {
            *delay = delay.saturating_sub(answered.elapsed());
        }
        Ok(Done { outputs, residuals, timers, state, cache, result })
    }

    /// Lets the bundle run to its end. What it gives back for others is told to the engine before its result is.
    async fn attend(
        &self,
        stage: &Stage,
        process: impl Future<Output = Result<BundleResult, Fault>>,
        mut splits: mpsc::Receiver<Split>,
    ) -> Result<BundleResult, Fault> {
        let watch = self.watch(stage);
        tokio::pin!(process, watch);
        let result = loop {
            tokio::select! {
                biased;
                Some(split) = splits.recv() => self.tell(split).await,
                result = &mut process => break result,
                never = &mut watch => match never {},
            }
        };
        while let Ok(split) = splits.try_recv() {
            self.tell(split).await;
        }
        result
    }

    async fn tell(&self, Split { kept, given_back }: Split) {
        let (bundle, attempt) = (self.bundle, self.attempt);
        let (left, others) = (kept.len(), given_back.len());
        tracing::debug!(
            bundle = bundle.0,
            attempt = attempt.0,
            left,
            others,
            "bundle is split; these are blocks"
        );
        let event = EngineEvent::BundleSplit { bundle, attempt, kept, given_back };
        // An error means that the job is over.
        self.reports.send(Report::Event(event)).await.ok();
    }

    /// Has the job's metrics say what the bundle has done so far.
    async fn watch(&self, stage: &Stage) -> Infallible {
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            if let Some(mut infos) = self.control.progress().await {
                infos.retain(|info| stage.counts(info));
                let infos = with_user_names(infos, &self.plan.transform_names);
                self.progress.metrics().attempt_running(self.bundle.0, infos);
            }
        }
    }
}

/// The input of a stage that processes elements by key.
struct ByKey<'a> {
    stage: &'a KeyedStage,
    combines: &'a [CombineStage],
    input: &'a Collection,
    watermark: EventTime,
    state: &'a StageState,
    workers: &'a Workers,
    storage: &'a dyn Storage,
}

impl ByKey<'_> {
    /// Merges windows and sorts elements, if the stage wants that.
    async fn prepare(self, blocks: Vec<StoredBlock>) -> Result<MergedInput, Fault> {
        let Self { stage, combines, input, watermark, state, workers, storage } = self;
        let mut merged = match &state.user {
            None => MergedInput { blocks, ..Default::default() },
            Some(state) => {
                let merge = workers.merge.as_deref();
                let merger = Merger { stage, input, state, watermark, workers: merge, storage };
                let merged = merger.merge(blocks).await?;
                let combines = combines.iter().zip(&workers.combine);
                merging::combine_states(combines, state, &merged.results).await?;
                merged
            }
        };
        if stage.time_sorted {
            merged.blocks = vec![elements::sorted_by_time(input, &merged.blocks, storage)?];
        }
        Ok(merged)
    }
}

/// Adds where it happened. What the user raised comes first and whole, since that is what they look for;
/// it names the transform, so the stage's other transforms are not named with it.
fn locate(fault: Fault, stage: &Stage, attempt: Attempt) -> Fault {
    let message = match (fault.blame, fault.retry) {
        (Blame::User, Retry::Bundle) => {
            format!(
                "{}\n\n(in {}, attempt {} of {MAX_ATTEMPTS})",
                fault.message.trim_end(),
                stage.spec.descriptor.id,
                attempt.0
            )
        }
        _ => format!("{}: {}", stage.spec.name, fault.message),
    };
    Fault { message, ..fault }
}

fn residuals(
    plan: &ExecutionPlan,
    stage: &Stage,
    result: &mut BundleResult,
    truncated: bool,
    storage: &dyn Storage,
) -> Result<Vec<(Block<StoredBlock>, Duration)>, Fault> {
    let mut found = Vec::new();
    let split = result.splits.iter_mut().flat_map(|split| std::mem::take(&mut split.residuals));
    for residual in std::mem::take(&mut result.residuals).into_iter().chain(split) {
        let (block, delay) = residual_block(plan, stage, &residual, storage)?;
        found.push((Block { truncated, ..block }, delay));
    }
    Ok(found)
}

/// What a worker left undone, as input of the stage, and how long that is to wait.
pub(super) fn residual_block(
    plan: &ExecutionPlan,
    stage: &Stage,
    residual: &Residual,
    storage: &dyn Storage,
) -> Result<(Block<StoredBlock>, Duration), Fault> {
    if stage.restriction_reader.as_deref() != Some(residual.transform_id.as_str()) {
        let name = plan.transform_names.get(&residual.transform_id).unwrap_or(&residual.transform_id);
        return Err(Fault::environment(format!(
            "{}: a worker left work undone for {name}, which is not the splittable transform of the stage",
            stage.spec.name
        ))
        .fatal());
    }
    let hold = hold_of(plan, stage, residual)?;
    Ok((Block { hold, ..elements::put(residual.element.clone(), storage)? }, residual.delay))
}

/// Before which event time nothing will come of a residual. What does not say so holds at its own time.
fn hold_of(plan: &ExecutionPlan, stage: &Stage, residual: &Residual) -> Result<EventTime, Fault> {
    let input = &plan.collections[stage.input.0];
    if !input.timed {
        return Ok(EventTime::MIN);
    }
    if let Some(watermark) = residual.output_watermarks.values().min() {
        return Ok(*watermark);
    }
    match elements::Elements::new(input, residual.element.clone()).next() {
        Some(element) => element?.timestamp(),
        None => Ok(EventTime::MIN),
    }
}
