//! What the runner executes itself, on encoded elements.
//!
//! [`elements`] cuts blocks into elements, [`group_by_key`] groups them, [`iterables`] keeps values of groups that are too
//! large to be handed on, [`merge_windows`] and [`merge_accumulators`] have an SDK merge what only it can, [`side_input`]
//! lets workers ask for a PCollection, [`live_side_input`] for one that
//! goes on changing, and [`await_side_inputs`] holds back what cannot look into it yet.

mod ask_windows;
pub mod await_side_inputs;
pub mod elements;
pub mod group_by_key;
pub mod iterables;
pub mod live_side_input;
pub mod map_windows;
pub mod merge_accumulators;
pub mod merge_windows;
pub mod side_input;

#[cfg(test)]
mod tests;

use beam_model::coders::CoderError;

use crate::fault::Fault;

/// The one element of an Impulse: an empty byte string in the global window at the beginning of time.
pub fn impulse_element() -> bytes::Bytes {
    use beam_model::coders::PaneInfo;
    use beam_model::time::EventTime;
    let mut element = Vec::with_capacity(16);
    EventTime::MIN.write(&mut element);
    element.extend_from_slice(&1_i32.to_be_bytes());
    element.extend_from_slice(PaneInfo::NO_FIRING_ENCODED);
    element.push(0);
    element.into()
}

/// A worker wrote something that is not what its coder says.
pub(crate) fn malformed(what: &str, error: CoderError) -> Fault {
    Fault::environment(format!(
        "a worker sent data for {what} that its coder cannot have written ({error}); \
         the SDK's coder and the one named in the pipeline differ"
    ))
}
