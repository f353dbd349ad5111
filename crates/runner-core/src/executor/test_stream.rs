//! Plays a TestStream: hands the engine one event at a time, when it asks.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Report;
use crate::engine::{EngineEvent, TestStreamStep};
use crate::fault::Fault;
use crate::plan::{ExecutionPlan, Node, TestStream, TestStreamEvent, TestStreamReader, TestStreamSource};
use crate::ports::{JobBundleFactory, Storage, StoredBlock, TestStreamEvents};
use crate::runner_transforms::elements;

type Step = TestStreamStep<StoredBlock>;

/// Asks for the next event.
pub(super) struct Player {
    asks: mpsc::Sender<()>,
}

impl Player {
    /// Of the plan's TestStream, if it has one. The task ends when this is dropped; `reports` gets the events.
    pub(super) fn new(
        plan: Arc<ExecutionPlan>,
        workers: Arc<dyn JobBundleFactory>,
        storage: Arc<dyn Storage>,
        reports: mpsc::Sender<Report>,
    ) -> Option<(Self, impl Future<Output = ()>)> {
        let node = plan.nodes.iter().position(|node| matches!(node, Node::TestStream(_)))?;
        // The engine asks for one event at a time.
        let (asks, asked) = mpsc::channel(1);
        let play = async move {
            if let Node::TestStream(stream) = &plan.nodes[node]
                && let Err(fault) =
                    play(&plan, stream, workers.as_ref(), storage.as_ref(), &reports, asked).await
            {
                let fault = fault.at(&stream.name);
                reports.send(Report::Event(EngineEvent::Failed(fault))).await.ok();
            }
        };
        Some((Self { asks }, play))
    }

    pub(super) fn next(&self) {
        // If the task is gone it has reported why.
        self.asks.try_send(()).ok();
    }
}

/// Where events come from.
enum Source<'a> {
    Listed(std::slice::Iter<'a, TestStreamEvent>),
    Told(TestStreamEvents, Box<TestStreamReader>),
}

impl Source<'_> {
    async fn next(&mut self) -> Result<Option<TestStreamEvent>, Fault> {
        match self {
            Self::Listed(events) => Ok(events.next().cloned()),
            Self::Told(events, reader) => match events.recv().await {
                Some(event) => Ok(Some(reader.read(&event?)?)),
                None => Ok(None),
            },
        }
    }
}

async fn play(
    plan: &ExecutionPlan,
    stream: &TestStream,
    workers: &dyn JobBundleFactory,
    storage: &dyn Storage,
    reports: &mpsc::Sender<Report>,
    mut asked: mpsc::Receiver<()>,
) -> Result<(), Fault> {
    let mut source = match &stream.events {
        TestStreamSource::Listed(events) => Source::Listed(events.iter()),
        TestStreamSource::Endpoint(url) => {
            let outputs = stream.outputs.keys().cloned().collect();
            let events = workers.test_stream_events(url, outputs).await?;
            Source::Told(events, Box::new(stream.reader()))
        }
    };
    while asked.recv().await.is_some() {
        let event = source.next().await?;
        let step = event.map(|event| step(plan, event, storage)).transpose()?.unwrap_or(TestStreamStep::End);
        if reports.send(Report::Event(EngineEvent::TestStream(step))).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn step(plan: &ExecutionPlan, event: TestStreamEvent, storage: &dyn Storage) -> Result<Step, Fault> {
    Ok(match event {
        TestStreamEvent::Elements { output, elements } => {
            let blocks = elements::cut(&plan.collections[output.0], elements, storage)?;
            TestStreamStep::Elements { output, blocks }
        }
        TestStreamEvent::Watermark { output, watermark } => TestStreamStep::Watermark { output, watermark },
        TestStreamEvent::ProcessingTime { advance } => {
            let millis = i64::try_from(advance.as_millis()).unwrap_or(i64::MAX);
            TestStreamStep::ProcessingTime { millis }
        }
    })
}
