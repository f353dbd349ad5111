//! A bridge on a port of its own, a stage to run on it, and recorders for what comes back.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beam_model::coders::{Coder, PaneInfo, varint, windowed_value};
use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::{
    self, ArtifactFilePayload, ArtifactInformation, Environment, FunctionSpec, PCollection, PTransform,
    ParDoPayload, TimerFamilySpec,
};
use beam_model::time::EventTime;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::primitives::PAR_DO;
use beam_model::urns::standard_resource_hints::MAX_ACTIVE_BUNDLES_PER_WORKER;
use bytes::Bytes;
use fn_harness_bridge::{BridgeConfig, FnHarnessBridge, JobWorkers};
use prost::Message;
use prost_types::value::Kind;
use runner_core::fault::Fault;
use runner_core::ports::*;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub const ENVIRONMENT: &str = "environment";

/// The same, with an SDK that has a capability.
pub fn with_capability(mut environment: Environment, capability: &str) -> Environment {
    environment.capabilities.push(capability.to_owned());
    environment
}

/// The same, with a worker that may run one bundle at a time only.
pub fn one_at_a_time(environment: Environment) -> Environment {
    most_at_a_time(environment, "1")
}

/// The same, with this hint of how many bundles a worker may run at a time.
pub fn most_at_a_time(mut environment: Environment, hint: &str) -> Environment {
    let hint = Bytes::copy_from_slice(hint.as_bytes());
    environment.resource_hints.insert(MAX_ACTIVE_BUNDLES_PER_WORKER.to_owned(), hint);
    environment
}

/// Long enough for a machine under load, short enough that a hang is a failed test.
pub const SOON: Duration = Duration::from_secs(60);

/// Of what waits for nothing: sooner than anything that the bridge gives up after its usual minute, and late enough
/// for a machine that stands still for a while.
pub const AT_ONCE: Duration = Duration::from_secs(30);

pub struct Bridge {
    pub bridge: FnHarnessBridge,
    pub port: u16,
}

impl Bridge {
    pub async fn start() -> Self {
        Self::with(BridgeConfig::default()).await
    }

    pub async fn with(config: BridgeConfig) -> Self {
        let bridge = FnHarnessBridge::new(BridgeConfig { advertise_host: "127.0.0.1".to_owned(), ..config });
        let mut routes = RoutesBuilder::default();
        bridge.add_services(&mut routes);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        bridge.set_port(port);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
        Self { bridge, port }
    }

    pub fn job(&self, id: &str, environment: &Environment, workers: usize) -> Job {
        self.job_with(id, environment, workers, Arc::new(Files::default()))
    }

    /// A job with `--experiments=…`.
    pub fn job_with_experiment(&self, id: &str, environment: &Environment, experiment: &str) -> Job {
        let value = |kind| prost_types::Value { kind: Some(kind) };
        let experiments = vec![value(Kind::StringValue(experiment.to_owned()))];
        let experiments = value(Kind::ListValue(prost_types::ListValue { values: experiments }));
        let fields = [("beam:option:experiments:v1".to_owned(), experiments)];
        let options = prost_types::Struct { fields: fields.into() };
        self.open(id, environment, 1, Arc::default(), options)
    }

    /// A job with `--environment_type=LOOPBACK`.
    pub fn loopback_job(&self, id: &str, environment: &Environment) -> Job {
        let kind = prost_types::Value { kind: Some(Kind::StringValue("LOOPBACK".to_owned())) };
        let fields = [("beam:option:environment_type:v1".to_owned(), kind)];
        self.open(id, environment, 1, Arc::default(), prost_types::Struct { fields: fields.into() })
    }

    pub fn job_with(&self, id: &str, environment: &Environment, workers: usize, files: Arc<Files>) -> Job {
        self.open(id, environment, workers, files, prost_types::Struct::default())
    }

    fn open(
        &self,
        id: &str,
        environment: &Environment,
        workers: usize,
        files: Arc<Files>,
        pipeline_options: prost_types::Struct,
    ) -> Job {
        let logs = Arc::new(Logs::default());
        let bundles = self.bridge.job(JobWorkers {
            job_id: id.to_owned(),
            job_name: "a job".to_owned(),
            pipeline_options,
            environments: BTreeMap::from([(ENVIRONMENT.to_owned(), environment.clone())]),
            workers_per_environment: workers,
            artifacts: files,
            logs: logs.clone(),
        });
        Job { bundles, environment: environment.clone(), logs }
    }
}

