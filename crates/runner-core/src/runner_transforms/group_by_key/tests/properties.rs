//! Random strategies and random histories: what must hold whatever the trigger, and two naive models.

use std::collections::BTreeMap;

use beam_model::coders::{Coder, Timing};
use beam_model::time::EventTime;
use proptest::prelude::*;
use proptest::strategy::Union;

use super::{Grouped, Pane, Windows, by, count, delay, discarding, lateness, sessions};
use crate::plan::testing::grouping;
use crate::plan::{
    AccumulationMode, Asked, ClosingBehavior, Firing, Grouping, Merging, OnTimeBehavior, OutputTime, Trigger,
};

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Elements of one bundle: key, event time.
    Add(Vec<(&'static str, i64)>),
    Watermark(i64),
    Clock(i64),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop::sample::select(vec!["a", "b"]);
    let step = prop_oneof![
        4 => prop::collection::vec((key, 0_i64..60), 1..6).prop_map(Step::Add),
        2 => (0_i64..90).prop_map(Step::Watermark),
        1 => (0_i64..40).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 1..25)
}

fn triggers() -> impl Strategy<Value = Trigger> {
    let leaf = prop_oneof![
        Just(Trigger::Default),
        Just(Trigger::Never),
        Just(Trigger::Always),
        Just(Trigger::AfterSynchronizedProcessingTime),
        (1_u32..4).prop_map(count),
        (0_i64..20).prop_map(delay),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let some = prop::collection::vec(inner.clone(), 1..3);
        let maybe = prop::option::of(inner.clone().prop_map(Box::new));
        Union::new([
            some.clone().prop_map(Trigger::AfterAll).boxed(),
            some.clone().prop_map(Trigger::AfterAny).boxed(),
            some.prop_map(Trigger::AfterEach).boxed(),
            inner.clone().prop_map(|part| Trigger::Repeat(Box::new(part))).boxed(),
            (inner.clone(), inner)
                .prop_map(|(main, finally)| Trigger::OrFinally {
                    main: Box::new(main),
                    finally: Box::new(finally),
                })
                .boxed(),
            (maybe.clone(), maybe)
                .prop_map(|(early, late)| Trigger::AfterEndOfWindow { early, late })
                .boxed(),
        ])
    })
}

fn windows() -> impl Strategy<Value = Windows> {
    prop_oneof![
        (1_i64..30).prop_map(Windows::Fixed),
        (1_i64..20).prop_map(Windows::Sessions),
        (5_i64..20, 2_i64..5).prop_map(|(size, period)| Windows::Sliding(size, period)),
    ]
}

pub(super) fn groupings() -> impl Strategy<Value = (Windows, Grouping)> {
    let mode = prop::sample::select(vec![AccumulationMode::Discarding, AccumulationMode::Accumulating]);
    let closing = prop::sample::select(vec![ClosingBehavior::EmitAlways, ClosingBehavior::EmitIfNonempty]);
    let on_time = prop::sample::select(vec![OnTimeBehavior::FireAlways, OnTimeBehavior::FireIfNonempty]);
    let time = prop::sample::select(vec![OutputTime::EndOfWindow, OutputTime::Earliest, OutputTime::Latest]);
    let asked = prop::sample::select(vec![Asked::AfterEachElement, Asked::AfterEachBundle]);
    let parts = (windows(), triggers(), mode, closing, on_time, time, 0_i64..40, asked);
    parts.prop_map(|(windows, trigger, mode, closing, on_time, output_time, allowed_lateness, asked)| {
        let firing = Firing {
            trigger,
            accumulation_mode: mode,
            allowed_lateness,
            closing_behavior: closing,
            on_time_behavior: on_time,
        };
        let merging = match windows {
            Windows::Sessions(_) => Merging::Sessions,
            Windows::Fixed(_) | Windows::Sliding(..) => Merging::Never,
        };
        (
            windows,
            Grouping {
                firing,
                output_time,
                merging,
                asked,
                bounded: false,
                ..grouping(Coder::IntervalWindow)
            },
        )
    })
}

/// What came of a history that ends with the end of time.
pub(super) struct History {
    /// How many elements were added, counted by window.
    added: u64,
    pub(super) panes: Vec<Pane>,
}

