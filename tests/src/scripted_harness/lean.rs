//! Bundles that cost a worker as little as they can: to measure a runner, not this harness.
//!
//! A stage of one source, one function and at most one sink, whose elements are looked at in place. Nothing
//! goes wrong in it, and it is not split while it runs.

use beam_model::coders::{Coder, windowed_value};
use beam_model::fn_execution::{Elements, ProcessBundleDescriptor, ProcessBundleResponse, elements};
use beam_model::pipeline::PTransform;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::standard_p_transforms::primitives::PAR_DO;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::bundle::{FLUSH_BYTES, Input, Wires, element_count};
use super::script::{LeanFn, Script};
use super::step::{do_fn_urn, port_coder};

/// A lean stage, read.
pub(super) struct LeanStage<'a> {
    source: &'a str,
    coder: Coder,
    function: &'a LeanFn,
    sink: Option<&'a str>,
    read: &'a str,
    written: Option<&'a str>,
}

/// Where a function's output goes.
pub struct Emitter<'a> {
    wires: &'a Wires,
    sink: Option<&'a str>,
    /// Of the element that the function has: its time, windows and pane.
    header: &'a [u8],
    buffer: &'a mut BytesMut,
    emitted: &'a mut u64,
}

impl Emitter<'_> {
    /// Emits a value (nested encoding), put together of these parts, with the time and windows of the element.
    pub fn emit(&mut self, parts: &[&[u8]]) -> Result<(), String> {
        let Some(sink) = self.sink else { return Ok(()) };
        *self.emitted += 1;
        self.buffer.extend_from_slice(self.header);
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        if self.buffer.len() < FLUSH_BYTES {
            return Ok(());
        }
        send(self.wires, sink, std::mem::take(self.buffer).freeze(), false)?;
        self.buffer.reserve(FLUSH_BYTES + FLUSH_BYTES / 16);
        Ok(())
    }
}

impl<'a> LeanStage<'a> {
    /// `None`: the stage's function is no lean one.
    pub(super) fn read(
        descriptor: &'a ProcessBundleDescriptor,
        script: &'a Script,
    ) -> Result<Option<Self>, String> {
        let with_urn = |urn: &str| {
            let mut all = descriptor.transforms.iter();
            all.find(|(_, transform)| transform.spec.as_ref().is_some_and(|spec| spec.urn == urn))
        };
        let Some((_, par_do)) = with_urn(PAR_DO) else { return Ok(None) };
        let Some(function) = script.lean_function(&do_fn_urn(par_do)?) else { return Ok(None) };
        let (source, port) = with_urn(DATA_SOURCE).ok_or("a lean stage without a source")?;
        let sink = with_urn(DATA_SINK);
        if descriptor.transforms.len() != 2 + usize::from(sink.is_some()) {
            return Err("a lean function is fused with others".to_owned());
        }
        let spec = port.spec.as_ref().ok_or("a source without a spec")?;
        let coder = port_coder(descriptor, spec)?;
        let first = |ends: Option<&'a String>| ends.map(String::as_str).ok_or("an end without a PCollection");
        let written = |sink: &'a PTransform| first(sink.inputs.values().next());
        Ok(Some(Self {
            source,
            coder,
            function,
            read: first(port.outputs.values().next())?,
            sink: sink.map(|(id, _)| id.as_str()),
            written: sink.map(|(_, sink)| written(sink)).transpose()?,
        }))
    }

    pub(super) fn run(
        &self,
        wires: &Wires,
        mut input: mpsc::UnboundedReceiver<Input>,
    ) -> Result<ProcessBundleResponse, String> {
        let stop = wires.running.begin_all();
        let (mut taken, mut emitted) = (0, 0);
        let mut buffer = BytesMut::with_capacity(FLUSH_BYTES + FLUSH_BYTES / 16);
        loop {
            let data = match input.blocking_recv() {
                Some(Input::Data(data)) if data.transform_id == self.source => data,
                Some(Input::Data(_) | Input::Timers(_)) => return Err("input for no source".to_owned()),
                None => return Err("the data stream has ended".to_owned()),
            };
            self.process(wires, &data.data, stop, &mut taken, &mut buffer, &mut emitted)?;
            if data.is_last {
                break;
            }
        }
        let mut response = ProcessBundleResponse::default();
        response.monitoring_infos.push(element_count(self.read, taken));
        if let (Some(sink), Some(written)) = (self.sink, self.written) {
            if !buffer.is_empty() {
                send(wires, sink, buffer.freeze(), false)?;
            }
            send(wires, sink, Bytes::new(), true)?;
            response.monitoring_infos.push(element_count(written, emitted));
        }
        Ok(response)
    }

    fn process(
        &self,
        wires: &Wires,
        block: &[u8],
        stop: u64,
        taken: &mut u64,
        buffer: &mut BytesMut,
        emitted: &mut u64,
    ) -> Result<(), String> {
        let Coder::WindowedValue { value: coder, window } = &self.coder else {
            return Err("the port's coder is no windowed value".to_owned());
        };
        let mut rest = block;
        while !rest.is_empty() && *taken < stop {
            let header_len =
                windowed_value::read_header(window, rest).map_err(|error| error.to_string())?.header_len;
            let (header, after) = rest.split_at(header_len);
            let (value, after) = after.split_at(coder.skip(after).map_err(|error| error.to_string())?);
            let mut emitter = Emitter { wires, sink: self.sink, header, buffer, emitted };
            (self.function)(value, &mut emitter)?;
            *taken += 1;
            rest = after;
        }
        Ok(())
    }
}

fn send(wires: &Wires, sink: &str, data: Bytes, is_last: bool) -> Result<(), String> {
    let data = elements::Data {
        instruction_id: wires.instruction.clone(),
        transform_id: sink.to_owned(),
        data,
        is_last,
    };
    let frame = Elements { data: vec![data], timers: Vec::new() };
    (wires.output)(frame)
}
