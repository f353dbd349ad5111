//! What a user's function in a scripted bundle can do.

use std::time::Duration;

use beam_model::fn_execution::{BundleApplication, DelayedBundleApplication};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::element::Element;
use super::state::{self, StateAccess};
use super::timers::TimerFamilies;

/// What a function may do besides looking at its element.
pub struct Call<'a> {
    pub(super) state: &'a dyn StateAccess,
    pub(super) payload: &'a Bytes,
    pub(super) asked_to_stop: bool,
    pub(super) instruction: &'a str,
    pub(super) transform_id: &'a str,
    pub(super) element: &'a Element,
    /// By output tag; without one, for all outputs.
    pub(super) emitted: Vec<(Option<String>, Element)>,
    pub(super) requires_finalization: &'a mut bool,
    pub(super) residuals: &'a mut Vec<DelayedBundleApplication>,
    pub(super) primaries: &'a mut Vec<BundleApplication>,
    pub(super) timers: &'a mut TimerFamilies,
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

    /// Emits a value with an event time of its own, on the output of this tag.
    pub fn emit_to_at(&mut self, tag: &str, timestamp: EventTime, value: &[u8]) {
        self.emitted.push((Some(tag.to_owned()), Element { timestamp, ..self.derived(value) }));
    }

    /// The payload of the function's spec.
    pub fn payload(&self) -> &Bytes {
        self.payload
    }

    /// The bundle's, which no other bundle of the worker has.
    pub fn instruction(&self) -> &str {
        self.instruction
    }

    /// Whether the element is to be left undone where it is, because its bundle is split.
    pub fn asked_to_stop(&self) -> bool {
        self.asked_to_stop
    }

    pub fn timestamp(&self) -> EventTime {
        self.element.timestamp
    }

    /// All windows of the element, encoded.
    pub fn windows(&self) -> &[Bytes] {
        &self.element.windows
    }

    /// The first window of the element, encoded.
    pub fn window(&self) -> Bytes {
        self.element.windows.first().cloned().unwrap_or_default()
    }

    /// All of an iterable side input in the element's first window: encoded values.
    pub fn side_input(&self, id: &str) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::iterable(self.transform_id, id, self.window()))
    }

    /// All of an iterable side input in this window of it: encoded values.
    pub fn side_input_in(&self, id: &str, window: Bytes) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::iterable(self.transform_id, id, window))
    }

    /// The encoded values of a key of a multimap side input in this window of it.
    pub fn side_input_of_key_in(&self, id: &str, key: &[u8], window: Bytes) -> Result<Vec<u8>, String> {
        self.state.get(self.instruction, &state::multimap(self.transform_id, id, window, key))
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

    /// Sets a timer of a key (nested encoding) in the first window of the element.
    pub fn set_timer(
        &mut self,
        family: &str,
        key: &[u8],
        tag: &str,
        fire: EventTime,
        hold: EventTime,
    ) -> Result<(), String> {
        self.timers.write(family, key, tag, self.element, Some((fire, hold)))
    }

    pub fn clear_timer(&mut self, family: &str, key: &[u8], tag: &str) -> Result<(), String> {
        self.timers.write(family, key, tag, self.element, None)
    }

    /// Asks to be told of the bundle's commit.
    pub fn request_finalization(&mut self) {
        *self.requires_finalization = true;
    }

    /// Checkpoints itself: leaves undone this rest of the element, an element (nested encoding) for the
    /// transform's input `input_id`, with the time and windows of this one. It is to be resumed after `delay`,
    /// and its outputs, by tag, will not be before these event times.
    pub fn checkpoint(
        &mut self,
        input_id: &str,
        rest: &[u8],
        delay: Duration,
        output_watermarks: &[(&str, prost_types::Timestamp)],
    ) -> Result<(), String> {
        let mut element = Vec::new();
        self.derived(rest).write(&mut element)?;
        let output_watermarks = output_watermarks.iter();
        let application = BundleApplication {
            transform_id: self.transform_id.to_owned(),
            input_id: input_id.to_owned(),
            element: element.into(),
            output_watermarks: output_watermarks.map(|(tag, time)| ((*tag).to_owned(), *time)).collect(),
            ..Default::default()
        };
        self.residuals.push(DelayedBundleApplication {
            application: Some(application),
            requested_time_delay: prost_types::Duration::try_from(delay).ok(),
        });
        Ok(())
    }

    /// Says what it keeps of an element that is cut because its bundle is split: the part (nested encoding) before the
    /// rest that it leaves undone.
    pub fn keep(&mut self, input_id: &str, part: &[u8]) -> Result<(), String> {
        let mut element = Vec::new();
        self.derived(part).write(&mut element)?;
        self.primaries.push(BundleApplication {
            transform_id: self.transform_id.to_owned(),
            input_id: input_id.to_owned(),
            element: element.into(),
            ..Default::default()
        });
        Ok(())
    }

    fn derived(&self, value: &[u8]) -> Element {
        Element { value: Bytes::copy_from_slice(value), ..self.element.clone() }
    }
}
