//! Jobs for the scripted cluster, and who listens to them.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beam_model::pipeline::{
    ArtifactInformation, Coder, Components, FunctionSpec, PCollection, PTransform, ParDoPayload, Pipeline,
    WindowingStrategy, is_bounded,
};
use beam_model::urns::{global_windows_payload, standard_coders, standard_p_transforms::primitives};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use runner_core::backend::{
    Importance, JobInvocation, JobListener, Outcome, PipelineResult, PortablePipelineRunner, ResumedJob,
};
use runner_core::fault::Fault;
use runner_core::options::PipelineOptions;
use runner_core::ports::ArtifactSource;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use translators::flink::{FlinkConfig, FlinkRunner, Patience};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const JOB_ID: &str = "wordcount-1";

/// An address where nobody listens, nor can anybody begin to as long as the socket is there.
pub fn deaf_address() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

/// A backend with a runner jar for Flink 1.19.
pub struct Backend {
    pub runner: FlinkRunner,
    pub folder: TempDir,
}

/// In every runner jar.
pub const CLASS_OF_FLINK: &str = "org/apache/flink/runtime/jobgraph/JobGraph.class";

pub fn write_runner_jar(folder: &TempDir, flink_version: &str) -> PathBuf {
    let path = folder.path().join(format!("runner-{flink_version}.jar"));
    let mut writer = ZipWriter::new(std::fs::File::create(&path).unwrap());
    writer
        .start_file("org/apache/beam/runners/flink/FlinkPipelineRunner.class", SimpleFileOptions::default())
        .unwrap();
    writer.start_file(CLASS_OF_FLINK, SimpleFileOptions::default()).unwrap();
    writer.start_file(".flink-runtime.version.properties", SimpleFileOptions::default()).unwrap();
    writeln!(writer, "project.version={flink_version}").unwrap();
    writer.finish().unwrap();
    path
}

impl Backend {
    pub fn new() -> Self {
        Self::with_patience(Patience::default())
    }

    pub fn with_patience(patience: Patience) -> Self {
        Self::with(FlinkConfig { patience, ..FlinkConfig::default() })
    }

    /// One of a server that was told this, but for jar and folder.
    pub fn with(config: FlinkConfig) -> Self {
        let folder = TempDir::new().unwrap();
        let runner_jars = vec![write_runner_jar(&folder, "1.19.0")];
        let config = FlinkConfig { runner_jars, temp_dir: folder.path().to_owned(), ..config };
        Self { runner: FlinkRunner::new(config).unwrap(), folder }
    }

    /// Goes on with a job that an earlier server has noted this of.
    pub async fn resume(&self, pipeline: Pipeline, options: PipelineOptions, note: Option<String>) -> Job {
        let listener = Arc::new(Heard::default());
        let job = ResumedJob {
            job_id: JOB_ID.to_owned(),
            job_name: "wordcount".to_owned(),
            pipeline,
            options,
            note,
            listener: Arc::clone(&listener) as _,
        };
        let result = self.runner.resume("flink", job).await.unwrap();
        Job { result, listener }
    }

    pub async fn run(&self, pipeline: Pipeline, options: PipelineOptions) -> Job {
        let listener = Arc::new(Heard::default());
        let result = self.runner.run(JobInvocation {
            job_id: JOB_ID.to_owned(),
            job_name: "wordcount".to_owned(),
            pipeline,
            options,
            artifacts: Arc::new(Artifacts),
            listener: Arc::clone(&listener) as _,
        });
        Job { result: result.await, listener }
    }
}

pub struct Job {
    pub result: Arc<dyn PipelineResult>,
    pub listener: Arc<Heard>,
}

impl Job {
    pub async fn end(&self) -> Outcome {
        tokio::time::timeout(PATIENCE, self.result.finished()).await.expect("the job has not ended")
    }

