//! Bundles over a real connection: the bridge with a scripted worker that hands each element back, beside gRPC that
//! streams the same bytes both ways, and a copy of them in memory.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use beam_model::coders::{PaneInfo, varint, windowed_value};
use beam_model::pipeline::ArtifactInformation;
use beam_model::time::EventTime;
use beamline_benches::loopback::{LARGE_FRAMES, Loopback};
use beamline_benches::scripted::{Workload, script};
use beamline_tests::scripted_harness::ScriptedHarness;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fn_harness_bridge::{BridgeConfig, FnHarnessBridge, JobWorkers};
use runner_core::fault::Fault;
use runner_core::plan::{PlanGrain, plan_pipeline};
use runner_core::ports::{
    ArtifactSource, BundleInput, BundleRequests, ElementCount, OutputReceiver, RemoteBundle,
    StageBundleFactory, StateHandler, StateKey, StatePage, TimerBlock, WorkerLog, WorkerLogSink,
};
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

type Failed = Box<dyn Error + Send + Sync>;

const BLOCKS: usize = 64;
const BLOCK_BYTES: usize = 1 << 20;
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Counts the bytes of the output, and keeps none.
#[derive(Default)]
struct Outputs(AtomicUsize);

impl OutputReceiver for Outputs {
    fn receive(&self, _: &str, block: Bytes) -> Result<(), Fault> {
        self.0.fetch_add(block.len(), Ordering::Relaxed);
        Ok(())
    }

    fn receive_timers(&self, _: TimerBlock) -> Result<(), Fault> {
        Err(Fault::runner("there are no timers"))
    }
}

/// What a job needs besides, and this one does not.
struct Nothing;

impl ArtifactSource for Nothing {
    fn open(&self, _: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        Err(Fault::runner("there are no artifacts"))
    }
}

impl WorkerLogSink for Nothing {
    fn log(&self, entry: WorkerLog) {
        black_box(entry);
    }
}

impl StateHandler for Nothing {
    fn get(&self, _: &StateKey, _: &Bytes) -> Result<StatePage, Fault> {
        Err(Fault::runner("there is no state"))
    }

    fn append(&self, _: &StateKey, _: Bytes) -> Result<(), Fault> {
        Err(Fault::runner("there is no state"))
    }

    fn clear(&self, _: &StateKey) -> Result<(), Fault> {
        Err(Fault::runner("there is no state"))
    }
}

/// A stage that hands its elements on, on a scripted worker.
struct Stage {
    factory: Arc<dyn StageBundleFactory>,
    source: String,
    _harness: ScriptedHarness,
    _bridge: FnHarnessBridge,
}

impl Stage {
    async fn start() -> Result<Self, Failed> {
        let harness = ScriptedHarness::start(script(0, Arc::new(AtomicU64::new(0)))).await;
        let plan = plan_pipeline(&Workload::PassThrough.pipeline(harness.environment()), PlanGrain::Default)
            .map_err(|error| error.to_string())?;
        let bridge = FnHarnessBridge::new(BridgeConfig {
            advertise_host: "127.0.0.1".to_owned(),
            ..BridgeConfig::default()
        });
        let mut routes = RoutesBuilder::default();
        bridge.add_services(&mut routes);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        bridge.set_port(listener.local_addr()?.port());
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(LARGE_FRAMES)
            .add_routes(routes.routes());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(server.serve_with_incoming(incoming));
        let job = bridge.job(JobWorkers {
            job_id: "bench".to_owned(),
            job_name: "bench".to_owned(),
            pipeline_options: Default::default(),
            environments: BTreeMap::new(),
            workers_per_environment: 1,
            artifacts: Arc::new(Nothing),
            logs: Arc::new(Nothing),
        });
        let pass = plan.stages().find(|(_, stage)| stage.spec.name.contains("pass"));
        let (_, stage) = pass.ok_or("the plan has no such stage")?;
        let (factory, source) = (job.stage(stage.spec.clone()), stage.source.clone());
        Ok(Self { factory, source, _harness: harness, _bridge: bridge })
    }

    /// How many bytes came back of a bundle with these blocks.
    async fn run(&self, blocks: Vec<Bytes>) -> Result<usize, Fault> {
        let outputs = Arc::new(Outputs::default());
        let blocks = Box::new(blocks.into_iter().map(Ok));
        let bundle = RemoteBundle {
            instruction: "bench".to_owned(),
            inputs: vec![BundleInput {
                transform_id: self.source.clone(),
                blocks,
                elements: ElementCount::default(),
            }],
            timers: Vec::new(),
            state: Arc::new(Nothing),
            outputs: outputs.clone(),
            requests: BundleRequests::none(),
            side_inputs_version: None,
        };
        self.factory.process(bundle).await?;
        Ok(outputs.0.load(Ordering::Relaxed))
    }
}

/// Pairs of 100 bytes in the global window.
fn block() -> (Bytes, usize) {
    let mut block = Vec::new();
    let mut elements = 0;
    let window: &[u8] = &[];
    while block.len() < BLOCK_BYTES
        && windowed_value::write_header(&mut block, EventTime(0), [window], PaneInfo::NO_FIRING_ENCODED)
            .is_ok()
    {
        varint::write_prefixed(&mut block, &[b'k'; 8]);
        varint::write_prefixed(&mut block, &[b'x'; 90]);
        elements += 1;
    }
    (block.into(), elements)
}

fn data_plane(criterion: &mut Criterion) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return };
    let started = runtime
        .block_on(async { Ok::<_, Failed>((Stage::start().await?, Loopback::start(LARGE_FRAMES).await?)) });
    assert!(started.is_ok(), "{:?}", started.err());
    let Ok((stage, loopback)) = started else { return };
    let (block, elements) = block();
    let blocks = vec![block; BLOCKS];
    let bytes: usize = blocks.iter().map(Bytes::len).sum();
    let mut group = criterion.benchmark_group("data plane, 64 MiB there and back");
    group.throughput(Throughput::Elements((elements * BLOCKS) as u64));
    group.sample_size(10);
    group.bench_function("a bundle of pairs of 100 B", |bencher| {
        bencher.iter(|| {
            let back = runtime.block_on(stage.run(blocks.clone()));
            assert!(matches!(back, Ok(back) if back == bytes), "{back:?} of {bytes} bytes");
        });
    });
    group.bench_function("gRPC streaming", |bencher| {
        bencher.iter(|| {
            let streamed = runtime.block_on(loopback.stream(bytes as u64, bytes as u64));
            assert!(streamed.is_ok(), "{streamed:?}");
        });
    });
    group.bench_function("memory copy, there and back", |bencher| {
        bencher.iter(|| {
            for block in &blocks {
                black_box(black_box(block).to_vec().as_slice().to_vec());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, data_plane);
criterion_main!(benches);