pub struct Job {
    pub bundles: Arc<dyn JobBundleFactory>,
    environment: Environment,
    pub logs: Arc<Logs>,
}

impl Job {
    /// source → ParDo `do_fn` → sink, on bytes in the global window.
    pub fn stage(&self, do_fn: &str) -> Stage {
        self.stage_with_timers(do_fn, &[])
    }

    /// The same, and the ParDo has these timer families.
    pub fn stage_with_timers(&self, do_fn: &str, families: &[&str]) -> Stage {
        let factory = self.bundles.stage(Arc::new(StageSpec {
            name: format!("stage ({do_fn})"),
            environment_id: ENVIRONMENT.to_owned(),
            environment: self.environment.clone(),
            descriptor: descriptor(do_fn, families),
        }));
        Stage { factory }
    }
}

#[derive(Clone)]
pub struct Stage {
    factory: Arc<dyn StageBundleFactory>,
}

impl Stage {
    /// Runs a bundle on these values and returns what it wrote.
    pub async fn run(&self, name: &str, values: &[&str]) -> Result<Ran, Fault> {
        self.run_with(name, values, Arc::new(State::default()), Arc::new(Outputs::default())).await
    }

    pub async fn run_with(
        &self,
        name: &str,
        values: &[&str],
        state: Arc<State>,
        outputs: Arc<Outputs>,
    ) -> Result<Ran, Fault> {
        let block = encode(values);
        self.run_blocks(name, Box::new(std::iter::once(Ok(block))), state, outputs).await
    }

    /// Runs a bundle for which side inputs have what they have in this version.
    pub async fn run_version(&self, name: &str, values: &[&str], version: u64) -> Result<Ran, Fault> {
        let outputs = Arc::new(Outputs::default());
        let blocks = Box::new(std::iter::once(Ok(encode(values))));
        let bundle = RemoteBundle {
            instruction: name.to_owned(),
            inputs: vec![BundleInput {
                transform_id: "source".to_owned(),
                blocks,
                elements: ElementCount::default(),
            }],
            timers: Vec::new(),
            state: Arc::new(State::default()),
            outputs: outputs.clone(),
            requests: BundleRequests::none(),
            side_inputs_version: Some(version),
        };
        self.process(bundle, outputs).await
    }

    /// Runs a bundle on these values and timers.
    pub async fn run_timers(
        &self,
        name: &str,
        values: &[&str],
        timers: Vec<TimerBlock>,
        outputs: Arc<Outputs>,
    ) -> Result<Ran, Fault> {
        let blocks = Box::new(std::iter::once(Ok(encode(values))));
        self.run_all(name, blocks, timers, Arc::default(), outputs).await
    }

    pub async fn run_blocks(
        &self,
        name: &str,
        blocks: Box<dyn Iterator<Item = Result<Bytes, Fault>> + Send>,
        state: Arc<State>,
        outputs: Arc<Outputs>,
    ) -> Result<Ran, Fault> {
        self.run_all(name, blocks, Vec::new(), state, outputs).await
    }

    async fn run_all(
        &self,
        name: &str,
        blocks: Box<dyn Iterator<Item = Result<Bytes, Fault>> + Send>,
        timers: Vec<TimerBlock>,
        state: Arc<State>,
        outputs: Arc<Outputs>,
    ) -> Result<Ran, Fault> {
        let elements = ElementCount::default();
        let inputs = vec![BundleInput { transform_id: "source".to_owned(), blocks, elements }];
        let instruction = name.to_owned();
        let requests = BundleRequests::none();
        let bundle = RemoteBundle {
            instruction,
            inputs,
            timers,
            state,
            outputs: outputs.clone(),
            requests,
            side_inputs_version: None,
        };
        self.process(bundle, outputs).await
    }

    /// Begins a bundle on these values, counted, each in a block of its own; and who may ask it things.
    pub fn start(&self, name: &str, values: &[&str]) -> (BundleControl, JoinHandle<Result<Ran, Fault>>) {
        self.begin(name, values, ElementCount::of(values.len() as u64), Outputs::default())
    }

    /// The same, but the values are not counted.
    pub fn start_uncounted(
        &self,
        name: &str,
        values: &[&str],
    ) -> (BundleControl, JoinHandle<Result<Ran, Fault>>) {
        self.begin(name, values, ElementCount::default(), Outputs::default())
    }

