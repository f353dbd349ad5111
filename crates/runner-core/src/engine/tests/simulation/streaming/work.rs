//! What stages do to elements. What comes of a value depends on the value alone, so that whatever the
//! schedule is, the same values arrive; when they do, and together with which others, may differ.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::super::super::super::*;
use super::super::{Random, mix};
use super::plan::Case;
use crate::plan::{KeyedStage, Stage, TimerKind};

const KEYS: u64 = 5;
const PARTITIONS: u64 = 3;
/// Of the windows in which keyed stages keep state, in milliseconds.
const WINDOW: i64 = 25;
/// Nothing that an element may have to say is earlier.
const START: EventTime = EventTime(0);

/// A block's elements; no two blocks have the same serial number.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) serial: u64,
    pub(super) elements: Vec<Element>,
}

/// One value, or those of a group.
#[derive(Clone, Debug)]
pub(super) struct Element {
    pub(super) values: Vec<u64>,
    pub(super) time: EventTime,
    /// It came behind the watermark of its collection.
    pub(super) late: bool,
    /// It is not late if it is not before this.
    pub(super) bound: EventTime,
    /// Of a restriction: the record that comes next, and how many there are, if that has been settled.
    position: u64,
    end: Option<u64>,
}

impl Element {
    pub(super) fn new(value: u64, time: EventTime) -> Self {
        Self { values: vec![value], time, late: false, bound: EventTime::MAX, position: 0, end: None }
    }

    pub(super) fn of(values: Vec<u64>, time: EventTime, bound: EventTime) -> Self {
        Self { values, bound, ..Self::new(0, time) }
    }

    fn key(&self) -> u16 {
        self.values.first().map_or(0, |value| key_of(*value))
    }

    pub(super) fn partition(&self) -> Partition {
        partition_of(self.key())
    }
}

impl Batch {
    /// Of one partition.
    pub(super) fn block(serial: u64, elements: Vec<Element>) -> Block<Self> {
        Block {
            bytes: 8 * elements.len() as u64,
            partition: elements.first().map_or(Partition(0), Element::partition),
            hold: elements.iter().map(|element| element.time).min().unwrap_or(EventTime::MAX),
            data: Self { serial, elements },
            truncated: false,
        }
    }
}

pub(super) fn key_of(value: u64) -> u16 {
    (value % KEYS) as u16
}

fn partition_of(key: u16) -> Partition {
    Partition((u64::from(key) % PARTITIONS) as u16)
}

/// A stage, key and start of a window.
pub(super) type StateKey = (NodeId, u16, i64);

/// What a stage keeps of a key and window.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// What an event-time timer gives out, and the time of the earliest of it.
    flushed: Vec<u64>,
    earliest: EventTime,
    /// What is given out when the window expires.
    expiring: Vec<u64>,
}

impl Default for State {
    fn default() -> Self {
        Self { flushed: Vec::new(), earliest: EventTime::MAX, expiring: Vec::new() }
    }
}

impl State {
    pub(super) fn is_empty(&self) -> bool {
        self.flushed.is_empty() && self.expiring.is_empty()
    }
}

pub(super) fn window_start(time: EventTime) -> i64 {
    let time = time.max(START).millis();
    time - time.rem_euclid(WINDOW)
}

/// Nothing of the window that begins then is left when the watermark has passed this.
pub(super) fn expiry(keyed: &KeyedStage, start: i64) -> EventTime {
    EventTime(start + WINDOW - 1 + keyed.allowed_lateness)
}

/// A timer's window.
pub(super) fn window_of(id: &TimerId) -> i64 {
    text(&id.window).parse().unwrap()
}

