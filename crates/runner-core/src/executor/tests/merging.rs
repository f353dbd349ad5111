//! State and timers in windows that merge: what a stateful worker sees, against merging all windows first.

use std::collections::BTreeSet;

use beam_model::coders::windowed_value::{Windows, write_header};
use beam_model::coders::{IntervalWindow, PaneInfo, Timer, TimerAction};
use beam_model::fn_execution::ProcessBundleDescriptor;
use proptest::prelude::*;

use super::*;
use crate::plan::testing::PlanBuilder;
use crate::plan::{Grain, KeyedStage, MergeStage, Merging, TimerFamily, TimerKind};
use crate::ports::TimerBlock;
use crate::state::{UserState, UserStateKind};

const EXPIRY: &str = "expiry";
const END: &str = "end";

/// An element: its key, when its window begins, and how long that is.
type Click = (u8, i64, i64);

/// What a session was when it ended: its key and interval, its values, and which timer says so.
type Session = (u8, i64, i64, Vec<u64>, &'static str);

fn interval(start: i64, end: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut bytes);
    bytes
}

fn element((key, start, gap): Click, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let windows = [interval(start, start + gap)];
    write_header(&mut bytes, EventTime(start), windows.iter().map(Vec::as_slice), &[0x0F]).unwrap();
    varint::write_prefixed(&mut bytes, &[key]);
    varint::write(&mut bytes, value);
    bytes
}

fn timer_coder() -> Coder {
    Coder::Timer { key: Box::new(Coder::Bytes), window: Box::new(Coder::IntervalWindow) }
}

/// Impulse → clicks → a stage with a bag and two timers.
fn plan(grain: Grain, merging: Merging) -> Arc<ExecutionPlan> {
    let mut plan = PlanBuilder::new();
    let impulse = plan.impulse();
    let clicks = plan.stage(impulse, &[], 1)[0];
    plan.stage(clicks, &[], 0);
    let family = |(id, kind): (&str, TimerKind)| TimerFamily {
        id: id.to_owned(),
        kind,
        coder: Arc::new(timer_coder()),
    };
    plan.last_stage().keyed = Some(KeyedStage {
        transform: "transform".to_owned(),
        window_coder: Arc::new(Coder::IntervalWindow),
        merging,
        families: [(EXPIRY, TimerKind::Expiration), (END, TimerKind::EventTime)].map(family).into(),
        states: vec![UserState {
            transform_id: "transform".to_owned(),
            state_id: "bag".to_owned(),
            kind: UserStateKind::Bag,
        }],
        time_sorted: false,
        allowed_lateness: 0,
    });
    let collection = &mut plan.plan.collections[clicks.0];
    collection.window_coder = Arc::new(Coder::IntervalWindow);
    collection.by_key = true;
    collection.grain = grain;
    plan.build()
}

fn by_sdk() -> Merging {
    let spec = StageSpec {
        name: "merge".to_owned(),
        environment_id: "env".to_owned(),
        environment: Default::default(),
        descriptor: ProcessBundleDescriptor { id: "merge".to_owned(), ..Default::default() },
    };
    Merging::BySdk(Arc::new(MergeStage { spec: Arc::new(spec), source: "source".to_owned() }))
}

/// Which elements set the timer for the end of their session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sets {
    Each,
    /// Only one that finds nothing in its session.
    First,
}

struct Worker {
    clicks: Vec<Click>,
    sets: Sets,
    ended: Mutex<Vec<Session>>,
}

impl Worker {
    fn work(self: &Arc<Self>, stage: &str, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        match stage {
            "stage 1" => {
                for (value, click) in (0..).zip(&self.clicks) {
                    bundle.outputs.receive("sink0", element(*click, value).into())?;
                }
                Ok(BundleResult::default())
            }
            "stage 2" => self.clone().keep(bundle),
            "merge" => merge(bundle),
            other => panic!("{other}"),
        }
    }

