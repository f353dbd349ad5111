//! Bundles that go well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use beam_model::fn_execution::process_bundle_request as wire;
use beam_model::fn_execution::process_bundle_request::cache_token::{SideInput, Type, UserState};
use beam_model::time::EventTime;
use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness};
use bytes::Bytes;
use runner_core::fault::Fault;
use runner_core::ports::CacheToken;

use crate::support::{Bridge, Outputs, SOON, State, encode, eventually, most_at_a_time};

#[tokio::test]
async fn a_bundle_goes_to_a_worker_and_back() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    assert_eq!(harness.started(), Vec::<String>::new(), "no worker is started before a bundle");

    let ran = job.stage("test:dofn:identity").run("a", &["one", "two"]).await.unwrap();
    assert_eq!(ran.values, ["one", "two"]);
    assert_eq!(ran.result.monitoring_infos.len(), 2, "an element count for each PCollection");
    assert!(ran.result.finalizer.is_none() && ran.result.residuals.is_empty());
    assert_eq!(harness.started(), ["job-0-1"]);

    job.bundles.close().await;
    assert_eq!(harness.stopped(), ["job-0-1"]);
    eventually("the worker's end", || harness.running() == 0).await;
    assert_eq!(job.logs.messages(), ["scripted worker job-0-1 is up"]);
}

#[tokio::test]
async fn a_worker_is_used_again_and_no_more_are_started_than_bundles_run_at_once() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 2);
    assert_eq!(job.bundles.parallelism(crate::support::ENVIRONMENT), 2);
    let stage = job.stage("test:dofn:identity");
    for bundle in ["a", "b", "c"] {
        assert_eq!(stage.run(bundle, &[bundle]).await.unwrap().values, [bundle]);
    }
    assert_eq!(harness.started().len(), 1);

    let running: Vec<_> = (0..10)
        .map(|number| {
            let stage = stage.clone();
            tokio::spawn(async move { stage.run(&format!("p{number}"), &["x"]).await.map(|ran| ran.values) })
        })
        .collect();
    for bundle in running {
        assert_eq!(bundle.await.unwrap().unwrap(), ["x"]);
    }
    assert!(harness.started().len() <= 2, "{:?}", harness.started());
    job.bundles.close().await;
}

#[tokio::test]
async fn a_worker_gets_no_more_bundles_at_a_time_than_its_environment_says() {
    let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, seen) = (running.clone(), most.clone());
    let script = Script::new().do_fn("test:dofn:slow", move |_, _| {
        seen.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let until = Instant::now() + SOON / 2;
        while seen.load(Ordering::SeqCst) < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        // For more to come, if they can.
        std::thread::sleep(Duration::from_millis(50));
        counted.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &most_at_a_time(harness.environment(), "2"), 1);
    assert_eq!(job.bundles.parallelism(crate::support::ENVIRONMENT), 2);
    let stage = job.stage("test:dofn:slow");
    let bundles: Vec<_> = (0..6)
        .map(|number| {
            let stage = stage.clone();
            tokio::spawn(async move { stage.run(&format!("p{number}"), &["x"]).await.map(|ran| ran.values) })
        })
        .collect();
    for bundle in bundles {
        bundle.await.unwrap().unwrap();
    }
    assert_eq!((most.load(Ordering::SeqCst), harness.started().len()), (2, 1));
    job.bundles.close().await;
}

#[tokio::test]
async fn bundles_at_a_time_are_those_of_all_workers() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    for (hint, expected) in [("1", 2), ("3", 6), ("1000000", 128), ("0", 2), ("many", 2)] {
        let job = bridge.job(hint, &most_at_a_time(harness.environment(), hint), 2);
        assert_eq!(job.bundles.parallelism(crate::support::ENVIRONMENT), expected, "hint {hint:?}");
        job.bundles.close().await;
    }
}

#[tokio::test]
async fn a_long_input_and_a_long_output_arrive_in_order() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let long = "x".repeat(10_000);
    let blocks = (0..2000).map(move |number| Ok(encode(&[&format!("{number} {long}")])));
    let ran = job.stage("test:dofn:identity");
    let ran = ran.run_blocks("a", Box::new(blocks), Arc::default(), Arc::default()).await.unwrap();
    let numbers = ran.values.iter().map(|value| value.split(' ').next().unwrap().parse::<usize>().unwrap());
    assert!(numbers.eq(0..2000));
    job.bundles.close().await;
}

