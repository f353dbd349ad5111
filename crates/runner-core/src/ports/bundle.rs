//! Running a bundle on a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::{Environment, MonitoringInfo, test_stream_payload};
use beam_model::time::EventTime;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BundleRequests, BundleSplit, StateHandler};
use crate::fault::Fault;

/// An executable stage as a worker is told of it.
#[derive(Clone, Debug)]
pub struct StageSpec {
    /// For people: what the stage holds, e.g. `stage 3 (Split, PairWithOne)`.
    pub name: String,
    pub environment_id: String,
    pub environment: Environment,
    /// Complete but for endpoints: whoever registers it fills in the `api_service_descriptor` of each
    /// `RemoteGrpcPort` (transforms `beam:runner:source:v1` and `beam:runner:sink:v1`) the
    /// descriptor's own for state and timers. Its `id` is unique in the job.
    pub descriptor: ProcessBundleDescriptor,
}

/// The events of a TestStream as they are told, in their order. When the channel closes all have been; an
/// error is the last item.
pub type TestStreamEvents = mpsc::Receiver<Result<test_stream_payload::Event, Fault>>;

/// The workers of one job, and what else of the world it talks to.
#[async_trait]
pub trait JobBundleFactory: Send + Sync {
    /// How many bundles of this environment may run at once; at least 1.
    fn parallelism(&self, environment_id: &str) -> usize;

    /// A factory for bundles of a stage. Workers are started on the first bundle, not here.
    fn stage(&self, spec: Arc<StageSpec>) -> Arc<dyn StageBundleFactory>;

    /// Asks the `TestStreamService` at `url` for the events of these outputs of a TestStream, by their local
    /// names (`EventsRequest.output_ids`). Dropping the receiver ends the call.
    ///
    /// Errors: the service cannot be reached, or this factory calls none.
    async fn test_stream_events(
        &self,
        url: &str,
        output_ids: Vec<String>,
    ) -> Result<TestStreamEvents, Fault> {
        let outputs = output_ids.join(", ");
        Err(Fault::runner(format!("nobody here can ask {url} for the events of outputs {outputs}")))
    }

    /// The metrics of each worker as a whole (`HarnessMonitoringInfosResponse`), as they are now, by the worker's id.
    /// Those that do not answer at once are left out; so are those whose numbers another has as well, being of
    /// the same process.
    async fn worker_metrics(&self) -> Vec<(String, Vec<MonitoringInfo>)> {
        Vec::new()
    }

    /// Until now nothing more could be done than what workers do already: it took time to go on, or somebody
    /// else to speak. Workers that had nothing to do did not wait for the runner. For its meters only.
    fn waited_for_others(&self) {}

    /// Stops every worker of the job and frees all that they held. Bounded: a worker that does not
    /// stop is killed. Called once, when no bundle runs any more.
    async fn close(&self);
}

/// One stage on the workers of its environment.
#[async_trait]
pub trait StageBundleFactory: Send + Sync {
    /// Runs one attempt of a bundle from beginning to end on some worker and returns when the worker
    /// has answered `ProcessBundle` and all its output has arrived. Dropping the future gives the
    /// bundle up.
    ///
    /// Errors: the user's exception with its stack ([`crate::fault::Blame::User`]), or a worker that
    /// did not start, died, or broke the protocol ([`crate::fault::Blame::Environment`]).
    ///
    /// A split that the worker was asked for has been answered when this returns a result, and is in it.
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault>;

    /// Whether one more bundle would find a worker that has nothing to do, as things are now. Else one has to be started,
    /// or to become free.
    fn has_idle_worker(&self) -> bool {
        true
    }
}

/// One attempt of a bundle.
pub struct RemoteBundle {
    /// Unique in the job over all bundles and attempts; becomes part of the instruction id.
    pub instruction: String,
    pub inputs: Vec<BundleInput>,
    /// Timers that fire in this bundle. Sent after the elements.
    pub timers: Vec<TimerBlock>,
    pub state: Arc<dyn StateHandler>,
    pub outputs: Arc<dyn OutputReceiver>,
    /// What the bundle is asked while it runs.
    pub requests: BundleRequests,
    /// There if side inputs in the global window go on changing: another number as soon as they have. A worker
    /// that keeps what it has read of them for later bundles must not do so past that.
    pub side_inputs_version: Option<u64>,
}

/// The elements for one data source of the stage.
pub struct BundleInput {
    /// The `beam:runner:source:v1` transform that reads them.
    pub transform_id: String,
    /// Encoded windowed values; a block holds whole elements only. Pulled as the worker's flow control
    /// allows, so a long input need never be in memory as a whole.
    pub blocks: Box<dyn Iterator<Item = Result<Bytes, Fault>> + Send>,
    /// How many elements `blocks` has in all; needed if the bundle is to be split. A split is not asked of
    /// an input whose elements were not counted.
    pub elements: ElementCount,
}