    pub fn begin(
        &self,
        name: &str,
        values: &[&str],
        elements: ElementCount,
        outputs: Outputs,
    ) -> (BundleControl, JoinHandle<Result<Ran, Fault>>) {
        let (control, requests) = BundleRequests::channel();
        let blocks: Vec<_> = values.iter().map(|value| Ok(encode(&[value]))).collect();
        let blocks = Box::new(blocks.into_iter());
        let outputs = Arc::new(outputs);
        let bundle = RemoteBundle {
            instruction: name.to_owned(),
            inputs: vec![BundleInput { transform_id: "source".to_owned(), blocks, elements }],
            timers: Vec::new(),
            state: Arc::new(State::default()),
            outputs: outputs.clone(),
            requests,
            side_inputs_version: None,
        };
        let stage = self.clone();
        (control, tokio::spawn(async move { stage.process(bundle, outputs).await }))
    }

    async fn process(&self, bundle: RemoteBundle, outputs: Arc<Outputs>) -> Result<Ran, Fault> {
        let running = self.factory.process(bundle);
        let result = tokio::time::timeout(SOON, running).await.expect("the bundle hangs")?;
        Ok(Ran { values: outputs.values(), result })
    }
}

pub struct Ran {
    pub values: Vec<String>,
    pub result: BundleResult,
}

pub fn encode(values: &[&str]) -> Bytes {
    let mut block = Vec::new();
    for value in values {
        windowed_value::write_header(&mut block, EventTime(0), [&b""[..]], PaneInfo::NO_FIRING_ENCODED)
            .unwrap();
        varint::write_prefixed(&mut block, value.as_bytes());
    }
    block.into()
}

fn decode(mut block: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    while !block.is_empty() {
        let header = windowed_value::read_header(&Coder::GlobalWindow, block).unwrap();
        let (value, length) = varint::read_prefixed(&block[header.header_len..]).unwrap();
        values.push(String::from_utf8(value.to_vec()).unwrap());
        block = &block[header.header_len + length..];
    }
    values
}

fn descriptor(do_fn: &str, families: &[&str]) -> ProcessBundleDescriptor {
    let port =
        RemoteGrpcPort { api_service_descriptor: None, coder_id: "windowed".to_owned() }.encode_to_vec();
    let do_fn = FunctionSpec { urn: do_fn.to_owned(), payload: Bytes::new() };
    let family = TimerFamilySpec { timer_family_coder_id: "timer".to_owned(), ..Default::default() };
    let timer_family_specs = families.iter().map(|&id| (id.to_owned(), family.clone())).collect();
    let par_do = ParDoPayload { do_fn: Some(do_fn), timer_family_specs, ..Default::default() };
    let par_do = par_do.encode_to_vec();
    let transform = |urn: &str, payload: Vec<u8>, input: Option<&str>, output: Option<&str>| PTransform {
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() }),
        inputs: input.map(|id| ("in".to_owned(), id.to_owned())).into_iter().collect(),
        outputs: output.map(|id| ("out".to_owned(), id.to_owned())).into_iter().collect(),
        ..Default::default()
    };
    let coder = |urn: &str, components: &[&str]| pipeline::Coder {
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload: Bytes::new() }),
        component_coder_ids: components.iter().map(|&id| id.to_owned()).collect(),
    };
    let collection = PCollection { coder_id: "bytes".to_owned(), ..Default::default() };
    ProcessBundleDescriptor {
        id: "descriptor".to_owned(),
        transforms: BTreeMap::from([
            ("source".to_owned(), transform(DATA_SOURCE, port.clone(), None, Some("read"))),
            ("user".to_owned(), transform(PAR_DO, par_do, Some("read"), Some("written"))),
            ("sink".to_owned(), transform(DATA_SINK, port, Some("written"), None)),
        ]),
        pcollections: ["read", "written"].map(|id| (id.to_owned(), collection.clone())).into(),
        coders: BTreeMap::from([
            ("bytes".to_owned(), coder(standard_coders::BYTES, &[])),
            ("window".to_owned(), coder(standard_coders::GLOBAL_WINDOW, &[])),
            ("timer".to_owned(), coder(standard_coders::TIMER, &["bytes", "window"])),
            ("windowed".to_owned(), coder(standard_coders::WINDOWED_VALUE, &["bytes", "window"])),
        ]),
        ..Default::default()
    }
}

