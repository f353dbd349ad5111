//! Panes: which of a window's firings an element belongs to.

use bytes::BufMut;

use super::CoderError;
use super::reader::Reader;
use super::varint;

const WHAT: &str = "pane";

/// When a pane fired, relative to the watermark passing the end of its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timing {
    /// Before the watermark passed the end of the window.
    Early,
    /// When it did.
    OnTime,
    /// After it did.
    Late,
    /// No trigger was involved.
    Unknown,
}

/// Which firing of its window an element belongs to, as a windowed value and a timer carry it.
///
/// Three encodings are in use: one byte alone (both indices are zero, or the timing is unknown), the
/// byte and one index (the other index follows from it), and the byte and both indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PaneInfo {
    /// Whether this is the window's first pane.
    pub is_first: bool,
    /// Whether this is the window's last pane.
    pub is_last: bool,
    /// When the pane fired.
    pub timing: Timing,
    /// Number of the pane among all panes of its window, from 0.
    pub index: i64,
    /// Number of the pane among those that are not early, from 0; -1 for an early pane.
    pub nonspeculative_index: i64,
}

impl PaneInfo {
    /// The pane of an element that no trigger has fired.
    pub const NO_FIRING: Self =
        Self { is_first: true, is_last: true, timing: Timing::Unknown, index: 0, nonspeculative_index: 0 };
    /// [`PaneInfo::NO_FIRING`], encoded.
    pub const NO_FIRING_ENCODED: &'static [u8] = &[0x0F];

    /// Appends the encoding to `out`. The indices of a pane of unknown timing are not written.
    pub fn write(&self, out: &mut impl BufMut) {
        let flags = u8::from(self.is_first) | u8::from(self.is_last) << 1 | self.timing.bits() << 2;
        let unnumbered = self.index == 0 && self.nonspeculative_index == 0;
        if unnumbered || self.timing == Timing::Unknown {
            out.put_u8(flags);
        } else if self.index == self.nonspeculative_index || self.timing == Timing::Early {
            out.put_u8(flags | 1 << 4);
            varint::write_signed(out, self.index);
        } else {
            out.put_u8(flags | 2 << 4);
            varint::write_signed(out, self.index);
            varint::write_signed(out, self.nonspeculative_index);
        }
    }

    /// Reads a pane off the front of `input`: the pane, and the bytes it took.
    ///
    /// # Errors
    /// If the input ends within the pane or the pane has an encoding that the model does not know.
    pub fn read(input: &[u8]) -> Result<(Self, usize), CoderError> {
        let mut reader = Reader::new(input);
        let pane = Self::read_from(&mut reader)?;
        Ok((pane, reader.consumed()))
    }

    pub(super) fn read_from(reader: &mut Reader<'_>) -> Result<Self, CoderError> {
        let byte = reader.byte(WHAT)?;
        let timing = Timing::from_bits(byte >> 2);
        let (index, nonspeculative_index) = match byte >> 4 {
            0 if timing == Timing::Early => (0, -1),
            0 => (0, 0),
            1 => {
                let index = reader.varint(WHAT)? as i64;
                (index, if timing == Timing::Early { -1 } else { index })
            }
            2 => (reader.varint(WHAT)? as i64, reader.varint(WHAT)? as i64),
            _ => {
                return Err(CoderError::Malformed {
                    what: WHAT,
                    reason: "its encoding is none of the three",
                });
            }
        };
        Ok(Self { is_first: byte & 1 != 0, is_last: byte & 2 != 0, timing, index, nonspeculative_index })
    }

    pub(super) fn skip(reader: &mut Reader<'_>) -> Result<(), CoderError> {
        Self::read_from(reader).map(drop)
    }
}

impl Timing {
    fn bits(self) -> u8 {
        match self {
            Self::Early => 0,
            Self::OnTime => 1,
            Self::Late => 2,
            Self::Unknown => 3,
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Early,
            1 => Self::OnTime,
            2 => Self::Late,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_encodings_are_read_as_written() {
        for (is_first, is_last) in [(false, false), (false, true), (true, false), (true, true)] {
            for (timing, index, nonspeculative_index, len) in [
                (Timing::OnTime, 0, 0, 1),
                (Timing::Early, 0, -1, 2),
                (Timing::Early, 300, -1, 3),
                (Timing::OnTime, 7, 7, 2),
                (Timing::Late, 9, 4, 3),
                (Timing::Unknown, 0, 0, 1),
            ] {
                let pane = PaneInfo { is_first, is_last, timing, index, nonspeculative_index };
                let mut out = Vec::new();
                pane.write(&mut out);
                assert_eq!(out.len(), len, "{pane:?}");
                assert_eq!(PaneInfo::read(&out), Ok((pane, len)));
                assert!(PaneInfo::read(&out[..len - 1]).is_err());
            }
        }
    }

    #[test]
    fn no_firing_is_one_byte() {
        let mut out = Vec::new();
        PaneInfo::NO_FIRING.write(&mut out);
        assert_eq!(out, PaneInfo::NO_FIRING_ENCODED);
    }

    #[test]
    fn an_unknown_encoding_is_refused() {
        assert!(matches!(PaneInfo::read(&[0x3F, 0, 0]), Err(CoderError::Malformed { .. })));
    }
}
