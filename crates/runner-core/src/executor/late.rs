//! Elements that come after their window is over, for stages that keep state by window.

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::time::EventTime;
use bytes::Bytes;

use crate::fault::Fault;
use crate::plan::{Collection, KeyedStage};
use crate::runner_transforms::elements::Elements;
use crate::runner_transforms::malformed;

/// When nothing more can come for a window: its end, and the time for which it waits for what is late.
pub(super) fn expiry(stage: &KeyedStage, window: &[u8]) -> EventTime {
    end(stage, window).saturating_add(stage.allowed_lateness)
}

/// The last event time in a window; if only the SDK knows it, that of the global window.
pub(super) fn end(stage: &KeyedStage, window: &[u8]) -> EventTime {
    stage.window_coder.max_timestamp_of_window(window).unwrap_or(EventTime::GLOBAL_WINDOW_MAX)
}

/// Whether nothing more could come for a window before `watermark`.
pub(super) fn has_expired(stage: &KeyedStage, window: &[u8], watermark: EventTime) -> bool {
    expiry(stage, window) < watermark
}

/// Leaves out what belongs only to windows that have expired, and counts it by window.
pub(super) fn drop_late(
    stage: &KeyedStage,
    collection: &Collection,
    blocks: Vec<Bytes>,
    watermark: EventTime,
) -> Result<(Vec<Bytes>, u64), Fault> {
    let mut dropped = 0;
    if watermark == EventTime::MIN {
        return Ok((blocks, dropped));
    }
    let mut kept = Vec::with_capacity(blocks.len());
    for block in blocks {
        let mut changed = false;
        let mut rest = Vec::new();
        for element in Elements::new(collection, block.clone()) {
            let data = element?.data;
            let coder = &collection.window_coder;
            let header = read_header(coder, &data).map_err(|error| malformed(&collection.id, error))?;
            let open: Vec<&[u8]> =
                header.windows.iter().filter(|window| !has_expired(stage, window, watermark)).collect();
            let late = header.windows.len() - open.len();
            if late == 0 {
                rest.extend_from_slice(&data);
                continue;
            }
            changed = true;
            dropped += late as u64;
            if !open.is_empty() {
                write_header(&mut rest, header.timestamp, open.iter().copied(), header.pane)
                    .map_err(|error| malformed(&collection.id, error))?;
                rest.extend_from_slice(&data[header.header_len..]);
            }
        }
        match (changed, rest.is_empty()) {
            (false, _) => kept.push(block),
            (true, false) => kept.push(rest.into()),
            (true, true) => {}
        }
    }
    Ok((kept, dropped))
}
