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

use super::call::Call;
use super::element::{self, Element};
use super::lean::LeanStage;
use super::samples::Samples;
use super::script::{BundleFault, DoFn, OnTimer, Script};
use super::split::RunningBundle;
use super::state::StateClient;
use super::timers::TimerFamilies;

/// A sink's buffer is sent when it holds so many bytes.
pub(super) const FLUSH_BYTES: usize = 1 << 20;

/// What a bundle needs of its worker.
pub(super) struct Wires {
    pub(super) instruction: String,
    pub(super) input: mpsc::UnboundedReceiver<Input>,
    pub(super) output: mpsc::Sender<Elements>,
    pub(super) state: Arc<StateClient>,
    pub(super) running: Arc<RunningBundle>,
    /// There if elements are kept that a function has failed at.
    pub(super) samples: Option<Arc<Samples>>,
    /// To be called to break all of the worker's connections.
    pub(super) disconnect: Box<dyn Fn() + Send>,
}

/// What a bundle gets.
pub(super) enum Input {
    Data(elements::Data),
    Timers(elements::Timers),
}

/// A transform of the descriptor, read.
enum Step {
    Source { coder: Coder },
    Sink { buffer: Vec<u8> },
    Function(Function),
    Pass,
    Windows { size: Option<i64> },
}

struct Function {
    do_fn: Arc<DoFn>,
    on_timer: Option<Arc<OnTimer>>,
    timers: TimerFamilies,
}

