//! GroupByKey, side inputs, and what SDKs are asked about windows, on encoded elements.

mod group_by_key;
mod hostile;
mod map_windows;
mod merge_windows;
mod side_input;
mod spilled_groups;

use beam_model::coders::windowed_value::write_header;
use beam_model::coders::{IntervalWindow, varint};
use beam_model::time::EventTime;
use bytes::Bytes;

/// An interval window, encoded.
fn interval(start: i64, end: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut bytes);
    bytes
}

/// A windowed `KV<bytes, varint>`.
fn element(time: i64, windows: &[Vec<u8>], key: &str, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_header(&mut bytes, EventTime(time), windows.iter().map(Vec::as_slice), &[0x0F]).unwrap();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    bytes.extend(encoded(value));
    bytes
}

fn encoded(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint::write(&mut bytes, value);
    bytes
}

fn block(elements: &[Vec<u8>]) -> Bytes {
    elements.concat().into()
}