    pub async fn failure(&self) -> Fault {
        match self.end().await {
            Outcome::Failed(fault) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a message of that importance has these words.
    pub async fn wait_for_message(&self, importance: Importance, words: &str) -> String {
        let waiting = async {
            loop {
                if let Some(text) = self.listener.message_with(importance, words) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap_or_else(|_| panic!("no {words:?} in {:?}", self.listener.messages.lock().unwrap()))
    }
}

#[derive(Default)]
pub struct Heard {
    pub notes: Mutex<Vec<String>>,
    pub running: Mutex<u32>,
    pub messages: Mutex<Vec<(Importance, String)>>,
}

impl Heard {
    pub fn message_with(&self, importance: Importance, words: &str) -> Option<String> {
        let messages = self.messages.lock().unwrap();
        messages
            .iter()
            .find(|(i, text)| *i == importance && text.contains(words))
            .map(|(_, text)| text.clone())
    }
}

impl JobListener for Heard {
    fn running(&self) {
        *self.running.lock().unwrap() += 1;
    }

    fn message(&self, importance: Importance, text: String) {
        self.messages.lock().unwrap().push((importance, text));
    }

    fn note(&self, note: String) {
        self.notes.lock().unwrap().push(note);
    }
}

pub const ARTIFACT: &[u8] = b"main session";

struct Artifacts;

impl ArtifactSource for Artifacts {
    fn open(&self, _: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        Ok(Box::new(Cursor::new(ARTIFACT)))
    }
}

pub fn options(given: &[(&str, &str)]) -> PipelineOptions {
    let mut all = Struct::default();
    for (name, value) in given {
        let value = Value { kind: Some(Kind::StringValue((*value).to_owned())) };
        all.fields.insert(format!("beam:option:{name}:v1"), value);
    }
    PipelineOptions::new(all)
}

pub fn spec(urn: &str) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), ..Default::default() })
}

/// One Impulse, `boundedness` its output.
pub fn impulse(boundedness: is_bounded::Enum) -> Pipeline {
    let transform = PTransform {
        spec: spec(primitives::IMPULSE),
        unique_name: "Impulse".to_owned(),
        outputs: BTreeMap::from([("out".to_owned(), "p".to_owned())]),
        ..Default::default()
    };
    let pcollection = PCollection {
        coder_id: "bytes".to_owned(),
        windowing_strategy_id: "global".to_owned(),
        is_bounded: boundedness.into(),
        ..Default::default()
    };
    let coder = |urn| Coder { spec: spec(urn), ..Default::default() };
    let strategy = WindowingStrategy {
        window_fn: spec(global_windows_payload::PROPERTIES),
        window_coder_id: "window".to_owned(),
        ..Default::default()
    };
    let components = Components {
        transforms: BTreeMap::from([("t".to_owned(), transform)]),
        pcollections: BTreeMap::from([("p".to_owned(), pcollection)]),
        coders: BTreeMap::from([
            ("bytes".to_owned(), coder(standard_coders::BYTES)),
            ("window".to_owned(), coder(standard_coders::GLOBAL_WINDOW)),
        ]),
        windowing_strategies: BTreeMap::from([("global".to_owned(), strategy)]),
        ..Default::default()
    };
    Pipeline { components: Some(components), root_transform_ids: vec!["t".to_owned()], ..Default::default() }
}

pub fn bounded() -> Pipeline {
    impulse(is_bounded::Enum::Bounded)
}

/// The Impulse, and a ParDo after it that is called `Do`.
pub fn with_pardo(payload: &ParDoPayload) -> Pipeline {
    let mut pipeline = bounded();
    let components = pipeline.components.as_mut().unwrap();
    let coder = |urn: &str, parts: &[&str]| Coder {
        spec: spec(urn),
        component_coder_ids: parts.iter().map(|part| (*part).to_owned()).collect(),
    };
    components.coders.insert("kv".to_owned(), coder(standard_coders::KV, &["bytes", "bytes"]));
    components.pcollections.get_mut("p").unwrap().coder_id = "kv".to_owned();
    let made = PCollection { coder_id: "bytes".to_owned(), ..components.pcollections["p"].clone() };
    components.pcollections.insert("q".to_owned(), made);
    let mut do_ = PTransform {
        spec: spec(primitives::PAR_DO),
        unique_name: "Do".to_owned(),
        inputs: BTreeMap::from([("in".to_owned(), "p".to_owned())]),
        outputs: BTreeMap::from([("out".to_owned(), "q".to_owned())]),
        ..Default::default()
    };
    do_.spec.as_mut().unwrap().payload = payload.encode_to_vec().into();
    components.transforms.insert("do".to_owned(), do_);
    components.environments.insert("e".to_owned(), Default::default());
    pipeline.root_transform_ids.push("do".to_owned());
    pipeline
}
