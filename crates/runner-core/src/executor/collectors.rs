//! GroupByKeys, side inputs and what waits for them while they take in elements: a task each, so that parsing neither holds
//! up the engine nor is done twice at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use beam_model::time::{EventTime, ProcessingTime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::await_side_inputs::AwaitSideInputs;
use super::handed_out::HandedOut;
use super::{Progress, Report, may_wait};
use crate::engine::{Block, Collected, EngineEvent};
use crate::fault::Fault;
use crate::meters::{Collecting, Meters};
use crate::metrics::Dropped;
use crate::plan::{Collection, CollectionId, ExecutionPlan, Grouping, Merging, Node, NodeId};
use crate::ports::{JobBundleFactory, Storage, StoredBlock};
use crate::runner_transforms::group_by_key::{GroupByKey, Pane, Panes};
use crate::runner_transforms::iterables::Iterables;
use crate::runner_transforms::live_side_input::{LiveSideInput, Snapshot};
use crate::runner_transforms::side_input::SideInputBuilder;
use crate::runner_transforms::{elements, merge_windows};

/// How many blocks of groups are handed to the engine at once, and of how many bytes.
const GROUP_BATCH: usize = 64;
const GROUP_BATCH_BYTES: u64 = 4 << 20;

/// What side inputs that go on changing have.
pub(super) type LiveViews = HashMap<CollectionId, Arc<Snapshot>>;

/// Where to send what a GroupByKey is asked, or what waits for side inputs.
pub(super) struct Collector {
    // Unbounded, but every block in it is an output that is in the storage already.
    inbox: mpsc::UnboundedSender<Ask>,
    meters: Arc<Meters>,
}

pub(super) struct Ask {
    pub(super) what: What,
    _collecting: Collecting,
    /// What the side inputs have that the node waits for.
    pub(super) views: LiveViews,
}

pub(super) enum What {
    Add(Vec<Block<StoredBlock>>, ProcessingTime),
    Advance(EventTime, ProcessingTime),
}

impl Collector {
    pub(super) fn ask(&self, what: What, views: LiveViews) {
        let bytes = if let What::Add(blocks, _) = &what { size(blocks) } else { 0 };
        let _collecting = Collecting::new(&self.meters, bytes);
        // If the task is gone it has reported why.
        let _ = self.inbox.send(Ask { what, _collecting, views });
    }
}

/// Where to send the elements of a side input.
pub(super) struct SideInputCollector {
    inbox: mpsc::UnboundedSender<AskSideInput>,
    meters: Arc<Meters>,
}

enum AskSideInput {
    Add(Vec<Block<StoredBlock>>, Collecting),
    Advance(EventTime),
    Seal,
}

impl SideInputCollector {
    pub(super) fn add(&self, blocks: Vec<Block<StoredBlock>>) {
        let collecting = Collecting::new(&self.meters, size(&blocks));
        let _ = self.inbox.send(AskSideInput::Add(blocks, collecting));
    }

    pub(super) fn advance(&self, watermark: EventTime) {
        let _ = self.inbox.send(AskSideInput::Advance(watermark));
    }

    pub(super) fn seal(&self) {
        let _ = self.inbox.send(AskSideInput::Seal);
    }
}

pub(super) struct Collectors {
    reports: mpsc::Sender<Report>,
    progress: Arc<Progress>,
    storage: Arc<dyn Storage>,
    iterables: Arc<Iterables>,
    collectors: HashMap<NodeId, Collector>,
    side_inputs: HashMap<CollectionId, SideInputCollector>,
}

impl Collectors {
    pub(super) fn new(
        reports: mpsc::Sender<Report>,
        progress: Arc<Progress>,
        storage: Arc<dyn Storage>,
        iterables: Arc<Iterables>,
    ) -> Self {
        let (collectors, side_inputs) = (HashMap::new(), HashMap::new());
        Self { reports, progress, storage, iterables, collectors, side_inputs }
    }

    /// The collector of a node, started on first use; `None` if the node is none that collects.
    pub(super) fn collector(
        &mut self,
        node: NodeId,
        plan: &Arc<ExecutionPlan>,
        workers: &Arc<dyn JobBundleFactory>,
        tasks: &mut JoinSet<()>,
    ) -> Option<&Collector> {
        let start = |tasks: &mut JoinSet<()>| {
            let (inbox, asks) = mpsc::unbounded_channel();
            let (plan, workers, reports) = (plan.clone(), workers.clone(), self.reports.clone());
            let (progress, failures) = (self.progress.clone(), reports.clone());
            let storage = self.storage.clone();
            match &plan.nodes[node.0] {
                Node::GroupByKey { output, grouping, name, .. } => {
                    let (output, grouping, name) = (*output, grouping.as_ref().clone(), name.clone());
                    let state_backed = plan.collections[output.0].has_state_backed_values();
                    let iterables = state_backed.then(|| self.iterables.clone());
                    let groups = GroupByKey::new(grouping.clone(), name.clone(), storage.clone(), iterables);
                    let task =
                        Group { node, output, grouping, name, plan, workers, reports, progress, storage };
                    tasks.spawn(report_failure(failures, task.run(groups, asks)));
                }
                Node::AwaitSideInputs { input, output, side_inputs, .. } => {
                    let (input, output, side_inputs) = (*input, *output, side_inputs.clone());
                    let task =
                        AwaitSideInputs { node, input, output, side_inputs, plan, workers, storage, reports };
                    tasks.spawn(report_failure(failures, task.run(asks)));
                }
                Node::Impulse { .. }
                | Node::TestStream(_)
                | Node::Stage(_)
                | Node::Flatten { .. }
                | Node::Redistribute { .. } => return None,
            }
            Some(Collector { inbox, meters: self.progress.meters.clone() })
        };
        if let Entry::Vacant(vacant) = self.collectors.entry(node) {
            vacant.insert(start(tasks)?);
        }
        self.collectors.get(&node)
    }

