//! Executing a `ProcessBundleDescriptor` on the elements of one bundle, on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::coders::{Coder, IntervalWindow, varint};
use beam_model::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, ProcessBundleDescriptor, ProcessBundleResponse,
    RemoteGrpcPort, elements,
};
use beam_model::pipeline::{
    FixedWindowsPayload, FunctionSpec, MonitoringInfo, PTransform, ParDoPayload, WindowIntoPayload,
};
use beam_model::time::EventTime;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::monitoring_info::monitoring_info_labels::PCOLLECTION;
use beam_model::urns::monitoring_info_specs::ELEMENT_COUNT;
use beam_model::urns::monitoring_info_type_urns::SUM_INT64_TYPE;
use beam_model::urns::standard_p_transforms::primitives::{ASSIGN_WINDOWS, FLATTEN, PAR_DO};
use beam_model::urns::{fixed_windows_payload, global_windows_payload};
use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use super::element::{self, Element};
use super::script::{BundleFault, DoFn, Script};
use super::state::{self, StateClient};

/// A sink's buffer is sent when it holds so many bytes.
const FLUSH_BYTES: usize = 1 << 20;

/// What a bundle needs of its worker.
pub(super) struct Wires {
    pub(super) instruction: String,
    pub(super) input: mpsc::UnboundedReceiver<elements::Data>,
    pub(super) output: mpsc::Sender<Elements>,
    pub(super) state: Arc<StateClient>,
    /// To be called to break all of the worker's connections.
    pub(super) disconnect: Box<dyn Fn() + Send>,
}

/// A transform of the descriptor, read.
enum Step {
    Source { coder: Coder },
    Sink { buffer: Vec<u8> },
    Function { do_fn: Arc<DoFn> },
    Pass,
    Windows { size: Option<i64> },
}

/// Runs the bundle. The error is what the worker answers.
pub(super) fn run(
    descriptor: &ProcessBundleDescriptor,
    script: &Script,
    fault: Option<&BundleFault>,
    wires: Wires,
) -> Result<ProcessBundleResponse, String> {
    let mut execution = Execution::new(descriptor, script, fault.cloned(), wires)?;
    execution.read_input()?;
    execution.finish()
}

struct Execution<'a> {
    descriptor: &'a ProcessBundleDescriptor,
    steps: BTreeMap<String, Step>,
    /// By PCollection.
    consumers: BTreeMap<String, Vec<String>>,
    counts: BTreeMap<String, u64>,
    fault: Option<BundleFault>,
    wires: Wires,
    response: ProcessBundleResponse,
    embedded: Elements,
}

