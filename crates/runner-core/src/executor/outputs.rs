//! What a running bundle has written so far: cut as the plan wants it and put into the storage as it arrives, so that a bundle's
//! output may be larger than memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::may_wait;
use super::splits::{Input, Split};
use super::timers::{TimerChanges, unknown};
use crate::engine::{Block, TimerChange};
use crate::fault::Fault;
use crate::plan::{CollectionId, ExecutionPlan, Node, NodeId, Stage};
use crate::ports::{BundleSplit, OutputReceiver, SplitTaken, Storage, StoredBlock, TimerBlock};
use crate::runner_transforms::elements::Cutter;

/// By collection, as the engine wants it.
pub(super) type ByCollection = Vec<(CollectionId, Vec<Block<StoredBlock>>)>;

/// What the sinks of one attempt wrote, and the timers that were set.
pub(super) struct Outputs {
    plan: Arc<ExecutionPlan>,
    node: NodeId,
    storage: Arc<dyn Storage>,
    input: Arc<Input>,
    split: mpsc::Sender<Split>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    sinks: BTreeMap<CollectionId, Cutter>,
    timers: TimerChanges,
}

impl Outputs {
    /// `split`: takes what is given back of `input`.
    pub(super) fn new(
        plan: Arc<ExecutionPlan>,
        node: NodeId,
        storage: Arc<dyn Storage>,
        input: Arc<Input>,
        split: mpsc::Sender<Split>,
    ) -> Self {
        Self { plan, node, storage, input, split, written: Mutex::default() }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage(&self) -> Result<&Stage, Fault> {
        match &self.plan.nodes[self.node.0] {
            Node::Stage(stage) => Ok(stage),
            _ => Err(Fault::runner("only stages have bundles")),
        }
    }

    /// Errors: the stage has no such sink.
    fn collection(&self, sink: &str) -> Result<CollectionId, Fault> {
        self.stage()?.sinks.get(sink).copied().ok_or_else(|| {
            Fault::environment(format!("a worker wrote to {sink:?}, which is no sink of its stage"))
        })
    }

    /// What was done to timers, in order.
    pub(super) fn take_timers(&self) -> Vec<TimerChange> {
        std::mem::take(&mut self.written().timers).into_order()
    }

    /// All that was written, by collection.
    ///
    /// Errors: the storage has no room.
    pub(super) fn take(&self) -> Result<ByCollection, Fault> {
        let sinks = std::mem::take(&mut self.written().sinks);
        let finish = |(id, cutter): (_, Cutter)| Ok((id, cutter.finish(self.storage.as_ref())?));
        sinks.into_iter().map(finish).collect()
    }
}

impl OutputReceiver for Outputs {
    fn receive(&self, transform_id: &str, data: Bytes) -> Result<(), Fault> {
        let id = self.collection(transform_id)?;
        let storage = self.storage.as_ref();
        // Other sinks of the bundle wait meanwhile: they are written by the same worker.
        let mut written = self.written();
        let cutter = written.sinks.entry(id).or_insert_with(|| Cutter::new(storage));
        cutter.add(&self.plan.collections[id.0], data, storage)
    }

    fn receive_timers(&self, timers: TimerBlock) -> Result<(), Fault> {
        match &self.stage()?.keyed {
            Some(keyed) => self.written().timers.take_in(keyed, timers),
            None => Err(unknown(&timers)),
        }
    }

    fn receive_split(&self, split: &BundleSplit) -> Result<SplitTaken, Fault> {
        let (taken, split) = self.input.split(split)?;
        if let Some(split) = split {
            let full = |_| Fault::runner("a bundle was split more often than the engine could be told");
            self.split.try_send(split).map_err(full)?;
        }
        Ok(taken)
    }

    fn may_wait(&self, transform_id: &str, bytes: u64) -> bool {
        let storage = self.storage.as_ref();
        let collection = self.collection(transform_id).map(|id| &self.plan.collections[id.0]);
        // What nobody looks at is only put somewhere.
        let looked_at = match collection.is_ok_and(|it| !Cutter::looks_at(it, bytes, storage)) {
            true => 0,
            false => bytes,
        };
        may_wait(storage, looked_at, bytes)
    }
}
