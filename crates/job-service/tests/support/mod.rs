//! A job service on a real port, over a backend that does what the test says.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use beam_model::job_management::artifact_staging_service_client::ArtifactStagingServiceClient;
use beam_model::job_management::job_messages_response::Response as MessageOrState;
use beam_model::job_management::job_service_client::JobServiceClient;
use beam_model::job_management::*;
use beam_model::pipeline::{ArtifactInformation, Components, Environment, Pipeline};
use job_service::{JobService, JobServiceConfig};
use runner_core::backend::{
    JobInvocation, MetricResults, OptionKind, Outcome, PipelineOption, PipelineResult,
    PortablePipelineRunner, Refusal, ResumedJob,
};
use runner_core::fault::Fault;
use runner_core::options::PipelineOptions;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Server};

/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened for too long")
}

type Verdict = Box<dyn Fn(&Pipeline) -> Result<(), Refusal> + Send + Sync>;

pub struct FakeBackend {
    verdict: Verdict,
    started: mpsc::UnboundedSender<FakeJob>,
    resumed: mpsc::UnboundedSender<ResumedFakeJob>,
}

/// A job of an earlier server as the backend has it.
pub struct ResumedFakeJob {
    pub job: ResumedJob,
    pub result: Arc<FakeResult>,
}

/// A job as the backend has it.
pub struct FakeJob {
    pub invocation: JobInvocation,
    pub result: Arc<FakeResult>,
}

pub struct FakeResult {
    outcome: watch::Sender<Option<Outcome>>,
    pub cancels: AtomicUsize,
    pub drain_answer: Mutex<Result<(), Fault>>,
    pub metrics: Mutex<MetricResults>,
    pub handed_over: AtomicBool,
}

impl FakeResult {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            outcome: watch::Sender::new(None),
            cancels: AtomicUsize::new(0),
            drain_answer: Mutex::new(Ok(())),
            metrics: Mutex::default(),
            handed_over: AtomicBool::new(true),
        })
    }

    pub fn finish(&self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }

    pub async fn wait_for_cancel(&self) {
        soon(async {
            while self.cancels.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

#[async_trait]
impl PipelineResult for FakeResult {
    fn cancel(&self) {
        self.cancels.fetch_add(1, Ordering::SeqCst);
    }

    fn drain(&self) -> Result<(), Fault> {
        self.drain_answer.lock().unwrap().clone()
    }

    fn metrics(&self) -> MetricResults {
        self.metrics.lock().unwrap().clone()
    }

    async fn handed_over(&self) -> bool {
        self.handed_over.load(Ordering::SeqCst)
    }

    async fn finished(&self) -> Outcome {
        let mut outcome = self.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await.unwrap();
        outcome.clone().unwrap()
    }
}

#[async_trait]
impl PortablePipelineRunner for FakeBackend {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn pipeline_options(&self) -> Vec<PipelineOption> {
        vec![
            PipelineOption {
                name: "parallelism",
                kind: OptionKind::Integer,
                description: "how many",
                default: "1",
            },
            PipelineOption {
                name: "fast",
                kind: OptionKind::Boolean,
                description: "hurry",
                default: "false",
            },
        ]
    }

    fn prepare(&self, pipeline: &Pipeline, _: &PipelineOptions) -> Result<(), Refusal> {
        (self.verdict)(pipeline)
    }

    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        assert_ne!(invocation.job_name, "panic", "the backend breaks down");
        let result = FakeResult::new();
        let _ = self.started.send(FakeJob { invocation, result: Arc::clone(&result) });
        result
    }

    fn outlives_server(&self, _: &PipelineOptions) -> Option<&'static str> {
        Some("fake")
    }

    async fn resume(&self, backend: &str, job: ResumedJob) -> Option<Arc<dyn PipelineResult>> {
        let result = FakeResult::new();
        (backend == "fake").then(|| {
            let _ = self.resumed.send(ResumedFakeJob { job, result: Arc::clone(&result) });
            result as _
        })
    }
}

pub struct TestServer {
    pub service: JobService,
    pub started: mpsc::UnboundedReceiver<FakeJob>,
    pub resumed: mpsc::UnboundedReceiver<ResumedFakeJob>,
    pub artifacts: tempfile::TempDir,
    address: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(|_| {}, |_| Ok(())).await
    }

    pub async fn with(
        configure: impl FnOnce(&mut JobServiceConfig),
        verdict: impl Fn(&Pipeline) -> Result<(), Refusal> + Send + Sync + 'static,
    ) -> Self {
        let artifacts = tempfile::TempDir::new().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut config = JobServiceConfig {
            artifact_endpoint: address.clone(),
            artifacts_dir: artifacts.path().to_owned(),
            ..JobServiceConfig::default()
        };
        configure(&mut config);
        let (sender, started) = mpsc::unbounded_channel();
        let (resumed_sender, resumed) = mpsc::unbounded_channel();
        let backend =
            Arc::new(FakeBackend { verdict: Box::new(verdict), started: sender, resumed: resumed_sender });
        let service = JobService::new(config, backend).unwrap();
        service.resume_jobs().await;
        let mut routes = tonic::service::Routes::builder();
        service.add_services(&mut routes);
        let serving = Server::builder()
            .add_routes(routes.routes())
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { service, started, resumed, artifacts, address, server }
    }

    pub async fn channel(&self, user_agent: &str) -> Channel {
        let endpoint = Endpoint::new(format!("http://{}", self.address)).unwrap();
        soon(endpoint.user_agent(user_agent).unwrap().connect()).await.unwrap()
    }

    pub async fn client(&self) -> Client {
        let channel = self.channel("test").await;
        Client {
            jobs: JobServiceClient::new(channel.clone()),
            staging: ArtifactStagingServiceClient::new(channel),
        }
    }

    /// The next job that the backend was given.
    pub async fn next_job(&mut self) -> FakeJob {
        soon(self.started.recv()).await.unwrap()
    }

    /// A job that the client has prepared and run without artifacts.
    pub async fn started_job(&mut self, client: &mut Client) -> (String, FakeJob) {
        let id = client.submit(Pipeline::default()).await;
        (id, self.next_job().await)
    }

    /// Files in the artifact store.
    pub fn stored_files(&self) -> usize {
        let folder = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        folder(self.artifacts.path()).filter(|path| path.is_dir()).map(|path| folder(&path).count()).sum()
    }
}

