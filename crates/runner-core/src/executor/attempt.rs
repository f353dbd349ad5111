//! One attempt of a bundle: inputs out to a worker, outputs and residuals back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use beam_model::time::EventTime;
use bytes::Bytes;

use super::merging::{MergedInput, Merger};
use super::state::StageState;
use super::{FaultInjection, late, timers};
use crate::engine::{Attempt, Block, BundleId, MAX_ATTEMPTS, Partition, Timer, TimerChange};
use crate::fault::{Blame, Fault, Retry};
use crate::metrics::Dropped;
use crate::plan::{Collection, CollectionId, ExecutionPlan, KeyedStage, Node, NodeId, Stage};
use crate::ports::{
    BundleInput, BundleRequests, BundleResult, OutputReceiver, RemoteBundle, Residual, StageBundleFactory,
    TimerBlock,
};
use crate::runner_transforms::elements;
use crate::state::{BundleState, CacheUse};

type Blocks = Vec<Block<Bytes>>;

/// What a successful attempt brings.
pub(super) struct Done {
    pub(super) outputs: Vec<(CollectionId, Blocks)>,
    pub(super) residuals: Vec<(Block<Bytes>, Duration)>,
    pub(super) timers: Vec<TimerChange>,
    /// What it wrote to user state, to be committed.
    pub(super) state: Option<Arc<BundleState>>,
    /// What its worker may have kept of that.
    pub(super) cache: Option<Arc<CacheUse>>,
    pub(super) result: BundleResult,
}

/// With a failure come the metrics of the work that was done for nothing.
pub(super) type Outcome = Result<Done, (Fault, Vec<MonitoringInfo>)>;

/// What a bundle is made of.
pub(super) struct Content {
    pub(super) blocks: Vec<Block<Bytes>>,
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
    pub(super) node: NodeId,
    pub(super) bundle: BundleId,
    pub(super) attempt: Attempt,
    pub(super) content: Content,
    pub(super) state: Arc<StageState>,
    pub(super) inject: FaultInjection,
    pub(super) requests: BundleRequests,
    /// Of side inputs in the global window that go on changing.
    pub(super) side_inputs_version: Option<u64>,
}

/// The workers of a stage that a bundle needs.
pub(super) struct Workers {
    pub(super) stage: Arc<dyn StageBundleFactory>,
    /// There if windows of the stage are merged by the SDK.
    pub(super) merge: Option<Arc<dyn StageBundleFactory>>,
}

impl Run {
    pub(super) async fn run(self, workers: &Workers) -> Outcome {
        let plan = self.plan.clone();
        let Node::Stage(stage) = &plan.nodes[self.node.0] else {
            return Err((Fault::runner("only stages have bundles"), Vec::new()));
        };
        let outputs = Arc::new(Outputs::default());
        let failed = |fault| (fault, Vec::new());
        let input = &plan.collections[stage.input.0];
        let Content { blocks, timers: due, watermark, draining, .. } = self.content;
        let whole = blocks.clone();
        let blocks = blocks.into_iter().map(|block| block.data).collect();
        let mut dropped = Dropped::default();
        let merged = match &stage.keyed {
            None => MergedInput { blocks, ..Default::default() },
            Some(keyed) => {
                let (open, late) = late::drop_late(keyed, input, blocks, watermark).map_err(failed)?;
                dropped = Dropped { late, closed: 0 };
                let by_key = ByKey { stage: keyed, input, watermark, state: &self.state, workers };
                by_key.prepare(open).await.map_err(failed)?
            }
        };
        let MergedInput { blocks, mut timers, results } = merged;
        let firing = stage.keyed.as_ref().map(|keyed| timers::firing(keyed, &due));
        let firing = firing.transpose().map_err(failed)?.unwrap_or_default();
        // The input of what can be split is cut element by element.
        let splittable = stage.restriction_reader.is_some();
        let given = blocks.clone().into_iter().map(Ok);
        let bundle = RemoteBundle {
            instruction: format!("bundle-{}-attempt-{}", self.bundle.0, self.attempt.0),
            inputs: vec![BundleInput {
                transform_id: stage.source.clone(),
                blocks: Box::new(given),
                elements: splittable.then_some(blocks.len() as u64),
            }],
            timers: firing,
            state: self.state.clone(),
            outputs: outputs.clone(),
            requests: self.requests,
            side_inputs_version: self.side_inputs_version,
        };
        let result = workers.stage.process(bundle).await;
        let mut result = result.map_err(|fault| (locate(fault, stage, self.attempt), Vec::new()))?;
        result.monitoring_infos.retain(|info| stage.counts(info));
        if self.inject == FaultInjection::FirstAttempts && self.attempt == Attempt(1) {
            let fault = Fault::user("injected failure").at(&stage.spec.name);
            return Err((fault, result.monitoring_infos));
        }
        // What is left of what was truncated is not to be truncated again.
        let truncated = draining || whole.iter().any(|block| block.truncated);
        let mut residuals = residuals(&plan, stage, &mut result, truncated).map_err(failed)?;
        if let Some(first) = result.first_residual_element(&stage.source) {
            // Elements that the worker gave back whole go to the next bundle.
            let given_back = whole.into_iter().skip(first);
            residuals.extend(given_back.map(|block| (block, Duration::ZERO)));
        }
        let set = outputs.take_timers();
        let outputs = outputs.sort(&plan, stage).map_err(failed)?;
        if let Some(keyed) = &stage.keyed {
            timers.extend(timers::expirations(keyed, input, &blocks, results).map_err(failed)?);
            timers.extend(timers::changes(keyed, set).map_err(failed)?);
        }
        if let Some(keyed) = &stage.keyed {
            result.monitoring_infos.extend(dropped.monitoring_infos(&keyed.transform));
        }
        let (state, cache) = (self.state.user.clone(), self.state.cache.clone());
        Ok(Done { outputs, residuals, timers, state, cache, result })
    }
}