pub(super) fn key_of_timer(id: &TimerId) -> u16 {
    text(&id.key).parse().unwrap()
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

pub(super) fn outputs(stage: &Stage) -> impl Iterator<Item = (u64, CollectionId)> {
    (0..stage.sinks.len()).map(|n| (n as u64, stage.sinks[&format!("sink{n}")]))
}

/// What a stage without keys makes of a value for one output.
pub(super) fn children(node: NodeId, output: u64, value: u64) -> impl Iterator<Item = u64> {
    let made = mix(value, node.0 as u64 * 7 + output);
    (0..[0, 1, 1, 1, 2][(made % 5) as usize]).map(move |n| mix(made, n))
}

/// The event time of what a stage without keys makes.
pub(super) fn child_time(case: &Case, parent: EventTime, child: u64) -> EventTime {
    let behind = if case.late && child.is_multiple_of(37) { 50 } else { 0 };
    EventTime(parent.max(START).millis() + (child % 10) as i64 - behind)
}

/// A record of the restriction that a value stands for.
pub(super) fn record(node: NodeId, value: u64, position: u64) -> u64 {
    mix(mix(value, position), node.0 as u64)
}

pub(super) fn record_time(case: &Case, parent: EventTime, position: u64, record: u64) -> EventTime {
    let behind = if case.late && record.is_multiple_of(12) { 30 } else { 0 };
    EventTime(estimate(parent, position).millis() + (record % 4) as i64 - behind)
}

/// What a watermark estimator says: no later record is earlier, lateness aside.
fn estimate(parent: EventTime, position: u64) -> EventTime {
    EventTime(parent.max(START).millis() + 3 * position as i64)
}

/// What a keyed stage makes of a value in the end.
pub(super) fn kept(node: NodeId, value: u64) -> u64 {
    mix(value, 1_000 + node.0 as u64)
}

pub(super) fn at_output(made: u64, output: u64) -> u64 {
    mix(made, output)
}

/// Something left undone.
pub(super) struct Rest {
    pub(super) element: Element,
    pub(super) hold: EventTime,
    pub(super) delay: Duration,
}

/// What a bundle has done.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) outputs: Vec<(CollectionId, Vec<Element>)>,
    pub(super) residuals: Vec<Rest>,
    pub(super) given_back: Vec<Block<Batch>>,
    pub(super) timers: Vec<TimerChange>,
    pub(super) states: BTreeMap<StateKey, State>,
    /// What was too late.
    pub(super) dropped: Vec<Element>,
    /// Of restrictions without end: the value, from which record and up to which it has been read.
    pub(super) read: Vec<(u64, u64, u64)>,
}

/// One attempt of a bundle.
pub(super) struct Worker<'a> {
    pub(super) case: &'a Case,
    pub(super) node: NodeId,
    pub(super) stage: &'a Stage,
    /// Late elements are late by this.
    pub(super) watermark: EventTime,
    pub(super) draining: bool,
    /// It is to leave undone what it can.
    pub(super) checkpoint: bool,
    pub(super) now: ProcessingTime,
    pub(super) states: &'a BTreeMap<StateKey, State>,
    pub(super) random: &'a mut Random,
    pub(super) effects: Effects,
}

