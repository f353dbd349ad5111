//! Timers that are set and have not fired, of one stage.
//!
//! A key's timers fire in the order of their time: a bundle gets, of each key, only those of the earliest
//! time, since what they do may set or clear the others.

use std::collections::{BTreeMap, HashMap, HashSet};

use beam_model::time::EventTime;
use bytes::Bytes;

use super::Partition;
use crate::plan::TimerKind;

/// Which timer of a stage. Setting it again replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId {
    /// Index in the stage's timer families.
    pub family: usize,
    /// Encoded, as are `window` and `tag`.
    pub key: Bytes,
    pub window: Bytes,
    pub tag: Bytes,
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    pub id: TimerId,
    /// When it fires, in the time domain of its family, in milliseconds.
    pub fire: EventTime,
    /// The event time of what it will make.
    pub hold: EventTime,
    /// The encoded pane of the element that set it.
    pub pane: Bytes,
}

/// What a bundle did to a timer.
#[derive(Clone, Debug)]
pub enum TimerChange {
    Set { timer: Timer, partition: Partition },
    Clear(TimerId),
}

/// A bundle takes at most so many timers.
const MAX_FIRING: usize = 10_000;

#[derive(Default)]
pub(super) struct Timers {
    set: HashMap<TimerId, (Place, Timer)>,
    queue: BTreeMap<Place, TimerId>,
    next: u64,
}

/// The order in which timers fire: what their family waits for, then time, then who was set first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    kind: TimerKind,
    fire: EventTime,
    set: u64,
    partition: Partition,
}

impl Timers {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Takes in what a bundle did, in the order in which it did it.
    pub(super) fn change(&mut self, changes: Vec<TimerChange>, kinds: &[TimerKind]) {
        for change in changes {
            match change {
                TimerChange::Clear(id) => self.remove(&id),
                TimerChange::Set { timer, partition } => {
                    let Some(kind) = kinds.get(timer.id.family) else { continue };
                    self.remove(&timer.id);
                    let place = Place { kind: *kind, fire: timer.fire, set: self.next, partition };
                    self.next += 1;
                    self.queue.insert(place, timer.id.clone());
                    self.set.insert(timer.id.clone(), (place, timer));
                }
            }
        }
    }

    fn remove(&mut self, id: &TimerId) {
        if let Some((place, _)) = self.set.remove(id) {
            self.queue.remove(&place);
        }
    }

    /// Takes out what is to fire next, once all elements have been seen: the timers of one kind, of keys
    /// that no bundle has, at most `limit`. With each comes its partition.
    pub(super) fn take_due(
        &mut self,
        locked: &HashSet<Partition>,
        idle: bool,
        limit: usize,
    ) -> Vec<(Timer, Partition)> {
        let Some((first, _)) = self.queue.first_key_value() else { return Vec::new() };
        let kind = first.kind;
        // What waits for all else to be done fires only when nothing is under way that may set more.
        if kind != TimerKind::EventTime && !idle {
            return Vec::new();
        }
        let mut earliest: HashMap<Bytes, EventTime> = HashMap::new();
        let mut due = Vec::new();
        for (place, id) in self.queue.iter().take_while(|(place, _)| place.kind == kind) {
            if due.len() >= limit.min(MAX_FIRING) {
                break;
            }
            let first_of_key = *earliest.entry(id.key.clone()).or_insert(place.fire);
            if first_of_key == place.fire && !locked.contains(&place.partition) {
                due.push(id.clone());
            }
        }
        due.into_iter()
            .filter_map(|id| {
                let (place, timer) = self.set.remove(&id)?;
                self.queue.remove(&place);
                Some((timer, place.partition))
            })
            .collect()
    }
}
