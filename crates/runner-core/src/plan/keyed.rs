//! What a stage with state or timers has to know: its keys' coder and its timer families.

use std::sync::Arc;

use beam_model::coders::Coder;
use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{FunctionSpec, ParDoPayload, time_domain};
use beam_model::urns::standard_user_state_types;
use prost::Message;

use super::coders::WireCoders;
use super::windows::{self, Merging};
use crate::fault::Fault;
use crate::fusion::ExecutableStage;
use crate::graph::{QueryablePipeline, main_input, pardo_payload};
use crate::state::{MapValues, UserState, UserStateKind};

/// A stage that processes elements by key.
#[derive(Clone, Debug)]
pub struct KeyedStage {
    /// The transform whose state it is, and the coder of its windows.
    pub transform: String,
    pub window_coder: Arc<Coder>,
    /// How windows with state and timers merge.
    pub merging: Merging,
    pub families: Vec<TimerFamily>,
    pub states: Vec<UserState>,
    /// `requires_time_sorted_input`: a key's elements are to come in the order of their time.
    pub time_sorted: bool,
    /// How long after its end a window is still open, in milliseconds.
    pub allowed_lateness: i64,
}

/// A `TimerFamilySpec`.
#[derive(Clone, Debug)]
pub struct TimerFamily {
    pub id: String,
    pub kind: TimerKind,
    /// Of timers as they travel.
    pub coder: Arc<Coder>,
}

/// What a family's timers wait for. On bounded input all elements come first, then these in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    EventTime,
    ProcessingTime,
    /// `on_window_expiration`: nothing more can come for a key and window.
    Expiration,
}

/// Whether a ParDo needs its elements by key.
pub fn is_keyed(payload: &ParDoPayload) -> bool {
    !payload.state_specs.is_empty()
        || !payload.timer_family_specs.is_empty()
        || payload.requires_time_sorted_input
}

pub(super) fn keyed_stage(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    stage: &ExecutableStage,
) -> Result<Option<KeyedStage>, Fault> {
    let Some(root) = stage.transforms.first() else { return Ok(None) };
    let transform = pipeline.transform(root)?;
    let Some(payload) = pardo_payload(transform).ok().flatten().filter(is_keyed) else { return Ok(None) };
    let Some((_, input)) = main_input(transform) else { return Ok(None) };
    let strategy = pipeline.windowing_strategy(input)?;
    let window = wire.wire(&strategy.window_coder_id)?;
    let mut families = Vec::new();
    for (id, spec) in &payload.timer_family_specs {
        let kind = if *id == payload.on_window_expiration_timer_family_spec {
            TimerKind::Expiration
        } else if spec.time_domain() == time_domain::Enum::ProcessingTime {
            TimerKind::ProcessingTime
        } else {
            TimerKind::EventTime
        };
        let coder = wire.wire(&spec.timer_family_coder_id)?;
        families.push(TimerFamily { id: id.clone(), kind, coder: Arc::new(wire.resolve(&coder)?) });
    }
    // Without state and timers it is all the same in which window an element is until it is grouped.
    let by_window = !payload.state_specs.is_empty() || !payload.timer_family_specs.is_empty();
    let merging = if by_window { windows::merging(pipeline, wire, root, strategy)? } else { Merging::Never };
    Ok(Some(KeyedStage {
        transform: root.clone(),
        window_coder: Arc::new(wire.resolve(&window)?),
        merging,
        families,
        states: user_states(wire, root, &payload),
        time_sorted: payload.requires_time_sorted_input,
        allowed_lateness: strategy.allowed_lateness.max(0),
    }))
}

/// The states that a ParDo declares.
fn user_states(wire: &WireCoders, transform: &str, payload: &ParDoPayload) -> Vec<UserState> {
    let states = payload.state_specs.iter().filter_map(|(id, spec)| {
        let protocol = spec.protocol.as_ref().map_or("", |protocol| &protocol.urn);
        let kind = match spec.spec.as_ref()? {
            Spec::ReadModifyWriteSpec(_) => UserStateKind::Value,
            // How it is asked for counts, not what it is to the user: Python keeps its sets in bags.
            _ if protocol == standard_user_state_types::BAG => UserStateKind::Bag,
            Spec::BagSpec(_) | Spec::CombiningSpec(_) => UserStateKind::Bag,
            Spec::MapSpec(_) | Spec::SetSpec(_) => UserStateKind::Multimap(MapValues::One),
            Spec::MultimapSpec(multimap) => {
                // Only reading all entries at once needs it; that says so if it is not known.
                let urn = multimap.value_coder_id.clone().into();
                let coder = wire.resolve(&multimap.value_coder_id).unwrap_or(Coder::Opaque { urn });
                UserStateKind::Multimap(MapValues::Many(Arc::new(coder)))
            }
            Spec::OrderedListSpec(_) => UserStateKind::OrderedList,
        };
        Some(UserState { transform_id: transform.to_owned(), state_id: id.clone(), kind })
    });
    states.collect()
}

/// The ParDo's spec with the coders of its timers as they travel.
pub(super) fn with_wire_timers(
    spec: &FunctionSpec,
    payload: ParDoPayload,
    wire: &mut WireCoders,
) -> Result<FunctionSpec, Fault> {
    let mut payload = payload;
    for family in payload.timer_family_specs.values_mut() {
        family.timer_family_coder_id = wire.wire(&family.timer_family_coder_id)?;
    }
    Ok(FunctionSpec { payload: payload.encode_to_vec().into(), ..spec.clone() })
}
