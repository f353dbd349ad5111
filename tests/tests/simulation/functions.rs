//! What workers do for the steps of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use beam_model::coders::{IntervalWindow, varint};
use beam_model::pipeline::{CombinePayload, FunctionSpec, ParDoPayload};
use beam_model::time::EventTime;
use beam_model::urns::standard_p_transforms::combine_components as combine;
use beam_model::urns::standard_p_transforms::primitives::MAP_WINDOWS;
use beam_model::urns::standard_p_transforms::splittable_par_do_components as sdf;
use beamline_tests::scripted_harness::{Call, FiredTimer, Script};
use bytes::Bytes;
use prost::Message;

use super::case::*;
use super::random::Chance;
use super::words::{self, TICK, TICKS};

pub const CREATE: &str = "simulation:create";
pub const MAP: &str = "simulation:map";
pub const UNGROUP: &str = "simulation:ungroup";
pub const TAKE_APART: &str = "simulation:take_apart";
pub const STATEFUL: &str = "simulation:stateful";
pub const SIDE_INPUT: &str = "simulation:side_input";
pub const READ: &str = "simulation:read";
pub const SINK: &str = "simulation:sink";

/// The rest of a restriction is delayed by less than this, in milliseconds.
const MOST_DELAY: usize = 40;

/// What sinks have written, by instruction; it counts once that has been committed.
#[derive(Default)]
pub struct Written(Mutex<BTreeMap<String, Vec<(usize, Row)>>>);

impl Written {
    fn add(&self, instruction: &str, sink: usize, row: Row) {
        // A bridge puts a number before it.
        let instruction = instruction.find("bundle-").map_or(instruction, |start| &instruction[start..]);
        self.0.lock().unwrap().entry(instruction.to_owned()).or_default().push((sink, row));
    }

    /// What these instructions have written, by sink.
    pub fn of(&self, committed: &BTreeSet<String>) -> BTreeMap<usize, Vec<Row>> {
        let mut rows: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
        for (instruction, written) in &*self.0.lock().unwrap() {
            if committed.contains(instruction) {
                written.iter().for_each(|(sink, row)| rows.entry(*sink).or_default().push(row.clone()));
            }
        }
        rows
    }
}

type Done = Result<(), String>;

/// The functions of a case. What they may do one way or another is by chance.
pub fn script(case: &Arc<Case>, chance: &Chance, written: &Arc<Written>) -> Script {
    let with = |function: fn(&Step, &[u8], &mut Call<'_>) -> Done| {
        let case = case.clone();
        move |element: &[u8], call: &mut Call<'_>| function(step(&case, call.payload())?, element, call)
    };
    let (sinks, chance, timers, processing) = (written.clone(), chance.clone(), case.clone(), case.clone());
    let (sunk, sides) = (case.clone(), case.clone());
    Script::new()
        .do_fn(CREATE, with(create))
        .do_fn(MAP, with(map))
        .do_fn(UNGROUP, with(ungroup))
        .do_fn(TAKE_APART, with(take_apart))
        .do_fn(STATEFUL, with(stateful))
        .do_fn(SIDE_INPUT, move |element, call| {
            side_input(&sides, step(&sides, call.payload())?, element, call)
        })
        .on_timer(STATEFUL, move |timer, call| fired(step(&timers, call.payload())?, timer, call))
        .do_fn(SINK, move |element, call| sink(step(&sunk, call.payload())?, element, call, &sinks))
        .do_fn(combine::COMBINE_PER_KEY_PRECOMBINE, hand_on)
        .do_fn(combine::COMBINE_PER_KEY_MERGE_ACCUMULATORS, combine_values)
        .do_fn(combine::COMBINE_PER_KEY_EXTRACT_OUTPUTS, hand_on)
        .do_fn(combine::COMBINE_GROUPED_VALUES, combine_values)
        .do_fn(MAP_WINDOWS, map_windows)
        .do_fn(sdf::PAIR_WITH_RESTRICTION, with_restrictions(case, pair))
        .do_fn(sdf::SPLIT_AND_SIZE_RESTRICTIONS, with_restrictions(case, split))
        .do_fn(sdf::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS, move |element, call| {
            let payload = ParDoPayload::decode(call.payload().clone()).map_err(|it| it.to_string())?;
            step(&processing, &payload.do_fn.unwrap_or_default().payload)?;
            // A TestStream does not wait for what is delayed, which might be late then.
            let most = if processing.late { 0 } else { MOST_DELAY };
            process(element, call, &chance, most)
        })
}

