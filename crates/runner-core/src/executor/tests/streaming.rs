//! Jobs of unbounded input.

use beam_model::coders::windowed_value::{Windows, write_header};
use beam_model::coders::{PaneInfo, Timer, TimerAction, Timing};

use super::*;
use crate::plan::{KeyedStage, TestStreamEvent, TimerFamily, TimerKind, Trigger};
use crate::ports::TimerBlock;

/// A `KV<bytes, varint>` in the global window, at this event time.
pub(super) fn at_time(time: i64, key: &str, value: u64) -> Bytes {
    let mut bytes = Vec::new();
    let windows = [&b""[..]];
    let pane = PaneInfo::NO_FIRING_ENCODED;
    write_header(&mut bytes, EventTime(time), windows, pane).unwrap();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    varint::write(&mut bytes, value);
    bytes.into()
}

/// Event time, key and value of each element.
fn pairs(bundle: &mut RemoteBundle) -> Vec<(i64, String, u64)> {
    let all = input(bundle);
    let mut rest = &all[..];
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let header = read_header(&Coder::GlobalWindow, rest).unwrap();
        let time = header.timestamp.millis();
        rest = &rest[header.header_len..];
        let (key, len) = varint::read_prefixed(rest).unwrap();
        rest = &rest[len..];
        let (value, len) = varint::read(rest).unwrap();
        rest = &rest[len..];
        pairs.push((time, String::from_utf8(key.to_vec()).unwrap(), value));
    }
    pairs
}

fn timer_coder() -> Coder {
    Coder::Timer { key: Box::new(Coder::Bytes), window: Box::new(Coder::GlobalWindow) }
}

/// A timer with the value that it is to give out as its tag.
pub(super) fn timer(family: &str, key: &str, value: u64, fire: i64, hold: i64) -> TimerBlock {
    let mut encoded_key = Vec::new();
    varint::write_prefixed(&mut encoded_key, key.as_bytes());
    let timer = Timer {
        key: &encoded_key,
        dynamic_tag: &value.to_string(),
        windows: Windows::single(b""),
        action: TimerAction::Set {
            fire_timestamp: EventTime(fire),
            hold_timestamp: EventTime(hold),
            pane: PaneInfo::NO_FIRING_ENCODED,
        },
    };
    let mut timers = Vec::new();
    timer.write(&mut timers).unwrap();
    let transform_id = "transform".to_owned();
    TimerBlock { transform_id, family_id: family.to_owned(), timers: timers.into() }
}

/// Key and value of each timer that fires.
fn firing(bundle: &RemoteBundle) -> Vec<(String, u64)> {
    let mut fired = Vec::new();
    for block in &bundle.timers {
        let mut rest = &block.timers[..];
        while !rest.is_empty() {
            let coder = timer_coder();
            let (timer, len) = Timer::read(&coder, rest).unwrap();
            let (key, _) = varint::read_prefixed(timer.key).unwrap();
            let value = timer.dynamic_tag.parse().unwrap();
            fired.push((String::from_utf8(key.to_vec()).unwrap(), value));
            rest = &rest[len..];
        }
    }
    fired
}

pub(super) fn keyed() -> KeyedStage {
    let family = |(id, kind): (&str, TimerKind)| TimerFamily {
        id: id.to_owned(),
        kind,
        coder: Arc::new(timer_coder()),
    };
    let families = [("event", TimerKind::EventTime), ("processing", TimerKind::ProcessingTime)];
    KeyedStage {
        transform: "transform".to_owned(),
        window_coder: Arc::new(Coder::GlobalWindow),
        merging: crate::plan::Merging::Never,
        families: families.map(family).to_vec(),
        states: Vec::new(),
        time_sorted: false,
        allowed_lateness: 0,
    }
}

/// TestStream → a stage with timers → a GroupByKey that fires with every element → a stage that looks.
fn test_stream_plan(events: impl FnOnce(CollectionId) -> Vec<TestStreamEvent>) -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    builder.plan.streaming = true;
    let source = builder.test_stream(1)[0];
    builder.play(events(source));
    let pairs = builder.stage(source, &[], 1)[0]; // node 1
    builder.last_stage().keyed = Some(keyed());
    let groups = builder.group(pairs);
    let grouping = builder.last_grouping();
    grouping.bounded = false;
    grouping.firing.trigger = Trigger::Repeat(Box::new(Trigger::ElementCount(1)));
    builder.stage(groups, &[], 0); // node 3
    builder.plan.collections[source.0].by_key = true;
    builder.plan.collections.iter_mut().for_each(|collection| collection.timed = true);
    builder.build()
}

const HOUR: i64 = 3_600_000;

