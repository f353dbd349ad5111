//! The plain computation of a case: lists, a watermark for each collection, and nothing of the runner's code.

use std::collections::{BTreeMap, BTreeSet};

use super::case::*;
use super::functions::{first_tick, mapped};
use super::words::{self, TICK, TICKS};

const MIN: i64 = i64::MIN;
const MAX: i64 = i64::MAX;

/// What comes of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    pub sinks: BTreeMap<usize, Vec<Row>>,
    /// How many elements were dropped, counted once for each window.
    pub dropped: u64,
    /// All that each collection ever had.
    all: Vec<Vec<Seen>>,
}

#[derive(Clone, Debug)]
struct Seen {
    row: Row,
    /// Whether it was there before its window ended.
    in_time: bool,
}

impl Outcome {
    /// What an element may have seen of a side input that goes on changing: at least the first, at most the second.
    pub fn permitted(&self, case: &Case, step: &Step, row: &Row) -> (Vec<String>, Vec<String>) {
        let Kind::LiveSideInput(access) = step.kind else { return (Vec::new(), Vec::new()) };
        let all = &self.all[step.inputs[1]];
        let of =
            |wanted: fn(&Seen) -> bool| look(case, step, access, all.iter().filter(|it| wanted(it)), row);
        (of(|seen| seen.in_time), of(|_| true))
    }
}

/// What a row sees of a side input.
fn look<'a>(
    case: &Case,
    step: &Step,
    access: Access,
    side: impl Iterator<Item = &'a Seen>,
    row: &Row,
) -> Vec<String> {
    let window = mapped(case.collections[step.inputs[1]].windowing.windows, row.window);
    let seen = side.map(|seen| &seen.row).filter(|other| other.window == window);
    let mut seen: Vec<String> = match access {
        Access::Iterable => seen.map(|other| format!("{}:{}", other.key, other.value)).collect(),
        Access::OfKey => seen.filter(|other| other.key == row.key).map(|other| other.value.clone()).collect(),
    };
    seen.sort();
    seen
}

/// What a step remembers of a key and window.
#[derive(Clone, Debug, Default)]
struct Cell {
    values: Vec<(String, i64)>,
    /// Whether the window has been told to be over, or how many ticks there were.
    ticks: i64,
    set: bool,
}

struct Plain<'a> {
    case: &'a Case,
    /// By collection.
    watermarks: Vec<i64>,
    /// By step.
    cells: Vec<BTreeMap<(String, Window), Cell>>,
    /// By step, what waits for its side input.
    waiting: Vec<Vec<Row>>,
    clock: i64,
    outcome: Outcome,
}

pub fn compute(case: &Case) -> Outcome {
    let mut plain = Plain {
        case,
        watermarks: vec![MIN; case.collections.len()],
        cells: vec![BTreeMap::new(); case.steps.len()],
        waiting: vec![Vec::new(); case.steps.len()],
        clock: 0,
        outcome: Outcome { all: vec![Vec::new(); case.collections.len()], ..Outcome::default() },
    };
    let global = |element: &Element| Row {
        key: element.key.clone(),
        value: element.value.clone(),
        window: Window::Global,
        time: element.time,
    };
    let mut created = Vec::new();
    let mut streams = Vec::new();
    for step in &case.steps {
        match &step.kind {
            Kind::Create(elements) => created.push((step.outputs[0], elements.iter().map(global).collect())),
            Kind::TestStream(events) => streams.push((step, events)),
            _ => {}
        }
    }
    let ends: Vec<_> = created.iter().map(|(col, _)| (*col, MAX)).collect();
    plain.go_on(created, Vec::new());
    plain.go_on(Vec::new(), ends);
    for (step, events) in streams {
        for event in events {
            match event {
                Event::Elements { output, elements } => {
                    let rows = elements.iter().map(global).collect();
                    plain.go_on(vec![(step.outputs[*output], rows)], Vec::new());
                }
                Event::Watermark { output, to } => {
                    plain.go_on(Vec::new(), vec![(step.outputs[*output], *to)])
                }
                Event::Clock { by } => {
                    plain.clock += by;
                    plain.go_on(Vec::new(), Vec::new());
                }
            }
        }
        plain.go_on(Vec::new(), step.outputs.iter().map(|col| (*col, MAX)).collect());
    }
    plain.outcome
}