impl Worker<'_> {
    /// `bound`: what is not made before it is not late.
    fn emit(&mut self, values: &[u64], time: EventTime, bound: EventTime) {
        let (node, stage) = (self.node, self.stage);
        for (n, output) in outputs(stage) {
            let values = values.iter().map(|value| at_output(kept(node, *value), n)).collect();
            self.put(output, Element::of(values, time, bound));
        }
    }

    fn put(&mut self, output: CollectionId, element: Element) {
        let outputs = &mut self.effects.outputs;
        match outputs.iter_mut().find(|(collection, _)| *collection == output) {
            Some((_, elements)) => elements.push(element),
            None => outputs.push((output, vec![element])),
        }
    }

    /// A stage without keys and restrictions.
    pub(super) fn process(&mut self, element: &Element, bound: EventTime) {
        for (n, output) in outputs(self.stage) {
            for value in &element.values {
                for child in children(self.node, n, *value) {
                    let time = child_time(self.case, element.time, child);
                    self.put(output, Element::of(vec![child], time, bound));
                }
            }
        }
    }

    /// Reads some of a restriction, or all of it, and says what is left.
    pub(super) fn read(&mut self, element: &Element, bound: EventTime) {
        let each = self.case.records[&self.node];
        let end = element.end.or(each.map(|each| each * element.values.len() as u64));
        // What has no end is cut soon after where it is, what has one is read to its end.
        let truncated = self.draining.then(|| element.position + self.random.below(3) as u64);
        let end = end.or(truncated);
        let some = element.position + self.random.below(5) as u64;
        let stops = self.checkpoint || end.is_none() || self.random.one_in(2);
        let until = if stops { some.min(end.unwrap_or(some)) } else { end.unwrap_or(some) };
        for position in element.position..until {
            let (value, number) = match each {
                Some(each) => (element.values[(position / each) as usize], position % each),
                None => (element.values[0], position),
            };
            let record = record(self.node, value, number);
            let time = record_time(self.case, element.time, position, record);
            for (n, output) in outputs(self.stage) {
                self.put(output, Element::of(vec![at_output(record, n)], time, bound));
            }
        }
        if each.is_none() {
            self.effects.read.push((element.values[0], element.position, until));
        }
        if end.is_none_or(|end| until < end) {
            let element = Element { position: until, end, ..element.clone() };
            // Some say nothing of a watermark, ever.
            let tells = !element.values[0].is_multiple_of(4);
            let hold = if tells { estimate(element.time, until) } else { element.time };
            let delay = if self.random.one_in(2) { 0 } else { self.random.below(100_000) };
            self.effects.residuals.push(Rest { element, hold, delay: Duration::from_micros(delay as u64) });
        }
    }

    fn state(&mut self, key: StateKey) -> &mut State {
        let committed = self.states.get(&key);
        self.effects.states.entry(key).or_insert_with(|| committed.cloned().unwrap_or_default())
    }

    fn set(&mut self, keyed: &KeyedStage, id: TimerId, fire: i64, hold: EventTime, pane: &str) {
        let partition = partition_of(key_of_timer(&id));
        let expiry = expiry(keyed, window_of(&id));
        let timer = Timer { id, fire: EventTime(fire), hold, pane: pane.to_owned().into(), expiry };
        self.effects.timers.push(TimerChange::Set { timer, partition });
    }

    /// A stage with state and timers.
    pub(super) fn process_keyed(&mut self, keyed: &KeyedStage, element: &Element, bound: EventTime) {
        let start = window_start(element.time);
        let expiry = expiry(keyed, start);
        if expiry < self.watermark {
            self.effects.dropped.push(element.clone());
            return;
        }
        let key = element.key();
        let id = |family: usize, tag: String| TimerId {
            family,
            key: key.to_string().into(),
            window: start.to_string().into(),
            tag: tag.into(),
        };
        let expires = keyed.families.iter().position(|family| family.kind == TimerKind::Expiration);
        if let Some(family) = expires {
            let end = EventTime(start + WINDOW - 1);
            self.set(keyed, id(family, String::new()), expiry.millis(), end, "");
        }
        let time = element.time.max(START);
        let flush = id(0, "flush".to_owned());
        for value in &element.values {
            let made = mix(*value, self.node.0 as u64);
            // Also when the window is over.
            let soon = |span: u64| time.millis() + (made / 64 % span) as i64;
            let unique = self.random.next();
            match made % 6 {
                0 => self.emit(&[*value], element.time, bound),
                1 => {
                    let fire = soon(30);
                    let hold = if (made / 8).is_multiple_of(2) { EventTime(fire).min(expiry) } else { time };
                    let hops = (made / 16 % 3).to_string();
                    self.set(keyed, id(0, format!("{unique} {value}")), fire, hold, &hops);
                }
                2 => {
                    let state = self.state((self.node, key, start));
                    state.flushed.push(*value);
                    state.earliest = state.earliest.min(time);
                    let hold = state.earliest;
                    self.set(keyed, flush.clone(), soon(20), hold, "");
                }
                3 => {
                    let state = std::mem::take(self.state((self.node, key, start)));
                    let State { mut flushed, earliest, expiring } = state;
                    self.state((self.node, key, start)).expiring = expiring;
                    flushed.push(*value);
                    self.effects.timers.push(TimerChange::Clear(flush.clone()));
                    self.emit(&flushed, earliest.min(time), bound.max(time));
                }
                4 => {
                    let due = self.now.millis() + (made / 64 % 50) as i64;
                    let hops = (made / 8 % 3).to_string();
                    self.set(keyed, id(1, format!("{unique} {value}")), due, time, &hops);
                }
                _ if expires.is_some() => self.state((self.node, key, start)).expiring.push(*value),
                _ => self.emit(&[*value], element.time, bound),
            }
        }
    }

    pub(super) fn fire(&mut self, keyed: &KeyedStage, timer: &Timer, bound: EventTime) {
        let key = (self.node, key_of_timer(&timer.id), window_of(&timer.id));
        let tag = text(&timer.id.tag);
        let value = tag.split(' ').nth(1).map(|value| value.parse::<u64>().unwrap());
        match (keyed.families[timer.id.family].kind, value) {
            (TimerKind::EventTime, Some(value)) => match text(&timer.pane) {
                // Once its window is over it is not set any more.
                hops if hops != "0" && timer.fire < timer.expiry => {
                    let fire = timer.fire.millis() + self.random.below(15) as i64;
                    let hops = hops.parse::<u64>().unwrap() - 1;
                    self.set(keyed, timer.id.clone(), fire, timer.hold, &hops.to_string());
                }
                _ => self.emit(&[value], timer.hold, bound),
            },
            (TimerKind::EventTime, None) => {
                let expiring = std::mem::take(&mut self.state(key).expiring);
                let State { flushed, earliest, .. } = std::mem::take(self.state(key));
                self.state(key).expiring = expiring;
                assert!(!flushed.is_empty(), "{timer:?} fires, and the state is not there");
                self.emit(&flushed, earliest, bound);
            }
            (TimerKind::ProcessingTime, Some(value)) => match text(&timer.pane) {
                "0" => self.emit(&[value], timer.hold, bound),
                hops => {
                    let due = self.now.millis() + self.random.below(40) as i64;
                    let hops = hops.parse::<u64>().unwrap() - 1;
                    self.set(keyed, timer.id.clone(), due, timer.hold, &hops.to_string());
                }
            },
            (TimerKind::Expiration, _) => {
                let State { flushed, expiring, .. } = std::mem::take(self.state(key));
                assert!(flushed.is_empty(), "{timer:?} fires before another timer of the window");
                self.emit(&expiring, timer.hold, bound);
            }
            (TimerKind::ProcessingTime, None) => panic!("nobody has set {timer:?}"),
        }
    }
}
