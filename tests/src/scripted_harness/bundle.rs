//! Executing a `ProcessBundleDescriptor` on the elements of one bundle, on a thread of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::coders::varint;
use beam_model::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, ProcessBundleDescriptor, ProcessBundleResponse,
    elements,
};
use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::monitoring_info::monitoring_info_labels::PCOLLECTION;
use beam_model::urns::monitoring_info_specs::ELEMENT_COUNT;
use beam_model::urns::monitoring_info_type_urns::SUM_INT64_TYPE;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::call::Call;
use super::element::{self, Element};
use super::lean::LeanStage;
use super::samples::Samples;
use super::script::{BundleFault, Script};
use super::split::RunningBundle;
use super::state::StateAccess;
use super::step::{Function, Step, read_step};

/// A sink's buffer is sent when it holds so many bytes.
pub(super) const FLUSH_BYTES: usize = 1 << 20;

/// What a bundle needs of its worker.
pub(super) struct Wires {
    pub(super) instruction: String,
    /// Takes what the bundle makes.
    pub(super) output: Box<dyn Fn(Elements) -> Result<(), String> + Send>,
    pub(super) state: Arc<dyn StateAccess>,
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

/// Runs the bundle. The error is what the worker answers.
pub(super) fn run(
    descriptor: &ProcessBundleDescriptor,
    script: &Script,
    fault: Option<&BundleFault>,
    wires: Wires,
    input: mpsc::UnboundedReceiver<Input>,
) -> Result<ProcessBundleResponse, String> {
    if let Some(stage) = LeanStage::read(descriptor, script)? {
        return stage.run(&wires, input);
    }
    let mut execution = Execution::new(descriptor, script, fault.cloned(), wires)?;
    execution.read_input(input)?;
    execution.finish()
}

/// A bundle being processed.
pub(super) struct Execution<'a> {
    descriptor: &'a ProcessBundleDescriptor,
    steps: BTreeMap<String, Step>,
    /// By PCollection.
    consumers: BTreeMap<String, Vec<String>>,
    counts: BTreeMap<String, u64>,
    fault: Option<BundleFault>,
    wires: Wires,
    response: ProcessBundleResponse,
    embedded: Elements,
    /// The element that it is at is to leave undone what it can.
    asked_to_stop: bool,
    /// What was kept of elements that were cut.
    primaries: Vec<BundleApplication>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(
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
            asked_to_stop: false,
            primaries: Vec::new(),
        })
    }

    /// Takes elements and timers until every source and timer family has had its last.
    fn read_input(&mut self, mut input: mpsc::UnboundedReceiver<Input>) -> Result<(), String> {
        let mut open: Vec<(String, String)> = Vec::new();
        for (id, step) in &self.steps {
            match step {
                Step::Source { .. } => open.push((id.clone(), String::new())),
                Step::Function(function) => {
                    open.extend(function.timers.ids().map(|family| (id.clone(), family.clone())));
                }
                Step::Sink { .. } | Step::Pass | Step::Windows(_) => {}
            }
        }
        while !open.is_empty() {
            let (stream, is_last) = match input.blocking_recv() {
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

    /// The elements of a block for a source.
    pub(super) fn split(&self, source: &str, block: &Bytes) -> Result<Vec<Element>, String> {
        match self.steps.get(source) {
            Some(Step::Source { coder }) => element::split(coder, block),
            _ => Err(format!("data for {source:?}, which is no source")),
        }
    }

    /// Has `work` process an element that is to leave undone what it can; also returns what that was, and what it has
    /// kept.
    pub(super) fn stopping<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> T,
    ) -> (T, Vec<DelayedBundleApplication>, Vec<BundleApplication>) {
        let before = std::mem::take(&mut self.response.residual_roots);
        self.asked_to_stop = true;
        let done = work(self);
        self.asked_to_stop = false;
        let undone = std::mem::replace(&mut self.response.residual_roots, before);
        (done, undone, std::mem::take(&mut self.primaries))
    }

    pub(super) fn fire(&mut self, timers: &elements::Timers) -> Result<(), String> {
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

    pub(super) fn take(&mut self, source: &str, element: Element) -> Result<(), String> {
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
                if !function.by_window {
                    return self.call(id, element, |call| do_fn(&element.value, call));
                }
                for window in &element.windows {
                    let element = Element { windows: vec![window.clone()], ..element.clone() };
                    self.call(id, &element, |call| do_fn(&element.value, call))?;
                }
            }
            Some(Step::Pass) => self.emit(id, vec![(None, element.clone())])?,
            Some(Step::Windows(assign)) => {
                let windows = assign.windows(element.timestamp);
                let assigned = Element { windows, ..element.clone() };
                // An element is assigned anew in each of its windows.
                self.emit(id, vec![(None, assigned); element.windows.len()])?;
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
        let Some(Step::Function(Function { timers, payload, .. })) = self.steps.get_mut(id) else {
            return Err(format!("{id} has no function"));
        };
        let mut call = Call {
            state: self.wires.state.as_ref(),
            payload,
            asked_to_stop: self.asked_to_stop,
            instruction: &self.wires.instruction,
            transform_id: id,
            element,
            emitted: Vec::new(),
            requires_finalization: &mut self.response.requires_finalization,
            residuals: &mut self.response.residual_roots,
            primaries: &mut self.primaries,
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
        (self.wires.output)(frame)
    }

    /// Sends what is left and completes the answer.
    pub(super) fn finish(mut self) -> Result<ProcessBundleResponse, String> {
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
