//! Panes that have fired, as elements `KV<K, Iterable<V>>`.

use beam_model::coders::windowed_value::write_header;
use beam_model::coders::{CoderError, PaneInfo};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::BLOCK_BYTES;
use super::values::Values;
use crate::plan::Grain;

/// Panes one after another.
#[derive(Debug, Default)]
pub(super) struct Fired {
    encoded: Vec<u8>,
    /// Where each pane ends.
    ends: Vec<usize>,
}

impl Fired {
    pub(super) fn write(
        &mut self,
        time: EventTime,
        window: &[u8],
        pane: &PaneInfo,
        key: &[u8],
        values: &Values,
    ) -> Result<(), CoderError> {
        let mut encoded = Vec::with_capacity(8);
        pane.write(&mut encoded);
        write_pane(&mut self.encoded, time, window, &encoded, key, values)?;
        self.ends.push(self.encoded.len());
        Ok(())
    }

    /// Takes all panes away, cut into blocks.
    pub(super) fn take(&mut self, grain: Grain) -> std::vec::IntoIter<Bytes> {
        let Self { encoded, ends } = std::mem::take(self);
        let encoded = Bytes::from(encoded);
        let mut blocks = Vec::new();
        let mut start = 0;
        for end in ends {
            let full = match grain {
                Grain::Element => true,
                Grain::Block => end - start >= BLOCK_BYTES || end == encoded.len(),
            };
            if full {
                blocks.push(encoded.slice(start..end));
                start = end;
            }
        }
        blocks.into_iter()
    }
}

/// Appends one pane. `pane`: encoded.
pub(super) fn write_pane(
    out: &mut Vec<u8>,
    time: EventTime,
    window: &[u8],
    pane: &[u8],
    key: &[u8],
    values: &Values,
) -> Result<(), CoderError> {
    out.reserve(key.len() + window.len() + values.len() + 32);
    write_header(out, time, [window], pane)?;
    out.extend_from_slice(key);
    values.write(out)
}
