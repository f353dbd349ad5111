//! The transcripts that come with the SDK.

use beam_model::coders::Timing;
use serde::Deserialize;

use super::{Grouped, Pane, Windows, by, discarding, lateness, sessions};
use crate::plan::{Grouping, OutputTime, Trigger};

const TRANSCRIPTS: &str = include_str!("../../../../tests/data/trigger_transcripts.yaml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    windows: SomeWindows,
    trigger: SomeTrigger,
    #[serde(default)]
    allowed_lateness: i64,
    #[serde(default)]
    accumulation_mode: Mode,
    #[serde(default)]
    output_time: Time,
    transcript: Vec<Action>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct SomeWindows {
    fixed: Option<i64>,
    sessions: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum SomeTrigger {
    Name(String),
    Count { element_count: u32 },
    Ends { after_end_of_window: Ends },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    early: Option<Box<SomeTrigger>>,
    late: Option<Box<SomeTrigger>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Accumulating,
    Discarding,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Time {
    #[default]
    EndOfWindow,
    Earliest,
    Latest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    input: Option<Vec<i64>>,
    watermark: Option<i64>,
    expect: Option<Vec<Expected>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    window: Option<[i64; 2]>,
    values: Option<Vec<u64>>,
    timestamp: Option<i64>,
    index: Option<i64>,
    nonspeculative_index: Option<i64>,
    early: Option<bool>,
    late: Option<bool>,
    #[serde(rename = "final")]
    is_last: Option<bool>,
}

impl Expected {
    fn is(&self, pane: &Pane) -> bool {
        let mut values = pane.values.clone();
        values.sort();
        self.window.is_none_or(|[first, last]| (first, last + 1) == pane.window)
            && self.values.as_ref().is_none_or(|expected| *expected == values)
            && self.timestamp.is_none_or(|time| time == pane.time)
            && self.index.is_none_or(|index| index == pane.info.index)
            && self.nonspeculative_index.is_none_or(|index| index == pane.info.nonspeculative_index)
            && self.early.is_none_or(|early| early == (pane.info.timing == Timing::Early))
            && self.late.is_none_or(|late| late == (pane.info.timing == Timing::Late))
            && self.is_last.is_none_or(|is_last| is_last == pane.info.is_last)
    }
}

fn trigger(trigger: &SomeTrigger) -> Trigger {
    let part = |part: &Option<Box<SomeTrigger>>| part.as_deref().map(|part| Box::new(self::trigger(part)));
    match trigger {
        SomeTrigger::Name(name) if name == "default" => Trigger::Default,
        SomeTrigger::Name(name) => panic!("trigger {name}?"),
        SomeTrigger::Count { element_count } => Trigger::ElementCount(*element_count),
        SomeTrigger::Ends { after_end_of_window: Ends { early, late } } => {
            Trigger::AfterEndOfWindow { early: part(early), late: part(late) }
        }
    }
}

fn grouped(case: &Case) -> Grouped {
    let output_time = match case.output_time {
        Time::EndOfWindow => OutputTime::EndOfWindow,
        Time::Earliest => OutputTime::Earliest,
        Time::Latest => OutputTime::Latest,
    };
    let grouping = lateness(Grouping { output_time, ..by(trigger(&case.trigger)) }, case.allowed_lateness);
    let grouping = match case.accumulation_mode {
        Mode::Accumulating => grouping,
        Mode::Discarding => discarding(grouping),
    };
    match case.windows {
        SomeWindows { fixed: Some(size), sessions: None } => Grouped::new(Windows::Fixed(size), grouping),
        SomeWindows { fixed: None, sessions: Some(gap) } => {
            Grouped::new(Windows::Sessions(gap), sessions(grouping))
        }
        SomeWindows { .. } => panic!("windows of {}?", case.name),
    }
}

/// What came out since the last expectation is what is expected.
fn check(name: &str, expected: &[Expected], mut panes: Vec<Pane>) {
    for one in expected {
        let found = panes.iter().position(|pane| one.is(pane));
        let found = found.unwrap_or_else(|| panic!("{name}: {one:?} is none of {panes:#?}"));
        panes.remove(found);
    }
    assert!(panes.is_empty(), "{name}: nobody expected {panes:#?}");
}

#[test]
fn they_come_out_as_written() {
    let mut cases = 0;
    for document in serde_yaml_ng::Deserializer::from_str(TRANSCRIPTS) {
        let case = Case::deserialize(document).unwrap();
        let mut grouped = grouped(&case);
        let mut panes = Vec::new();
        for action in &case.transcript {
            let name = &case.name;
            match action {
                Action { input: Some(times), watermark: None, expect: None } => {
                    check(name, &[], std::mem::take(&mut panes));
                    let elements: Vec<_> = times.iter().map(|time| (*time, time.unsigned_abs())).collect();
                    panes = grouped.add(&elements);
                }
                Action { input: None, watermark: Some(watermark), expect: None } => {
                    check(name, &[], std::mem::take(&mut panes));
                    panes = grouped.watermark(*watermark);
                }
                Action { input: None, watermark: None, expect: Some(expected) } => {
                    check(name, expected, std::mem::take(&mut panes));
                }
                Action { .. } => panic!("{name}: one thing at a time"),
            }
        }
        check(&case.name, &[], panes);
        cases += 1;
    }
    assert_eq!(cases, 12);
}