impl Plain<'_> {
    /// These rows come, then the sources are this far; and all follows that does.
    fn go_on(&mut self, rows: Vec<(Col, Vec<Row>)>, watermarks: Vec<(Col, i64)>) {
        let mut arrived: Vec<Vec<Row>> = vec![Vec::new(); self.case.collections.len()];
        let before = self.watermarks.clone();
        for (col, rows) in rows {
            self.saw(col, &rows, before[col]);
            arrived[col] = rows;
        }
        watermarks.into_iter().for_each(|(col, to)| self.watermarks[col] = to);
        let case = self.case;
        for (index, step) in case.steps.iter().enumerate() {
            if matches!(step.kind, Kind::Create(_) | Kind::TestStream(_)) {
                continue;
            }
            let mains = if matches!(step.kind, Kind::SideInput(_) | Kind::LiveSideInput(_)) {
                &step.inputs[..1]
            } else {
                &step.inputs
            };
            let least = |all: &[i64]| mains.iter().map(|col| all[*col]).min().unwrap();
            let (was, is) = (least(&before), least(&self.watermarks));
            let given: Vec<Row> = mains.iter().flat_map(|col| arrived[*col].clone()).collect();
            let (made, hold) = self.step(index, step, given, was, is);
            let reached = is.min(hold);
            for (output, rows) in made {
                self.saw(step.outputs[output], &rows, before[step.outputs[output]]);
                arrived[step.outputs[output]].extend(rows);
            }
            for col in &step.outputs {
                self.watermarks[*col] = self.watermarks[*col].max(reached);
            }
        }
    }

    fn saw(&mut self, col: Col, rows: &[Row], watermark: i64) {
        let seen = rows.iter().map(|row| {
            let in_time = row.window.last_time() >= watermark;
            Seen { row: row.clone(), in_time }
        });
        self.outcome.all[col].extend(seen);
    }

    /// What a step makes of rows by output, and before when more may come of what it keeps.
    fn step(
        &mut self,
        index: usize,
        step: &Step,
        given: Vec<Row>,
        was: i64,
        is: i64,
    ) -> (Vec<(usize, Vec<Row>)>, i64) {
        let one = |rows: Vec<Row>| vec![(0, rows)];
        let made = match &step.kind {
            Kind::Create(_) | Kind::TestStream(_) => Vec::new(),
            Kind::Map { shift } => {
                let outputs = step.outputs.len();
                let mut made = vec![Vec::new(); outputs];
                for row in given {
                    for it in words::map(step.salt, outputs, *shift, &row.key, &row.value) {
                        let time = (row.time + it.later).min(GLOBAL_MAX);
                        made[it.output].push(Row { key: it.key, value: it.value, time, window: row.window });
                    }
                }
                made.into_iter().enumerate().collect()
            }
            Kind::Assign => {
                let windows = self.case.collections[step.outputs[0]].windowing.windows;
                let assigned = given.iter().flat_map(|row| {
                    assign(windows, row.time).into_iter().map(|window| Row { window, ..row.clone() })
                });
                one(assigned.collect())
            }
            // What was seen beside it is looked at in the end.
            Kind::Flatten | Kind::Reshuffle | Kind::LiveSideInput(_) => one(given),
            Kind::Read => {
                let records = given.iter().flat_map(|row| {
                    (0..words::records(step.salt, &row.value)).map(|position| {
                        let time = (row.time + position as i64 * words::RECORD_STEP).min(GLOBAL_MAX);
                        Row { value: words::record(&row.value, position), time, ..row.clone() }
                    })
                });
                one(records.collect())
            }
            Kind::SideInput(access) => {
                self.waiting[index].extend(given);
                if self.watermarks[step.inputs[1]] < MAX {
                    return (Vec::new(), MIN);
                }
                let waited = std::mem::take(&mut self.waiting[index]);
                one(self.beside(step, *access, waited))
            }
            Kind::Sink(sink) => {
                self.outcome.sinks.entry(*sink).or_default().extend(given);
                Vec::new()
            }
            Kind::Group(rest) | Kind::Combine(rest) => {
                let (rows, hold) = self.group(index, step, *rest, given, was, is);
                return (one(rows), hold);
            }
            Kind::Stateful(kind) => {
                let (rows, hold) = self.stateful(index, step, *kind, given, was, is);
                return (one(rows), hold);
            }
        };
        (made, MAX)
    }

    /// Leaves out what belongs to windows that have expired.
    fn in_time(&mut self, col: Col, given: Vec<Row>, watermark: i64) -> Vec<Row> {
        let lateness = self.case.collections[col].windowing.lateness;
        let before = given.len();
        let in_time: Vec<Row> =
            given.into_iter().filter(|row| row.window.last_time() + lateness >= watermark).collect();
        self.outcome.dropped += (before - in_time.len()) as u64;
        in_time
    }

    /// All that the side input ever has: it ends before anything is read with it.
    fn beside(&self, step: &Step, access: Access, given: Vec<Row>) -> Vec<Row> {
        let all = &self.outcome.all[step.inputs[1]];
        let beside = |row: Row| {
            let seen = look(self.case, step, access, all.iter(), &row);
            Row { value: words::beside(access, step.salt, &row.value, seen), ..row }
        };
        given.into_iter().map(beside).collect()
    }

    fn group(
        &mut self,
        index: usize,
        step: &Step,
        rest: Rest,
        given: Vec<Row>,
        was: i64,
        is: i64,
    ) -> (Vec<Row>, i64) {
        let Collection { windowing, unbounded, .. } = self.case.collections[step.inputs[0]].clone();
        let given = self.in_time(step.inputs[0], given, was);
        let cells = &mut self.cells[index];
        for row in given {
            cells.entry((row.key, row.window)).or_default().values.push((row.value, row.time));
        }
        if windowing.needs_merge() {
            merge(cells);
        }
        let mut made = Vec::new();
        let mut hold = MAX;
        cells.retain(|(key, window), cell| {
            let earliest = cell.values.iter().map(|(_, time)| *time).min().unwrap();
            let latest = cell.values.iter().map(|(_, time)| *time).max().unwrap();
            let end = window.last_time();
            let time = match windowing.output_time {
                OutputTime::EndOfWindow => end,
                OutputTime::Earliest => earliest,
                OutputTime::Latest => latest,
            };
            // In whatever panes it comes, taken singly it comes once. When it does matters to what is late alone; but
            // of bounded input nothing comes before all is there, and its windows have merged.
            if end >= is && (windowing.trigger == Trigger::Default || rest == Rest::Digest || !unbounded) {
                hold =
                    hold.min(if windowing.output_time == OutputTime::EndOfWindow { end } else { earliest });
                return true;
            }
            let values = cell.values.iter().map(|(value, _)| value.clone()).collect();
            for value in words::rest(rest, step.salt, values) {
                made.push(Row { key: key.clone(), value, window: *window, time });
            }
            false
        });
        (made, hold)
    }

    fn stateful(
        &mut self,
        index: usize,
        step: &Step,
        kind: Stateful,
        given: Vec<Row>,
        was: i64,
        is: i64,
    ) -> (Vec<Row>, i64) {
        let windowing = self.case.collections[step.inputs[0]].windowing;
        let given = self.in_time(step.inputs[0], given, was);
        let clock = self.clock;
        let cells = &mut self.cells[index];
        let mut made = Vec::new();
        for row in given {
            let cell = cells.entry((row.key.clone(), row.window)).or_default();
            let known = cell.values.iter().any(|(value, _)| *value == row.value);
            if kind == Stateful::Distinct && !known {
                made.push(Row { time: row.window.last_time(), ..row.clone() });
            }
            cell.values.push((row.value, row.time));
            cell.set = true;
        }
        if windowing.needs_merge() {
            merge(cells);
        }
        let mut hold = MAX;
        for ((key, window), cell) in cells.iter_mut().filter(|(_, cell)| cell.set) {
            let end = window.last_time();
            let mut emit = |values: Vec<String>, time: i64| {
                let rows =
                    values.into_iter().map(|value| Row { key: key.clone(), value, window: *window, time });
                made.extend(rows);
            };
            let values = || cell.values.iter().map(|(value, _)| value.clone()).collect::<Vec<_>>();
            match kind {
                Stateful::Distinct => {}
                Stateful::AtEnd(rest) if end <= is => {
                    emit(words::rest(rest, step.salt, values()), end);
                    *cell = Cell::default();
                }
                Stateful::AtTime(time) if time <= clock || is == MAX => {
                    emit(values(), end);
                    *cell = Cell::default();
                }
                Stateful::CountAtExpiry if is == MAX || end + windowing.lateness < is => {
                    emit(vec![words::counted(cell.values.len())], end);
                    *cell = Cell::default();
                }
                Stateful::AtEnd(_) | Stateful::AtTime(_) | Stateful::CountAtExpiry => hold = hold.min(end),
                Stateful::Ticks => {
                    let due = |ticks: i64| first_tick(*window) + ticks * TICK;
                    while cell.ticks < TICKS && due(cell.ticks) <= is {
                        emit(vec![words::tick(cell.ticks)], end);
                        cell.ticks += 1;
                    }
                    if cell.ticks < TICKS {
                        hold = hold.min(end);
                    }
                }
            }
        }
        (made, hold)
    }
}