#[derive(Clone)]
pub struct Client {
    pub jobs: JobServiceClient<Channel>,
    pub staging: ArtifactStagingServiceClient<Channel>,
}

impl Client {
    pub async fn prepare(&mut self, pipeline: Pipeline) -> Result<PrepareJobResponse, Status> {
        self.prepare_named("job", pipeline).await
    }

    pub async fn prepare_named(
        &mut self,
        job_name: &str,
        pipeline: Pipeline,
    ) -> Result<PrepareJobResponse, Status> {
        let request = PrepareJobRequest {
            pipeline: Some(pipeline),
            pipeline_options: None,
            job_name: job_name.to_owned(),
        };
        soon(self.jobs.prepare(request)).await.map(|response| response.into_inner())
    }

    pub async fn run(&mut self, preparation_id: &str) -> Result<String, Status> {
        let request =
            RunJobRequest { preparation_id: preparation_id.to_owned(), retrieval_token: String::new() };
        soon(self.jobs.run(request)).await.map(|response| response.into_inner().job_id)
    }

    pub async fn submit(&mut self, pipeline: Pipeline) -> String {
        let prepared = self.prepare(pipeline).await.unwrap();
        self.run(&prepared.preparation_id).await.unwrap()
    }

    pub async fn state(&mut self, job_id: &str) -> Result<job_state::Enum, Status> {
        let request = GetJobStateRequest { job_id: job_id.to_owned() };
        soon(self.jobs.get_state(request)).await.map(|response| response.into_inner().state())
    }

    pub async fn cancel(&mut self, job_id: &str) -> Result<job_state::Enum, Status> {
        let request = CancelJobRequest { job_id: job_id.to_owned() };
        soon(self.jobs.cancel(request)).await.map(|response| response.into_inner().state())
    }

    pub async fn drain(&mut self, job_id: &str) -> Result<job_state::Enum, Status> {
        let request = DrainJobRequest { job_id: job_id.to_owned() };
        soon(self.jobs.drain(request)).await.map(|response| response.into_inner().state())
    }

    /// All states of the job, once the server has closed the stream.
    pub async fn states(&mut self, job_id: &str) -> Vec<&'static str> {
        let request = GetJobStateRequest { job_id: job_id.to_owned() };
        let mut stream = soon(self.jobs.get_state_stream(request)).await.unwrap().into_inner();
        let mut states = Vec::new();
        while let Some(event) = soon(stream.message()).await.unwrap() {
            assert!(event.timestamp.is_some());
            states.push(event.state().as_str_name());
        }
        states
    }

    /// All messages and states of the job, once the server has closed the stream.
    pub async fn messages(&mut self, job_id: &str) -> Vec<String> {
        let request = JobMessagesRequest { job_id: job_id.to_owned() };
        let mut stream = soon(self.jobs.get_message_stream(request)).await.unwrap().into_inner();
        let mut messages = Vec::new();
        while let Some(message) = soon(stream.message()).await.unwrap() {
            messages.push(match message.response.unwrap() {
                MessageOrState::StateResponse(state) => state.state().as_str_name().to_owned(),
                MessageOrState::MessageResponse(message) => {
                    assert!(!message.message_id.is_empty() && message.time.contains('T'), "{message:?}");
                    format!("{}: {}", message.importance().as_str_name(), message.message_text)
                }
            });
        }
        messages
    }

    pub async fn metrics(&mut self, job_id: &str) -> beam_model::job_management::MetricResults {
        let request = GetJobMetricsRequest { job_id: job_id.to_owned() };
        soon(self.jobs.get_job_metrics(request)).await.unwrap().into_inner().metrics.unwrap()
    }
}

/// A pipeline with one environment for each list of artifacts.
pub fn pipeline_with(artifacts: &[&[ArtifactInformation]]) -> Pipeline {
    let environments: BTreeMap<_, _> = artifacts
        .iter()
        .enumerate()
        .map(|(number, dependencies)| {
            let environment = Environment { dependencies: dependencies.to_vec(), ..Environment::default() };
            (format!("env{number}"), environment)
        })
        .collect();
    let components = Components { environments, ..Components::default() };
    Pipeline { components: Some(components), ..Pipeline::default() }
}
