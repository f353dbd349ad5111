//! Timers that are set and have not fired, of one stage.
//!
//! A key's timers fire in the order of their time: a bundle gets, of each key, only those of the earliest
//! time, since what they do may set or clear the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;

use super::Partition;
use super::holds::Holds;
use super::last_turns::{Turn, is_over};
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
    /// The event time of what it will make; the stage's output watermark does not pass it before.
    pub hold: EventTime,
    /// The encoded pane of the element that set it.
    pub pane: Bytes,
    /// When nothing more can come for its window. An event-time timer fires then at the latest, since the
    /// window's state goes with it.
    pub expiry: EventTime,
}

impl Timer {
    /// Whether it fires, or has fired, when its window is over.
    fn is_last(&self) -> bool {
        self.fire >= self.expiry
    }

    /// The same in a window that `from` has become a part of. What is set for the end of the window, or a time
    /// after it, is so for that of the other.
    fn moved(self, from: &TimerWindow, to: &TimerWindow, kind: TimerKind) -> Self {
        let later = to.end.millis().saturating_sub(from.end.millis());
        let moved = |time: EventTime| if time >= from.end { time.saturating_add(later) } else { time };
        let fire = match kind {
            TimerKind::EventTime | TimerKind::Expiration => moved(self.fire),
            TimerKind::ProcessingTime => self.fire,
        };
        let id = TimerId { window: to.window.clone(), ..self.id };
        Self { id, fire, hold: moved(self.hold), pane: self.pane, expiry: to.expiry }
    }

    fn is_of_same_window(&self, other: &Timer) -> bool {
        self.id.key == other.id.key && self.id.window == other.id.window
    }
}

/// What a bundle did to a timer.
#[derive(Clone, Debug)]
pub enum TimerChange {
    Set {
        timer: Timer,
        partition: Partition,
    },
    Clear(TimerId),
    /// Windows of a key have become one: what is set in `parts`, `result` perhaps among them, is set in
    /// `result` from now on. Of timers of one family and tag that of the last part stays. What waits for the
    /// expiration of a part is gone; `result` has an expiration of its own.
    MergeWindows {
        key: Bytes,
        parts: Vec<TimerWindow>,
        result: TimerWindow,
    },
}

/// An encoded window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerWindow {
    pub window: Bytes,
    /// The last event time in it.
    pub end: EventTime,
    /// When nothing more can come for it.
    pub expiry: EventTime,
}

/// What timers wait for, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The stage's input watermark, what it has not worked off included.
    pub(super) watermark: EventTime,
    pub(super) now: ProcessingTime,
    /// Whether no bundle of the stage runs, which could set more timers.
    pub(super) idle: bool,
    /// Processing-time timers that fire now, whatever their time.
    pub(super) turn: Option<Turn>,
}

/// A bundle takes at most so many timers.
const MAX_FIRING: usize = 10_000;
/// Fewer than these are not shared out to several workers.
const SHARED_OUT: usize = 200;

#[derive(Default)]
pub(super) struct Timers {
    /// In order, so that those of a family, key and window are found together.
    set: BTreeMap<TimerId, (Place, Timer)>,
    queue: BTreeMap<Place, TimerId>,
    /// Of those that are set, and of those that fire in a bundle that is not committed.
    holds: Holds,
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
    /// How many are set.
    pub(super) fn len(&self) -> usize {
        self.set.len()
    }

    /// The output watermark must not pass this.
    pub(super) fn hold(&self) -> EventTime {
        self.holds.earliest()
    }

    /// When the next processing-time timer is due that is not yet. Those that are wait for no time but for
    /// their key, and must not keep those of other keys waiting.
    pub(super) fn next_wake(&self, now: ProcessingTime) -> Option<ProcessingTime> {
        let kind = TimerKind::ProcessingTime;
        let fire = EventTime(now.millis().checked_add(1)?);
        let later = self.queue.range(Place { kind, fire, set: 0, partition: Partition(0) }..);
        let (place, _) = later.take_while(|(place, _)| place.kind == kind).next()?;
        Some(ProcessingTime::from_millis(place.fire.millis()))
    }

    /// Until this event time some timer may still need the state of its window.
    pub(super) fn earliest_event_time(&self) -> EventTime {
        let first = |kind| self.of(kind).next().map_or(EventTime::MAX, |(place, _)| place.fire);
        first(TimerKind::EventTime).min(first(TimerKind::Expiration))
    }

