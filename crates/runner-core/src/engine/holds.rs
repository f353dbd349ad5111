//! What keeps a watermark from going on.

use std::collections::BTreeMap;

use beam_model::time::EventTime;

/// Event times that a watermark must not pass, each as often as it is held.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<EventTime, usize>);

impl Holds {
    /// The last event time that can hold anything: at [`EventTime::MAX`] a watermark says that all is done,
    /// which what waits never is.
    const LAST: EventTime = EventTime(EventTime::MAX.0 - 1);

    pub(super) fn add(&mut self, time: EventTime) {
        *self.0.entry(time.min(Self::LAST)).or_default() += 1;
    }

    /// Releases one hold at this time.
    pub(super) fn release(&mut self, time: EventTime) {
        let time = time.min(Self::LAST);
        if let Some(count) = self.0.get_mut(&time) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&time);
            }
        }
    }

    /// The earliest; [`EventTime::MAX`] if nothing is held.
    pub(super) fn earliest(&self) -> EventTime {
        self.0.first_key_value().map_or(EventTime::MAX, |(time, _)| *time)
    }
}
