//! One scripted worker: its streams, and its bundles on threads of their own.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beam_model::fn_execution::beam_fn_control_client::BeamFnControlClient;
use beam_model::fn_execution::beam_fn_data_client::BeamFnDataClient;
use beam_model::fn_execution::beam_fn_logging_client::BeamFnLoggingClient;
use beam_model::fn_execution::beam_fn_state_client::BeamFnStateClient;
use beam_model::fn_execution::instruction_request::Request as Instruction;
use beam_model::fn_execution::instruction_response::Response as Answer;
use beam_model::fn_execution::log_entry::severity::Enum as Severity;
use beam_model::fn_execution::{
    Elements, FinalizeBundleResponse, GetProcessBundleDescriptorRequest, HarnessMonitoringInfosResponse,
    InstructionRequest, InstructionResponse, LogEntry, MonitoringInfosMetadataResponse,
    ProcessBundleDescriptor, ProcessBundleProgressResponse, ProcessBundleSplitRequest, RegisterResponse,
    StartWorkerRequest, log_entry,
};
use beam_model::pipeline::ApiServiceDescriptor;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Shared;
use super::bundle::{self, Input as Received, Wires};
use super::samples::Samples;
use super::script::{BundleFault, ShortIds};
use super::short_ids::Names;
use super::split::{RunningBundle, SplitAnswer};
use super::state::StateClient;

/// As wide as the SDKs' own: a data stream is not to wait for round trips.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const FRAME: u32 = 256 << 10;

/// What the bundles of a worker share.
struct Worker {
    id: String,
    shared: Arc<Shared>,
    control: BeamFnControlClient<Channel>,
    descriptors: Mutex<BTreeMap<String, Arc<ProcessBundleDescriptor>>>,
    answers: mpsc::UnboundedSender<InstructionResponse>,
    output: mpsc::Sender<Elements>,
    inputs: Inputs,
    /// By instruction.
    running: Mutex<HashMap<String, Arc<RunningBundle>>>,
    state: Arc<StateClient>,
    names: Names,
    samples: Arc<Samples>,
    disconnected: CancellationToken,
}

/// Elements that have come, by instruction; those for an instruction may come before it.
#[derive(Default)]
struct Inputs(Mutex<HashMap<String, Input>>);

struct Input {
    sender: mpsc::UnboundedSender<Received>,
    receiver: Option<mpsc::UnboundedReceiver<Received>>,
}

/// Runs until the runner ends the control stream or the script breaks the connections.
pub(super) async fn run(start: StartWorkerRequest, shared: Arc<Shared>) {
    let id = start.worker_id.clone();
    if let Err(error) = serve(start, shared).await {
        eprintln!("scripted worker {id}: {error}");
    }
}

