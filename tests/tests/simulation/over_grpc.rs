//! The same cases on workers that speak the Fn API: fewer, since each takes its real time.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use beam_model::pipeline::ArtifactInformation;
use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness};
use fn_harness_bridge::{BridgeConfig, FnHarnessBridge, JobWorkers};
use runner_core::executor::Clock;
use runner_core::fault::Fault;
use runner_core::ports::*;
use state_store::DiskStorage;
use tokio::net::TcpListener;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::random::Chance;
use super::{Ran, Simulated, functions, seeds};

/// One of so many cases is run this way too, and so many if nobody says otherwise.
const ONE_OF: u64 = 50;
const CASES: u64 = 25;
/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Few enough that no bundle fails four times.
const MOST_FAULTS: usize = 3;
/// Bundles from this one on go well.
const LAST_FAULT: usize = 40;

/// Other workers, of whose bundles it notes those that are committed: a worker that is lost may never be told.
struct Noting {
    workers: Arc<dyn JobBundleFactory>,
    committed: Committed,
}

type Committed = Arc<Mutex<BTreeSet<String>>>;

struct NotingStage(Arc<dyn StageBundleFactory>, Committed);

/// Is told of a commit before the worker is.
struct Note {
    instruction: String,
    committed: Committed,
    worker: Box<dyn Finalizer>,
}

#[async_trait]
impl JobBundleFactory for Noting {
    fn parallelism(&self, environment_id: &str) -> usize {
        self.workers.parallelism(environment_id)
    }

    fn stage(&self, spec: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        Arc::new(NotingStage(self.workers.stage(spec), self.committed.clone()))
    }

    async fn close(&self) {
        self.workers.close().await;
    }
}

#[async_trait]
impl StageBundleFactory for NotingStage {
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let instruction = bundle.instruction.clone();
        let mut result = self.0.process(bundle).await?;
        let committed = self.1.clone();
        let note = |worker| Box::new(Note { instruction, committed, worker }) as Box<dyn Finalizer>;
        result.finalizer = result.finalizer.map(note);
        Ok(result)
    }

    fn has_idle_worker(&self) -> bool {
        self.0.has_idle_worker()
    }
}

#[async_trait]
impl Finalizer for Note {
    async fn finalize(self: Box<Self>) -> Result<(), Fault> {
        self.committed.lock().unwrap().insert(self.instruction);
        self.worker.finalize().await
    }
}

struct Nowhere;

impl WorkerLogSink for Nowhere {
    fn log(&self, _: WorkerLog) {}
}

impl ArtifactSource for Nowhere {
    fn open(&self, _: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        Err(Fault::runner("nothing is staged"))
    }
}

/// A bridge on a port of its own.
async fn bridge() -> FnHarnessBridge {
    let config = BridgeConfig { advertise_host: "127.0.0.1".to_owned(), ..Default::default() };
    let bridge = FnHarnessBridge::new(config);
    let mut routes = RoutesBuilder::default();
    bridge.add_services(&mut routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bridge.set_port(listener.local_addr().unwrap().port());
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
    bridge
}

fn with_faults(mut script: Script, chance: &Chance) -> Script {
    for _ in 0..chance.below(10) {
        let delay = Duration::from_millis(chance.below(20) as u64);
        let fault = [BundleFault::Delay(delay), BundleFault::EmbedOutput][chance.below(2)].clone();
        script = script.bundle_fault(1 + chance.below(LAST_FAULT), fault);
    }
    for _ in 0..chance.below(MOST_FAULTS + 1) {
        let fault =
            [BundleFault::Fail("it fails".to_owned()), BundleFault::Disconnect][chance.below(2)].clone();
        script = script.bundle_fault(1 + chance.below(LAST_FAULT), fault);
    }
    script
}

async fn simulate(bridge: &FnHarnessBridge, seed: u64) {
    let simulated = Simulated::new(seed);
    let written = Arc::new(functions::Written::default());
    let script = functions::script(&simulated.case, &simulated.chance, &written);
    let harness = ScriptedHarness::start(with_faults(script, &simulated.chance)).await;
    let environment = harness.environment();
    let environments = super::proto::ENVIRONMENTS.map(|id| (id.to_owned(), environment.clone()));
    let workers = bridge.job(JobWorkers {
        job_id: format!("seed-{seed}"),
        job_name: "a simulation".to_owned(),
        pipeline_options: prost_types::Struct::default(),
        environments: environments.into(),
        workers_per_environment: 1 + simulated.chance.below(2),
        artifacts: Arc::new(Nowhere),
        logs: Arc::new(Nowhere),
    });
    let workers = Arc::new(Noting { workers, committed: Committed::default() });
    // Half of the jobs have next to no memory.
    let limit = if simulated.chance.one_in(2) { 1 << 10 } else { u64::MAX };
    let spilled = tempfile::tempdir().unwrap();
    let storage = Arc::new(DiskStorage::new(MemoryBudget::new(limit), spilled.path()).unwrap());
    let (ran, execution) = Ran::begin(&simulated, &environment, workers.clone(), Clock::Machine, storage);
    let outcome = tokio::time::timeout(LIMIT, runner_core::executor::run(execution)).await;
    workers.close().await;
    let rows = written.of(&workers.committed.lock().unwrap());
    ran.judge(&simulated.case, outcome.expect("the job hangs"), &rows);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_grpc_results_are_those_of_the_plain_computation() {
    let bridge = Arc::new(bridge().await);
    let all = seeds(CASES * ONE_OF);
    let some: Vec<u64> =
        if all.end - all.start == 1 { all.collect() } else { all.step_by(ONE_OF as usize).collect() };
    for seed in some {
        let bridge = bridge.clone();
        let case = tokio::spawn(async move { simulate(&bridge, seed).await });
        if let Err(error) = case.await {
            panic!("SEED={seed}: {error}");
        }
    }
}