#[tokio::test]
async fn an_input_that_cannot_be_read_fails_the_bundle() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let blocks = [Ok(encode(&["one"])), Err(Fault::runner("the disk is gone"))];
    let stage = job.stage("test:dofn:identity");
    let failed = stage.run_blocks("a", Box::new(blocks.into_iter()), Arc::default(), Arc::default()).await;
    assert_eq!(failed.err().unwrap().message, "the disk is gone");
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    job.bundles.close().await;
}

#[tokio::test]
async fn output_may_come_with_the_answer_or_before_it() {
    let script = Script::new()
        .bundle_fault(1, BundleFault::EmbedOutput)
        .bundle_fault(2, BundleFault::Delay(Duration::from_millis(200)));
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    for bundle in ["embedded", "before"] {
        assert_eq!(stage.run(bundle, &["one", "two"]).await.unwrap().values, ["one", "two"], "{bundle}");
    }
    job.bundles.close().await;
}

#[tokio::test]
async fn state_is_read_page_by_page_and_written() {
    let script = Script::new().do_fn("test:dofn:state", |element, call| {
        let side = call.side_input("side")?;
        let seen = call.bag("seen", b"k")?;
        call.append_to_bag("seen", b"k", element)?;
        call.emit_all(&[&[(side.len() + seen.len()) as u8], &side[..], &seen[..]].concat());
        if element.ends_with(b"last") {
            call.clear_bag("seen", b"k")?;
        }
        Ok(())
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let side_inputs = BTreeMap::from([("side".to_owned(), Bytes::from_static(b"12345678"))]);
    let state = Arc::new(State { side_inputs, ..State::default() });
    let stage = job.stage("test:dofn:state");
    let ran = stage.run_with("a", &["one", "last"], state.clone(), Arc::default()).await.unwrap();
    assert_eq!(ran.values, ["12345678", "12345678\u{3}one"]);
    assert!(state.bags.lock().unwrap().is_empty());

    // What the handler refuses is the worker's error.
    let failed = stage.run("b", &["one"]).await.err().unwrap();
    assert_eq!(failed.message, "there is no side input side");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_worker_gets_the_tokens_of_what_it_may_cache() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let cache_tokens = vec![
        CacheToken::UserState { token: "state".into() },
        CacheToken::SideInput {
            transform_id: "user".to_owned(),
            side_input_id: "side".to_owned(),
            token: "view".into(),
        },
    ];
    let state = Arc::new(State { cache_tokens, ..State::default() });
    let stage = job.stage("test:dofn:identity");
    stage.run_with("a", &["one"], state.clone(), Arc::default()).await.unwrap();
    stage.run("b", &["one"]).await.unwrap();
    assert_eq!(*state.workers.lock().unwrap(), ["job-0-1"]);
    let side = SideInput { transform_id: "user".to_owned(), side_input_id: "side".to_owned() };
    let sent = [
        wire::CacheToken { token: "state".into(), r#type: Some(Type::UserState(UserState {})) },
        wire::CacheToken { token: "view".into(), r#type: Some(Type::SideInput(side)) },
    ];
    assert_eq!(harness.cache_tokens(), [sent.to_vec(), Vec::new()]);
    job.bundles.close().await;
}

const HOUR: Duration = Duration::from_secs(3600);

/// What has gone by since the worker had processed all is no part of the delay any more.
fn is_rest_of_an_hour(delay: Duration) -> bool {
    delay <= HOUR && delay > HOUR / 2
}

#[tokio::test]
async fn residuals_come_back_with_their_delay() {
    let give_back =
        BundleFault::GiveBack { transform_id: "user".to_owned(), input_id: "in".to_owned(), delay: HOUR };
    let harness = ScriptedHarness::start(Script::new().bundle_fault(1, give_back)).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let ran = job.stage("test:dofn:identity").run("a", &["one"]).await.unwrap();
    assert_eq!(ran.values, Vec::<String>::new());
    let [residual] = &ran.result.residuals[..] else { panic!("one residual was to come") };
    assert_eq!((&*residual.transform_id, &*residual.input_id), ("user", "in"));
    assert_eq!(residual.element, encode(&["one"]));
    assert!(is_rest_of_an_hour(residual.delay), "{:?}", residual.delay);
    job.bundles.close().await;
}

#[tokio::test]
async fn an_element_that_checkpoints_itself_may_ask_for_finalization_too() {
    let time = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
    let script = Script::new().do_fn("test:dofn:checkpoint", move |element, call| {
        call.emit_all(element);
        call.request_finalization();
        let watermarks =
            [("late", time(7, 1_999_999)), ("early", time(-1, 999_999_999)), ("far", time(i64::MAX, 0))];
        call.checkpoint("in", &[b"\x04", &b"rest"[..]].concat(), HOUR, &watermarks)
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:checkpoint");
    let ran = stage.run("a", &["one"]).await.unwrap();
    assert_eq!(ran.values, ["one"]);
    let [residual] = &ran.result.residuals[..] else { panic!("one residual was to come") };
    assert_eq!((&*residual.transform_id, &*residual.input_id), ("user", "in"));
    assert_eq!(residual.element, encode(&["rest"]));
    assert!(is_rest_of_an_hour(residual.delay), "{:?}", residual.delay);
    // In milliseconds, never later than the worker said.
    let watermarks = [("early", EventTime(-1)), ("far", EventTime::MAX), ("late", EventTime(7001))];
    let watermarks = watermarks.map(|(tag, time)| (tag.to_owned(), time));
    assert_eq!(residual.output_watermarks, watermarks.into());

    // The rest may well be processed before the callbacks have run.
    let rest = stage.run("b", &["rest"]).await.unwrap();
    for ran in [rest, ran] {
        ran.result.finalizer.expect("a finalizer").finalize().await.unwrap();
    }
    let finalized = harness.finalized();
    assert!(finalized[0].ends_with("-b") && finalized[1].ends_with("-a"), "{finalized:?}");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_bundle_that_asks_for_it_is_finalized_on_its_worker() {
    let script = Script::new().do_fn("test:dofn:finalize", |_, call| {
        call.request_finalization();
        Ok(())
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let ran = job.stage("test:dofn:finalize").run("a", &["one"]).await.unwrap();
    assert!(harness.finalized().is_empty());
    ran.result.finalizer.expect("a finalizer").finalize().await.unwrap();
    let [finalized] = &harness.finalized()[..] else { panic!("one finalization was to come") };
    assert!(finalized.ends_with("-a"), "{finalized}");
    job.bundles.close().await;
}

#[tokio::test]
async fn output_that_is_refused_ends_the_bundle_with_the_refusal() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let outputs = Arc::new(Outputs { refuse: true, ..Outputs::default() });
    let failed = stage.run_with("a", &["one"], Arc::default(), outputs).await.err().unwrap();
    assert_eq!(failed.message, "the output is refused");
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    job.bundles.close().await;
}

/// Python workers that nobody has told of options keep what they have read of global side inputs.
#[tokio::test]
async fn what_a_worker_keeps_of_side_inputs_it_keeps_until_they_change() {
    let python = "beam:version:sdk_base:apache/beam_python3.11_sdk:2.77.0";
    let java = "beam:version:sdk_base:apache/beam_java17_sdk:2.77.0";
    for (sdk, ids) in [(python, ["one", "one", "two", "whole"]), (java, ["whole"; 4])] {
        let harness = ScriptedHarness::start(Script::new()).await;
        let bridge = Bridge::start().await;
        let mut environment = harness.environment();
        environment.capabilities = vec![sdk.to_owned()];
        let job = bridge.job("job", &environment, 1);
        let stage = job.stage("test:dofn:identity");
        for (name, version) in [("a", 1), ("b", 1), ("c", 2)] {
            assert_eq!(stage.run_version(name, &[name], version).await.unwrap().values, [name]);
        }
        assert_eq!(stage.run("d", &["d"]).await.unwrap().values, ["d"]);
        let used = harness.descriptors();
        let same = |a: usize, b: usize| (used[a] == used[b], ids[a] == ids[b]);
        for (a, b) in [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)] {
            let (are, are_to_be) = same(a, b);
            assert_eq!(are, are_to_be, "{sdk}: bundles {a} and {b} by {used:?}");
        }
        job.bundles.close().await;
    }
}