async fn serve(
    start: StartWorkerRequest,
    shared: Arc<Shared>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let id = start.worker_id;
    let channel = connect(start.control_endpoint).await?;
    let (answers, answered) = mpsc::unbounded_channel();
    let mut answered = Some(UnboundedReceiverStream::new(answered));
    let mut control = BeamFnControlClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut first = None;
    let (entries, log) = mpsc::channel(16);
    if shared.script.waits_for_instructions() {
        let answered = answered.take().ok_or("taken once")?;
        let mut instructions = control.control(of_worker(&id, answered)).await?.into_inner();
        let Some(Ok(instruction)) = instructions.next().await else { return Ok(()) };
        first = Some((instruction, instructions));
    } else {
        let logging = connect(start.logging_endpoint).await?;
        BeamFnLoggingClient::new(logging).logging(of_worker(&id, ReceiverStream::new(log))).await?;
        entries.send(log_line(format!("scripted worker {id} is up"))).await?;
    }

    let (output, outgoing) = mpsc::channel(4);
    let (asks, asking) = mpsc::unbounded_channel();
    let data = of_worker(&id, ReceiverStream::new(outgoing));
    let mut data = BeamFnDataClient::new(channel.clone())
        .max_decoding_message_size(usize::MAX)
        .data(data)
        .await?
        .into_inner();
    let state = of_worker(&id, UnboundedReceiverStream::new(asking));
    let mut states = BeamFnStateClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .state(state)
        .await?
        .into_inner();
    let worker = Arc::new(Worker {
        id: id.clone(),
        shared,
        control: control.clone(),
        descriptors: Mutex::default(),
        answers,
        output,
        inputs: Inputs::default(),
        running: Mutex::default(),
        state: Arc::new(StateClient::new(asks)),
        names: Names::default(),
        samples: Arc::default(),
        disconnected: CancellationToken::new(),
    });

    let mut tasks = JoinSet::new();
    let receiving = worker.clone();
    tasks.spawn(async move {
        while let Some(Ok(frame)) = data.next().await {
            // In the order of the Python harness: within a message timers come first.
            for timers in frame.timers {
                receiving.inputs.put(&timers.instruction_id.clone(), Received::Timers(timers));
            }
            for data in frame.data {
                receiving.inputs.put(&data.instruction_id.clone(), Received::Data(data));
            }
        }
        receiving.inputs.close();
    });
    let answering = worker.clone();
    tasks.spawn(async move {
        while let Some(Ok(response)) = states.next().await {
            answering.state.answered(response);
        }
        answering.state.close();
    });
    let mut instructions = match (first, answered) {
        (Some((instruction, instructions)), _) => {
            tasks.spawn(worker.clone().obey(instruction));
            instructions
        }
        (None, answered) => {
            control.control(of_worker(&id, answered.ok_or("taken once")?)).await?.into_inner()
        }
    };
    loop {
        let instruction = tokio::select! {
            () = worker.disconnected.cancelled() => break,
            instruction = instructions.next() => instruction,
        };
        let Some(Ok(instruction)) = instruction else { break };
        tasks.spawn(worker.clone().obey(instruction));
    }
    // Whatever waits for the runner learns that there is nothing more to come.
    worker.inputs.close();
    worker.state.close();
    Ok(())
}

impl Worker {
    async fn obey(self: Arc<Self>, instruction: InstructionRequest) {
        let instruction_id = instruction.instruction_id;
        match instruction.request {
            Some(Instruction::ProcessBundle(request)) => {
                self.shared.cache_tokens.lock().unwrap().push(request.cache_tokens);
                let number = self.shared.bundles.fetch_add(1, Ordering::SeqCst) + 1;
                let running = Arc::new(RunningBundle::new(number));
                self.running.lock().unwrap().insert(instruction_id.clone(), running.clone());
                let descriptor_id = request.process_bundle_descriptor_id;
                if let Some(elements) = request.elements {
                    self.shared.embedded.fetch_add(1, Ordering::SeqCst);
                    // In the order of the Java harness: timers come last.
                    for data in elements.data {
                        self.inputs.put(&instruction_id, Received::Data(data));
                    }
                    for timers in elements.timers {
                        self.inputs.put(&instruction_id, Received::Timers(timers));
                    }
                }
                if let Some(response) = self.process_bundle(&instruction_id, descriptor_id, &running).await {
                    self.answer(instruction_id, response);
                    running.answered.cancel();
                }
            }
            Some(Instruction::ProcessBundleSplit(request)) => {
                if let Some(response) = self.split(request).await {
                    self.answer(instruction_id, response);
                }
            }
            Some(Instruction::ProcessBundleProgress(request)) => {
                let known = self.running.lock().unwrap().contains_key(&request.instruction_id);
                let answer = Answer::ProcessBundleProgress(self.progress());
                self.answer(instruction_id, known.then_some(answer).ok_or("not known".to_owned()));
            }
            Some(Instruction::FinalizeBundle(request)) => {
                self.shared.finalized.lock().unwrap().push(request.instruction_id);
                self.answer(instruction_id, Ok(Answer::FinalizeBundle(FinalizeBundleResponse {})));
            }
            Some(Instruction::MonitoringInfos(request)) => {
                let answer = self.meaning(request.monitoring_info_id);
                self.answer(instruction_id, answer);
            }
            Some(Instruction::HarnessMonitoringInfos(_)) => {
                let infos = self.shared.script.metrics_of_process();
                let data = infos.map(|infos| self.names.shorten(infos.to_vec()));
                let answer = data.map(|monitoring_data| {
                    Answer::HarnessMonitoringInfos(HarnessMonitoringInfosResponse { monitoring_data })
                });
                self.answer(instruction_id, answer.ok_or("nobody counts here".to_owned()));
            }
            Some(Instruction::SampleData(request)) => {
                let answer = Answer::SampleData(self.samples.take(&request.pcollection_ids));
                self.answer(instruction_id, Ok(answer));
            }
            other => self.answer(instruction_id, Err(format!("the script has no answer to {other:?}"))),
        }
    }

