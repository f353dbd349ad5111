//! What the workers of a [`super::ScriptedHarness`] are to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use tokio_util::sync::CancellationToken;

use super::{Call, Emitter, FiredTimer, SplitAnswer, SplitCall};

/// A user's function: gets an element's value (nested encoding), emits and asks through the [`Call`].
/// An error fails the bundle with its text.
pub(super) type DoFn = dyn Fn(&[u8], &mut Call<'_>) -> Result<(), String> + Send + Sync;

/// A user's function for timers that fire. For its [`Call`] a timer is an element at the timer's hold, in its
/// windows, with its key as the value.
pub(super) type OnTimer = dyn Fn(&FiredTimer, &mut Call<'_>) -> Result<(), String> + Send + Sync;

/// A user's function that costs nothing but its own work: see [`Script::lean_fn`].
pub(super) type LeanFn = dyn Fn(&[u8], &mut Emitter<'_>) -> Result<(), String> + Send + Sync;

/// What a worker answers when it is to split a bundle.
pub(super) type OnSplit = dyn Fn(&SplitCall) -> SplitAnswer + Send + Sync;

/// Functions by URN, and what goes wrong. Bundles and starts of workers are counted from 1, over all
/// workers of the harness.
#[derive(Clone, Default)]
pub struct Script {
    do_fns: BTreeMap<String, Arc<DoFn>>,
    lean_fns: BTreeMap<String, Arc<LeanFn>>,
    on_timers: BTreeMap<String, Arc<OnTimer>>,
    on_split: Option<Arc<OnSplit>>,
    bundle_faults: BTreeMap<usize, BundleFault>,
    start_faults: BTreeMap<usize, StartFault>,
    short_ids: Option<ShortIds>,
    process_metrics: Option<Vec<MonitoringInfo>>,
    samples: bool,
    asks_for_nothing: bool,
}

/// How a worker that sends its metrics by short ids only tells what those mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortIds {
    Told,
    /// It tells of none.
    Untold,
    /// It answers with an error.
    Refused,
}

/// What a bundle does instead of being well.
#[derive(Clone, Debug)]
pub enum BundleFault {
    /// Reads its input, then fails with this message.
    Fail(String),
    /// Its worker breaks all connections after the first element.
    Disconnect,
    /// Never answers.
    Hang,
    /// Answers so much later.
    Delay(Duration),
    /// Answers once this is cancelled.
    Held(CancellationToken),
    /// Sends data for an instruction that never was.
    DataForUnknownInstruction,
    /// Sends data for a transform that is no sink.
    DataForUnknownTransform,
    /// Sends timers of a family that the transform does not have.
    TimersForUnknownFamily,
    /// Marks the end of every sink's data, but not of the timers it has set.
    TimersWithoutEnd,
    /// Sends data after it marked its end, and never answers.
    DataAfterLast,
    /// Answers with something that is no `ProcessBundleResponse`.
    WrongAnswer,
    /// Does nothing with its elements but gives each back as a residual root of this transform's
    /// input, to be resumed after `delay`.
    GiveBack { transform_id: String, input_id: String, delay: Duration },
    /// Sends its output in the answer, not on the data stream.
    EmbedOutput,
}

/// What a worker does instead of starting.
#[derive(Clone, Debug)]
pub enum StartFault {
    /// `StartWorker` answers with this error.
    Refuse(String),
    NeverConnect,
}

impl Script {
    /// A script that knows `test:dofn:identity`, which emits each element on every output.
    pub fn new() -> Self {
        Self::default().do_fn("test:dofn:identity", |element, call| {
            call.emit_all(element);
            Ok(())
        })
    }

    /// Has `function` run for ParDos whose `do_fn` has this URN, and for transforms that have it.
    pub fn do_fn<F>(mut self, urn: &str, function: F) -> Self
    where
        F: Fn(&[u8], &mut Call<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        self.do_fns.insert(urn.to_owned(), Arc::new(function));
        self
    }

    /// Has `function` run for ParDos whose `do_fn` has this URN, each alone in its stage, with at most one output and
    /// no state, side inputs or timers. Such a bundle never goes wrong on purpose; it is for measuring runners.
    pub fn lean_fn<F>(mut self, urn: &str, function: F) -> Self
    where
        F: Fn(&[u8], &mut Emitter<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        self.lean_fns.insert(urn.to_owned(), Arc::new(function));
        self
    }

    /// Has `function` run for each timer that fires in a ParDo whose `do_fn` has this URN.
    pub fn on_timer<F>(mut self, urn: &str, function: F) -> Self
    where
        F: Fn(&FiredTimer, &mut Call<'_>) -> Result<(), String> + Send + Sync + 'static,
    {
        self.on_timers.insert(urn.to_owned(), Arc::new(function));
        self
    }

    /// Has `function` say what is done when a bundle is to be split; without one it is split between elements.
    pub fn on_split<F>(mut self, function: F) -> Self
    where
        F: Fn(&SplitCall) -> SplitAnswer + Send + Sync + 'static,
    {
        self.on_split = Some(Arc::new(function));
        self
    }

    pub fn bundle_fault(mut self, bundle: usize, fault: BundleFault) -> Self {
        self.bundle_faults.insert(bundle, fault);
        self
    }

    /// The same fault in every bundle up to and including this one.
    pub fn bundle_faults_up_to(mut self, bundle: usize, fault: BundleFault) -> Self {
        self.bundle_faults.extend((1..=bundle).map(|bundle| (bundle, fault.clone())));
        self
    }

    pub fn start_fault(mut self, start: usize, fault: StartFault) -> Self {
        self.start_faults.insert(start, fault);
        self
    }

    /// Has workers open their control stream alone before they have got an instruction, and keep no log, as those of the
    /// Python SDK's worker pool do.
    pub fn asks_for_nothing(mut self) -> Self {
        self.asks_for_nothing = true;
        self
    }

    pub(super) fn waits_for_instructions(&self) -> bool {
        self.asks_for_nothing
    }

    /// Has workers keep the element that a function has failed at, until they are asked for it.
    pub fn samples(mut self) -> Self {
        self.samples = true;
        self
    }

    pub(super) fn keeps_samples(&self) -> bool {
        self.samples
    }

    /// Has workers send payloads of metrics by short ids, and nothing else of them.
    pub fn short_ids(mut self, short_ids: ShortIds) -> Self {
        self.short_ids = Some(short_ids);
        self
    }

    /// Has workers tell these metrics of their process, by short ids, when they are asked.
    pub fn process_metrics(mut self, infos: Vec<MonitoringInfo>) -> Self {
        self.process_metrics = Some(infos);
        self
    }

    pub(super) fn metrics_of_process(&self) -> Option<&[MonitoringInfo]> {
        self.process_metrics.as_deref()
    }

    pub(super) fn uses_short_ids(&self) -> Option<ShortIds> {
        self.short_ids
    }

    pub(super) fn function(&self, urn: &str) -> Option<&Arc<DoFn>> {
        self.do_fns.get(urn)
    }

    pub(super) fn lean_function(&self, urn: &str) -> Option<&LeanFn> {
        self.lean_fns.get(urn).map(Arc::as_ref)
    }

    pub(super) fn timer_function(&self, urn: &str) -> Option<&Arc<OnTimer>> {
        self.on_timers.get(urn)
    }

    pub(super) fn split_answer(&self, call: &SplitCall) -> SplitAnswer {
        self.on_split.as_ref().map_or(SplitAnswer::BetweenElements, |on_split| on_split(call))
    }

    pub(super) fn fault_of_bundle(&self, bundle: usize) -> Option<&BundleFault> {
        self.bundle_faults.get(&bundle)
    }

    pub(super) fn fault_of_start(&self, start: usize) -> Option<&StartFault> {
        self.start_faults.get(&start)
    }
}