    pub(super) fn side_input(
        &mut self,
        id: CollectionId,
        collection: &Collection,
        tasks: &mut JoinSet<()>,
    ) -> &SideInputCollector {
        let reports = &self.reports;
        self.side_inputs.entry(id).or_insert_with(|| {
            let (inbox, asks) = mpsc::unbounded_channel();
            match collection.live {
                Some(view) => {
                    let live = LiveSideInput::new(collection, view, self.storage.clone());
                    let storage = self.storage.clone();
                    let task = collect_live_side_input(id, live, asks, storage, reports.clone());
                    tasks.spawn(report_failure(reports.clone(), task));
                }
                None => {
                    let builder = SideInputBuilder::new(collection, self.storage.clone());
                    let storage = self.storage.clone();
                    let task = collect_side_input(id, builder, asks, storage, reports.clone());
                    tasks.spawn(report_failure(reports.clone(), task));
                }
            }
            SideInputCollector { inbox, meters: self.progress.meters.clone() }
        })
    }
}

pub(super) async fn report_failure(
    reports: mpsc::Sender<Report>,
    task: impl Future<Output = Result<(), Fault>>,
) {
    if let Err(fault) = task.await {
        let _ = reports.send(Report::Event(EngineEvent::Failed(fault))).await;
    }
}

/// Does `work` on so many bytes here if it is little, else on a thread that may be blocked.
pub(super) async fn compute<T: Send + 'static>(
    storage: &dyn Storage,
    bytes: u64,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    if !may_wait(storage, bytes, bytes) {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::runner(format!("work on a thread of its own broke off: {error}"))),
    }
}

pub(super) fn size(blocks: &[Block<StoredBlock>]) -> u64 {
    blocks.iter().map(|block| block.bytes).sum()
}

struct Group {
    node: NodeId,
    output: CollectionId,
    plan: Arc<ExecutionPlan>,
    grouping: Grouping,
    name: String,
    workers: Arc<dyn JobBundleFactory>,
    reports: mpsc::Sender<Report>,
    progress: Arc<Progress>,
    storage: Arc<dyn Storage>,
}

