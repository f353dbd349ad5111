//! Timers on their way to and from a bundle: decoded to tell the engine, encoded to fire.

use std::collections::{HashMap, HashSet};

use beam_model::coders::windowed_value::Windows;
use beam_model::coders::{PaneInfo, Timer as EncodedTimer, TimerAction};
use bytes::{Buf, Bytes};

use super::late;
use crate::engine::{Timer, TimerChange, TimerId, TimerWindow};
use crate::fault::Fault;
use crate::plan::{Collection, KeyedStage, TimerKind};
use crate::ports::{StoredBlock, TimerBlock};
use crate::runner_transforms::elements::{Elements, partition_of};

/// What a bundle does to timers. Setting a timer again replaces it, so that of each only the last change is kept: a
/// DoFn that sets the same one for every element has few.
#[derive(Default)]
pub(super) struct TimerChanges {
    /// With each, how many changes came before it.
    last: HashMap<TimerId, (u64, TimerChange)>,
    so_far: u64,
}

impl TimerChanges {
    /// Takes in what came from the worker. Errors: it cannot be read, or is of a timer that the stage does not have.
    pub(super) fn take_in(&mut self, stage: &KeyedStage, block: TimerBlock) -> Result<(), Fault> {
        let mut families = stage.families.iter().enumerate();
        let family = families.find(|(_, family)| family.id == block.family_id);
        let Some((index, family)) = family.filter(|_| block.transform_id == stage.transform) else {
            return Err(unknown(&block));
        };
        let mut timers = block.timers;
        while !timers.is_empty() {
            let malformed = |error| {
                Fault::environment(format!(
                    "a worker sent a timer of family {:?} that cannot be read: {error}",
                    family.id
                ))
            };
            let (timer, len) = EncodedTimer::read(&family.coder, &timers).map_err(malformed)?;
            self.add(stage, index, &timer);
            timers.advance(len);
        }
        Ok(())
    }

    fn add(&mut self, stage: &KeyedStage, family: usize, timer: &EncodedTimer<'_>) {
        let key = Bytes::copy_from_slice(timer.key);
        let tag = Bytes::copy_from_slice(timer.dynamic_tag.as_bytes());
        for window in timer.windows.iter() {
            let window = Bytes::copy_from_slice(window);
            let id = TimerId { family, key: key.clone(), window, tag: tag.clone() };
            let change = match timer.action {
                TimerAction::Clear => TimerChange::Clear(id.clone()),
                TimerAction::Set { fire_timestamp, hold_timestamp, pane } => TimerChange::Set {
                    partition: partition_of(&id.key),
                    timer: Timer {
                        expiry: late::expiry(stage, &id.window),
                        id: id.clone(),
                        fire: fire_timestamp,
                        hold: hold_timestamp,
                        pane: Bytes::copy_from_slice(pane),
                    },
                },
            };
            self.last.insert(id, (self.so_far, change));
            self.so_far += 1;
        }
    }

    /// In the order in which they were done.
    pub(super) fn into_order(self) -> Vec<TimerChange> {
        let mut changes: Vec<_> = self.last.into_values().collect();
        changes.sort_unstable_by_key(|(before, _)| *before);
        changes.into_iter().map(|(_, change)| change).collect()
    }
}

/// A worker has set a timer that its stage does not have.
pub(super) fn unknown(block: &TimerBlock) -> Fault {
    Fault::environment(format!(
        "a worker set a timer of family {:?} of transform {:?}, which the stage does not have",
        block.family_id, block.transform_id
    ))
}

/// For a stage that acts on window expiration: the timers for each key and window among the elements, and for
/// `others`.
pub(super) fn expirations(
    stage: &KeyedStage,
    collection: &Collection,
    blocks: &[StoredBlock],
    others: Vec<(Bytes, Bytes)>,
) -> Result<Vec<TimerChange>, Fault> {
    let families = stage.families.iter().enumerate();
    let expiring: Vec<_> =
        families.filter(|(_, family)| family.kind == TimerKind::Expiration).map(|(index, _)| index).collect();
    let mut changes = Vec::new();
    if expiring.is_empty() {
        return Ok(changes);
    }
    let mut seen = HashSet::new();
    let mut add = |key: Bytes, window: Bytes| {
        if seen.insert((key.clone(), window.clone())) {
            changes.extend(expiring.iter().map(|family| expiration(stage, *family, &key, &window)));
        }
    };
    for block in blocks {
        for element in Elements::new(collection, block.read()?) {
            let element = element?;
            let key = Bytes::copy_from_slice(element.key()?);
            element.windows()?.into_iter().for_each(|window| add(key.clone(), window));
        }
    }
    others.into_iter().for_each(|(key, window)| add(key, window));
    Ok(changes)
}

fn expiration(stage: &KeyedStage, family: usize, key: &Bytes, window: &Bytes) -> TimerChange {
    let TimerWindow { window, end, expiry } = window_of(stage, window);
    let id = TimerId { family, key: key.clone(), window, tag: Bytes::new() };
    // It holds to when the window ends, not to when it stops to wait for what is late.
    let timer =
        Timer { id, fire: expiry, hold: end, expiry, pane: Bytes::from_static(PaneInfo::NO_FIRING_ENCODED) };
    TimerChange::Set { partition: partition_of(key), timer }
}

/// A window with its times.
pub(super) fn window_of(stage: &KeyedStage, window: &Bytes) -> TimerWindow {
    TimerWindow { window: window.clone(), end: late::end(stage, window), expiry: late::expiry(stage, window) }
}

/// Encodes timers that fire, in order; a block for each run of one family.
pub(super) fn firing(stage: &KeyedStage, timers: &[Timer]) -> Result<Vec<TimerBlock>, Fault> {
    let mut blocks: Vec<(usize, Vec<u8>)> = Vec::new();
    for timer in timers {
        if blocks.last().is_none_or(|(family, _)| *family != timer.id.family) {
            blocks.push((timer.id.family, Vec::new()));
        }
        let Some((_, out)) = blocks.last_mut() else { continue };
        let tag = std::str::from_utf8(&timer.id.tag).unwrap_or_default();
        let encoded = EncodedTimer {
            key: &timer.id.key,
            dynamic_tag: tag,
            windows: Windows::single(&timer.id.window),
            action: TimerAction::Set {
                fire_timestamp: timer.fire,
                hold_timestamp: timer.hold,
                pane: &timer.pane,
            },
        };
        encoded.write(out).map_err(|error| Fault::runner(format!("a timer cannot be encoded: {error}")))?;
    }
    let blocks = blocks.into_iter().filter_map(|(family, timers)| {
        let family = stage.families.get(family)?;
        Some(TimerBlock {
            transform_id: stage.transform.clone(),
            family_id: family.id.clone(),
            timers: timers.into(),
        })
    });
    Ok(blocks.collect())
}