impl Windowing {
    pub fn needs_merge(&self) -> bool {
        matches!(self.windows, Windows::Sessions { .. }) && !self.merged
    }
}

fn assign(windows: Windows, time: i64) -> Vec<Window> {
    match windows {
        Windows::Global => vec![Window::Global],
        Windows::Sessions { gap } => vec![Window::Interval(time, time + gap)],
        Windows::Sliding { size, period } => {
            let starts = (time - size + 1..=time).filter(|start| start.rem_euclid(period) == 0);
            starts.map(|start| Window::Interval(start, start + size)).collect()
        }
    }
}

/// Joins windows of a key for as long as some overlap.
fn merge(cells: &mut BTreeMap<(String, Window), Cell>) {
    let overlap = |one: &Window, other: &Window| match (one, other) {
        (Window::Interval(start, end), Window::Interval(from, to)) => start < to && from < end,
        _ => false,
    };
    loop {
        let keys: BTreeSet<_> = cells.keys().cloned().collect();
        let found = keys.iter().find_map(|one| {
            let other =
                keys.iter().find(|other| one < *other && one.0 == other.0 && overlap(&one.1, &other.1))?;
            Some((one.clone(), other.clone()))
        });
        let Some((one, other)) = found else { return };
        let (Window::Interval(start, end), Window::Interval(from, to)) = (one.1, other.1) else { return };
        let (first, second) = (cells.remove(&one).unwrap(), cells.remove(&other).unwrap());
        let both = cells.entry((one.0, Window::Interval(start.min(from), end.max(to)))).or_default();
        both.values.extend(first.values.into_iter().chain(second.values));
        both.set |= first.set || second.set;
    }
}
