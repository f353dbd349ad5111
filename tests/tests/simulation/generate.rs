//! Random cases: pipelines of which the plain computation knows all that is to come, or all but times and windows.

use super::case::*;
use super::random::Random;

/// So many collections have more elements than those that they were made of.
const MOST_MULTIPLIED: usize = 3;
/// Nothing that a case begins with is later, in milliseconds.
const SPAN: i64 = 100;

/// Where elements come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Bounded,
    /// A TestStream.
    Stream,
    /// Restrictions that are read as if they had no end.
    Reads,
}

struct Generator<'a> {
    random: &'a mut Random,
    case: Case,
    source: Source,
    multiplied: usize,
    salt: u64,
}

pub fn case(random: &mut Random) -> Case {
    let source =
        random.pick(&[Source::Bounded, Source::Bounded, Source::Stream, Source::Stream, Source::Reads]);
    let late = source == Source::Stream && random.one_in(2);
    let streaming = source != Source::Bounded;
    let case = Case { collections: Vec::new(), steps: Vec::new(), late, streaming, sinks: 0 };
    let mut generator = Generator { random, case, source, multiplied: 0, salt: 0 };
    if source == Source::Stream {
        generator.test_stream();
    }
    for _ in 0..generator.random.below(3).max(usize::from(source != Source::Stream)) {
        generator.create();
    }
    if source == Source::Reads {
        for input in 0..generator.case.collections.len() {
            if input == 0 || generator.random.one_in(2) {
                generator.read_on(input);
            }
        }
    }
    if late {
        // So that it matters.
        let windowed = generator.assign(0);
        match generator.random.below(3) {
            0 => generator.stateful(windowed),
            _ => generator.group(windowed),
        }
    }
    for _ in 0..2 + generator.random.below(8) {
        generator.any_step();
    }
    generator.sinks();
    generator.case
}

const GLOBAL: Windowing = Windowing {
    windows: Windows::Global,
    merged: false,
    lateness: 0,
    trigger: Trigger::Default,
    output_time: OutputTime::EndOfWindow,
};