/// Elements with even values wait for event time, others for processing time.
fn with_timers(bundle: &mut RemoteBundle) -> Result<(), Fault> {
    for (time, key, value) in pairs(bundle) {
        let now = Clock::Machine.now(Instant::now()).millis();
        bundle.outputs.receive_timers(match value % 2 {
            0 => timer("event", &key, value, time + 5, time + 5),
            _ => timer("processing", &key, value, now + HOUR, time),
        })?;
    }
    for (key, value) in firing(bundle) {
        bundle.outputs.receive("sink0", at_time(30, &key, value * 10))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_test_stream_goes_on_when_all_is_done() {
    let plan = || {
        test_stream_plan(|output| {
            let elements =
                |elements: &[Bytes]| TestStreamEvent::Elements { output, elements: elements.to_vec() };
            vec![
                elements(&[at_time(2, "a", 2), at_time(2, "b", 3), at_time(10, "a", 4)]),
                TestStreamEvent::Watermark { output, watermark: EventTime(8) },
                TestStreamEvent::Watermark { output, watermark: EventTime(20) },
                elements(&[at_time(25, "c", 6)]),
                TestStreamEvent::ProcessingTime { advance: Duration::from_secs(2 * 3_600) },
            ]
        })
    };
    for inject in [FaultInjection::None, FaultInjection::FirstAttempts] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let job = execute(plan(), BundlePolicy::DEFAULT, inject, move |stage, mut bundle| {
            if stage == "stage 1" {
                with_timers(&mut bundle)?;
                return Ok(BundleResult::default());
            }
            let timings = timings(&mut bundle);
            let log = log.clone();
            Ok(finalized(move || {
                log.lock().unwrap().extend(timings);
                Ok(())
            }))
        })
        .await;
        assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
        let mut seen = seen.lock().unwrap().clone();
        // Callbacks have no order among themselves; the panes of a key do.
        seen.sort_by(|one, other| one.0.cmp(&other.0));
        let early = |key: &str, sum, index| (key.to_owned(), sum, Timing::Early, index);
        let expected = [early("a", 20, 0), early("a", 40, 1), early("b", 30, 0), early("c", 60, 0)];
        assert_eq!(
            seen.iter().filter(|pane| pane.1 > 0).cloned().collect::<Vec<_>>(),
            expected,
            "{inject:?}"
        );
    }
}

/// Key, sum, timing and number of each pane.
fn timings(bundle: &mut RemoteBundle) -> Vec<(String, u64, Timing, i64)> {
    let all = input(bundle);
    let mut rest = &all[..];
    let mut panes = Vec::new();
    while !rest.is_empty() {
        let header = read_header(&Coder::GlobalWindow, rest).unwrap();
        let info = header.pane_info().unwrap();
        rest = &rest[header.header_len..];
        let (key, len) = varint::read_prefixed(rest).unwrap();
        let (count, mut values) = rest[len..].split_first_chunk::<4>().unwrap();
        let mut sum = 0;
        for _ in 0..u32::from_be_bytes(*count) {
            let (value, len) = varint::read(values).unwrap();
            sum += value;
            values = &values[len..];
        }
        panes.push((String::from_utf8(key.to_vec()).unwrap(), sum, info.timing, info.index));
        rest = values;
    }
    panes
}

/// What the truncating stage leaves of a restriction: so many records.
const TRUNCATED: u64 = 4;
/// A record of this or a higher number is the last of its restriction.
const ENDS: u64 = 1_000_000;

/// Reads one record of a restriction without end, which counts up from its value. The value of a restriction
/// that ends has what is left of it times [`ENDS`] added.
fn read_one(stage: &str, bundle: &mut RemoteBundle) -> Result<BundleResult, Fault> {
    let mut residuals = Vec::new();
    for (_, key, value) in pairs(bundle) {
        let (record, mut left) = (value % ENDS, value / ENDS);
        if stage == "truncate" {
            assert_eq!(left, 0, "it is truncated already");
            left = TRUNCATED;
        }
        let time = i64::try_from(record).unwrap();
        bundle.outputs.receive("sink0", at_time(time, "record", record))?;
        if left == 1 {
            continue;
        }
        let left = left.saturating_sub(1);
        residuals.push(Residual {
            transform_id: "transform".to_owned(),
            input_id: "in".to_owned(),
            element: at_time(EventTime::MIN.0, &key, record + 1 + left * ENDS),
            delay: Duration::from_millis(record % 3),
            output_watermarks: BTreeMap::from([("out".to_owned(), EventTime(time + 1))]),
        });
    }
    Ok(BundleResult { residuals, ..Default::default() })
}

#[tokio::test]
async fn draining_truncates_once_and_loses_nothing() {
    let mut builder = PlanBuilder::new();
    builder.plan.streaming = true;
    let start = builder.impulse();
    let restrictions = builder.stage(start, &[], 1)[0]; // node 1
    let records = builder.stage(restrictions, &[], 1)[0]; // node 2
    let reader = builder.last_stage();
    reader.restriction_reader = Some("transform".to_owned());
    let drain = StageSpec { name: "truncate".to_owned(), ..reader.spec.as_ref().clone() };
    reader.drain = Some(Arc::new(drain));
    builder.stage(records, &[], 0); // node 3
    builder.plan.collections[restrictions.0].grain = crate::plan::Grain::Element;
    builder.plan.collections.iter_mut().for_each(|collection| collection.timed = true);

    let (wish, wished) = watch::channel(Wish::GoOn);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let truncations = Arc::new(AtomicU32::new(0));
    let (log, truncated) = (seen.clone(), truncations.clone());
    let work = move |stage: &str, mut bundle: RemoteBundle| match stage {
        "stage 1" => {
            bundle.outputs.receive("sink0", at_time(EventTime::MIN.0, "k", 0))?;
            Ok(BundleResult::default())
        }
        "stage 2" => read_one(stage, &mut bundle),
        "truncate" => {
            truncated.fetch_add(1, Ordering::Relaxed);
            read_one(stage, &mut bundle)
        }
        _ => {
            let records = pairs(&mut bundle);
            let mut log = log.lock().unwrap();
            log.extend(records.iter().map(|(.., record)| *record));
            if log.len() >= 10 {
                wish.send_replace(Wish::Drain);
            }
            Ok(BundleResult::default())
        }
    };
    let workers = Arc::new(Workers(Arc::new(work)));
    let job = execute_on(builder.build(), workers, BundlePolicy::DEFAULT, FaultInjection::None, wished).await;
    assert!(matches!(job.outcome, Outcome::Drained), "{:?}", job.outcome);
    assert_eq!(truncations.load(Ordering::Relaxed), 1);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let last = 10 + TRUNCATED;
    assert!(seen.len() as u64 >= last, "{seen:?}");
    assert_eq!(seen, (0..seen.len() as u64).collect::<Vec<_>>());
}
