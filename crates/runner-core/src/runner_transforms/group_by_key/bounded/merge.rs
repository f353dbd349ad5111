//! Merging the windows of one key.

use std::collections::HashMap;

use beam_model::coders::{CoderError, IntervalWindow};
use indexmap::IndexMap;

use super::super::sessions::encoded;
use super::super::{Merged, Window};
use crate::plan::Merging;

/// A window of a key as it is in the end, and of which of its windows it is made, by their indexes.
pub(super) struct MergedWindow {
    pub(super) window: Window,
    pub(super) parts: Vec<usize>,
}

/// What becomes of a key's windows. `answers`: what the SDK said of them, if only it can merge them.
pub(super) fn merge(
    merging: &Merging,
    answers: &HashMap<Vec<Window>, Merged>,
    windows: &[&[u8]],
) -> Result<Vec<MergedWindow>, CoderError> {
    match merging {
        Merging::Never => {
            let alone = windows.iter().enumerate();
            Ok(alone
                .map(|(index, window)| MergedWindow { window: (*window).into(), parts: vec![index] })
                .collect())
        }
        Merging::Sessions => merge_sessions(windows),
        Merging::BySdk(_) => {
            let mut set: Vec<Window> = windows.iter().map(|window| (*window).into()).collect();
            set.sort();
            let replaced = answers.get(&set);
            let mut merged: IndexMap<Window, Vec<usize>> = IndexMap::new();
            for (index, window) in windows.iter().enumerate() {
                let target = replaced.and_then(|replaced| replaced.get(*window)).cloned();
                merged.entry(target.unwrap_or_else(|| (*window).into())).or_default().push(index);
            }
            Ok(merged.into_iter().map(|(window, parts)| MergedWindow { window, parts }).collect())
        }
    }
}

/// Intervals that overlap become one that spans them; intervals that only touch do not.
fn merge_sessions(windows: &[&[u8]]) -> Result<Vec<MergedWindow>, CoderError> {
    let mut intervals = Vec::with_capacity(windows.len());
    for (index, window) in windows.iter().enumerate() {
        intervals.push((IntervalWindow::read(window)?.0, index));
    }
    intervals.sort_by_key(|(window, index)| (window.start, window.end, *index));
    let mut sessions: Vec<(IntervalWindow, Vec<usize>)> = Vec::new();
    for (window, index) in intervals {
        match sessions.last_mut() {
            Some((session, parts)) if window.start < session.end => {
                session.end = session.end.max(window.end);
                parts.push(index);
            }
            _ => sessions.push((window, vec![index])),
        }
    }
    let sessions = sessions.into_iter();
    Ok(sessions.map(|(session, parts)| MergedWindow { window: encoded(&session), parts }).collect())
}
