//! How metric payloads are written: the encodings that `MonitoringInfoTypeUrns` names for them.
//!
//! Whole numbers are `beam:coder:varint:v1`, fractions `beam:coder:double:v1`, sequences
//! `beam:coder:iterable:v1`, texts `beam:coder:string_utf8:v1` as inner elements.

use bytes::{BufMut, Bytes, BytesMut};

/// Takes values off the front of a payload. `None`: the payload is not of that form.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// The payload's end, or `None` if something is left.
    pub(super) fn end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    pub(super) fn int(&mut self) -> Option<i64> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value as i64);
            }
        }
        None
    }

    pub(super) fn double(&mut self) -> Option<f64> {
        self.array().map(f64::from_be_bytes)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.int()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    /// An iterable: either its length and that many elements, or -1 and blocks of elements, each after
    /// its own length, until a block of none.
    pub(super) fn iterable<T>(&mut self, mut element: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut all = Vec::new();
        let length = i32::from_be_bytes(self.array()?);
        if length >= 0 {
            for _ in 0..length {
                all.push(element(self)?);
            }
            return Some(all);
        }
        loop {
            let block = self.int()?;
            if block == 0 {
                return Some(all);
            }
            for _ in 0..u64::try_from(block).ok()? {
                all.push(element(self)?);
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*array)
    }
}

/// Puts values one after another into a payload.
#[derive(Default)]
pub(super) struct Writer {
    bytes: BytesMut,
}

impl Writer {
    pub(super) fn int(mut self, value: i64) -> Self {
        let mut rest = value as u64;
        while rest >= 0x80 {
            self.bytes.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.put_u8(rest as u8);
        self
    }

    pub(super) fn double(mut self, value: f64) -> Self {
        self.bytes.put_f64(value);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        let mut with_length = self.int(value.len() as i64);
        with_length.bytes.put_slice(value.as_bytes());
        with_length
    }

    pub(super) fn iterable<T>(
        mut self,
        elements: impl ExactSizeIterator<Item = T>,
        write: impl FnMut(Self, T) -> Self,
    ) -> Self {
        self.bytes.put_i32(elements.len() as i32);
        elements.fold(self, write)
    }

    pub(super) fn done(self) -> Bytes {
        self.bytes.freeze()
    }
}
