//! GroupByKeys and side inputs while they take in elements: a task each, so that parsing neither holds
//! up the engine nor is done twice at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Report, block};
use crate::engine::{Block, EngineEvent};
use crate::fault::Fault;
use crate::plan::{Collection, CollectionId, Grain, Grouping, Merging, NodeId};
use crate::ports::JobBundleFactory;
use crate::runner_transforms::group_by_key::GroupByKey;
use crate::runner_transforms::merge_windows;
use crate::runner_transforms::side_input::SideInputBuilder;

/// Blocks of fewer bytes are parsed where they are; handing them to another thread costs more.
const INLINE_BYTES: u64 = 64 << 10;
/// How many blocks of groups are handed to the engine at once.
const GROUP_BATCH: usize = 16;

/// Where to send elements for one GroupByKey or side input.
pub(super) struct Collector {
    // Unbounded, but every block in it is an output that is in memory already.
    inbox: mpsc::UnboundedSender<Ask>,
}

enum Ask {
    Add(Vec<Block<Bytes>>),
    Seal,
}

impl Collector {
    pub(super) fn add(&self, blocks: Vec<Block<Bytes>>) {
        // If the task is gone it has reported why.
        let _ = self.inbox.send(Ask::Add(blocks));
    }

    pub(super) fn seal(&self) {
        let _ = self.inbox.send(Ask::Seal);
    }
}

pub(super) struct Collectors {
    reports: mpsc::Sender<Report>,
    groupings: HashMap<NodeId, Collector>,
    side_inputs: HashMap<CollectionId, Collector>,
}

impl Collectors {
    pub(super) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { reports, groupings: HashMap::new(), side_inputs: HashMap::new() }
    }

    pub(super) fn grouping(
        &mut self,
        node: NodeId,
        grouping: &Grouping,
        name: &str,
        grain: Grain,
        workers: &Arc<dyn JobBundleFactory>,
        tasks: &mut JoinSet<()>,
    ) -> &Collector {
        let reports = &self.reports;
        self.groupings.entry(node).or_insert_with(|| {
            let (inbox, asks) = mpsc::unbounded_channel();
            let task = Group {
                node,
                grain,
                grouping: grouping.clone(),
                name: name.to_owned(),
                workers: workers.clone(),
                reports: reports.clone(),
            };
            tasks.spawn(report_failure(reports.clone(), task.run(asks)));
            Collector { inbox }
        })
    }

    pub(super) fn side_input(
        &mut self,
        id: CollectionId,
        collection: &Collection,
        tasks: &mut JoinSet<()>,
    ) -> &Collector {
        let reports = &self.reports;
        self.side_inputs.entry(id).or_insert_with(|| {
            let (inbox, asks) = mpsc::unbounded_channel();
            let builder = SideInputBuilder::new(collection);
            let task = collect_side_input(id, builder, asks, reports.clone());
            tasks.spawn(report_failure(reports.clone(), task));
            Collector { inbox }
        })
    }
}

async fn report_failure(reports: mpsc::Sender<Report>, task: impl Future<Output = Result<(), Fault>>) {
    if let Err(fault) = task.await {
        let _ = reports.send(Report::Event(EngineEvent::Failed(fault))).await;
    }
}

/// Does `work` here if it is little, else on a thread that may be blocked.
async fn compute<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    if bytes <= INLINE_BYTES {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Fault::runner(format!("grouping elements broke off: {error}"))),
    }
}

fn size(blocks: &[Block<Bytes>]) -> u64 {
    blocks.iter().map(|block| block.bytes).sum()
}

/// The time on this machine's clock.
fn processing_time() -> ProcessingTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ProcessingTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

struct Group {
    node: NodeId,
    grain: Grain,
    grouping: Grouping,
    name: String,
    workers: Arc<dyn JobBundleFactory>,
    reports: mpsc::Sender<Report>,
}

impl Group {
    async fn run(self, mut asks: mpsc::UnboundedReceiver<Ask>) -> Result<(), Fault> {
        let mut groups = GroupByKey::new(self.grouping.clone(), self.name.clone());
        let mut total = 0;
        while let Some(Ask::Add(blocks)) = asks.recv().await {
            total += size(&blocks);
            let now = processing_time();
            groups = compute(size(&blocks), move || {
                blocks.iter().try_for_each(|block| groups.add(&block.data, now))?;
                Ok(groups)
            })
            .await?;
        }
        self.hand_out(groups, total).await
    }

    async fn hand_out(self, mut groups: GroupByKey, bytes: u64) -> Result<(), Fault> {
        if let Merging::BySdk(stage) = &self.grouping.merging {
            let factory = self.workers.stage(stage.spec.clone());
            let sets = groups.windows_to_merge();
            let window_coder = &self.grouping.window_coder;
            groups.merge_windows(merge_windows::merge(stage, factory.as_ref(), window_coder, sets).await?)?;
        }
        groups.advance_watermark(EventTime::MAX)?;
        let mut rest = groups.take_panes(self.grain);
        loop {
            let (blocks, iterator) = compute(bytes, move || {
                let blocks = rest.by_ref().take(GROUP_BATCH).collect::<Result<Vec<_>, _>>()?;
                Ok((blocks, rest))
            })
            .await?;
            rest = iterator;
            let last = blocks.len() < GROUP_BATCH;
            let blocks = blocks.into_iter().map(block).collect();
            let event = EngineEvent::Grouped { node: self.node, blocks, last };
            if self.reports.send(Report::Event(event)).await.is_err() || last {
                return Ok(());
            }
        }
    }
}

async fn collect_side_input(
    collection: CollectionId,
    mut builder: SideInputBuilder,
    mut asks: mpsc::UnboundedReceiver<Ask>,
    reports: mpsc::Sender<Report>,
) -> Result<(), Fault> {
    let mut total = 0;
    while let Some(Ask::Add(blocks)) = asks.recv().await {
        total += size(&blocks);
        builder = compute(size(&blocks), move || {
            blocks.iter().try_for_each(|block| builder.add(&block.data))?;
            Ok(builder)
        })
        .await?;
    }
    let ready = compute(total, move || Ok(Arc::new(builder.finish()))).await?;
    let _ = reports.send(Report::SideInput { collection, ready }).await;
    Ok(())
}
