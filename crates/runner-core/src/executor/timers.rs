//! Timers on their way to and from a bundle: decoded to tell the engine, encoded to fire.

use std::collections::HashSet;

use beam_model::coders::windowed_value::Windows;
use beam_model::coders::{PaneInfo, Timer as EncodedTimer, TimerAction};
use bytes::{Buf, Bytes};

use super::late;
use crate::engine::{Timer, TimerChange, TimerId, TimerWindow};
use crate::fault::Fault;
use crate::plan::{Collection, KeyedStage, TimerKind};
use crate::ports::{StoredBlock, TimerBlock};
use crate::runner_transforms::elements::{Elements, partition_of};

/// What a bundle did to timers, in its order.
pub(super) fn changes(stage: &KeyedStage, blocks: Vec<TimerBlock>) -> Result<Vec<TimerChange>, Fault> {
    let mut changes = Vec::new();
    for block in blocks {
        let family = stage.families.iter().position(|family| family.id == block.family_id);
        let Some(index) = family.filter(|_| block.transform_id == stage.transform) else {
            return Err(Fault::environment(format!(
                "a worker set a timer of family {:?} of transform {:?}, which the stage does not have",
                block.family_id, block.transform_id
            )));
        };
        read_block(stage, index, block.timers, &mut changes)?;
    }
    Ok(changes)
}

fn read_block(
    stage: &KeyedStage,
    family: usize,
    mut timers: Bytes,
    changes: &mut Vec<TimerChange>,
) -> Result<(), Fault> {
    let Some(spec) = stage.families.get(family) else { return Ok(()) };
    while !timers.is_empty() {
        let malformed = |error| {
            Fault::environment(format!(
                "a worker sent a timer of family {:?} that cannot be read: {error}",
                spec.id
            ))
        };
        let (timer, len) = EncodedTimer::read(&spec.coder, &timers).map_err(malformed)?;
        let key = Bytes::copy_from_slice(timer.key);
        let tag = Bytes::copy_from_slice(timer.dynamic_tag.as_bytes());
        for window in timer.windows.iter() {
            let id = TimerId {
                family,
                key: key.clone(),
                window: Bytes::copy_from_slice(window),
                tag: tag.clone(),
            };
            changes.push(match timer.action {
                TimerAction::Clear => TimerChange::Clear(id),
                TimerAction::Set { fire_timestamp, hold_timestamp, pane } => TimerChange::Set {
                    partition: partition_of(&id.key),
                    timer: Timer {
                        expiry: late::expiry(stage, &id.window),
                        id,
                        fire: fire_timestamp,
                        hold: hold_timestamp,
                        pane: Bytes::copy_from_slice(pane),
                    },
                },
            });
        }
        timers.advance(len);
    }
    Ok(())
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