fn step<'a>(case: &'a Case, payload: &Bytes) -> Result<&'a Step, String> {
    let index = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<usize>().ok());
    index.and_then(|index| case.steps.get(index)).ok_or_else(|| format!("there is no step {payload:?}"))
}

fn with_restrictions(
    case: &Arc<Case>,
    function: fn(&Step, &[u8], &mut Call<'_>) -> Done,
) -> impl Fn(&[u8], &mut Call<'_>) -> Done + Send + Sync + 'static {
    let case = case.clone();
    move |element, call| {
        let payload = ParDoPayload::decode(call.payload().clone()).map_err(|it| it.to_string())?;
        function(step(&case, &payload.do_fn.unwrap_or_default().payload)?, element, call)
    }
}

/// Takes text behind its length off the front.
fn text(encoded: &mut &[u8]) -> Result<String, String> {
    let (text, length) = varint::read_prefixed(encoded).map_err(|error| error.to_string())?;
    let text = String::from_utf8(text.to_vec()).map_err(|error| error.to_string())?;
    *encoded = &encoded[length..];
    Ok(text)
}

fn pair_of(mut element: &[u8]) -> Result<(String, String), String> {
    let pair = (text(&mut element)?, text(&mut element)?);
    if element.is_empty() { Ok(pair) } else { Err(format!("{element:?} is left of a pair")) }
}

pub fn encoded(texts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    texts.iter().for_each(|text| varint::write_prefixed(&mut out, text.as_bytes()));
    out
}

/// A key and an iterable of values.
fn group_of(mut element: &[u8]) -> Result<(String, Vec<String>), String> {
    let key = text(&mut element)?;
    let (count, mut rest) = element.split_first_chunk::<4>().ok_or("no count of values")?;
    let values = (0..u32::from_be_bytes(*count)).map(|_| text(&mut rest)).collect::<Result<_, _>>()?;
    if rest.is_empty() { Ok((key, values)) } else { Err(format!("{rest:?} is left of a group")) }
}

fn all_texts(mut encoded: &[u8]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    while !encoded.is_empty() {
        texts.push(text(&mut encoded)?);
    }
    Ok(texts)
}

pub fn window_of(encoded: &[u8]) -> Result<Window, String> {
    if encoded.is_empty() {
        return Ok(Window::Global);
    }
    let (window, _) = IntervalWindow::read(encoded).map_err(|error| error.to_string())?;
    Ok(Window::Interval(window.start.0, window.end.0))
}

fn encoded_window(window: Window) -> Vec<u8> {
    let mut out = Vec::new();
    if let Window::Interval(start, end) = window {
        IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut out);
    }
    out
}

fn create(step: &Step, _: &[u8], call: &mut Call<'_>) -> Done {
    let Kind::Create(elements) = &step.kind else { return Err("it creates nothing".to_owned()) };
    for Element { time, key, value } in elements {
        call.emit_at(EventTime(*time), &encoded(&[key, value]));
    }
    Ok(())
}

fn map(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let Kind::Map { shift } = step.kind else { return Err("it maps nothing".to_owned()) };
    let (key, value) = pair_of(element)?;
    for mapped in words::map(step.salt, step.outputs.len(), shift, &key, &value) {
        let time = EventTime((call.timestamp().0 + mapped.later).min(GLOBAL_MAX));
        call.emit_to_at(&mapped.output.to_string(), time, &encoded(&[&mapped.key, &mapped.value]));
    }
    Ok(())
}

fn emit_rest(step: &Step, key: &str, values: Vec<String>, call: &mut Call<'_>) {
    let rest = match step.kind {
        Kind::Group(rest) | Kind::Combine(rest) | Kind::Stateful(Stateful::AtEnd(rest)) => rest,
        _ => Rest::Singly,
    };
    for value in words::rest(rest, step.salt, values) {
        call.emit_all(&encoded(&[key, &value]));
    }
}

fn ungroup(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let (key, values) = group_of(element)?;
    emit_rest(step, &key, values, call);
    Ok(())
}

/// What combines values joins them.
fn take_apart(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let (key, joined) = pair_of(element)?;
    emit_rest(step, &key, joined.split(',').map(str::to_owned).collect(), call);
    Ok(())
}

fn hand_on(element: &[u8], call: &mut Call<'_>) -> Done {
    CombinePayload::decode(call.payload().clone()).map_err(|error| error.to_string())?;
    call.emit_all(element);
    Ok(())
}

fn combine_values(element: &[u8], call: &mut Call<'_>) -> Done {
    let (key, values) = group_of(element)?;
    let mut parts: Vec<&str> = values.iter().flat_map(|value| value.split(',')).collect();
    parts.sort();
    call.emit_all(&encoded(&[&key, &parts.join(",")]));
    Ok(())
}

fn sink(step: &Step, element: &[u8], call: &mut Call<'_>, written: &Written) -> Done {
    let Kind::Sink(sink) = step.kind else { return Err("it is no sink".to_owned()) };
    let (key, value) = pair_of(element)?;
    for window in call.windows() {
        let (key, value) = (key.clone(), value.clone());
        let row = Row { key, value, window: window_of(window)?, time: call.timestamp().0 };
        written.add(call.instruction(), sink, row);
    }
    call.request_finalization();
    Ok(())
}

/// The key of an element, encoded, as its state and timers have it.
fn key_bytes(element: &[u8]) -> Result<&[u8], String> {
    let (_, length) = varint::read_prefixed(element).map_err(|error| error.to_string())?;
    Ok(&element[..length])
}

/// When a window's first tick comes.
pub fn first_tick(window: Window) -> i64 {
    match window {
        Window::Global => 101,
        Window::Interval(_, end) => end - 1 - (TICKS - 1) * TICK,
    }
}

fn stateful(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let Kind::Stateful(kind) = step.kind else { return Err("it has no state".to_owned()) };
    let key = key_bytes(element)?;
    let (key_text, value) = pair_of(element)?;
    let window = window_of(&call.window())?;
    let last = EventTime(window.last_time());
    match kind {
        Stateful::AtEnd(_) => {
            call.append_to_bag("kept", key, &encoded(&[&value]))?;
            call.set_timer("event", key, "", last, last)
        }
        Stateful::CountAtExpiry => call.append_to_bag("kept", key, &encoded(&[&value])),
        Stateful::Distinct => {
            if !all_texts(&call.bag("kept", key)?)?.contains(&value) {
                call.append_to_bag("kept", key, &encoded(&[&value]))?;
                call.emit_at(last, &encoded(&[&key_text, &value]));
            }
            Ok(())
        }
        Stateful::Ticks => {
            if call.bag("once", key)?.is_empty() {
                call.clear_bag("once", key)?;
                call.append_to_bag("once", key, &encoded(&["0"]))?;
                let first = EventTime(first_tick(window));
                call.set_timer("event", key, "", first, last)?;
            }
            Ok(())
        }
        Stateful::AtTime(time) => {
            call.append_to_bag("kept", key, &encoded(&[&value]))?;
            call.set_timer("processing", key, "", EventTime(time), last)
        }
    }
}

fn fired(step: &Step, timer: &FiredTimer, call: &mut Call<'_>) -> Done {
    let Kind::Stateful(kind) = step.kind else { return Err("it has no timers".to_owned()) };
    let key = timer.key.clone();
    let key_text = text(&mut &key[..])?;
    match kind {
        Stateful::AtEnd(_) | Stateful::AtTime(_) => {
            let kept = all_texts(&call.bag("kept", &key)?)?;
            call.clear_bag("kept", &key)?;
            // It has fired again for what came meanwhile, or for nothing.
            if !kept.is_empty() {
                emit_rest(step, &key_text, kept, call);
            }
            Ok(())
        }
        Stateful::CountAtExpiry => {
            let count = all_texts(&call.bag("kept", &key)?)?.len();
            call.emit_all(&encoded(&[&key_text, &words::counted(count)]));
            Ok(())
        }
        Stateful::Ticks => {
            let ticks = all_texts(&call.bag("once", &key)?)?;
            let number: i64 = ticks.first().and_then(|it| it.parse().ok()).ok_or("no tick was due")?;
            call.emit_all(&encoded(&[&key_text, &words::tick(number)]));
            call.clear_bag("once", &key)?;
            call.append_to_bag("once", &key, &encoded(&[&(number + 1).to_string()]))?;
            if number + 1 < TICKS {
                let next = EventTime(timer.fire.0 + TICK);
                call.set_timer("event", &key, "", next, call.timestamp())?;
            }
            Ok(())
        }
        Stateful::Distinct => Err("it has no timers".to_owned()),
    }
}

fn side_input(case: &Case, step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let (Kind::SideInput(access) | Kind::LiveSideInput(access)) = step.kind else {
        return Err("it has no side input".to_owned());
    };
    let (key, value) = pair_of(element)?;
    // It is the SDK that maps windows.
    let windows = case.collections[step.inputs[1]].windowing.windows;
    let window: Bytes = encoded_window(mapped(windows, window_of(&call.window())?)).into();
    let side = match access {
        Access::Iterable => {
            let texts = all_texts(&call.side_input_in("side", window)?)?;
            texts.chunks(2).map(|pair| pair.join(":")).collect()
        }
        Access::OfKey => all_texts(&call.side_input_of_key_in("side", key_bytes(element)?, window)?)?,
    };
    let value = match step.kind {
        Kind::LiveSideInput(_) => words::with_all(&value, side),
        _ => words::beside(access, step.salt, &value, side),
    };
    call.emit_all(&encoded(&[&key, &value]));
    Ok(())
}

/// Of each window the one of the side input that it looks into. The mapping's payload is the side input's windows.
fn map_windows(element: &[u8], call: &mut Call<'_>) -> Done {
    let mapping = FunctionSpec::decode(call.payload().clone()).map_err(|error| error.to_string())?;
    let (_, length) = varint::read_prefixed(element).map_err(|error| error.to_string())?;
    let (nonce, window) = element.split_at(length);
    let sizes = std::str::from_utf8(&mapping.payload).ok().and_then(|it| it.split_once(','));
    let (size, period) = sizes.ok_or("the mapping is of no windows")?;
    let number = |it: &str| it.parse::<i64>().map_err(|error| error.to_string());
    let windows = Windows::Sliding { size: number(size)?, period: number(period)? };
    let out = [nonce, &encoded_window(mapped(windows, window_of(window)?))].concat();
    call.emit_all(&out);
    Ok(())
}

/// The last window of a side input that has the end of a main input's.
pub fn mapped(side: Windows, main: Window) -> Window {
    match side {
        Windows::Sliding { size, period } => {
            let start = main.last_time() - main.last_time().rem_euclid(period);
            Window::Interval(start, start + size)
        }
        Windows::Global | Windows::Sessions { .. } => Window::Global,
    }
}

fn pair(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let (_, value) = pair_of(element)?;
    let whole = format!("0-{}", words::records(step.salt, &value));
    call.emit_all(&[element, &encoded(&[&whole])].concat());
    Ok(())
}

/// Key, value, and from which record to which.
struct Restriction {
    key: String,
    value: String,
    from: u64,
    to: u64,
}

impl Restriction {
    fn read(mut encoded: &[u8]) -> Result<Self, String> {
        let (key, value, range) = (text(&mut encoded)?, text(&mut encoded)?, text(&mut encoded)?);
        let (from, to) = range.split_once('-').ok_or("a restriction without an end")?;
        let number = |it: &str| it.parse::<u64>().map_err(|error| error.to_string());
        Ok(Self { key, value, from: number(from)?, to: number(to)? })
    }

    fn sized(&self, from: u64, to: u64) -> Vec<u8> {
        let mut out = encoded(&[&self.key, &self.value, &format!("{from}-{to}")]);
        out.extend_from_slice(&((to - from) as f64).to_be_bytes());
        out
    }
}

fn split(step: &Step, element: &[u8], call: &mut Call<'_>) -> Done {
    let whole = Restriction::read(element)?;
    let middle = whole.from + (whole.to - whole.from) * (step.salt % 3) / 2;
    call.emit_all(&whole.sized(whole.from, middle));
    call.emit_all(&whole.sized(middle, whole.to));
    Ok(())
}

fn process(element: &[u8], call: &mut Call<'_>, chance: &Chance, most_delay: usize) -> Done {
    let part = Restriction::read(element)?;
    // Stops by itself now and then, and within a record or two if it is told to.
    let stop = match (call.asked_to_stop(), chance.one_in(3)) {
        (true, _) => part.from + chance.below(3) as u64,
        (false, true) => part.from + chance.below(4) as u64,
        (false, false) => part.to,
    };
    let stop = stop.min(part.to);
    for position in part.from..stop {
        let time = (call.timestamp().0 + position as i64 * words::RECORD_STEP).min(GLOBAL_MAX);
        let record = words::record(&part.value, position);
        call.emit_at(EventTime(time), &encoded(&[&part.key, &record]));
    }
    if stop == part.to {
        return Ok(());
    }
    // What does not say what it keeps is split with its bundle's commit only.
    if call.asked_to_stop() && !chance.one_in(4) {
        call.keep("in", &part.sized(part.from, stop))?;
    }
    let delay = if chance.one_in(2) { 0 } else { chance.below(most_delay) };
    let delay = Duration::from_millis(delay as u64);
    let reached = (call.timestamp().0 + stop as i64 * words::RECORD_STEP).min(GLOBAL_MAX);
    let reached = prost_types::Timestamp {
        seconds: reached.div_euclid(1000),
        nanos: i32::try_from(reached.rem_euclid(1000) * 1_000_000).unwrap(),
    };
    let watermarks = if chance.one_in(4) { Vec::new() } else { vec![("out", reached)] };
    call.checkpoint("in", &part.sized(stop, part.to), delay, &watermarks)
}
