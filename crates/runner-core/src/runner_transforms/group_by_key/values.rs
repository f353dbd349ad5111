//! Encoded values, one after another, and the event time that they get together.

use beam_model::coders::CoderError;
use beam_model::time::EventTime;

use crate::plan::OutputTime;

#[derive(Debug, Default)]
pub(super) struct Values {
    encoded: Vec<u8>,
    count: u32,
}

impl Values {
    pub(super) fn push(&mut self, value: &[u8]) {
        self.encoded.extend_from_slice(value);
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn append(&mut self, other: Self) {
        if self.encoded.is_empty() && self.count == 0 {
            *self = other;
        } else {
            self.encoded.extend_from_slice(&other.encoded);
            self.count = self.count.saturating_add(other.count);
        }
    }

    /// Bytes of all values.
    pub(super) fn len(&self) -> usize {
        self.encoded.len()
    }

    /// Appends `Iterable<V>` to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), CoderError> {
        let count = i32::try_from(self.count).map_err(|_| CoderError::Malformed {
            what: "iterable",
            reason: "one key has more than 2^31 - 1 values",
        })?;
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&self.encoded);
        Ok(())
    }
}

impl OutputTime {
    /// Of two elements' times, the one to keep. For the end of the window neither counts, but the
    /// later one stands in where only the SDK knows the window's end.
    pub(super) fn of(self, a: EventTime, b: EventTime) -> EventTime {
        match self {
            Self::Earliest => a.min(b),
            Self::Latest | Self::EndOfWindow => a.max(b),
        }
    }

    pub(super) fn of_both(self, a: Option<EventTime>, b: Option<EventTime>) -> Option<EventTime> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.of(a, b)),
            (one, None) | (None, one) => one,
        }
    }
}
