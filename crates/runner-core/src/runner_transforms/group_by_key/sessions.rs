//! Merging of interval windows: those that overlap become one that spans them; those that only touch do
//! not.

use std::ops::Bound;

use beam_model::coders::{CoderError, IntervalWindow};
use beam_model::time::EventTime;

use super::keys::Windows;
use super::{Merged, Window};

/// What becomes of a key's windows when a new one comes.
pub(super) struct Merge {
    /// The window that the new one is in.
    pub(super) result: Window,
    /// Those of the known ones that are in it. None of them overlap.
    pub(super) parts: Vec<Window>,
}

/// What `window` merges with, of windows that do not overlap one another.
pub(super) fn merge(windows: &Windows, window: &[u8]) -> Result<Merge, CoderError> {
    let (mut span, _) = IntervalWindow::read(window)?;
    let mut parts = Vec::new();
    // An encoded window begins with its end, and the encodings of ends are ordered as they are.
    let first = span.start.0.saturating_add(1);
    let from: &[u8] = &EventTime(first).to_bytes();
    for known in windows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).map(|(known, _)| known) {
        let (interval, _) = IntervalWindow::read(known)?;
        // Also those to come begin later than this one, which none of them overlaps.
        if interval.start >= span.end {
            break;
        }
        span.start = span.start.min(interval.start);
        span.end = span.end.max(interval.end);
        parts.push(known.clone());
    }
    Ok(Merge { result: encoded(&span), parts })
}

/// What becomes of each of these windows that does not stay as it is.
pub(crate) fn merge_sessions(windows: &[Window]) -> Result<Merged, CoderError> {
    let mut intervals = Vec::with_capacity(windows.len());
    for window in windows {
        intervals.push((IntervalWindow::read(window)?.0, window));
    }
    intervals.sort_by_key(|(interval, _)| (interval.start, interval.end));
    let mut sessions: Vec<(IntervalWindow, Vec<&Window>)> = Vec::new();
    for (interval, window) in intervals {
        match sessions.last_mut() {
            Some((session, parts)) if interval.start < session.end => {
                session.end = session.end.max(interval.end);
                parts.push(window);
            }
            _ => sessions.push((interval, vec![window])),
        }
    }
    let replaced = sessions.iter().flat_map(|(session, parts)| {
        let result = encoded(session);
        parts
            .iter()
            .filter(|part| ***part != result)
            .map(|part| ((*part).clone(), result.clone()))
            .collect::<Vec<_>>()
    });
    Ok(replaced.collect())
}

pub(super) fn encoded(window: &IntervalWindow) -> Window {
    let mut bytes = Vec::with_capacity(16);
    window.write(&mut bytes);
    bytes.into()
}