    fn keep(self: Arc<Self>, mut bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let all = input(&mut bundle);
        let mut rest = &all[..];
        while !rest.is_empty() {
            let header = read_header(&Coder::IntervalWindow, rest).unwrap();
            let window = header.windows.iter().next().unwrap().to_vec();
            let (key, len) = varint::read_prefixed(&rest[header.header_len..]).unwrap();
            let value = header.header_len + len;
            let (_, value_len) = varint::read(&rest[value..]).unwrap();
            let bag = bag(key, &window);
            let empty = bundle.state.get(&bag, &Bytes::new())?.data.is_empty();
            if self.sets == Sets::Each || empty {
                bundle.outputs.receive_timers(end_timer(key, &window))?;
            }
            bundle.state.append(&bag, Bytes::copy_from_slice(&rest[value..value + value_len]))?;
            rest = &rest[value + value_len..];
        }
        let mut ended = Vec::new();
        for block in &bundle.timers {
            read_timers(block, |key, window, fire| {
                let (interval, _) = IntervalWindow::read(window).unwrap();
                let state = bundle.state.get(&bag(key, window), &Bytes::new()).unwrap();
                let kind = if block.family_id == END { END } else { EXPIRY };
                let expected = if kind == END { interval.end } else { interval.max_timestamp() };
                assert_eq!(fire, expected, "when {kind} fires");
                ended.push((key[0], interval.start.0, interval.end.0, values(&state.data), kind));
            });
        }
        Ok(finalized(move || {
            self.ended.lock().unwrap().extend(ended);
            Ok(())
        }))
    }
}

fn bag(key: &[u8], window: &[u8]) -> StateKey {
    let mut nested = Vec::new();
    varint::write_prefixed(&mut nested, key);
    StateKey::BagUserState {
        transform_id: "transform".to_owned(),
        state_id: "bag".to_owned(),
        window: Bytes::copy_from_slice(window),
        key: nested.into(),
    }
}

fn values(mut encoded: &[u8]) -> Vec<u64> {
    let mut values = Vec::new();
    while !encoded.is_empty() {
        let (value, len) = varint::read(encoded).unwrap();
        values.push(value);
        encoded = &encoded[len..];
    }
    values.sort();
    values
}

/// Sets the timer for the end of a window.
fn end_timer(key: &[u8], window: &[u8]) -> TimerBlock {
    let mut nested = Vec::new();
    varint::write_prefixed(&mut nested, key);
    let (interval, _) = IntervalWindow::read(window).unwrap();
    let timer = Timer {
        key: &nested,
        dynamic_tag: "",
        windows: Windows::single(window),
        action: TimerAction::Set {
            fire_timestamp: interval.end,
            hold_timestamp: interval.end,
            pane: PaneInfo::NO_FIRING_ENCODED,
        },
    };
    let mut timers = Vec::new();
    timer.write(&mut timers).unwrap();
    TimerBlock { transform_id: "transform".to_owned(), family_id: END.to_owned(), timers: timers.into() }
}

fn read_timers(block: &TimerBlock, mut fired: impl FnMut(&[u8], &[u8], EventTime)) {
    let coder = timer_coder();
    let mut rest = &block.timers[..];
    while !rest.is_empty() {
        let (timer, len) = Timer::read(&coder, rest).unwrap();
        let TimerAction::Set { fire_timestamp, .. } = timer.action else { panic!("a timer fires cleared") };
        let (key, _) = varint::read_prefixed(timer.key).unwrap();
        timer.windows.iter().for_each(|window| fired(key, window, fire_timestamp));
        rest = &rest[len..];
    }
}

/// The SDK's side of `beam:transform:merge_windows:v1`, for windows that merge like sessions.
fn merge(mut bundle: RemoteBundle) -> Result<BundleResult, Fault> {
    let all = input(&mut bundle);
    let mut rest = &all[..];
    while !rest.is_empty() {
        let start = read_header(&Coder::GlobalWindow, rest).unwrap().header_len;
        let (_, nonce_len) = varint::read_prefixed(&rest[start..]).unwrap();
        let (header, question) = rest.split_at(start + nonce_len);
        let count = usize::try_from(u32::from_be_bytes(question[..4].try_into().unwrap())).unwrap();
        let mut windows = BTreeSet::new();
        let mut after = &question[4..];
        for _ in 0..count {
            let (window, len) = IntervalWindow::read(after).unwrap();
            windows.insert((window.start.0, window.end.0));
            after = &after[len..];
        }
        assert!(count > 1, "one window alone needs no merging");
        bundle.outputs.receive("sink", [header, &answer(&windows)].concat().into())?;
        rest = after;
    }
    Ok(BundleResult::default())
}