impl Group {
    async fn run(self, mut groups: GroupByKey, mut asks: mpsc::UnboundedReceiver<Ask>) -> Result<(), Fault> {
        let mut total = 0;
        let mut counted = Dropped::default();
        while let Some(Ask { what, _collecting, .. }) = asks.recv().await {
            let bounded = self.grouping.bounded;
            let complete = matches!(what, What::Advance(EventTime::MAX, _));
            let bytes = if let What::Add(blocks, _) = &what { size(blocks) } else { 0 };
            total += bytes;
            // Windows of bounded input are merged once, when all are known.
            if complete && bounded {
                groups = self.merge_windows(groups, total).await?;
            }
            groups = compute(self.storage.as_ref(), bytes, move || {
                take_in(&mut groups, what)?;
                Ok(groups)
            })
            .await?;
            if !bounded {
                groups = self.merge_windows(groups, bytes).await?;
            }
            // Bounded input has no pane before all is there.
            let panes = complete || !bounded;
            let dropped = groups.dropped();
            self.count(std::mem::replace(&mut counted, dropped), dropped);
            let bytes = if complete && bounded { total } else { groups.fired_bytes() };
            if !self.hand_out(&mut groups, bytes, panes).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Counts what was dropped since `before`.
    fn count(&self, before: Dropped, now: Dropped) {
        let new = Dropped { late: now.late - before.late, closed: now.closed - before.closed };
        if !new.is_none() {
            self.progress.metrics().bundle_committed(&new.monitoring_infos(&self.name));
        }
    }

    /// Has the SDK merge what only it can. `bytes`: how much is to be looked through for that.
    async fn merge_windows(&self, mut groups: GroupByKey, bytes: u64) -> Result<GroupByKey, Fault> {
        let Merging::BySdk(stage) = &self.grouping.merging else { return Ok(groups) };
        let storage = self.storage.as_ref();
        let (mut groups, sets) = compute(storage, bytes, move || {
            let sets = groups.windows_to_merge()?;
            Ok((groups, sets))
        })
        .await?;
        if sets.is_empty() {
            return Ok(groups);
        }
        let factory = self.workers.stage(stage.spec.clone());
        let window_coder = &self.grouping.window_coder;
        let answers = merge_windows::merge(stage, factory.as_ref(), window_coder, sets).await?;
        compute(storage, bytes, move || {
            groups.merge_windows(answers)?;
            Ok(groups)
        })
        .await
    }

    /// Reports the panes that have fired, and that this is all for now. False if nobody listens any more.
    async fn hand_out(&self, groups: &mut GroupByKey, bytes: u64, panes: bool) -> Result<bool, Fault> {
        let output = &self.plan.collections[self.output.0];
        let mut rest = panes.then(|| groups.take_panes(output.grain));
        let mut handed_out = HandedOut::new(self.storage.budget().limit());
        loop {
            handed_out.wait().await;
            let (plan, id, storage) = (self.plan.clone(), self.output, self.storage.clone());
            let (mut blocks, last, iterator) = compute(self.storage.as_ref(), bytes, move || {
                let (stored, last) = next_panes(rest.as_mut(), storage.as_ref())?;
                let blocks = elements::cut_stored(&plan.collections[id.0], stored, storage.as_ref())?;
                Ok((blocks, last, rest))
            })
            .await?;
            rest = iterator;
            handed_out.count(&mut blocks);
            let done = last.then(|| Collected { hold: groups.hold(), wake: groups.next_wake() });
            let event = EngineEvent::Collected { node: self.node, blocks, done };
            if self.reports.send(Report::Event(event)).await.is_err() {
                return Ok(false);
            }
            if last {
                return Ok(true);
            }
        }
    }
}

/// Some panes, and whether these are all.
fn next_panes(
    mut panes: Option<&mut Panes>,
    storage: &dyn Storage,
) -> Result<(Vec<StoredBlock>, bool), Fault> {
    let (mut stored, mut bytes) = (Vec::new(), 0);
    while stored.len() < GROUP_BATCH && bytes < GROUP_BATCH_BYTES {
        let Some(pane) = panes.as_mut().and_then(|panes| panes.next()) else { return Ok((stored, true)) };
        let block = store(pane?, storage)?;
        bytes += block.len();
        stored.push(block);
    }
    Ok((stored, false))
}

/// A pane whose values are there as long as it is.
fn store(pane: Pane, storage: &dyn Storage) -> Result<StoredBlock, Fault> {
    let Pane { data, iterable } = pane;
    let stored = storage.put(data)?;
    Ok(match iterable {
        Some(iterable) => stored.holding(iterable),
        None => stored,
    })
}

fn take_in(groups: &mut GroupByKey, what: What) -> Result<(), Fault> {
    match what {
        // Each is gone when it has been read.
        What::Add(blocks, now) => groups.add_all(blocks.into_iter().map(|block| block.data.read()), now),
        What::Advance(watermark, now) => {
            groups.advance_processing_time(now)?;
            groups.advance_watermark(watermark)
        }
    }
}

async fn collect_side_input(
    collection: CollectionId,
    mut builder: SideInputBuilder,
    mut asks: mpsc::UnboundedReceiver<AskSideInput>,
    storage: Arc<dyn Storage>,
    reports: mpsc::Sender<Report>,
) -> Result<(), Fault> {
    let mut total = 0;
    while let Some(AskSideInput::Add(blocks, _collecting)) = asks.recv().await {
        total += size(&blocks);
        builder = compute(storage.as_ref(), size(&blocks), move || {
            blocks.into_iter().try_for_each(|block| builder.add(&block.data))?;
            Ok(builder)
        })
        .await?;
    }
    let ready = compute(storage.as_ref(), total, move || Ok(Arc::new(builder.finish()?))).await?;
    let _ = reports.send(Report::SideInput { collection, ready }).await;
    Ok(())
}

/// Answers each ask with what there is then.
async fn collect_live_side_input(
    collection: CollectionId,
    mut live: LiveSideInput,
    mut asks: mpsc::UnboundedReceiver<AskSideInput>,
    storage: Arc<dyn Storage>,
    reports: mpsc::Sender<Report>,
) -> Result<(), Fault> {
    while let Some(ask) = asks.recv().await {
        match ask {
            AskSideInput::Add(blocks, _collecting) => {
                live = compute(storage.as_ref(), size(&blocks), move || {
                    live.add(blocks.iter().map(|block| &block.data))?;
                    Ok(live)
                })
                .await?;
            }
            AskSideInput::Advance(watermark) => live.advance_watermark(watermark),
            AskSideInput::Seal => live.advance_watermark(EventTime::MAX),
        }
        let snapshot = Arc::new(live.snapshot());
        if reports.send(Report::LiveSideInput { collection, snapshot }).await.is_err() {
            break;
        }
    }
    Ok(())
}