impl<'a> Execution<'a> {
    fn new(
        descriptor: &'a ProcessBundleDescriptor,
        script: &Script,
        fault: Option<BundleFault>,
        wires: Wires,
    ) -> Result<Self, String> {
        let mut steps = BTreeMap::new();
        let mut consumers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, transform) in &descriptor.transforms {
            let (step, side_inputs) =
                read_step(descriptor, script, transform).map_err(|e| format!("{id}: {e}"))?;
            for (tag, pcollection) in &transform.inputs {
                if !side_inputs.contains(tag) {
                    consumers.entry(pcollection.clone()).or_default().push(id.clone());
                }
            }
            steps.insert(id.clone(), step);
        }
        Ok(Self {
            descriptor,
            steps,
            consumers,
            counts: BTreeMap::new(),
            fault,
            wires,
            response: ProcessBundleResponse::default(),
            embedded: Elements::default(),
        })
    }

    /// Takes elements until every source has had its last.
    fn read_input(&mut self) -> Result<(), String> {
        let mut open: Vec<String> = self
            .steps
            .iter()
            .filter(|(_, step)| matches!(step, Step::Source { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        while !open.is_empty() {
            let data = self.wires.input.blocking_recv().ok_or("the data stream has ended")?;
            if !open.contains(&data.transform_id) {
                return Err(format!("data for {:?}, which is no open source", data.transform_id));
            }
            let Some(Step::Source { coder }) = self.steps.get(&data.transform_id) else {
                return Err(format!("data for {:?}, which is no source", data.transform_id));
            };
            for element in element::split(coder, &data.data)? {
                self.take(&data.transform_id, element)?;
            }
            if data.is_last {
                open.retain(|id| *id != data.transform_id);
            }
        }
        Ok(())
    }

    fn take(&mut self, source: &str, element: Element) -> Result<(), String> {
        match self.fault.clone() {
            Some(BundleFault::Disconnect) => {
                (self.wires.disconnect)();
                return Err("disconnected".to_owned());
            }
            Some(BundleFault::GiveBack { transform_id, input_id, delay }) => {
                let mut encoded = Vec::new();
                element.write(&mut encoded)?;
                self.response.residual_roots.push(DelayedBundleApplication {
                    application: Some(BundleApplication {
                        transform_id,
                        input_id,
                        element: encoded.into(),
                        ..Default::default()
                    }),
                    requested_time_delay: prost_types::Duration::try_from(delay).ok(),
                });
                return Ok(());
            }
            _ => {}
        }
        for pcollection in self.outputs(source, None) {
            self.hand_on(&pcollection, &element)?;
        }
        Ok(())
    }

    /// The PCollections of a transform's output with this tag, or of all.
    fn outputs(&self, transform_id: &str, tag: Option<&str>) -> Vec<String> {
        let outputs = self.descriptor.transforms[transform_id].outputs.iter();
        outputs
            .filter(|(id, _)| tag.is_none_or(|tag| tag == *id))
            .map(|(_, pcollection)| pcollection.clone())
            .collect()
    }

    fn hand_on(&mut self, pcollection: &str, element: &Element) -> Result<(), String> {
        *self.counts.entry(pcollection.to_owned()).or_default() += 1;
        for consumer in self.consumers.get(pcollection).cloned().unwrap_or_default() {
            self.process(&consumer, element)?;
        }
        Ok(())
    }

    fn process(&mut self, id: &str, element: &Element) -> Result<(), String> {
        let mut emitted = Vec::new();
        match self.steps.get_mut(id) {
            Some(Step::Sink { buffer }) => {
                element.write(buffer)?;
                if buffer.len() >= FLUSH_BYTES {
                    let data = std::mem::take(buffer);
                    self.send(id, data.into(), false)?;
                }
            }
            Some(Step::Function { do_fn }) => {
                let do_fn = do_fn.clone();
                let mut call = Call {
                    state: &self.wires.state,
                    instruction: &self.wires.instruction,
                    transform_id: id,
                    element,
                    emitted: Vec::new(),
                    requires_finalization: &mut self.response.requires_finalization,
                };
                do_fn(&element.value, &mut call)?;
                emitted = call.emitted;
            }
            Some(Step::Pass) => emitted.push((None, element.clone())),
            Some(Step::Windows { size }) => emitted.push((None, assign(element, *size))),
            Some(Step::Source { .. }) | None => return Err(format!("{id} takes no input")),
        }
        for (tag, element) in emitted {
            for pcollection in self.outputs(id, tag.as_deref()) {
                self.hand_on(&pcollection, &element)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, transform_id: &str, data: Bytes, is_last: bool) -> Result<(), String> {
        let data = elements::Data {
            instruction_id: self.wires.instruction.clone(),
            transform_id: transform_id.to_owned(),
            data,
            is_last,
        };
        if matches!(self.fault, Some(BundleFault::EmbedOutput)) {
            self.embedded.data.push(data);
            return Ok(());
        }
        let frame = Elements { data: vec![data], timers: Vec::new() };
        self.wires.output.blocking_send(frame).map_err(|_| "the data stream is closed".to_owned())
    }

    /// Sends what is left and completes the answer.
    fn finish(mut self) -> Result<ProcessBundleResponse, String> {
        if let Some(BundleFault::Fail(message)) = &self.fault {
            return Err(message.clone());
        }
        // Before the sinks' last data: the bundle must not be complete before this is seen.
        match self.fault {
            Some(BundleFault::DataForUnknownInstruction) => {
                let instruction = std::mem::replace(&mut self.wires.instruction, "never-given".to_owned());
                self.send("sink", Bytes::from_static(b"x"), false)?;
                self.wires.instruction = instruction;
            }
            Some(BundleFault::DataForUnknownTransform) => {
                self.send("no-such-sink", Bytes::from_static(b"x"), false)?;
            }
            _ => {}
        }
        let sinks: Vec<String> = self
            .steps
            .iter()
            .filter(|(_, step)| matches!(step, Step::Sink { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for id in sinks {
            if let Some(Step::Sink { buffer }) = self.steps.get_mut(&id) {
                let data = std::mem::take(buffer);
                if !data.is_empty() {
                    self.send(&id, data.into(), false)?;
                }
            }
            self.send(&id, Bytes::new(), true)?;
            if matches!(self.fault, Some(BundleFault::DataAfterLast)) {
                self.send(&id, Bytes::from_static(b"late"), false)?;
            }
        }
        if !self.embedded.data.is_empty() {
            self.response.elements = Some(self.embedded);
        }
        self.response.monitoring_infos =
            self.counts.iter().map(|(id, count)| element_count(id, *count)).collect();
        Ok(self.response)
    }
}

/// What a function may do besides looking at its element.
pub struct Call<'a> {
    state: &'a StateClient,
    instruction: &'a str,
    transform_id: &'a str,
    element: &'a Element,
    /// By output tag; without one, for all outputs.
    emitted: Vec<(Option<String>, Element)>,
    requires_finalization: &'a mut bool,
}

impl Call<'_> {
    /// Emits a value (nested encoding) with the time and windows of the element, on every output.
    pub fn emit_all(&mut self, value: &[u8]) {
        self.emitted.push((None, self.derived(value)));
    }

    /// The same, on the output of this tag.
    pub fn emit(&mut self, tag: &str, value: &[u8]) {
        self.emitted.push((Some(tag.to_owned()), self.derived(value)));
    }

    /// Emits a value with an event time of its own, on every output.
    pub fn emit_at(&mut self, timestamp: EventTime, value: &[u8]) {
        self.emitted.push((None, Element { timestamp, ..self.derived(value) }));
    }

    pub fn timestamp(&self) -> EventTime {
        self.element.timestamp
    }

    /// The first window of the element, encoded.
    pub fn window(&self) -> Bytes {
        self.element.windows.first().cloned().unwrap_or_default()
    }

    /// All of an iterable side input in the element's first window: encoded values.
    pub fn side_input(&self, id: &str) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::iterable(self.transform_id, id, self.window()))
    }

    /// The encoded values of a key of a multimap side input.
    pub fn side_input_of_key(&self, id: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::multimap(self.transform_id, id, self.window(), key))
    }

    pub fn bag(&self, id: &str, key: &[u8]) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::bag(self.transform_id, id, self.window(), key))
    }

    pub fn append_to_bag(&self, id: &str, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.state.append(self.instruction, &state::bag(self.transform_id, id, self.window(), key), value)
    }

    pub fn clear_bag(&self, id: &str, key: &[u8]) -> Result<(), String> {
        self.state.clear(self.instruction, &state::bag(self.transform_id, id, self.window(), key))
    }

    /// Asks to be told of the bundle's commit.
    pub fn request_finalization(&mut self) {
        *self.requires_finalization = true;
    }

    fn derived(&self, value: &[u8]) -> Element {
        Element { value: Bytes::copy_from_slice(value), ..self.element.clone() }
    }
}