    /// No metrics; of a worker with short ids one, that something was read.
    fn progress(&self) -> ProcessBundleProgressResponse {
        match self.shared.script.uses_short_ids() {
            None => ProcessBundleProgressResponse::default(),
            Some(_) => ProcessBundleProgressResponse {
                monitoring_data: self.names.shorten(vec![bundle::element_count("read", 1)]),
                consuming_received_data: Some(true),
                ..Default::default()
            },
        }
    }

    /// What short ids mean, as far as the script lets it be told.
    fn meaning(&self, ids: Vec<String>) -> Result<Answer, String> {
        let named = self.names.meaning(&ids);
        self.shared.short_ids_asked.lock().unwrap().push(ids);
        let monitoring_info = match self.shared.script.uses_short_ids() {
            Some(ShortIds::Told) => named,
            Some(ShortIds::Untold) => BTreeMap::new(),
            Some(ShortIds::Refused) | None => return Err("there are no such ids".to_owned()),
        };
        Ok(Answer::MonitoringInfos(MonitoringInfosMetadataResponse { monitoring_info }))
    }

    fn answer(&self, instruction_id: String, answer: Result<Answer, String>) {
        let response = match answer {
            Ok(response) => {
                InstructionResponse { instruction_id, response: Some(response), error: String::new() }
            }
            Err(error) => InstructionResponse { instruction_id, response: None, error },
        };
        self.answers.send(response).ok();
    }

    /// The answer, or none if the script wants none.
    async fn split(&self, request: ProcessBundleSplitRequest) -> Option<Result<Answer, String>> {
        let running = self.running.lock().unwrap().get(&request.instruction_id).cloned();
        let Some((running, call)) = running.and_then(|it| it.call(&request).map(|call| (it, call))) else {
            return Some(Err(format!("bundle {} is not known, or not split", request.instruction_id)));
        };
        let answer = self.shared.script.split_answer(&call);
        let split = running.split(call, &answer);
        match answer {
            SplitAnswer::Never => return None,
            SplitAnswer::AfterTheBundle(_) => running.answered.cancelled().await,
            _ => {}
        }
        Some(match split {
            Some(split) => split.map(Answer::ProcessBundleSplit),
            None => Ok(Answer::Register(RegisterResponse {})),
        })
    }

