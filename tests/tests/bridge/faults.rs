//! Workers and bundles that fail.

use std::time::{Duration, Instant};

use beamline_tests::scripted_harness::{
    BundleFault, Script, ScriptedHarness, StartFault, external_environment,
};
use fn_harness_bridge::BridgeConfig;
use runner_core::fault::{Blame, Fault, Retry};
use tokio_util::sync::CancellationToken;

use crate::support::{AT_ONCE, Bridge, SOON, eventually, one_at_a_time};

#[tokio::test]
async fn a_users_exception_comes_back_as_it_is_and_the_worker_goes_on() {
    let stack = "Traceback (most recent call last):\n  File \"x.py\"\nValueError: \"bad\"\n";
    let harness =
        ScriptedHarness::start(Script::new().bundle_fault(1, BundleFault::Fail(stack.to_owned()))).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let fault = stage.run("a", &["one"]).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry, &*fault.message), (Blame::User, Retry::Bundle, stack));
    assert_eq!(stage.run("b", &["one"]).await.unwrap().values, ["one"]);
    assert_eq!(harness.started().len(), 1);
    job.bundles.close().await;
}

/// The first bundle fails so, and the next finds a new worker.
async fn check_worker_replaced(fault: BundleFault, expected: &str) {
    let harness = ScriptedHarness::start(Script::new().bundle_fault(1, fault)).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let failed = stage.run("a", &["one"]).await.err().expect("the bundle was to fail");
    check_names_worker(&failed, "job-0-1", harness.endpoint());
    assert!(failed.message.contains(expected), "{expected:?} was to be in: {}", failed.message);
    assert!(failed.message.contains("scripted worker job-0-1 is up"), "no log lines: {}", failed.message);
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    assert_eq!(harness.started(), ["job-0-1", "job-0-2"]);
    job.bundles.close().await;
}

fn check_names_worker(fault: &Fault, worker: &str, environment: &str) {
    assert_eq!((fault.blame, fault.retry), (Blame::Environment, Retry::Worker), "{fault}");
    assert!(fault.message.contains(worker) && fault.message.contains(environment), "{fault}");
    assert!(fault.message.contains("beam:env:external:v1"), "{fault}");
}

#[tokio::test]
async fn a_worker_that_breaks_its_connections_in_a_bundle_is_replaced() {
    check_worker_replaced(BundleFault::Disconnect, "stream").await;
}

#[tokio::test]
async fn a_worker_that_sends_data_of_an_unknown_instruction_is_replaced() {
    check_worker_replaced(
        BundleFault::DataForUnknownInstruction,
        "\"never-given\", which it was never given",
    )
    .await;
}

#[tokio::test]
async fn a_worker_that_sends_data_of_an_unknown_transform_is_replaced() {
    check_worker_replaced(BundleFault::DataForUnknownTransform, "\"no-such-sink\"").await;
}

#[tokio::test]
async fn a_worker_that_sends_data_after_the_last_is_replaced() {
    check_worker_replaced(BundleFault::DataAfterLast, "after it had marked the end").await;
}

#[tokio::test]
async fn a_worker_that_answers_with_something_else_is_replaced() {
    check_worker_replaced(BundleFault::WrongAnswer, "with something else").await;
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_harms_no_other() {
    let let_go = CancellationToken::new();
    let script = Script::new()
        .bundle_fault(1, BundleFault::Held(let_go.clone()))
        .bundle_fault(2, BundleFault::DataForUnknownInstruction);
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 2);
    let stage = job.stage("test:dofn:identity");
    let slow = stage.clone();
    let slow = tokio::spawn(async move { slow.run("slow", &["one"]).await.map(|ran| ran.values) });
    eventually("the first bundle", || harness.bundles() == 1).await;
    assert!(stage.run("bad", &["two"]).await.is_err());
    let_go.cancel();
    assert_eq!(slow.await.unwrap().unwrap(), ["one"]);
    job.bundles.close().await;
}