fn answer(windows: &BTreeSet<(i64, i64)>) -> Vec<u8> {
    let iterable = |items: Vec<Vec<u8>>| [&(items.len() as u32).to_be_bytes()[..], &items.concat()].concat();
    let sessions = sessions(windows.iter().copied());
    let parts = |session: (i64, i64)| {
        let parts = windows.iter().filter(|part| session.0 <= part.0 && part.1 <= session.1);
        parts.map(|part| interval(part.0, part.1)).collect::<Vec<_>>()
    };
    let merged = sessions.into_iter().map(|session| (session, parts(session))).filter(|it| it.1.len() > 1);
    let merged = merged.map(|(session, parts)| [interval(session.0, session.1), iterable(parts)].concat());
    [iterable(Vec::new()), iterable(merged.collect())].concat()
}

/// Joins any two that overlap, as long as there are such.
fn sessions(windows: impl Iterator<Item = (i64, i64)>) -> Vec<(i64, i64)> {
    let mut sessions: Vec<(i64, i64)> = Vec::new();
    for (mut start, mut end) in windows {
        while let Some(at) = sessions.iter().position(|other| other.0 < end && start < other.1) {
            let other = sessions.swap_remove(at);
            (start, end) = (start.min(other.0), end.max(other.1));
        }
        sessions.push((start, end));
    }
    sessions
}

/// What is to come out: each session once by each timer.
fn expected(clicks: &[Click]) -> Vec<Session> {
    let mut all = Vec::new();
    for key in clicks.iter().map(|click| click.0).collect::<BTreeSet<_>>() {
        let own: Vec<_> = (0..).zip(clicks).filter(|(_, click)| click.0 == key).collect();
        for (start, end) in sessions(own.iter().map(|(_, (_, start, gap))| (*start, start + gap))) {
            let within = own.iter().filter(|(_, click)| (start..end).contains(&click.1));
            let values: Vec<u64> = within.map(|(value, _)| *value).collect();
            all.extend([END, EXPIRY].map(|kind| (key, start, end, values.clone(), kind)));
        }
    }
    all.sort();
    all
}

fn check(clicks: Vec<Click>, sets: Sets, merging: Merging) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (grain, policy) in [
        (Grain::Block, BundlePolicy::DEFAULT),
        (Grain::Element, BundlePolicy::EachBlock),
        (Grain::Element, BundlePolicy::Whole),
    ] {
        for inject in [FaultInjection::None, FaultInjection::FirstAttempts] {
            let worker = Arc::new(Worker { clicks: clicks.clone(), sets, ended: Mutex::default() });
            let at_work = worker.clone();
            let plan = plan(grain, merging.clone());
            let job = execute(plan, policy, inject, move |stage, bundle| at_work.work(stage, bundle));
            let job = runtime.block_on(job);
            assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
            let mut ended = worker.ended.lock().unwrap().clone();
            ended.sort();
            assert_eq!(ended, expected(&clicks), "{grain:?} {policy:?} {inject:?}");
        }
    }
}

fn clicks() -> impl Strategy<Value = Vec<Click>> {
    prop::collection::vec((0..3_u8, 0..40_i64, 1..8_i64), 1..20)
}

fn sets() -> impl Strategy<Value = Sets> {
    prop_oneof![Just(Sets::Each), Just(Sets::First)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sessions_are_those_of_all_elements_at_once(clicks in clicks(), sets in sets()) {
        check(clicks, sets, Merging::Sessions);
    }

    #[test]
    fn windows_that_the_sdk_merges_are_those_of_all_elements_at_once(clicks in clicks(), sets in sets()) {
        check(clicks, sets, by_sdk());
    }
}

#[test]
fn an_element_joins_sessions_with_state_and_timers() {
    check(vec![(0, 0, 5), (0, 20, 5), (1, 3, 5), (0, 4, 18)], Sets::First, Merging::Sessions);
}
