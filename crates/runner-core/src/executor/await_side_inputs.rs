//! Elements that wait for side inputs, while they do: a task for each stage that reads some.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Report;
use super::collectors::{Ask, LiveViews, What, compute, size};
use crate::engine::{Collected, EngineEvent};
use crate::fault::Fault;
use crate::plan::{CollectionId, ExecutionPlan, NodeId, StageSideInput};
use crate::ports::{JobBundleFactory, Storage, StoredBlock};
use crate::runner_transforms::await_side_inputs::Waiting;
use crate::runner_transforms::group_by_key::Window;
use crate::runner_transforms::live_side_input::Snapshot;
use crate::runner_transforms::{elements, map_windows};

/// More mapped windows than this are not remembered.
const MOST_MAPPED: usize = 1 << 14;

pub(super) struct AwaitSideInputs {
    pub(super) node: NodeId,
    pub(super) input: CollectionId,
    pub(super) output: CollectionId,
    pub(super) side_inputs: Vec<StageSideInput>,
    pub(super) plan: Arc<ExecutionPlan>,
    pub(super) workers: Arc<dyn JobBundleFactory>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) reports: mpsc::Sender<Report>,
}

/// For a side input, in which of its windows each window of the main input looks.
type Mapped = HashMap<Window, Window>;

impl AwaitSideInputs {
    pub(super) async fn run(self, mut asks: mpsc::UnboundedReceiver<Ask>) -> Result<(), Fault> {
        let mut waiting = Waiting::new(self.storage.as_ref());
        let mut mapped = vec![Mapped::new(); self.side_inputs.len()];
        while let Some(Ask { what, views, .. }) = asks.recv().await {
            if let What::Add(blocks, _) = what {
                let (plan, input, storage) = (self.plan.clone(), self.input, self.storage.clone());
                waiting = compute(self.storage.as_ref(), size(&blocks), move || {
                    let collection = &plan.collections[input.0];
                    for block in blocks {
                        waiting.add(collection, &block.data, storage.as_ref())?;
                    }
                    Ok(waiting)
                })
                .await?;
            }
            for (side, mapped) in self.side_inputs.iter().zip(&mut mapped) {
                self.map(side, &waiting, mapped).await?;
            }
            let is_ready = |window: &Window| self.is_ready(window, &mapped, &views);
            let released = waiting.release(is_ready, self.storage.as_ref())?;
            if !self.report(released, &waiting).await? {
                break;
            }
        }
        Ok(())
    }

    /// Asks the SDK about windows that are new.
    async fn map(&self, side: &StageSideInput, waiting: &Waiting, mapped: &mut Mapped) -> Result<(), Fault> {
        let Some(stage) = &side.map_windows else { return Ok(()) };
        if mapped.len() > MOST_MAPPED {
            mapped.clear();
        }
        let new: HashSet<Window> =
            waiting.windows().filter(|window| !mapped.contains_key(*window)).cloned().collect();
        if !new.is_empty() {
            let factory = self.workers.stage(stage.spec.clone());
            mapped.extend(map_windows::map(stage, factory.as_ref(), new.into_iter().collect()).await?);
        }
        Ok(())
    }

    fn is_ready(&self, window: &Window, mapped: &[Mapped], views: &LiveViews) -> bool {
        self.side_inputs.iter().zip(mapped).all(|(side, mapped)| {
            let snapshot: Option<&Arc<Snapshot>> = views.get(&side.collection);
            let looks_into: Option<&[u8]> = match side.map_windows {
                Some(_) => mapped.get(window).map(AsRef::as_ref),
                // The global window, of which nothing is written.
                None => Some(&[]),
            };
            snapshot.zip(looks_into).is_some_and(|(snapshot, window)| snapshot.is_ready(window))
        })
    }

    /// False if nobody listens any more.
    async fn report(&self, released: Vec<StoredBlock>, waiting: &Waiting) -> Result<bool, Fault> {
        let (plan, output, storage) = (self.plan.clone(), self.output, self.storage.clone());
        let bytes = released.iter().map(StoredBlock::len).sum();
        let blocks = compute(self.storage.as_ref(), bytes, move || {
            elements::cut_stored(&plan.collections[output.0], released, storage.as_ref())
        })
        .await?;
        let done = Some(Collected { hold: waiting.hold(), wake: None });
        let event = EngineEvent::Collected { node: self.node, blocks, done };
        Ok(self.reports.send(Report::Event(event)).await.is_ok())
    }
}