    pub(super) fn waits_for_processing_time(&self) -> bool {
        self.of(TimerKind::ProcessingTime).next().is_some()
    }

    fn of(&self, kind: TimerKind) -> impl Iterator<Item = (&Place, &TimerId)> {
        let first = Place { kind, fire: EventTime(i64::MIN), set: 0, partition: Partition(0) };
        self.queue.range(first..).take_while(move |(place, _)| place.kind == kind)
    }

    /// Takes in what a bundle did, in the order in which it did it. `fired`: the timers that fired in it. `due`:
    /// when a processing-time timer is due.
    ///
    /// When a window is over its timers fire once more, whatever their time; what is set for later then would
    /// fire for ever, and is dropped.
    pub(super) fn change(
        &mut self,
        changes: Vec<TimerChange>,
        kinds: &[TimerKind],
        fired: &[Timer],
        due: impl Fn(EventTime) -> EventTime,
    ) {
        let last: Vec<&Timer> = fired.iter().filter(|timer| timer.is_last()).collect();
        for change in changes {
            match change {
                TimerChange::Clear(id) => {
                    self.remove(&id);
                }
                TimerChange::Set { timer, partition } => {
                    let Some(kind) = kinds.get(timer.id.family) else { continue };
                    self.remove(&timer.id);
                    let fire = match kind {
                        TimerKind::ProcessingTime => due(timer.fire),
                        TimerKind::EventTime
                            if timer.fire > timer.expiry
                                && last.iter().any(|fired| fired.is_of_same_window(&timer)) =>
                        {
                            continue;
                        }
                        TimerKind::EventTime | TimerKind::Expiration => timer.fire.min(timer.expiry),
                    };
                    let place = Place { kind: *kind, fire, set: self.next, partition };
                    self.next += 1;
                    self.insert(place, timer);
                }
                TimerChange::MergeWindows { key, parts, result } => {
                    self.merge_windows(kinds, &key, &parts, &result)
                }
            }
        }
    }

    fn merge_windows(
        &mut self,
        kinds: &[TimerKind],
        key: &Bytes,
        parts: &[TimerWindow],
        result: &TimerWindow,
    ) {
        for (family, kind) in kinds.iter().enumerate() {
            // All are taken before one is set again: the result may be one of the parts.
            let mut taken = Vec::new();
            for part in parts {
                let timers = self.ids(family, key, &part.window);
                taken.extend(timers.iter().filter_map(|id| Some((part, self.remove(id)?))));
            }
            for (part, (mut place, timer)) in taken {
                let timer = timer.moved(part, result, *kind);
                match kind {
                    TimerKind::Expiration => continue,
                    TimerKind::EventTime => place.fire = timer.fire.min(timer.expiry),
                    TimerKind::ProcessingTime => {}
                }
                self.remove(&timer.id);
                self.insert(place, timer);
            }
        }
    }

    /// What is set for a family, key and window.
    fn ids(&self, family: usize, key: &Bytes, window: &Bytes) -> Vec<TimerId> {
        let first = TimerId { family, key: key.clone(), window: window.clone(), tag: Bytes::new() };
        let ids = self.set.range((Bound::Included(&first), Bound::Unbounded)).map(|(id, _)| id);
        let of_it = |id: &&TimerId| (id.family, &id.key, &id.window) == (family, key, window);
        ids.take_while(of_it).cloned().collect()
    }

    fn insert(&mut self, place: Place, timer: Timer) {
        self.holds.add(timer.hold);
        self.queue.insert(place, timer.id.clone());
        self.set.insert(timer.id.clone(), (place, timer));
    }

    fn remove(&mut self, id: &TimerId) -> Option<(Place, Timer)> {
        let (place, timer) = self.set.remove(id)?;
        self.holds.release(timer.hold);
        self.queue.remove(&place);
        Some((place, timer))
    }

    /// The bundle in which these fired is committed.
    pub(super) fn fired(&mut self, timers: &[Timer]) {
        timers.iter().for_each(|timer| self.holds.release(timer.hold));
    }