/// What the sink got; or a refusal of it.
#[derive(Default)]
pub struct Outputs {
    pub blocks: Mutex<Vec<Bytes>>,
    pub timers: Mutex<Vec<TimerBlock>>,
    pub refuse: bool,
    /// There if splits take effect at once: those that have.
    pub splits: Option<Mutex<Vec<BundleSplit>>>,
}

impl Outputs {
    pub fn values(&self) -> Vec<String> {
        self.blocks.lock().unwrap().iter().flat_map(|block| decode(block)).collect()
    }
}

impl OutputReceiver for Outputs {
    fn receive(&self, transform_id: &str, block: Bytes) -> Result<(), Fault> {
        assert_eq!(transform_id, "sink");
        if self.refuse {
            return Err(Fault::runner("the output is refused"));
        }
        self.blocks.lock().unwrap().push(block);
        Ok(())
    }

    fn receive_timers(&self, timers: TimerBlock) -> Result<(), Fault> {
        if self.refuse {
            return Err(Fault::runner("the timers are refused"));
        }
        self.timers.lock().unwrap().push(timers);
        Ok(())
    }

    fn receive_split(&self, split: &BundleSplit) -> Result<SplitTaken, Fault> {
        if self.refuse {
            return Err(Fault::runner("the split is refused"));
        }
        let Some(splits) = &self.splits else { return Ok(SplitTaken::WithTheBundle) };
        splits.lock().unwrap().push(split.clone());
        Ok(SplitTaken::AtOnce)
    }
}

/// Side inputs with pages of three bytes, and bags.
#[derive(Default)]
pub struct State {
    pub side_inputs: BTreeMap<String, Bytes>,
    pub bags: Mutex<BTreeMap<(String, Bytes), Vec<u8>>>,
    pub cache_tokens: Vec<CacheToken>,
    /// Workers that the tokens were for.
    pub workers: Mutex<Vec<String>>,
}

const PAGE_BYTES: usize = 3;

impl StateHandler for State {
    fn get(&self, key: &StateKey, continuation: &Bytes) -> Result<StatePage, Fault> {
        let value = match key {
            StateKey::IterableSideInput { side_input_id, .. } => {
                let value = self.side_inputs.get(side_input_id);
                value
                    .cloned()
                    .ok_or_else(|| Fault::runner(format!("there is no side input {side_input_id}")))?
            }
            StateKey::BagUserState { state_id, key, .. } => {
                let bags = self.bags.lock().unwrap();
                bags.get(&(state_id.clone(), key.clone())).cloned().unwrap_or_default().into()
            }
            other => panic!("{other:?} was not to be asked for"),
        };
        let start = continuation.first().map_or(0, |&start| usize::from(start));
        let end = value.len().min(start + PAGE_BYTES);
        let continuation = if end < value.len() { Bytes::from(vec![end as u8]) } else { Bytes::new() };
        Ok(StatePage { data: value.slice(start..end), continuation })
    }

    fn cache_tokens(&self, worker: &str) -> Vec<CacheToken> {
        self.workers.lock().unwrap().push(worker.to_owned());
        self.cache_tokens.clone()
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), Fault> {
        let StateKey::BagUserState { state_id, key, .. } = key else { panic!("{key:?}") };
        self.bags.lock().unwrap().entry((state_id.clone(), key.clone())).or_default().extend(data);
        Ok(())
    }

    fn clear(&self, key: &StateKey) -> Result<(), Fault> {
        let StateKey::BagUserState { state_id, key, .. } = key else { panic!("{key:?}") };
        self.bags.lock().unwrap().remove(&(state_id.clone(), key.clone()));
        Ok(())
    }
}

#[derive(Default)]
pub struct Logs(Mutex<Vec<WorkerLog>>);

impl Logs {
    pub fn messages(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|entry| entry.message.clone()).collect()
    }
}

impl WorkerLogSink for Logs {
    fn log(&self, entry: WorkerLog) {
        self.0.lock().unwrap().push(entry);
    }
}

/// Staged files, by path.
#[derive(Default)]
pub struct Files(pub BTreeMap<String, Vec<u8>>);

impl ArtifactSource for Files {
    fn open(&self, artifact: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        let path = ArtifactFilePayload::decode(artifact.type_payload.clone()).unwrap().path;
        let content = self.0.get(&path).ok_or_else(|| Fault::user(format!("{path} was not staged")))?;
        Ok(Box::new(std::io::Cursor::new(content.clone())))
    }
}

/// Waits for something that is to come true soon.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