/// How many elements an input has: known from the start, found out while the bundle runs, or never.
#[derive(Clone, Debug, Default)]
pub struct ElementCount(Arc<OnceLock<u64>>);

impl ElementCount {
    pub fn of(elements: u64) -> Self {
        Self(Arc::new(OnceLock::from(elements)))
    }

    /// From now on everyone who shares this knows. What was known stays.
    pub fn found_out(&self, elements: u64) {
        // An error means that it is known.
        self.0.set(elements).ok();
    }

    pub fn get(&self) -> Option<u64> {
        self.0.get().copied()
    }
}

/// Encoded timers of one family (`beam:coder:timer:v1`): fired ones on the way to a worker, set or cleared
/// ones on the way back.
#[derive(Clone, Debug)]
pub struct TimerBlock {
    /// The ParDo whose timers they are.
    pub transform_id: String,
    /// `TimerFamilySpec`'s key in the `ParDoPayload`.
    pub family_id: String,
    /// Whole timers, one after another.
    pub timers: Bytes,
}

/// Takes the output of a running bundle. All of it is tentative until the bundle is committed.
pub trait OutputReceiver: Send + Sync {
    /// A block of encoded windowed values that the sink `transform_id` wrote. A block holds whole
    /// elements only. An error ends the bundle.
    fn receive(&self, transform_id: &str, block: Bytes) -> Result<(), Fault>;

    /// Timers that the bundle set or cleared, in the order in which it did. An error ends the bundle.
    fn receive_timers(&self, timers: TimerBlock) -> Result<(), Fault>;

    /// Whether receiving so many bytes of the sink `transform_id` now may take long, e.g. because others have to be written to a
    /// disk first, or because each element is looked at. That is to be done where it holds up nobody but the bundle's worker.
    fn may_wait(&self, _transform_id: &str, _bytes: u64) -> bool {
        false
    }

    /// The worker has given back a part of the bundle. An error ends the bundle. Splits come in their order, and all
    /// of them before [`StageBundleFactory::process`] returns a result.
    fn receive_split(&self, _split: &BundleSplit) -> Result<SplitTaken, Fault> {
        Ok(SplitTaken::WithTheBundle)
    }
}

/// From when on what a bundle has given back is work of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitTaken {
    /// At once. If the bundle fails, another attempt is made on what it has kept.
    AtOnce,
    /// It is part of the bundle's transaction: from the bundle's commit on. It was never said if the bundle fails,
    /// which is tried again on all of its input.
    WithTheBundle,
}

/// What a worker answered to `ProcessBundle`, its output aside.
#[derive(Default)]
pub struct BundleResult {
    pub residuals: Vec<Residual>,
    /// All splits of the bundle that were not taken at once, in order, whether or not anyone waited for the answer to
    /// one: what they gave back was not processed.
    pub splits: Vec<BundleSplit>,
    pub monitoring_infos: Vec<MonitoringInfo>,
    /// There if the bundle asked to be told of its commit (`requires_finalization`).
    pub finalizer: Option<Box<dyn Finalizer>>,
}

impl BundleResult {
    /// The first element of this data source that the bundle gave back whole; it did so with all after it.
    pub fn first_residual_element(&self, source: &str) -> Option<usize> {
        let channels = self.splits.iter().flat_map(|split| &split.channels);
        let first = channels.filter(|channel| channel.transform_id == source);
        // A later split may cut earlier, never later.
        let first = first.map(|channel| channel.first_residual_element).min()?;
        Some(usize::try_from(first.max(0)).unwrap_or(usize::MAX))
    }
}

/// Work that a bundle left undone: a `DelayedBundleApplication`.
#[derive(Clone, Debug)]
pub struct Residual {
    /// The transform that is to get the element, and which of its inputs (`BundleApplication`).
    pub transform_id: String,
    pub input_id: String,
    /// An encoded windowed value for that input.
    pub element: Bytes,
    /// Not to be resumed before this much processing time has gone by.
    pub delay: Duration,
    /// By output tag: no output of the element will be before this event time. Nothing is said of an output
    /// that is not here.
    pub output_watermarks: BTreeMap<String, EventTime>,
}

/// Tells the worker that its bundle is committed.
#[async_trait]
pub trait Finalizer: Send {
    /// Runs the bundle's callbacks. A failure is the callback's own and must not fail the job.
    async fn finalize(self: Box<Self>) -> Result<(), Fault>;
}