/// Runs the steps, the last of which is the end of time, and checks what holds of each.
pub(super) fn run(grouped: &mut Grouped, steps: &[Step]) -> Result<History, TestCaseError> {
    let mut history = History { added: 0, panes: Vec::new() };
    let (mut input, mut output) = (EventTime::MIN, EventTime::MIN);
    let end = [Step::Watermark(EventTime::MAX.0)];
    for step in steps.iter().chain(&end) {
        let fired = match step {
            Step::Add(elements) => {
                let numbered = elements.iter().zip(history.added..);
                let numbered: Vec<_> = numbered.map(|((key, time), value)| (*key, *time, value)).collect();
                let windows = elements.iter().map(|(_, time)| grouped.windows.of(*time).len() as u64);
                history.added += windows.sum::<u64>();
                grouped.add_keyed(&numbered)
            }
            Step::Watermark(watermark) => {
                input = input.max(EventTime(*watermark));
                grouped.watermark(*watermark)
            }
            Step::Clock(now) => {
                let now = grouped.now + now;
                let fired = grouped.clock(now);
                let next = grouped.groups.next_wake().map(|time| time.millis());
                prop_assert!(next.is_none_or(|next| next > now), "woken again at {:?}", next);
                fired
            }
        };
        for pane in &fired {
            let on_time = EventTime(pane.time) >= output;
            prop_assert!(on_time || pane.info.timing == Timing::Late, "{pane:?} behind {output}");
        }
        let next = input.min(grouped.groups.hold());
        prop_assert!(next >= output, "the output watermark goes back from {output} to {next}");
        output = next;
        history.panes.extend(fired);
    }
    prop_assert_eq!(grouped.buffered_keys(), 0);
    prop_assert_eq!(grouped.groups.hold(), EventTime::MAX);
    prop_assert_eq!(grouped.groups.next_wake(), None);
    Ok(history)
}

type ByWindow<'a> = BTreeMap<(&'a str, (i64, i64)), Vec<&'a Pane>>;

fn by_window(panes: &[Pane]) -> ByWindow<'_> {
    let mut windows = ByWindow::new();
    for pane in panes {
        windows.entry((&pane.key, pane.window)).or_default().push(pane);
    }
    windows
}

/// The panes of one key and window, in order. Windows that merge may begin anew, and others may not.
fn are_numbered(panes: &[&Pane]) -> Result<(), TestCaseError> {
    let mut not_early = 0;
    for (index, pane) in panes.iter().enumerate() {
        let info = pane.info;
        prop_assert_eq!(info.index, index as i64);
        prop_assert_eq!(info.is_first, index == 0);
        prop_assert!(!info.is_last || index + 1 == panes.len(), "nothing follows the last pane");
        prop_assert_eq!(info.nonspeculative_index, if info.timing == Timing::Early { -1 } else { not_early });
        not_early += i64::from(info.timing != Timing::Early);
        prop_assert!(info.timing != Timing::OnTime || info.nonspeculative_index == 0);
        prop_assert!(info.timing != Timing::Early || not_early == 0, "early after on time");
    }
    Ok(())
}