/// The input of a stage that processes elements by key.
struct ByKey<'a> {
    stage: &'a KeyedStage,
    input: &'a Collection,
    watermark: EventTime,
    state: &'a StageState,
    workers: &'a Workers,
}

impl ByKey<'_> {
    /// Merges windows and sorts elements, if the stage wants that.
    async fn prepare(self, blocks: Vec<Bytes>) -> Result<MergedInput, Fault> {
        let Self { stage, input, watermark, state, workers } = self;
        let mut merged = match &state.user {
            None => MergedInput { blocks, ..Default::default() },
            Some(state) => {
                let workers = workers.merge.as_deref();
                Merger { stage, input, state, watermark, workers }.merge(blocks).await?
            }
        };
        if stage.time_sorted {
            merged.blocks = vec![elements::sorted_by_time(input, merged.blocks)?];
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
) -> Result<Vec<(Block<Bytes>, Duration)>, Fault> {
    let mut found = Vec::new();
    let split = result.splits.iter_mut().flat_map(|split| std::mem::take(&mut split.residuals));
    for residual in std::mem::take(&mut result.residuals).into_iter().chain(split) {
        if stage.restriction_reader.as_deref() != Some(residual.transform_id.as_str()) {
            let name = plan.transform_names.get(&residual.transform_id).unwrap_or(&residual.transform_id);
            return Err(Fault::environment(format!(
                "{}: a worker left work undone for {name}, which is not the splittable transform of the stage",
                stage.spec.name
            ))
            .fatal());
        }
        let hold = hold_of(plan, stage, &residual)?;
        found.push((Block { hold, truncated, ..elements::block(residual.element) }, residual.delay));
    }
    Ok(found)
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

/// What the sinks wrote so far, and the timers that were set.
#[derive(Default)]
struct Outputs(Mutex<Written>);

#[derive(Default)]
struct Written {
    sinks: BTreeMap<String, Vec<Bytes>>,
    timers: Vec<TimerBlock>,
}

impl OutputReceiver for Outputs {
    fn receive(&self, transform_id: &str, data: Bytes) -> Result<(), Fault> {
        let sinks = &mut self.written().sinks;
        match sinks.get_mut(transform_id) {
            Some(blocks) => blocks.push(data),
            None => {
                sinks.insert(transform_id.to_owned(), vec![data]);
            }
        }
        Ok(())
    }

    fn receive_timers(&self, timers: TimerBlock) -> Result<(), Fault> {
        self.written().timers.push(timers);
        Ok(())
    }
}

impl Outputs {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_timers(&self) -> Vec<TimerBlock> {
        std::mem::take(&mut self.written().timers)
    }

    /// By collection, cut as the plan wants it.
    fn sort(&self, plan: &ExecutionPlan, stage: &Stage) -> Result<Vec<(CollectionId, Blocks)>, Fault> {
        let sinks = std::mem::take(&mut self.written().sinks);
        let mut outputs = Vec::new();
        for (sink, blocks) in sinks {
            let collection = *stage.sinks.get(&sink).ok_or_else(|| {
                Fault::environment(format!(
                    "{}: a worker wrote to {sink:?}, which is no sink of it",
                    stage.spec.name
                ))
            })?;
            outputs.push((collection, elements::cut(&plan.collections[collection.0], blocks)?));
        }
        Ok(outputs)
    }
}
