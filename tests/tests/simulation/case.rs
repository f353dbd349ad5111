//! A pipeline as the simulation sees it: steps between collections of `KV<text, text>`.

use std::collections::BTreeSet;

/// Index of a collection in its case.
pub type Col = usize;

/// The last event time in the global window.
pub const GLOBAL_MAX: i64 = beam_model::time::EventTime::GLOBAL_WINDOW_MAX.0;

#[derive(Clone, Debug)]
pub struct Case {
    pub collections: Vec<Collection>,
    /// Producers before consumers.
    pub steps: Vec<Step>,
    /// Whether elements come that are late.
    pub late: bool,
    /// Whether some input is unbounded.
    pub streaming: bool,
    pub sinks: usize,
}

impl Case {
    /// What is in it that is worth a case.
    pub fn features(&self) -> BTreeSet<&'static str> {
        let of_step = |step: &Step| match step.kind {
            Kind::Create(_) => "bounded source",
            Kind::TestStream(_) => "test stream",
            Kind::Map { .. } => "map",
            Kind::Assign => "windows",
            Kind::Group(_) => "group",
            Kind::Combine(_) => "combine",
            Kind::Flatten => "flatten",
            Kind::Reshuffle => "reshuffle",
            Kind::Stateful(_) => "state",
            Kind::SideInput(_) => "side input",
            Kind::LiveSideInput(_) => "live side input",
            Kind::Read => "splittable",
            Kind::Sink(_) => "sink",
        };
        let of_collection = |collection: &Collection| match collection.windowing.windows {
            _ if collection.windowing.trigger != Trigger::Default => "early or late panes",
            Windows::Global => "global window",
            Windows::Sliding { size, period } if size == period => "fixed windows",
            Windows::Sliding { .. } => "sliding windows",
            Windows::Sessions { .. } => "sessions",
        };
        let late = self.late.then_some("late elements");
        let features = self.steps.iter().map(of_step).chain(self.collections.iter().map(of_collection));
        features.chain(late).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Collection {
    pub windowing: Windowing,
    pub unbounded: bool,
    /// Coders of keys and values, as indices of [`CODERS`].
    pub coders: (usize, usize),
    pub sure: Sure,
}

/// What can be said of a collection beforehand. Later ones say less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sure {
    Everything,
    /// Keys and values, but neither times nor windows.
    Values,
    /// All but what has been seen beside each value: some of it may come later, or not.
    AllButBeside,
}

/// All write text behind its length where they are nested; one is known to the SDK alone.
pub const CODERS: [&str; 4] = ["bytes", "utf8", "opaque", "prefixed"];
/// The one of what a TestStream plays: it writes text in one way only.
pub const STREAM_CODER: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windowing {
    pub windows: Windows,
    /// Windows of sessions have merged, and merge no more.
    pub merged: bool,
    /// In milliseconds.
    pub lateness: i64,
    pub trigger: Trigger,
    pub output_time: OutputTime,
}

/// A window function, with its times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    Global,
    /// Fixed, if the period is the size.
    Sliding {
        size: i64,
        period: i64,
    },
    Sessions {
        gap: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Default,
    /// Repeatedly after so many elements.
    EachCount(i32),
    /// At the end of the window; before and after it with each element.
    EarlyAndLate,
    /// Repeatedly after so much processing time, in milliseconds.
    EachDelay(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputTime {
    EndOfWindow,
    Earliest,
    Latest,
}

#[derive(Clone, Debug)]
pub struct Step {
    pub kind: Kind,
    pub inputs: Vec<Col>,
    pub outputs: Vec<Col>,
    /// So that no two steps do the same.
    pub salt: u64,
    /// Which of the environments it runs in.
    pub environment: usize,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// An Impulse, and a ParDo that makes these of it.
    Create(Vec<Element>),
    TestStream(Vec<Event>),
    /// A ParDo; its outputs are by tag.
    Map {
        shift: bool,
    },
    /// Has the windows of its output assigned.
    Assign,
    /// A GroupByKey and a ParDo after it.
    Group(Rest),
    /// A combine that the runner may lift, and a ParDo after it.
    Combine(Rest),
    Flatten,
    Reshuffle,
    Stateful(Stateful),
    /// The second input is the side input, which ends.
    SideInput(Access),
    /// The same, but it goes on changing.
    LiveSideInput(Access),
    /// A splittable ParDo.
    Read,
    Sink(usize),
}

/// What a ParDo makes of values that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// One value that says which they were.
    Digest,
    Singly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stateful {
    /// Keeps values until the window ends.
    AtEnd(Rest),
    /// Counts values, and says how many there were when the window expires.
    CountAtExpiry,
    /// The first of equal values.
    Distinct,
    /// Ticks a few times before the window ends.
    Ticks,
    /// Keeps values until the clock shows this.
    AtTime(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Iterable,
    OfKey,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub time: i64,
    pub key: String,
    pub value: String,
}

/// Of a TestStream; `output` is an index of its outputs.
#[derive(Clone, Debug)]
pub enum Event {
    Elements { output: usize, elements: Vec<Element> },
    Watermark { output: usize, to: i64 },
    Clock { by: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    Global,
    /// From and until.
    Interval(i64, i64),
}

impl Window {
    pub fn last_time(self) -> i64 {
        match self {
            Self::Global => GLOBAL_MAX,
            Self::Interval(_, end) => end - 1,
        }
    }
}

/// An element in one of its windows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub key: String,
    pub value: String,
    pub window: Window,
    pub time: i64,
}