/// Runs the bundle. The error is what the worker answers.
pub(super) fn run(
    descriptor: &ProcessBundleDescriptor,
    script: &Script,
    fault: Option<&BundleFault>,
    wires: Wires,
) -> Result<ProcessBundleResponse, String> {
    if let Some(stage) = LeanStage::read(descriptor, script)? {
        return stage.run(wires);
    }
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

    /// Takes elements and timers until every source and timer family has had its last.
    fn read_input(&mut self) -> Result<(), String> {
        let mut open: Vec<(String, String)> = Vec::new();
        for (id, step) in &self.steps {
            match step {
                Step::Source { .. } => open.push((id.clone(), String::new())),
                Step::Function(function) => {
                    open.extend(function.timers.ids().map(|family| (id.clone(), family.clone())));
                }
                Step::Sink { .. } | Step::Pass | Step::Windows { .. } => {}
            }
        }
        while !open.is_empty() {
            let (stream, is_last) = match self.wires.input.blocking_recv() {
                Some(Input::Data(data)) => {
                    let stream = (data.transform_id.clone(), String::new());
                    check_open(&open, &stream)?;
                    self.read_data(&data)?;
                    (stream, data.is_last)
                }
                Some(Input::Timers(timers)) => {
                    let stream = (timers.transform_id.clone(), timers.timer_family_id.clone());
                    check_open(&open, &stream)?;
                    self.fire(&timers)?;
                    (stream, timers.is_last)
                }
                None => return Err("the data stream has ended".to_owned()),
            };
            if is_last {
                open.retain(|other| *other != stream);
            }
        }
        Ok(())
    }

    fn read_data(&mut self, data: &elements::Data) -> Result<(), String> {
        let Some(Step::Source { coder }) = self.steps.get(&data.transform_id) else {
            return Err(format!("data for {:?}, which is no source", data.transform_id));
        };
        for element in element::split(coder, &data.data)? {
            if self.wires.running.begin_element() {
                self.take(&data.transform_id, element)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, timers: &elements::Timers) -> Result<(), String> {
        let Some(Step::Function(function)) = self.steps.get(&timers.transform_id) else {
            return Err(format!("timers for {:?}, which has none", timers.transform_id));
        };
        let on_timer = function.on_timer.clone();
        for (timer, element) in function.timers.split(&timers.timer_family_id, &timers.timers)? {
            let on_timer = on_timer.clone().ok_or("the script has no function for timers")?;
            self.call(&timers.transform_id, &element, |call| on_timer(&timer, call))?;
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
            self.process(&consumer, element).inspect_err(|error| {
                if let Some(samples) = &self.wires.samples {
                    samples.add(&self.wires.instruction, pcollection, element, error);
                }
            })?;
        }
        Ok(())
    }

    fn process(&mut self, id: &str, element: &Element) -> Result<(), String> {
        match self.steps.get_mut(id) {
            Some(Step::Sink { buffer }) => {
                element.write(buffer)?;
                if buffer.len() >= FLUSH_BYTES {
                    let data = std::mem::take(buffer);
                    self.send(id, data.into(), false)?;
                }
            }
            Some(Step::Function(function)) => {
                let do_fn = function.do_fn.clone();
                self.call(id, element, |call| do_fn(&element.value, call))?;
            }
            Some(Step::Pass) => self.emit(id, vec![(None, element.clone())])?,
            Some(Step::Windows { size }) => {
                let assigned = assign(element, *size);
                self.emit(id, vec![(None, assigned)])?;
            }
            Some(Step::Source { .. }) | None => return Err(format!("{id} takes no input")),
        }
        Ok(())
    }

    /// Has the user's function see the element, or a timer that the element stands for.
    fn call(
        &mut self,
        id: &str,
        element: &Element,
        function: impl FnOnce(&mut Call<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(Step::Function(Function { timers, .. })) = self.steps.get_mut(id) else {
            return Err(format!("{id} has no function"));
        };
        let mut call = Call {
            state: &self.wires.state,
            instruction: &self.wires.instruction,
            transform_id: id,
            element,
            emitted: Vec::new(),
            requires_finalization: &mut self.response.requires_finalization,
            residuals: &mut self.response.residual_roots,
            timers,
        };
        function(&mut call)?;
        let emitted = call.emitted;
        self.emit(id, emitted)
    }

    fn emit(&mut self, id: &str, emitted: Vec<(Option<String>, Element)>) -> Result<(), String> {
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
        self.send_frame(Elements { data: vec![data], timers: Vec::new() })
    }

    fn send_timers(
        &mut self,
        transform_id: &str,
        family_id: &str,
        timers: Bytes,
        is_last: bool,
    ) -> Result<(), String> {
        let timers = elements::Timers {
            instruction_id: self.wires.instruction.clone(),
            transform_id: transform_id.to_owned(),
            timer_family_id: family_id.to_owned(),
            timers,
            is_last,
        };
        if matches!(self.fault, Some(BundleFault::EmbedOutput)) {
            self.embedded.timers.push(timers);
            return Ok(());
        }
        self.send_frame(Elements { data: Vec::new(), timers: vec![timers] })
    }

    fn send_frame(&mut self, frame: Elements) -> Result<(), String> {
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
            Some(BundleFault::TimersForUnknownFamily) => {
                self.send_timers("user", "no-such-family", Bytes::from_static(b"x"), false)?;
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
        self.finish_timers()?;
        if !self.embedded.data.is_empty() || !self.embedded.timers.is_empty() {
            self.response.elements = Some(self.embedded);
        }
        self.response.monitoring_infos =
            self.counts.iter().map(|(id, count)| element_count(id, *count)).collect();
        Ok(self.response)
    }

    /// Sends the timers of every family, and their end.
    fn finish_timers(&mut self) -> Result<(), String> {
        let mut written = Vec::new();
        for (id, step) in &mut self.steps {
            if let Step::Function(Function { timers, .. }) = step {
                let families: Vec<String> = timers.ids().cloned().collect();
                written.extend(families.into_iter().map(|family| {
                    let timers = timers.take(&family);
                    (id.clone(), family, timers)
                }));
            }
        }
        for (id, family, timers) in written {
            if !timers.is_empty() {
                self.send_timers(&id, &family, timers.into(), false)?;
            }
            if !matches!(self.fault, Some(BundleFault::TimersWithoutEnd)) {
                self.send_timers(&id, &family, Bytes::new(), true)?;
            }
        }
        Ok(())
    }
}

fn check_open(open: &[(String, String)], stream: &(String, String)) -> Result<(), String> {
    match open.contains(stream) {
        true => Ok(()),
        false => Err(format!("input for {stream:?}, which is not open")),
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
            let timers = TimerFamilies::read(descriptor, &par_do)?;
            let do_fn = par_do.do_fn.ok_or("a ParDo without a do_fn")?;
            return Ok((function(script, &do_fn.urn, timers)?, side_inputs));
        }
        urn => function(script, urn, TimerFamilies::default())?,
    };
    Ok((step, Vec::new()))
}

fn function(script: &Script, urn: &str, timers: TimerFamilies) -> Result<Step, String> {
    let do_fn = script.function(urn).ok_or_else(|| format!("the script has no function for {urn}"))?;
    let on_timer = script.timer_function(urn).cloned();
    Ok(Step::Function(Function { do_fn: do_fn.clone(), on_timer, timers }))
}

/// The URN of a ParDo's `do_fn`.
pub(super) fn do_fn_urn(transform: &PTransform) -> Result<String, String> {
    let spec = transform.spec.as_ref().ok_or("a transform without a spec")?;
    let do_fn = decode::<ParDoPayload>(&spec.payload)?.do_fn.ok_or("a ParDo without a do_fn")?;
    Ok(do_fn.urn)
}

pub(super) fn port_coder(descriptor: &ProcessBundleDescriptor, spec: &FunctionSpec) -> Result<Coder, String> {
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

pub(super) fn element_count(pcollection: &str, count: u64) -> MonitoringInfo {
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