impl Generator<'_> {
    fn step(&mut self, kind: Kind, inputs: Vec<Col>, outputs: Vec<Collection>) -> Vec<Col> {
        let first = self.case.collections.len();
        self.case.collections.extend(outputs);
        let outputs: Vec<_> = (first..self.case.collections.len()).collect();
        self.salt += 1;
        let salt = self.random.next() ^ self.salt;
        let environment = self.random.below(2);
        self.case.steps.push(Step { kind, inputs, outputs: outputs.clone(), salt, environment });
        outputs
    }

    fn coders(&mut self) -> (usize, usize) {
        (self.random.below(CODERS.len()), self.random.below(CODERS.len()))
    }

    fn source(&mut self, unbounded: bool) -> Collection {
        let coders = if unbounded { (STREAM_CODER, STREAM_CODER) } else { self.coders() };
        Collection { windowing: GLOBAL, unbounded, coders, sure: Sure::Everything }
    }

    /// Like the input, but encoded otherwise.
    fn like(&mut self, input: Col) -> Collection {
        Collection { coders: self.coders(), ..self.case.collections[input].clone() }
    }

    fn element(&mut self, time: i64) -> Element {
        self.salt += 1;
        Element { time, key: format!("k{}", self.random.below(4)), value: format!("e{}", self.salt) }
    }

    /// A time that no watermark and no beginning of a window has, unless that is to be so.
    fn time(&mut self, from: i64) -> i64 {
        let time = from + self.random.time(SPAN);
        if self.case.late { time } else { time | 1 }
    }

    fn create(&mut self) {
        let elements = (0..self.random.below(20)).map(|_| {
            let time = self.time(0);
            self.element(time)
        });
        let elements = elements.collect();
        let output = self.source(false);
        self.step(Kind::Create(elements), Vec::new(), vec![output]);
    }

    fn read_on(&mut self, input: Col) {
        let mut output = self.like(input);
        output.unbounded = true;
        self.step(Kind::Read, vec![input], vec![output]);
    }

    fn test_stream(&mut self) {
        let outputs = 1 + self.random.below(2);
        let mut watermarks = vec![0; outputs];
        let mut events = Vec::new();
        for _ in 0..self.random.below(if self.case.late { 30 } else { 12 }) {
            let output = self.random.below(outputs);
            let watermark = watermarks[output];
            events.push(match self.random.below(6) {
                0 | 1 => {
                    watermarks[output] += self.random.time(40) & if self.case.late { -1 } else { -2 };
                    Event::Watermark { output, to: watermarks[output] }
                }
                2 => Event::Clock { by: self.random.time(60) },
                _ => {
                    let elements = (0..1 + self.random.below(4)).map(|_| {
                        let late = self.case.late && self.random.one_in(3);
                        let behind = if late { SPAN / 2 + self.random.time(SPAN) } else { 0 };
                        let time = self.time(watermark) - behind;
                        self.element(time)
                    });
                    Event::Elements { output, elements: elements.collect() }
                }
            });
        }
        let outputs = (0..outputs).map(|_| self.source(true)).collect();
        self.step(Kind::TestStream(events), Vec::new(), outputs);
    }

    /// A collection; rather one that was made last.
    fn any(&mut self) -> Col {
        let count = self.case.collections.len();
        let back = self.random.below(count).min(self.random.below(count));
        count - 1 - back
    }

    fn is_sure(&self, col: Col) -> bool {
        self.case.collections[col].sure == Sure::Everything
    }

    fn any_step(&mut self) {
        let input = self.any();
        if self.case.collections[input].sure == Sure::AllButBeside {
            return;
        }
        let sure = self.is_sure(input);
        match self.random.below(16) {
            0 => self.map(input),
            1 => self.flatten(input),
            2 => {
                let output = self.like(input);
                self.step(Kind::Reshuffle, vec![input], vec![output]);
            }
            3 | 4 if self.multiplied < MOST_MULTIPLIED && self.may_be_later(input) => {
                self.multiplied += 1;
                let output = self.like(input);
                self.step(Kind::Read, vec![input], vec![output]);
            }
            5..=7 if sure => {
                self.assign(input);
            }
            8..=10 if sure => self.group(input),
            11 | 12 if sure => self.stateful(input),
            13 | 14 if sure => self.side_input(input),
            15 if sure && self.case.streaming => self.live_side_input(input),
            _ => self.map(input),
        }
    }

    /// Whether elements may get a later time. It may be after their window's end, which the watermark then passes
    /// before they come.
    fn may_be_later(&self, input: Col) -> bool {
        !self.case.streaming || self.case.collections[input].windowing.windows == Windows::Global
    }

    fn map(&mut self, input: Col) {
        let outputs = (0..1 + self.random.below(2)).map(|_| self.like(input)).collect();
        let shift = self.may_be_later(input) && self.random.one_in(2);
        self.step(Kind::Map { shift }, vec![input], outputs);
    }

    fn flatten(&mut self, input: Col) {
        let windowing = self.case.collections[input].windowing;
        let same = |col: &Col| {
            let other = &self.case.collections[*col];
            other.windowing == windowing && other.sure != Sure::AllButBeside
        };
        let others: Vec<Col> = (0..self.case.collections.len()).filter(same).collect();
        let mut inputs = vec![input];
        for _ in 0..self.random.below(3) {
            let other = self.random.pick(&others);
            // Read twice, elements are there twice.
            if !inputs.contains(&other) || self.random.one_in(8) {
                inputs.push(other);
            }
        }
        let mut output = self.like(input);
        for input in &inputs {
            output.unbounded |= self.case.collections[*input].unbounded;
            output.sure = output.sure.max(self.case.collections[*input].sure);
        }
        self.step(Kind::Flatten, inputs, vec![output]);
    }

    fn assign(&mut self, input: Col) -> Col {
        let mut output = self.like(input);
        let size = 2 * (2 + self.random.time(20));
        output.windowing = Windowing { windows: self.windows(size), ..GLOBAL };
        if self.random.one_in(2) {
            output.windowing.lateness = self.random.time(60);
        }
        let early = self.random.one_in(4);
        if early {
            let count = 1 + i32::try_from(self.random.below(3)).unwrap();
            let delay = 1 + self.random.time(60);
            let all = [Trigger::EachCount(count), Trigger::EarlyAndLate, Trigger::EachDelay(delay)];
            output.windowing.trigger = self.random.pick(&all);
        } else if !self.case.late {
            let all = [OutputTime::EndOfWindow, OutputTime::Earliest, OutputTime::Latest];
            output.windowing.output_time = self.random.pick(&all);
        }
        self.step(Kind::Assign, vec![input], vec![output])[0]
    }

    fn windows(&mut self, size: i64) -> Windows {
        match self.random.below(6) {
            0 => Windows::Global,
            // Watermarks are even in a stream and odd where restrictions are read: no session ends with one.
            1 | 2 => Windows::Sessions { gap: size / 4 * 2 + i64::from(self.source != Source::Reads) },
            3 if self.multiplied < MOST_MULTIPLIED => {
                self.multiplied += 1;
                let period = 2 * (size / 4).max(1) - if self.random.one_in(3) { 0 } else { 2 * (size / 12) };
                Windows::Sliding { size, period: period.max(2) }
            }
            _ => Windows::Sliding { size, period: size },
        }
    }

    /// What comes of windows that merge has merged, and merges no more where elements come bit by bit.
    fn after(&mut self, input: Col) -> Collection {
        let mut output = self.like(input);
        let Collection { windowing, unbounded, sure, .. } = &mut output;
        if windowing.needs_merge() {
            let several = windowing.trigger != Trigger::Default && *unbounded;
            if *unbounded && self.case.late || several {
                *sure = Sure::Values;
            }
            windowing.merged = *unbounded || self.random.one_in(2);
        }
        output
    }

    /// Whether all that belongs together comes in one pane.
    fn comes_at_once(&self, input: Col) -> bool {
        let Collection { windowing, unbounded, .. } = &self.case.collections[input];
        !unbounded || !self.case.late && windowing.trigger == Trigger::Default
    }

    fn rest(&mut self, at_once: bool) -> Rest {
        if at_once && self.random.one_in(2) { Rest::Digest } else { Rest::Singly }
    }

    fn group(&mut self, input: Col) {
        let mut output = self.after(input);
        // Late panes then come when the trigger says so, which is no matter of event time.
        if self.case.late && output.unbounded && output.windowing.trigger != Trigger::Default {
            output.sure = Sure::Values;
        }
        let rest = self.rest(self.comes_at_once(input));
        let kind = if self.random.one_in(2) { Kind::Group(rest) } else { Kind::Combine(rest) };
        self.step(kind, vec![input], vec![output]);
    }

    fn stateful(&mut self, input: Col) {
        let Collection { windowing, unbounded, .. } = self.case.collections[input].clone();
        // What comes at the last time of a window may come after the timer that is set to it.
        let rest = self.rest(!self.case.streaming);
        let mut kinds = vec![Stateful::AtEnd(rest)];
        if !windowing.needs_merge() {
            kinds.extend([Stateful::Distinct, Stateful::Ticks]);
        }
        if !windowing.needs_merge() || !unbounded || !self.case.late {
            kinds.push(Stateful::CountAtExpiry);
        }
        if windowing.windows == Windows::Global {
            kinds.push(Stateful::AtTime(self.random.time(100)));
        }
        let kind = self.random.pick(&kinds);
        let output = self.after(input);
        self.step(Kind::Stateful(kind), vec![input], vec![output]);
    }

    fn side_input(&mut self, input: Col) {
        let fits = |col: &Col| {
            let side = &self.case.collections[*col];
            let sessions = matches!(side.windowing.windows, Windows::Sessions { .. });
            !side.unbounded && !sessions && side.sure == Sure::Everything
        };
        let sides: Vec<Col> = (0..self.case.collections.len()).filter(fits).collect();
        if sides.is_empty() {
            return self.map(input);
        }
        let side = self.random.pick(&sides);
        let access = self.random.pick(&[Access::Iterable, Access::OfKey]);
        let output = self.like(input);
        self.step(Kind::SideInput(access), vec![input, side], vec![output]);
    }

    fn live_side_input(&mut self, input: Col) {
        let fits = |col: &Col| {
            let Collection { windowing, unbounded, sure, .. } = &self.case.collections[*col];
            let sessions = matches!(windowing.windows, Windows::Sessions { .. });
            *unbounded && !sessions && *sure == Sure::Everything && windowing.trigger == Trigger::Default
        };
        let sides: Vec<Col> = (0..self.case.collections.len()).filter(fits).collect();
        if sides.is_empty() {
            return self.map(input);
        }
        let side = self.random.pick(&sides);
        let access = self.random.pick(&[Access::Iterable, Access::OfKey]);
        let output = Collection { sure: Sure::AllButBeside, unbounded: true, ..self.like(input) };
        self.step(Kind::LiveSideInput(access), vec![input, side], vec![output]);
    }

    /// After everything that nobody reads, and some of what somebody does.
    fn sinks(&mut self) {
        for col in 0..self.case.collections.len() {
            let is_read = self.case.steps.iter().any(|step| step.inputs.contains(&col));
            if !is_read || self.random.one_in(5) {
                let sink = self.case.sinks;
                self.case.sinks += 1;
                self.step(Kind::Sink(sink), vec![col], Vec::new());
            }
        }
    }
}