fn without_merging(windows: Windows) -> bool {
    match windows {
        Windows::Fixed(_) | Windows::Sliding(..) => true,
        Windows::Sessions(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_is_lost_and_panes_are_in_order((windows, grouping) in groupings(), steps in steps()) {
        let mode = grouping.firing.accumulation_mode;
        let mut grouped = Grouped::new(windows, grouping);
        let history = run(&mut grouped, &steps)?;
        let dropped = grouped.groups.dropped().late + grouped.groups.dropped().closed;
        let by_window = by_window(&history.panes);
        if without_merging(windows) {
            for panes in by_window.values() {
                are_numbered(panes)?;
            }
        }
        match mode {
            AccumulationMode::Discarding => {
                let fired: usize = history.panes.iter().map(|pane| pane.values.len()).sum();
                prop_assert_eq!(fired as u64 + dropped, history.added);
                for panes in by_window.values() {
                    let mut values: Vec<_> = panes.iter().flat_map(|pane| &pane.values).collect();
                    let all = values.len();
                    values.sort();
                    values.dedup();
                    prop_assert_eq!(values.len(), all, "an element is in one pane of its window");
                }
            }
            AccumulationMode::Accumulating if without_merging(windows) => {
                for panes in by_window.values() {
                    let grow = panes.windows(2).all(|two| two[1].values.starts_with(&two[0].values));
                    prop_assert!(grow, "each pane begins with the one before it");
                }
                let last = by_window.values().filter_map(|panes| panes.last());
                let fired: usize = last.map(|pane| pane.values.len()).sum();
                prop_assert_eq!(fired as u64 + dropped, history.added);
            }
            AccumulationMode::Accumulating => {}
        }
    }

    /// Save those of synchronized processing time, which are all that comes together.
    #[test]
    fn panes_do_not_depend_on_how_elements_are_bundled((windows, grouping) in groupings(), steps in steps()) {
        let trigger = grouping.firing.trigger.as_python_has_it();
        let firing = Firing { trigger, ..grouping.firing };
        let grouping = Grouping { firing, asked: Asked::AfterEachElement, ..grouping };
        let singly = steps.iter().flat_map(|step| match step {
            Step::Add(elements) => elements.iter().map(|element| Step::Add(vec![*element])).collect(),
            Step::Watermark(_) | Step::Clock(_) => vec![step.clone()],
        });
        let singly: Vec<_> = singly.collect();
        // Values are numbered by bundle; and what is in one bundle is late together or not at all.
        let panes = |steps: &[Step]| {
            let history = run(&mut Grouped::new(windows, grouping.clone()), steps)?;
            let panes = history.panes.into_iter();
            let panes = panes.map(|it| (it.key, it.window, it.values.len(), it.info.index, it.info.is_last));
            Ok::<_, TestCaseError>(panes.collect::<Vec<_>>())
        };
        prop_assert_eq!(panes(&steps)?, panes(&singly)?);
    }

    /// The default trigger in a naive model: each element goes to its window; when the watermark passes the
    /// window's end it fires, and after that with every element.
    #[test]
    fn the_default_trigger_by_a_naive_model(steps in steps(), size in 1_i64..30, late in 0_i64..40) {
        let mut grouped =
            Grouped::new(Windows::Fixed(size), discarding(lateness(by(Trigger::Default), late)));
        let history = run(&mut grouped, &steps)?;
        let mut watermark = i64::MIN;
        let (mut number, mut expected) = (0, Vec::new());
        let mut waiting: BTreeMap<(&str, i64), Vec<u64>> = BTreeMap::new();
        for step in &steps {
            match step {
                Step::Add(elements) => {
                    for (key, time) in elements {
                        let end = time - time % size + size;
                        if watermark >= end && watermark <= end - 1 + late {
                            expected.push(((*key, end), vec![number]));
                        } else if watermark < end {
                            waiting.entry((key, end)).or_default().push(number);
                        }
                        number += 1;
                    }
                }
                Step::Watermark(to) => watermark = watermark.max(*to),
                Step::Clock(_) => {}
            }
            waiting.retain(|(key, end), values| {
                let due = watermark >= *end;
                if due {
                    expected.push(((*key, *end), std::mem::take(values)));
                }
                !due
            });
        }
        expected.extend(waiting);
        let mut fired: Vec<_> = history
            .panes
            .iter()
            .map(|pane| ((pane.key.as_str(), pane.window.1), pane.values.clone()))
            .collect();
        expected.sort();
        fired.sort();
        prop_assert_eq!(fired, expected);
    }

    /// Sessions in whatever order elements come are those of the sorted elements, as long as none is late.
    #[test]
    fn sessions_by_a_naive_model(times in prop::collection::vec(0_i64..200, 1..40), gap in 1_i64..20) {
        let mut grouped = Grouped::new(Windows::Sessions(gap), sessions(by(Trigger::Default)));
        for (value, time) in times.iter().enumerate() {
            grouped.add(&[(*time, value as u64)]);
        }
        let mut sorted = times.clone();
        sorted.sort();
        let mut expected: Vec<((i64, i64), usize)> = Vec::new();
        for time in sorted {
            match expected.last_mut() {
                Some(((_, end), count)) if time < *end => {
                    *end = time + gap;
                    *count += 1;
                }
                Some(_) | None => expected.push(((time, time + gap), 1)),
            }
        }
        let panes = grouped.close();
        let found: Vec<_> = panes.iter().map(|pane| (pane.window, pane.values.len())).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(panes.iter().all(|pane| (pane.info.index, pane.info.is_last) == (0, true)));
    }

    /// An unbounded input that comes all before the watermark moves is grouped as a bounded one.
    #[test]
    fn bounded_and_unbounded_agree((windows, any) in groupings(), elements in prop::collection::vec((prop::sample::select(vec!["a", "b"]), 0_i64..60), 1..30)) {
        let firing = Firing { trigger: Trigger::Default, ..any.firing };
        let unbounded = Grouping { firing, ..any };
        let bounded = Grouping { bounded: true, ..unbounded.clone() };
        let numbered: Vec<_> =
            elements.iter().zip(0..).map(|((key, time), value)| (*key, *time, value)).collect();
        let mut results = [bounded, unbounded].map(|grouping| {
            let mut grouped = Grouped::new(windows, grouping);
            let mut panes = grouped.add_keyed(&numbered);
            panes.extend(grouped.close());
            for pane in &mut panes {
                pane.values.sort();
            }
            panes.sort_by(|a, b| (&a.key, a.window).cmp(&(&b.key, b.window)));
            panes
        });
        let unbounded = std::mem::take(&mut results[1]);
        prop_assert_eq!(&results[0], &unbounded);
    }
}