    /// The answer, or none if the script wants none.
    async fn process_bundle(
        &self,
        instruction: &str,
        descriptor_id: String,
        running: &Arc<RunningBundle>,
    ) -> Option<Result<Answer, String>> {
        let fault = self.shared.script.fault_of_bundle(running.number).cloned();
        self.shared.descriptors.lock().unwrap().push(descriptor_id.clone());
        let descriptor = match self.descriptor(descriptor_id).await {
            Ok(descriptor) => descriptor,
            Err(status) => return Some(Err(format!("no descriptor: {status}"))),
        };
        let disconnected = self.disconnected.clone();
        let input = self.inputs.take(instruction)?;
        let output = self.output.clone();
        let send =
            move |frame| output.blocking_send(frame).map_err(|_| "the data stream is closed".to_owned());
        let wires = Wires {
            instruction: instruction.to_owned(),
            output: Box::new(send),
            state: self.state.clone(),
            running: running.clone(),
            samples: self.shared.script.keeps_samples().then(|| self.samples.clone()),
            disconnect: Box::new(move || disconnected.cancel()),
        };
        let shared = self.shared.clone();
        let goes_wrong = fault.clone();
        let run = move || bundle::run(&descriptor, &shared.script, goes_wrong.as_ref(), wires, input);
        let done = tokio::task::spawn_blocking(run).await;
        if self.disconnected.is_cancelled() {
            // The answer could still get out before the connections are broken.
            return None;
        }
        self.inputs.remove(instruction);
        self.running.lock().unwrap().remove(instruction);
        match fault {
            // An answer might be there before the data, and the bundle be well.
            Some(BundleFault::Hang | BundleFault::DataAfterLast) => return None,
            Some(BundleFault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(BundleFault::Held(let_go)) => let_go.cancelled().await,
            Some(BundleFault::WrongAnswer) => return Some(Ok(Answer::Register(RegisterResponse {}))),
            _ => {}
        }
        let response = done.unwrap_or_else(|panic| Err(format!("the bundle's thread panicked: {panic}")));
        Some(response.map(|mut response| {
            if self.shared.script.uses_short_ids().is_some() {
                response.monitoring_data = self.names.shorten(std::mem::take(&mut response.monitoring_infos));
            }
            Answer::ProcessBundle(response)
        }))
    }

    async fn descriptor(&self, id: String) -> Result<Arc<ProcessBundleDescriptor>, Status> {
        if let Some(descriptor) = self.descriptors.lock().unwrap().get(&id) {
            return Ok(descriptor.clone());
        }
        let request = GetProcessBundleDescriptorRequest { process_bundle_descriptor_id: id.clone() };
        let response =
            self.control.clone().get_process_bundle_descriptor(of_worker(&self.id, request)).await?;
        let descriptor = Arc::new(response.into_inner());
        self.descriptors.lock().unwrap().insert(id, descriptor.clone());
        Ok(descriptor)
    }
}

impl Inputs {
    fn put(&self, instruction: &str, received: Received) {
        self.of(&mut self.0.lock().unwrap(), instruction).sender.send(received).ok();
    }

    fn take(&self, instruction: &str) -> Option<mpsc::UnboundedReceiver<Received>> {
        self.of(&mut self.0.lock().unwrap(), instruction).receiver.take()
    }

    fn of<'a>(&self, inputs: &'a mut HashMap<String, Input>, instruction: &str) -> &'a mut Input {
        inputs.entry(instruction.to_owned()).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            Input { sender, receiver: Some(receiver) }
        })
    }

    fn remove(&self, instruction: &str) {
        self.0.lock().unwrap().remove(instruction);
    }

    fn close(&self) {
        self.0.lock().unwrap().clear();
    }
}

async fn connect(
    endpoint: Option<ApiServiceDescriptor>,
) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
    let url = endpoint.ok_or("StartWorker names too few endpoints")?.url;
    let endpoint = Endpoint::from_str(&format!("http://{url}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME);
    Ok(endpoint.connect_timeout(Duration::from_secs(10)).connect().await?)
}

/// A call with the worker's id in its metadata.
fn of_worker<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("worker_id", MetadataValue::try_from(id).expect("an ASCII worker id"));
    request
}

fn log_line(message: String) -> log_entry::List {
    let entry = LogEntry { severity: Severity::Info.into(), message, ..Default::default() };
    log_entry::List { log_entries: vec![entry] }
}
