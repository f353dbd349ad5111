//! Timers, taken apart and put together with key and windows left encoded.

use bytes::BufMut;

use super::pane::PaneInfo;
use super::reader::Reader;
use super::windowed_value::Windows;
use super::{Coder, CoderError, Context, varint};
use crate::time::EventTime;

/// A timer, `beam:coder:timer:v1`, as slices of its encoding.
#[derive(Clone, Debug)]
pub struct Timer<'a> {
    /// The user key, encoded in the nested context.
    pub key: &'a [u8],
    /// Tells timers of one family apart; empty where the family has one timer only.
    pub dynamic_tag: &'a str,
    /// Windows the timer is in.
    pub windows: Windows<'a>,
    /// What is to be done with the timer.
    pub action: TimerAction<'a>,
}

/// What an SDK asks a runner to do with a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerAction<'a> {
    /// Forget it: the clear bit is set.
    Clear,
    /// Let it fire; a runner sends timers that fire in this form, too.
    Set {
        /// When the timer fires, in its time domain.
        fire_timestamp: EventTime,
        /// Where the timer holds the output watermark until then.
        hold_timestamp: EventTime,
        /// Pane of the element that set the timer, encoded; see [`PaneInfo`].
        pane: &'a [u8],
    },
}

impl<'a> Timer<'a> {
    /// Reads a timer off the front of `input`: the timer, and the bytes it took.
    ///
    /// # Errors
    /// If `coder` is not a timer coder, the input ends within the timer, or a part is malformed.
    pub fn read(coder: &'a Coder, input: &'a [u8]) -> Result<(Self, usize), CoderError> {
        let Coder::Timer { key, window } = coder else {
            return Err(CoderError::Malformed { what: "timer", reason: "its coder is not a timer coder" });
        };
        let mut reader = Reader::new(input);
        let timer = Self {
            key: taken(&mut reader, |reader| key.skip_from(Context::Nested, reader))?,
            dynamic_tag: std::str::from_utf8(reader.prefixed("dynamic timer tag")?).map_err(|_| {
                CoderError::Malformed { what: "dynamic timer tag", reason: "it is not UTF-8" }
            })?,
            windows: Windows::read_from(window, &mut reader)?,
            action: TimerAction::read_from(&mut reader)?,
        };
        Ok((timer, reader.consumed()))
    }

    /// Appends the encoding to `out`.
    ///
    /// # Errors
    /// If there are more than `i32::MAX` windows, for which there is no encoding.
    pub fn write(&self, out: &mut impl BufMut) -> Result<(), CoderError> {
        out.put_slice(self.key);
        varint::write_prefixed(out, self.dynamic_tag.as_bytes());
        self.windows.write(out)?;
        match self.action {
            TimerAction::Clear => out.put_u8(1),
            TimerAction::Set { fire_timestamp, hold_timestamp, pane } => {
                out.put_u8(0);
                fire_timestamp.write(out);
                hold_timestamp.write(out);
                out.put_slice(pane);
            }
        }
        Ok(())
    }
}

impl<'a> TimerAction<'a> {
    fn read_from(reader: &mut Reader<'a>) -> Result<Self, CoderError> {
        if reader.flag("clear bit of a timer")? {
            return Ok(Self::Clear);
        }
        Ok(Self::Set {
            fire_timestamp: reader.event_time("fire timestamp")?,
            hold_timestamp: reader.event_time("hold timestamp")?,
            pane: taken(reader, PaneInfo::skip)?,
        })
    }
}

/// The bytes that `skip` takes off the reader.
fn taken<'a>(
    reader: &mut Reader<'a>,
    skip: impl FnOnce(&mut Reader<'a>) -> Result<(), CoderError>,
) -> Result<&'a [u8], CoderError> {
    let before = reader.rest();
    skip(reader)?;
    Ok(before.get(..before.len() - reader.rest().len()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coder() -> Coder {
        Coder::Timer { key: Box::new(Coder::StringUtf8), window: Box::new(Coder::GlobalWindow) }
    }

    #[test]
    fn a_timer_is_read_as_written() {
        let set = TimerAction::Set {
            fire_timestamp: EventTime(1234),
            hold_timestamp: EventTime(5678),
            pane: PaneInfo::NO_FIRING_ENCODED,
        };
        for action in [TimerAction::Clear, set] {
            let timer = Timer { key: b"\x03key", dynamic_tag: "tag", windows: Windows::single(&[]), action };
            let mut out = Vec::new();
            timer.write(&mut out).unwrap();
            let coder = coder();
            assert_eq!(coder.skip(&out), Ok(out.len()));
            for end in 0..out.len() {
                assert!(Timer::read(&coder, &out[..end]).is_err());
            }
            out.extend_from_slice(b"next");
            let (read, len) = Timer::read(&coder, &out).unwrap();
            assert_eq!(len, out.len() - 4);
            assert_eq!((read.key, read.dynamic_tag, read.action), (timer.key, "tag", action));
            assert_eq!(read.windows.as_single(), Some(&[][..]));
        }
    }

    #[test]
    fn a_timer_needs_a_timer_coder() {
        assert!(Timer::read(&Coder::Bytes, b"\x00").is_err());
    }
}
