//! One value as it is kept: with its key and window, and its time if that counts.

use std::hash::{DefaultHasher, Hasher};

use beam_model::coders::{CoderError, varint};
use beam_model::time::EventTime;

/// Bytes that a record takes at most besides its window, key and value: three lengths and a time.
const MOST_BESIDES: usize = 3 * 10 + size_of::<i64>();

/// A value, or anything that may be one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) window: &'a [u8],
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) time: EventTime,
}

/// Whether records have their times with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    Kept,
    Forgotten,
}

impl<'a> Record<'a> {
    /// Bytes that it takes at most.
    pub(super) fn most(&self) -> usize {
        self.window.len() + self.key.len() + self.value.len() + MOST_BESIDES
    }

    pub(super) fn write(&self, out: &mut Vec<u8>, times: Times) {
        varint::write_prefixed(out, self.window);
        if times == Times::Kept {
            out.extend_from_slice(&self.time.0.to_le_bytes());
        }
        varint::write_prefixed(out, self.key);
        varint::write_prefixed(out, self.value);
    }

    /// The record at the front of `input`, and how long it is.
    fn read(input: &'a [u8], times: Times) -> Result<(Self, usize), CoderError> {
        let (window, mut len) = varint::read_prefixed(input)?;
        let mut time = EventTime::MIN;
        if times == Times::Kept {
            let short = CoderError::Malformed { what: "record", reason: "it ends before its time does" };
            let bytes = input.get(len..).and_then(|rest| rest.first_chunk()).ok_or(short)?;
            time = EventTime(i64::from_le_bytes(*bytes));
            len += bytes.len();
        }
        let (key, key_len) = varint::read_prefixed(&input[len..])?;
        len += key_len;
        let (value, value_len) = varint::read_prefixed(&input[len..])?;
        Ok((Self { window, key, value, time }, len + value_len))
    }

    /// The same for equal keys.
    pub(super) fn hash_of_key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.key);
        hasher.finish()
    }

    /// The same for equal keys and windows.
    pub(super) fn hash_of_key_and_window(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.key);
        // Else moving a byte from the one to the other would change nothing.
        hasher.write_usize(self.key.len());
        hasher.write(self.window);
        hasher.finish()
    }
}

/// The records of a chunk, each with where it begins.
pub(super) struct Records<'a> {
    chunk: &'a [u8],
    at: usize,
    times: Times,
}

impl<'a> Records<'a> {
    pub(super) fn of(chunk: &'a [u8], times: Times) -> Self {
        Self { chunk, at: 0, times }
    }

    /// The record that begins there.
    pub(super) fn at(chunk: &'a [u8], at: usize, times: Times) -> Result<Record<'a>, CoderError> {
        Ok(Record::read(chunk.get(at..).unwrap_or_default(), times)?.0)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), CoderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.chunk.get(self.at..).filter(|rest| !rest.is_empty())?;
        let at = self.at;
        Some(match Record::read(rest, self.times) {
            Ok((record, len)) => {
                self.at += len;
                Ok((at, record))
            }
            Err(error) => {
                self.at = self.chunk.len();
                Err(error)
            }
        })
    }
}
