//! Elements that come after their window is over, for stages that keep state by window.

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::time::EventTime;

use crate::fault::Fault;
use crate::plan::{Collection, KeyedStage};
use crate::ports::{Storage, StoredBlock};
use crate::runner_transforms::elements::{Elements, put_instead};
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

/// Leaves out what belongs only to windows that have expired, and what comes too late to be sorted by time
/// (`requires_time_sorted_input`); counts it by window.
pub(super) fn drop_late(
    stage: &KeyedStage,
    collection: &Collection,
    blocks: Vec<StoredBlock>,
    watermark: EventTime,
    storage: &dyn Storage,
) -> Result<(Vec<StoredBlock>, u64), Fault> {
    let mut dropped = 0;
    if watermark == EventTime::MIN {
        return Ok((blocks, dropped));
    }
    let mut kept = Vec::with_capacity(blocks.len());
    for block in blocks {
        let mut changed = false;
        let mut rest = Vec::new();
        for element in Elements::new(collection, block.read()?) {
            let data = element?.data;
            let coder = &collection.window_coder;
            let header = read_header(coder, &data).map_err(|error| malformed(&collection.id, error))?;
            // Whoever wants elements by time has had later ones already.
            let out_of_order =
                stage.time_sorted && header.timestamp.saturating_add(stage.allowed_lateness) < watermark;
            let is_open = |window: &&[u8]| !out_of_order && !has_expired(stage, window, watermark);
            let open: Vec<&[u8]> = header.windows.iter().filter(is_open).collect();
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
            (true, false) => kept.push(put_instead(&block, rest.into(), storage)?),
            (true, true) => {}
        }
    }
    Ok((kept, dropped))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use beam_model::coders::{Coder, IntervalWindow, PaneInfo};

    use super::*;
    use crate::plan::{Grain, Merging};
    use crate::ports::memory::MemoryStorage;

    fn stage(time_sorted: bool) -> KeyedStage {
        KeyedStage {
            transform: "transform".to_owned(),
            window_coder: Arc::new(Coder::IntervalWindow),
            families: Vec::new(),
            states: Vec::new(),
            time_sorted,
            merging: Merging::Never,
            allowed_lateness: 5,
        }
    }

    fn collection() -> Collection {
        Collection {
            id: "input".to_owned(),
            element_coder: Arc::new(Coder::VarInt),
            window_coder: Arc::new(Coder::IntervalWindow),
            grain: Grain::Block,
            by_key: true,
            timed: true,
            live: None,
            side_input_patterns: Vec::new(),
        }
    }

    /// In windows of ten milliseconds that begin at these times.
    fn element(timestamp: i64, windows: &[i64]) -> Vec<u8> {
        let windows: Vec<Vec<u8>> = windows
            .iter()
            .map(|start| {
                let mut window = Vec::new();
                IntervalWindow { start: EventTime(*start), end: EventTime(start + 10) }.write(&mut window);
                window
            })
            .collect();
        let mut out = Vec::new();
        let windows: Vec<&[u8]> = windows.iter().map(Vec::as_slice).collect();
        write_header(&mut out, EventTime(timestamp), windows, PaneInfo::NO_FIRING_ENCODED).unwrap();
        out.push(7);
        out
    }

    /// What is left of a block of these elements, and how much was dropped.
    fn left(sorted: bool, elements: &[Vec<u8>], watermark: i64) -> (Vec<u8>, u64) {
        let storage = MemoryStorage::unlimited();
        let blocks = vec![storage.put(elements.concat().into()).unwrap()];
        let left = drop_late(&stage(sorted), &collection(), blocks, EventTime(watermark), storage.as_ref());
        let (kept, dropped) = left.unwrap();
        (kept.iter().flat_map(|block| block.read().unwrap()).collect(), dropped)
    }

    #[test]
    fn an_element_stays_in_the_windows_that_are_open() {
        let elements = [element(8, &[0]), element(8, &[0, 5]), element(20, &[20])];
        assert_eq!(left(false, &elements, 14), (elements.concat(), 0));
        let rest = [element(8, &[5]), element(20, &[20])].concat();
        assert_eq!(left(false, &elements, 15), (rest, 2));
        assert_eq!(left(false, &elements, i64::from(i32::MAX)), (Vec::new(), 4));
    }

    #[test]
    fn what_is_to_be_sorted_must_not_be_later_than_allowed() {
        let elements = [element(8, &[5]), element(12, &[5])];
        assert_eq!(left(true, &elements, 13), (elements.concat(), 0));
        assert_eq!(left(true, &elements, 14), (elements[1].clone(), 1));
        assert_eq!(left(false, &elements, 14), (elements.concat(), 0));
    }
}
