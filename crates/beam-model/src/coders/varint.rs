//! Variable-length integers and length prefixes.
//!
//! `beam:coder:varint:v1`: seven bits a byte, the least significant first, with the high bit set on
//! all bytes but the last. Signed values are written as their 64-bit two's complement, so negative
//! ones take ten bytes.

use bytes::BufMut;

use super::CoderError;
use super::reader::Reader;

/// Most bytes a varint takes.
pub const MAX_LEN: usize = 10;

/// Bytes that `value` takes.
pub const fn encoded_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value` to `out`.
pub fn write(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends `value` to `out` as its 64-bit two's complement.
pub fn write_signed(out: &mut impl BufMut, value: i64) {
    write(out, value as u64);
}

/// Reads a varint off the front of `input`: the value and the bytes it took.
///
/// # Errors
/// If the input ends within the varint, or the varint is longer than 64 bits.
pub fn read(input: &[u8]) -> Result<(u64, usize), CoderError> {
    let mut reader = Reader::new(input);
    let value = reader.varint("varint")?;
    Ok((value, reader.consumed()))
}

/// Reads a varint that holds the two's complement of a signed number.
///
/// # Errors
/// As [`read`].
pub fn read_signed(input: &[u8]) -> Result<(i64, usize), CoderError> {
    read(input).map(|(value, len)| (value as i64, len))
}

/// Appends `bytes` to `out` with their length before them, as `beam:coder:bytes:v1` does in the
/// nested context.
pub fn write_prefixed(out: &mut impl BufMut, bytes: &[u8]) {
    write(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads a length and as many bytes off the front of `input`: those bytes, and how many bytes they
/// and their length took.
///
/// # Errors
/// If the input ends before the bytes do, or the length is malformed.
pub fn read_prefixed(input: &[u8]) -> Result<(&[u8], usize), CoderError> {
    let mut reader = Reader::new(input);
    let bytes = reader.prefixed("length-prefixed bytes")?;
    Ok((bytes, reader.consumed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_that_are_written() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                write(&mut out, value);
                assert_eq!(out.len(), encoded_len(value), "{value}");
                assert_eq!(read(&out), Ok((value, out.len())));
                assert!(read(&out[..out.len() - 1]).is_err());
            }
        }
    }

    #[test]
    fn a_varint_has_no_more_than_64_bits() {
        let mut bytes = [0xFF_u8; 10];
        bytes[9] = 0x01;
        assert_eq!(read_signed(&bytes), Ok((-1, 10)));
        bytes[9] = 0x02;
        assert!(matches!(read(&bytes), Err(CoderError::Malformed { .. })));
        assert!(matches!(read(&[0x80; 11]), Err(CoderError::Malformed { .. })));
        assert!(matches!(read(&[0x80; 9]), Err(CoderError::Truncated { .. })));
    }

    #[test]
    fn a_length_beyond_the_input_is_refused() {
        let mut out = Vec::new();
        write(&mut out, u64::MAX);
        out.extend_from_slice(b"abc");
        assert!(matches!(read_prefixed(&out), Err(CoderError::Truncated { .. })));
        assert_eq!(read_prefixed(b"\x03abcd"), Ok((&b"abc"[..], 4)));
    }
}
