//! A cursor over encoded bytes that checks every step.

use super::CoderError;
use crate::time::EventTime;

/// What is left of an encoded element. Each method takes something off the front, and is told
/// `what` it is for the error to name.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, total: input.len() }
    }

    /// Bytes taken so far.
    pub(super) fn consumed(&self) -> usize {
        self.total - self.rest.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], CoderError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(CoderError::Truncated { what, needed: len, available: self.rest.len() }),
        }
    }

    /// Takes all that is left, as the outer context does.
    pub(super) fn take_all(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CoderError> {
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(CoderError::Truncated { what, needed: N, available: self.rest.len() }),
        }
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, CoderError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// A byte that may only be 0 or 1.
    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, CoderError> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CoderError::Malformed { what, reason: "a byte that must be 0 or 1 is neither" }),
        }
    }

    pub(super) fn varint(&mut self, what: &'static str) -> Result<u64, CoderError> {
        // Most counts and lengths are less than 128.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0_u64;
        for (index, &byte) in self.rest.iter().enumerate().take(super::varint::MAX_LEN) {
            let bits = u64::from(byte & 0x7F);
            if index == super::varint::MAX_LEN - 1 && byte > 1 {
                break;
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.take(what, index + 1)?;
                return Ok(value);
            }
        }
        if self.rest.len() < super::varint::MAX_LEN {
            return Err(CoderError::Truncated {
                what,
                needed: self.rest.len() + 1,
                available: self.rest.len(),
            });
        }
        Err(CoderError::Malformed { what, reason: "a varint is longer than 64 bits" })
    }

    /// A varint that says how many bytes follow, and those bytes.
    pub(super) fn prefixed(&mut self, what: &'static str) -> Result<&'a [u8], CoderError> {
        let len = self.varint(what)?;
        // A length no address space holds is only a length that the input does not have.
        self.take(what, usize::try_from(len).unwrap_or(usize::MAX))
    }

    pub(super) fn event_time(&mut self, what: &'static str) -> Result<EventTime, CoderError> {
        self.array(what).map(EventTime::from_bytes)
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, CoderError> {
        self.array(what).map(i32::from_be_bytes)
    }
}
