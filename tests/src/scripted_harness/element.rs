//! Windowed values, taken apart and put together.

use beam_model::coders::{Coder, windowed_value};
use beam_model::time::EventTime;
use bytes::Bytes;

/// An element with its value and windows still encoded.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) timestamp: EventTime,
    pub(super) windows: Vec<Bytes>,
    pub(super) pane: Bytes,
    pub(super) value: Bytes,
}

/// The elements of a block. `coder` is that of the port: a windowed value.
pub(super) fn split(coder: &Coder, block: &Bytes) -> Result<Vec<Element>, String> {
    let Coder::WindowedValue { value, window } = coder else {
        return Err(format!("the port's coder is {}, not a windowed value", coder.urn()));
    };
    let mut elements = Vec::new();
    let mut rest = block.clone();
    while !rest.is_empty() {
        let header = windowed_value::read_header(window, &rest).map_err(|error| error.to_string())?;
        let start = header.header_len;
        let length = value.skip(&rest[start..]).map_err(|error| error.to_string())?;
        elements.push(Element {
            timestamp: header.timestamp,
            windows: header.windows.iter().map(Bytes::copy_from_slice).collect(),
            pane: Bytes::copy_from_slice(header.pane),
            value: rest.slice(start..start + length),
        });
        rest = rest.slice(start + length..);
    }
    Ok(elements)
}

impl Element {
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), String> {
        let windows: Vec<&[u8]> = self.windows.iter().map(|window| &**window).collect();
        windowed_value::write_header(out, self.timestamp, windows, &self.pane)
            .map_err(|error| error.to_string())?;
        out.extend_from_slice(&self.value);
        Ok(())
    }
}