/// The transform, and the tags of its inputs that are side inputs.
fn read_step(
    descriptor: &ProcessBundleDescriptor,
    script: &Script,
    transform: &PTransform,
) -> Result<(Step, Vec<String>), String> {
    let spec = transform.spec.as_ref().ok_or("a transform without a spec")?;
    let step = match spec.urn.as_str() {
        DATA_SOURCE => Step::Source { coder: port_coder(descriptor, spec)? },
        DATA_SINK => {
            port_coder(descriptor, spec)?;
            Step::Sink { buffer: Vec::new() }
        }
        FLATTEN => Step::Pass,
        ASSIGN_WINDOWS => Step::Windows { size: window_size(spec)? },
        PAR_DO => {
            let par_do = decode::<ParDoPayload>(&spec.payload)?;
            let side_inputs = par_do.side_inputs.keys().cloned().collect();
            let do_fn = par_do.do_fn.ok_or("a ParDo without a do_fn")?;
            return Ok((function(script, &do_fn.urn)?, side_inputs));
        }
        urn => function(script, urn)?,
    };
    Ok((step, Vec::new()))
}

fn function(script: &Script, urn: &str) -> Result<Step, String> {
    let do_fn = script.function(urn).ok_or_else(|| format!("the script has no function for {urn}"))?;
    Ok(Step::Function { do_fn: do_fn.clone() })
}

fn port_coder(descriptor: &ProcessBundleDescriptor, spec: &FunctionSpec) -> Result<Coder, String> {
    let port = decode::<RemoteGrpcPort>(&spec.payload)?;
    if port.api_service_descriptor.is_none_or(|endpoint| endpoint.url.is_empty()) {
        return Err("a port without an endpoint".to_owned());
    }
    Coder::from_proto(&port.coder_id, &descriptor.coders).map_err(|error| error.to_string())
}

/// The size of fixed windows in milliseconds; none for the global window.
fn window_size(spec: &FunctionSpec) -> Result<Option<i64>, String> {
    let window_fn = decode::<WindowIntoPayload>(&spec.payload)?.window_fn.ok_or("no window_fn")?;
    match window_fn.urn.as_str() {
        global_windows_payload::PROPERTIES => Ok(None),
        fixed_windows_payload::PROPERTIES => {
            let size = decode::<FixedWindowsPayload>(&window_fn.payload)?.size.unwrap_or_default();
            Ok(Some(size.seconds * 1000 + i64::from(size.nanos) / 1_000_000))
        }
        urn => Err(format!("window fn {urn} is not in the script's repertoire")),
    }
}

fn assign(element: &Element, size: Option<i64>) -> Element {
    let mut window = Vec::new();
    if let Some(size) = size {
        let start = element.timestamp.0 - element.timestamp.0.rem_euclid(size);
        IntervalWindow { start: EventTime(start), end: EventTime(start + size) }.write(&mut window);
    }
    Element { windows: vec![window.into()], ..element.clone() }
}

fn element_count(pcollection: &str, count: u64) -> MonitoringInfo {
    let mut payload = Vec::new();
    varint::write(&mut payload, count);
    MonitoringInfo {
        urn: ELEMENT_COUNT.to_owned(),
        r#type: SUM_INT64_TYPE.to_owned(),
        payload: payload.into(),
        labels: BTreeMap::from([(PCOLLECTION.to_owned(), pcollection.to_owned())]),
        ..Default::default()
    }
}

fn decode<M: Message + Default>(payload: &Bytes) -> Result<M, String> {
    M::decode(payload.clone()).map_err(|error| error.to_string())
}