    /// Takes out what is to fire next: timers of one kind, of keys that no bundle has, at most `limit`.
    /// With each comes its partition. They hold the watermark until [`Timers::fired`]. Of many event-time timers one of
    /// so many `shares` of their partitions is taken.
    pub(super) fn take_due(
        &mut self,
        times: Times,
        locked: &HashSet<Partition>,
        limit: usize,
        shares: usize,
    ) -> Vec<(Timer, Partition)> {
        let Some(kind) = self.kind_due(times) else { return Vec::new() };
        let mut due = match times.turn.filter(|_| kind == TimerKind::ProcessingTime) {
            Some(turn) => self.due_in(turn, times.now, locked, limit.min(MAX_FIRING)),
            None => self.due(kind, times, locked, limit.min(MAX_FIRING)),
        };
        // Those of other kinds wait until nothing of the stage runs.
        if kind == TimerKind::EventTime && due.len() >= SHARED_OUT && shares > 1 {
            let partition = |id: &TimerId| self.set.get(id).map(|(place, _)| place.partition);
            let all: BTreeSet<_> = due.iter().filter_map(partition).collect();
            let share: BTreeSet<_> = all.iter().take(all.len().div_ceil(shares)).copied().collect();
            due.retain(|id| partition(id).is_some_and(|partition| share.contains(&partition)));
        }
        due.into_iter()
            .filter_map(|id| {
                let (place, timer) = self.set.remove(&id)?;
                self.queue.remove(&place);
                Some((timer, place.partition))
            })
            .collect()
    }

    fn due(&self, kind: TimerKind, times: Times, locked: &HashSet<Partition>, limit: usize) -> Vec<TimerId> {
        let mut earliest: HashMap<&Bytes, EventTime> = HashMap::new();
        let due = self.of(kind).take_while(|(place, _)| is_due(place, times)).filter(|(place, id)| {
            let first_of_key = *earliest.entry(&id.key).or_insert(place.fire);
            first_of_key == place.fire && !locked.contains(&place.partition)
        });
        due.take(limit).map(|(_, id)| id.clone()).collect()
    }

    /// Processing-time timers that fire in a turn, and those that are due `now`.
    fn due_in(
        &self,
        turn: Turn,
        now: ProcessingTime,
        locked: &HashSet<Partition>,
        limit: usize,
    ) -> Vec<TimerId> {
        let mut earliest: HashMap<&Bytes, EventTime> = HashMap::new();
        let fires = |place: &Place| place.set < turn.set_before || place.fire.millis() <= now.millis();
        let timers = self.of(TimerKind::ProcessingTime);
        let timers = timers.filter(|(place, _)| !turn.last || fires(place));
        let due = timers.filter(|(place, id)| {
            let first_of_key = *earliest.entry(&id.key).or_insert(place.fire);
            first_of_key == place.fire && fires(place) && !locked.contains(&place.partition)
        });
        due.take(limit).map(|(_, id)| id.clone()).collect()
    }

    /// How many timers have been set, those that replaced others included.
    pub(super) fn set_so_far(&self) -> u64 {
        self.next
    }

    pub(super) fn has_processing_time(&self) -> bool {
        self.of(TimerKind::ProcessingTime).next().is_some()
    }

    pub(super) fn fires_in(&self, turn: Turn) -> bool {
        !self.due_in(turn, ProcessingTime::MIN, &HashSet::new(), 1).is_empty()
    }

    /// Clears all processing-time timers; how many there were.
    pub(super) fn drop_processing_time(&mut self) -> usize {
        let dropped: Vec<TimerId> = self.of(TimerKind::ProcessingTime).map(|(_, id)| id.clone()).collect();
        dropped.iter().filter_map(|id| self.remove(id)).count()
    }

    /// The first kind of which some are due. What a key does on expiration comes after all its other timers.
    fn kind_due(&self, times: Times) -> Option<TimerKind> {
        let due = |kind| self.of(kind).next().is_some_and(|(place, _)| is_due(place, times));
        if due(TimerKind::EventTime) {
            return Some(TimerKind::EventTime);
        }
        if times.turn.is_some_and(|turn| self.fires_in(turn)) || due(TimerKind::ProcessingTime) {
            return Some(TimerKind::ProcessingTime);
        }
        let others_to_come = is_over(times.watermark) && (!times.idle || self.has_processing_time());
        (!others_to_come && due(TimerKind::Expiration)).then_some(TimerKind::Expiration)
    }
}

fn is_due(place: &Place, times: Times) -> bool {
    match place.kind {
        TimerKind::EventTime => place.fire <= times.watermark,
        TimerKind::ProcessingTime => place.fire.millis() <= times.now.millis(),
        TimerKind::Expiration => place.fire < times.watermark || is_over(times.watermark),
    }
}
