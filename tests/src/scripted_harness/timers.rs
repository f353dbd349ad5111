//! Timers of a ParDo in a scripted bundle.

use std::collections::BTreeMap;

use beam_model::coders::windowed_value::Windows;
use beam_model::coders::{Coder, Timer, TimerAction};
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::ParDoPayload;
use beam_model::time::EventTime;
use bytes::Bytes;

use super::element::Element;

/// A timer that fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiredTimer {
    pub family: String,
    pub tag: String,
    /// Encoded, nested.
    pub key: Bytes,
    /// In the time domain of the family.
    pub fire: EventTime,
}

/// The timer families of a ParDo: coder, and what was set and cleared so far.
#[derive(Default)]
pub(super) struct TimerFamilies(BTreeMap<String, Family>);

struct Family {
    coder: Coder,
    written: Vec<u8>,
}

impl TimerFamilies {
    pub(super) fn read(descriptor: &ProcessBundleDescriptor, par_do: &ParDoPayload) -> Result<Self, String> {
        if par_do.timer_family_specs.is_empty() {
            return Ok(Self::default());
        }
        if descriptor.timer_api_service_descriptor.as_ref().is_none_or(|endpoint| endpoint.url.is_empty()) {
            return Err("timers without an endpoint".to_owned());
        }
        let families = par_do.timer_family_specs.iter().map(|(id, spec)| {
            let coder = Coder::from_proto(&spec.timer_family_coder_id, &descriptor.coders)
                .map_err(|error| error.to_string())?;
            Ok((id.clone(), Family { coder, written: Vec::new() }))
        });
        families.collect::<Result<_, String>>().map(Self)
    }

    pub(super) fn ids(&self) -> impl ExactSizeIterator<Item = &String> {
        self.0.keys()
    }

    /// What was written since it was last taken.
    pub(super) fn take(&mut self, family: &str) -> Vec<u8> {
        self.0.get_mut(family).map(|family| std::mem::take(&mut family.written)).unwrap_or_default()
    }

    /// Fired timers, each with the element that stands for it: its value is the key.
    pub(super) fn split(&self, family_id: &str, block: &Bytes) -> Result<Vec<(FiredTimer, Element)>, String> {
        let family = self.0.get(family_id).ok_or_else(|| format!("there is no timer family {family_id}"))?;
        let mut fired = Vec::new();
        let mut rest = block.clone();
        while !rest.is_empty() {
            let (timer, length) = Timer::read(&family.coder, &rest).map_err(|error| error.to_string())?;
            let TimerAction::Set { fire_timestamp, hold_timestamp, pane } = timer.action else {
                return Err("a timer that fires has the clear bit".to_owned());
            };
            let key = Bytes::copy_from_slice(timer.key);
            let element = Element {
                timestamp: hold_timestamp,
                windows: timer.windows.iter().map(Bytes::copy_from_slice).collect(),
                pane: Bytes::copy_from_slice(pane),
                value: key.clone(),
            };
            let tag = timer.dynamic_tag.to_owned();
            fired
                .push((FiredTimer { family: family_id.to_owned(), tag, key, fire: fire_timestamp }, element));
            rest = rest.slice(length..);
        }
        Ok(fired)
    }

    /// Sets the timer of a key in the element's first window; clears it without times.
    pub(super) fn write(
        &mut self,
        family: &str,
        key: &[u8],
        tag: &str,
        element: &Element,
        times: Option<(EventTime, EventTime)>,
    ) -> Result<(), String> {
        let place = self.0.get_mut(family).ok_or_else(|| format!("there is no timer family {family}"))?;
        let action = match times {
            Some((fire_timestamp, hold_timestamp)) => {
                TimerAction::Set { fire_timestamp, hold_timestamp, pane: &element.pane }
            }
            None => TimerAction::Clear,
        };
        let window = element.windows.first().cloned().unwrap_or_default();
        let timer = Timer { key, dynamic_tag: tag, windows: Windows::single(&window), action };
        timer.write(&mut place.written).map_err(|error| error.to_string())
    }
}