#[tokio::test]
async fn killed_workers_fail_their_bundles_at_once() {
    let harness = ScriptedHarness::start(Script::new().bundle_faults_up_to(1, BundleFault::Hang)).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let running = tokio::spawn({
        let stage = stage.clone();
        async move { stage.run("a", &["one"]).await.err().unwrap() }
    });
    eventually("the bundle", || harness.bundles() == 1).await;
    let killed = Instant::now();
    harness.kill_workers();
    check_names_worker(&running.await.unwrap(), "job-0-1", harness.endpoint());
    assert!(killed.elapsed() < AT_ONCE, "{:?}", killed.elapsed());
    job.bundles.close().await;
}

#[tokio::test]
async fn a_bundle_given_up_leaves_nothing_behind_and_its_late_answer_changes_nothing() {
    let let_go = CancellationToken::new();
    let script = Script::new().bundle_fault(1, BundleFault::Held(let_go.clone()));
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &one_at_a_time(harness.environment()), 1);
    let stage = job.stage("test:dofn:identity");
    let given_up = tokio::spawn({
        let stage = stage.clone();
        async move { stage.run("a", &["one"]).await.map(|ran| ran.values) }
    });
    eventually("the bundle", || harness.bundles() == 1).await;
    given_up.abort();
    // There is room for one worker and one bundle only, so this one waits for the first to be let go.
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    let_go.cancel();
    // For the answer to come, if it can.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.run("c", &["three"]).await.unwrap().values, ["three"]);
    assert_eq!(harness.started().len(), 2);
    job.bundles.close().await;
    eventually("the end of all workers", || harness.running() == 0).await;
}

#[tokio::test]
async fn a_worker_that_does_not_connect_is_named_and_the_job_ends_after_a_few() {
    let script =
        (1..=4).fold(Script::new(), |script, start| script.start_fault(start, StartFault::NeverConnect));
    let harness = ScriptedHarness::start(script).await;
    // In which it has to answer that it starts the worker.
    let config = BridgeConfig { worker_connect_timeout: Duration::from_secs(2), ..BridgeConfig::default() };
    let bridge = Bridge::with(config).await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let expected = format!("did not connect to 127.0.0.1:{} within 2 s", bridge.port);
    for start in 1..=3 {
        let fault = stage.run("a", &["one"]).await.err().unwrap();
        check_names_worker(&fault, &format!("job-0-{start}"), harness.endpoint());
        assert!(fault.message.contains(&expected), "{fault}");
    }
    let last = stage.run("a", &["one"]).await.err().unwrap();
    assert_eq!(last.retry, Retry::Never);
    assert!(last.message.starts_with("4 workers in a row could not be started: "), "{last}");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_pool_that_refuses_or_is_not_there_is_named() {
    let refusal = StartFault::Refuse("no room for another worker".to_owned());
    let harness = ScriptedHarness::start(Script::new().start_fault(1, refusal)).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("refused", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    let fault = stage.run("a", &["one"]).await.err().unwrap();
    check_names_worker(&fault, "refused-0-1", harness.endpoint());
    assert!(fault.message.contains("no room for another worker"), "{fault}");
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    job.bundles.close().await;

    let endpoint = harness.endpoint().to_owned();
    drop(harness);
    let job = bridge.job("absent", &external_environment(&endpoint), 1);
    let fault = job.stage("test:dofn:identity").run("a", &["one"]).await.err().unwrap();
    check_names_worker(&fault, "absent-0-1", &endpoint);
    assert!(fault.message.contains("start the worker pool there"), "{fault}");
    job.bundles.close().await;
}

#[tokio::test]
async fn a_closed_job_runs_no_bundle_and_closing_is_quick() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::with(BridgeConfig { worker_stop_timeout: SOON, ..BridgeConfig::default() }).await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    stage.run("a", &["one"]).await.unwrap();
    let closing = Instant::now();
    job.bundles.close().await;
    assert!(closing.elapsed() < AT_ONCE, "{:?}", closing.elapsed());
    let fault = stage.run("b", &["two"]).await.err().unwrap();
    assert!(fault.message.contains("job job is closed"), "{fault}");
}

#[tokio::test]
async fn a_shutdown_ends_the_workers_of_all_jobs() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    for id in ["one", "two"] {
        let job = bridge.job(id, &harness.environment(), 1);
        job.stage("test:dofn:identity").run("a", &["x"]).await.unwrap();
    }
    assert_eq!(harness.running(), 2);
    bridge.bridge.shutdown().await;
    eventually("the end of all workers", || harness.running() == 0).await;
}
