//! Windows of the model: interval windows, and what can be told of any encoded window.

use bytes::BufMut;

use super::reader::Reader;
use super::{Coder, CoderError, varint};
use crate::time::EventTime;

const WHAT: &str = "interval window";

/// A window that reaches from `start` to just before `end`, `beam:coder:interval_window:v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntervalWindow {
    /// The first event time in the window.
    pub start: EventTime,
    /// The first event time after the window.
    pub end: EventTime,
}

impl IntervalWindow {
    /// The last event time in the window.
    pub fn max_timestamp(&self) -> EventTime {
        EventTime(self.end.0.saturating_sub(1))
    }

    /// Appends the encoding to `out`: the end, then the length in milliseconds as a varint.
    pub fn write(&self, out: &mut impl BufMut) {
        self.end.write(out);
        varint::write_signed(out, self.end.0.wrapping_sub(self.start.0));
    }

    /// Reads an interval window off the front of `input`: the window, and the bytes it took.
    ///
    /// # Errors
    /// If the input ends within the window, or the window ends before it starts.
    pub fn read(input: &[u8]) -> Result<(Self, usize), CoderError> {
        let mut reader = Reader::new(input);
        let window = Self::read_from(&mut reader)?;
        Ok((window, reader.consumed()))
    }

    pub(super) fn read_from(reader: &mut Reader<'_>) -> Result<Self, CoderError> {
        let end = reader.event_time(WHAT)?;
        let span = reader.varint(WHAT)? as i64;
        match end.0.checked_sub(span) {
            Some(start) if span >= 0 => Ok(Self { start: EventTime(start), end }),
            _ => Err(CoderError::Malformed { what: WHAT, reason: "its length is no length of time" }),
        }
    }
}

impl Coder {
    /// The last event time in the window that `encoded` holds, where this is a window coder.
    ///
    /// # Errors
    /// If `encoded` is not a window of this coder, or this is not a coder of windows whose end the
    /// model tells: global, interval and custom windows, length-prefixed or not.
    pub fn max_timestamp_of_window(&self, encoded: &[u8]) -> Result<EventTime, CoderError> {
        let mut reader = Reader::new(encoded);
        match self {
            Self::GlobalWindow => Ok(EventTime::GLOBAL_WINDOW_MAX),
            Self::IntervalWindow => IntervalWindow::read_from(&mut reader).map(|w| w.max_timestamp()),
            Self::CustomWindow(_) => reader.event_time("custom window"),
            Self::LengthPrefix(inner) => inner.max_timestamp_of_window(reader.prefixed("window")?),
            Self::Opaque { urn } => Err(CoderError::Opaque { urn: urn.clone() }),
            Self::Bytes
            | Self::StringUtf8
            | Self::Bool
            | Self::VarInt
            | Self::Double
            | Self::Kv(..)
            | Self::Iterable(_)
            | Self::StateBackedIterable(_)
            | Self::Timer { .. }
            | Self::WindowedValue { .. }
            | Self::ParamWindowedValue { .. }
            | Self::Row(_)
            | Self::ShardedKey(_)
            | Self::Nullable(_) => {
                Err(CoderError::Malformed { what: self.name(), reason: "it is not a coder of windows" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_a_millisecond_before_its_end() {
        let window = IntervalWindow { start: EventTime(10), end: EventTime(20) };
        let mut out = Vec::new();
        window.write(&mut out);
        assert_eq!(IntervalWindow::read(&out), Ok((window, 9)));
        assert_eq!(Coder::IntervalWindow.max_timestamp_of_window(&out), Ok(EventTime(19)));
        assert_eq!(Coder::GlobalWindow.max_timestamp_of_window(&[]), Ok(EventTime::GLOBAL_WINDOW_MAX));
        assert!(Coder::Bytes.max_timestamp_of_window(&out).is_err());

        let mut custom = EventTime(77).to_bytes().to_vec();
        custom.extend_from_slice(b"\x01x");
        let coder = Coder::CustomWindow(Box::new(Coder::Bytes));
        assert_eq!(coder.max_timestamp_of_window(&custom), Ok(EventTime(77)));
        let mut prefixed = Vec::new();
        varint::write_prefixed(&mut prefixed, &custom);
        let coder = Coder::LengthPrefix(Box::new(coder));
        assert_eq!(coder.max_timestamp_of_window(&prefixed), Ok(EventTime(77)));
    }

    #[test]
    fn a_window_cannot_end_before_it_starts() {
        let mut out = EventTime(i64::MIN).to_bytes().to_vec();
        varint::write_signed(&mut out, 1);
        assert!(matches!(IntervalWindow::read(&out), Err(CoderError::Malformed { .. })));
        let mut out = EventTime(5).to_bytes().to_vec();
        varint::write_signed(&mut out, -1);
        assert!(matches!(IntervalWindow::read(&out), Err(CoderError::Malformed { .. })));
    }
}
