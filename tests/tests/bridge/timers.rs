//! Timers to and from bundles.

use std::sync::Arc;
use std::time::Duration;

use beam_model::coders::windowed_value::Windows;
use beam_model::coders::{Coder, PaneInfo, Timer, TimerAction};
use beam_model::time::EventTime;
use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness};
use bytes::Bytes;
use fn_harness_bridge::BridgeConfig;
use runner_core::fault::{Blame, Retry};
use runner_core::ports::TimerBlock;

use crate::support::{Bridge, Job, Outputs};

const URN: &str = "test:dofn:timers";

/// An element sets a timer at 10 of its own key and clears another; a timer emits, and sets one more.
fn script() -> Script {
    Script::new()
        .do_fn(URN, |element, call| {
            call.set_timer("event", element, "tag", EventTime(10), EventTime(9))?;
            call.clear_timer("processing", element, "")?;
            call.emit_all(element);
            Ok(())
        })
        .on_timer(URN, |timer, call| {
            let text = format!("{} {} {} {}", timer.family, timer.tag, timer.fire.0, call.timestamp().0);
            call.emit_all(&[&[text.len() as u8], text.as_bytes()].concat());
            call.set_timer(&timer.family, &timer.key, "again", EventTime(timer.fire.0 + 1), timer.fire)
        })
}

pub fn set(key: &str, tag: &str, fire: i64, hold: i64) -> Vec<u8> {
    let action = TimerAction::Set {
        fire_timestamp: EventTime(fire),
        hold_timestamp: EventTime(hold),
        pane: PaneInfo::NO_FIRING_ENCODED,
    };
    encode(key, tag, action)
}

fn encode(key: &str, tag: &str, action: TimerAction<'_>) -> Vec<u8> {
    let key = [&[key.len() as u8], key.as_bytes()].concat();
    let mut encoded = Vec::new();
    let timer = Timer { key: &key, dynamic_tag: tag, windows: Windows::single(&[]), action };
    timer.write(&mut encoded).unwrap();
    encoded
}

pub fn block(family: &str, timers: Vec<u8>) -> TimerBlock {
    TimerBlock { transform_id: "user".to_owned(), family_id: family.to_owned(), timers: timers.into() }
}

/// What came back, by family: transform, family, timers in words.
fn written(outputs: &Outputs) -> Vec<(String, String, Vec<String>)> {
    let coder = Coder::Timer { key: Box::new(Coder::Bytes), window: Box::new(Coder::GlobalWindow) };
    let blocks = outputs.timers.lock().unwrap().clone().into_iter();
    let mut written: Vec<_> = blocks
        .map(|TimerBlock { transform_id, family_id, timers }| {
            let (mut rest, mut found) = (&timers[..], Vec::new());
            while !rest.is_empty() {
                let (timer, length) = Timer::read(&coder, rest).unwrap();
                let key = String::from_utf8(timer.key[1..].to_vec()).unwrap();
                let what = match timer.action {
                    TimerAction::Clear => "cleared".to_owned(),
                    TimerAction::Set { fire_timestamp, hold_timestamp, .. } => {
                        format!("{} holds {}", fire_timestamp.0, hold_timestamp.0)
                    }
                };
                found.push(format!("{key}/{}: {what}", timer.dynamic_tag));
                rest = &rest[length..];
            }
            (transform_id, family_id, found)
        })
        .collect();
    written.sort();
    written
}

fn of_user(family: &str, timers: &[&str]) -> (String, String, Vec<String>) {
    ("user".to_owned(), family.to_owned(), timers.iter().map(|&timer| timer.to_owned()).collect())
}

async fn start(script: Script) -> (ScriptedHarness, Bridge, Job) {
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    (harness, bridge, job)
}

#[tokio::test]
async fn timers_that_a_bundle_sets_and_clears_come_back_with_its_output() {
    let embedded = script().bundle_fault(1, BundleFault::EmbedOutput);
    for script in [script(), embedded] {
        let (_harness, _bridge, job) = start(script).await;
        let stage = job.stage_with_timers(URN, &["event", "processing"]);
        let outputs = Arc::new(Outputs::default());
        let ran = stage.run_timers("a", &["one", "two"], Vec::new(), outputs.clone()).await.unwrap();
        assert_eq!(ran.values, ["one", "two"]);
        let event = of_user("event", &["one/tag: 10 holds 9", "two/tag: 10 holds 9"]);
        let processing = of_user("processing", &["one/: cleared", "two/: cleared"]);
        assert_eq!(written(&outputs), [event, processing]);
        job.bundles.close().await;
    }
}

