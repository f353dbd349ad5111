//! The transforms of a `ProcessBundleDescriptor`, read.

use std::sync::Arc;

use beam_model::coders::Coder;
use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::{FunctionSpec, PTransform, ParDoPayload};
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::standard_p_transforms::primitives::{ASSIGN_WINDOWS, FLATTEN, PAR_DO};
use bytes::Bytes;
use prost::Message;

use super::script::{DoFn, OnTimer, Script};
use super::timers::TimerFamilies;
use super::windows::AssignWindows;

pub(super) enum Step {
    Source { coder: Coder },
    Sink { buffer: Vec<u8> },
    Function(Function),
    Pass,
    Windows(AssignWindows),
}

pub(super) struct Function {
    pub(super) do_fn: Arc<DoFn>,
    pub(super) on_timer: Option<Arc<OnTimer>>,
    /// Of the `do_fn`, or of a transform that is no ParDo.
    pub(super) payload: Bytes,
    pub(super) timers: TimerFamilies,
    /// It has state, timers or side inputs, and sees an element once in each of its windows.
    pub(super) by_window: bool,
}

/// The transform, and the tags of its inputs that are side inputs.
pub(super) fn read_step(
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
        ASSIGN_WINDOWS => Step::Windows(AssignWindows::read(spec)?),
        PAR_DO => {
            let par_do = decode::<ParDoPayload>(&spec.payload)?;
            let side_inputs = par_do.side_inputs.keys().cloned().collect();
            let timers = TimerFamilies::read(descriptor, &par_do)?;
            let by_window =
                !par_do.side_inputs.is_empty() || !par_do.state_specs.is_empty() || timers.ids().len() > 0;
            let do_fn = par_do.do_fn.ok_or("a ParDo without a do_fn")?;
            let function = Function { timers, by_window, ..function(script, do_fn)? };
            return Ok((Step::Function(function), side_inputs));
        }
        _ => Step::Function(function(script, spec.clone())?),
    };
    Ok((step, Vec::new()))
}

fn function(script: &Script, spec: FunctionSpec) -> Result<Function, String> {
    let FunctionSpec { urn, payload } = spec;
    let do_fn = script.function(&urn).ok_or_else(|| format!("the script has no function for {urn}"))?;
    let on_timer = script.timer_function(&urn).cloned();
    let timers = TimerFamilies::default();
    Ok(Function { do_fn: do_fn.clone(), on_timer, payload, timers, by_window: false })
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

pub(super) fn decode<M: Message + Default>(payload: &Bytes) -> Result<M, String> {
    M::decode(payload.clone()).map_err(|error| error.to_string())
}