#[tokio::test]
async fn timers_fire_after_the_elements_and_may_set_others() {
    let (_harness, _bridge, job) = start(script()).await;
    let stage = job.stage_with_timers(URN, &["event", "processing"]);
    let outputs = Arc::new(Outputs::default());
    let timers = vec![
        block("event", [set("k", "x", 5, 4), set("l", "", 6, 6)].concat()),
        block("processing", set("k", "", 1000, 3)),
    ];
    let ran = stage.run_timers("a", &["one"], timers, outputs.clone()).await.unwrap();
    assert_eq!(ran.values, ["one", "event x 5 4", "event  6 6", "processing  1000 3"]);
    let event = of_user("event", &["one/tag: 10 holds 9", "k/again: 6 holds 5", "l/again: 7 holds 6"]);
    let processing = of_user("processing", &["one/: cleared", "k/again: 1001 holds 1000"]);
    assert_eq!(written(&outputs), [event, processing]);
    job.bundles.close().await;
}

#[tokio::test]
async fn many_timers_fire_in_order() {
    let script = Script::new().do_fn(URN, |_, _| Ok(())).on_timer(URN, |timer, call| {
        let tag = timer.tag.trim_start_matches('x').as_bytes();
        call.emit_all(&[&[tag.len() as u8], tag].concat());
        Ok(())
    });
    let (_harness, _bridge, job) = start(script).await;
    let long = "x".repeat(10_000);
    let timers = (0..300).map(|number| block("event", set("k", &format!("{long}{number}"), number, number)));
    let outputs = Arc::new(Outputs::default());
    let stage = job.stage_with_timers(URN, &["event"]);
    let ran = stage.run_timers("a", &[], timers.collect(), outputs.clone()).await.unwrap();
    assert!(ran.values.iter().map(|value| value.parse::<usize>().unwrap()).eq(0..300), "{:?}", ran.values);
    assert!(outputs.timers.lock().unwrap().is_empty(), "the mark of the end is no block");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_worker_that_never_ends_its_timers_is_named() {
    let harness = ScriptedHarness::start(script().bundle_fault(1, BundleFault::TimersWithoutEnd)).await;
    // In which the end of its data has to come, whose stream is not that of its answer.
    let silence = Duration::from_secs(2);
    let bridge =
        Bridge::with(BridgeConfig { end_of_output_timeout: silence, ..BridgeConfig::default() }).await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage_with_timers(URN, &["event"]);
    let fault = stage.run_timers("a", &[], Vec::new(), Arc::default()).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry), (Blame::Environment, Retry::Worker));
    assert!(fault.message.contains("did not mark the end") && fault.message.contains("event"), "{fault}");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_bundle_is_over_only_when_its_timers_are() {
    let script = script().bundle_fault(1, BundleFault::TimersWithoutEnd);
    let (_harness, _bridge, job) = start(script).await;
    let stage = job.stage_with_timers(URN, &["event"]);
    let running = stage.run_timers("a", &[], Vec::new(), Arc::default());
    let waited = tokio::time::timeout(Duration::from_millis(500), running).await;
    assert!(waited.is_err(), "the bundle ended without its timers");
    job.bundles.close().await;
}

#[tokio::test]
async fn timers_of_a_family_that_the_stage_does_not_have_are_refused() {
    let script = script().bundle_fault(1, BundleFault::TimersForUnknownFamily);
    let (harness, _bridge, job) = start(script).await;
    let stage = job.stage_with_timers(URN, &["event", "processing"]);

    let unknown = vec![block("other", Vec::new())];
    let fault = stage.run_timers("a", &[], unknown, Arc::default()).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry), (Blame::Runner, Retry::Never));
    assert!(fault.message.contains("\"other\" of \"user\""), "{fault}");

    let fault = stage.run_timers("b", &["one"], Vec::new(), Arc::default()).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry), (Blame::Environment, Retry::Worker));
    assert!(fault.message.contains("\"no-such-family\" of transform \"user\""), "{fault}");
    let ran = stage.run_timers("c", &["one"], Vec::new(), Arc::default()).await.unwrap();
    assert_eq!((ran.values, harness.started().len()), (vec!["one".to_owned()], 2));
    job.bundles.close().await;
}

#[tokio::test]
async fn timers_that_are_refused_end_the_bundle_with_the_refusal() {
    let script = Script::new()
        .do_fn(URN, |element, call| call.set_timer("event", element, "", EventTime(1), EventTime(1)));
    let (_harness, _bridge, job) = start(script).await;
    let stage = job.stage_with_timers(URN, &["event"]);
    let outputs = Arc::new(Outputs { refuse: true, ..Outputs::default() });
    let fault = stage.run_timers("a", &["one"], Vec::new(), outputs).await.err().unwrap();
    assert_eq!(fault.message, "the timers are refused");
    job.bundles.close().await;
}

#[tokio::test]
async fn what_is_no_timer_fails_the_bundle_in_the_worker() {
    let (_harness, _bridge, job) = start(script()).await;
    let stage = job.stage_with_timers(URN, &["event"]);
    let timers = vec![TimerBlock { timers: Bytes::from_static(b"\x05k"), ..block("event", Vec::new()) }];
    let fault = stage.run_timers("a", &[], timers, Arc::default()).await.err().unwrap();
    assert_eq!(fault.blame, Blame::User, "{fault}");
    job.bundles.close().await;
}
