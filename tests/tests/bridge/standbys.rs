//! Workers that stand by between two jobs on one worker pool.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use beam_model::fn_execution::GetProvisionInfoRequest;
use beam_model::fn_execution::provision_service_client::ProvisionServiceClient;
use beamline_tests::scripted_harness::{Script, ScriptedHarness, StartFault};
use fn_harness_bridge::BridgeConfig;
use tonic::Code;

use crate::artifacts::{as_worker, channel};
use crate::support::{Bridge, SOON, eventually, one_at_a_time};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

async fn bridge() -> Bridge {
    Bridge::with(BridgeConfig { standby_time: LONG, ..BridgeConfig::default() }).await
}

/// Runs a job of one bundle on the pool.
async fn run_job(bridge: &Bridge, id: &str, harness: &ScriptedHarness) {
    let job = bridge.job(id, &harness.environment(), 2);
    let ran = job.stage("test:dofn:identity").run("a", &["one"]).await.unwrap();
    assert_eq!(ran.values, ["one"]);
    job.bundles.close().await;
}

/// The names of the workers that were started, without what is unlike in each run.
fn started(harness: &ScriptedHarness) -> Vec<String> {
    let name = |id: String| match id.split('-').collect::<Vec<_>>()[..] {
        ["standby", _, number] => format!("standby {number}"),
        _ => id,
    };
    harness.started().into_iter().map(name).collect()
}

async fn stand_by(bridge: &Bridge, workers: usize) {
    eventually("workers that stand by", || bridge.bridge.standbys() == workers).await;
}

#[tokio::test]
async fn the_next_job_is_served_by_what_the_last_one_left_standing_by() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = bridge().await;
    run_job(&bridge, "first", &harness).await;
    stand_by(&bridge, 1).await;
    assert_eq!(bridge.bridge.connected_workers(), 0, "it is no job's");
    run_job(&bridge, "second", &harness).await;
    stand_by(&bridge, 1).await;
    assert_eq!(started(&harness), ["first-0-1", "standby 1", "standby 2"]);
    assert_eq!(harness.stopped(), harness.started()[..2]);
    bridge.bridge.shutdown().await;
    assert_eq!(harness.stopped(), harness.started());
    assert_eq!(bridge.bridge.standbys(), 0);
    eventually("the end of all workers", || harness.running() == 0).await;
}

#[tokio::test]
async fn one_that_is_still_starting_is_not_started_twice() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = bridge().await;
    run_job(&bridge, "first", &harness).await;
    run_job(&bridge, "second", &harness).await;
    stand_by(&bridge, 1).await;
    assert_eq!(started(&harness), ["first-0-1", "standby 1", "standby 2"]);
}

#[tokio::test]
async fn there_are_as_many_as_the_job_had_at_once() {
    let here = AtomicUsize::new(0);
    let script = Script::new().asks_for_nothing().do_fn("test:dofn:long", move |element, call| {
        here.fetch_add(1, Ordering::SeqCst);
        let until = Instant::now() + SOON / 2;
        while here.load(Ordering::SeqCst) < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        call.emit_all(element);
        Ok(())
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = bridge().await;
    let job = bridge.job("first", &one_at_a_time(harness.environment()), 2);
    let stage = job.stage("test:dofn:long");
    let (a, b) = tokio::join!(stage.run("a", &["one"]), stage.run("b", &["two"]));
    assert_eq!((a.unwrap().values, b.unwrap().values), (vec!["one".to_owned()], vec!["two".to_owned()]));
    job.bundles.close().await;
    stand_by(&bridge, 2).await;
    assert_eq!(started(&harness), ["first-0-1", "first-0-2", "standby 1", "standby 2"]);
}

#[tokio::test]
async fn none_stand_by_if_there_is_no_time_for_it() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = Bridge::start().await;
    run_job(&bridge, "first", &harness).await;
    run_job(&bridge, "second", &harness).await;
    assert_eq!(started(&harness), ["first-0-1", "second-0-1"]);
}

#[tokio::test]
async fn none_stand_by_whose_like_ask_before_they_work() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = bridge().await;
    run_job(&bridge, "first", &harness).await;
    run_job(&bridge, "second", &harness).await;
    assert_eq!(started(&harness), ["first-0-1", "second-0-1"]);
}

#[tokio::test]
async fn they_end_when_nobody_has_needed_them() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let time = Duration::from_millis(50);
    let bridge = Bridge::with(BridgeConfig { standby_time: time, ..BridgeConfig::default() }).await;
    run_job(&bridge, "first", &harness).await;
    eventually("the end of the standby", || harness.stopped().len() == 2).await;
    assert_eq!(harness.stopped(), harness.started());
    assert_eq!(bridge.bridge.standbys(), 0);
    eventually("the end of all workers", || harness.running() == 0).await;
}

#[tokio::test]
async fn one_that_has_died_is_not_missed() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = bridge().await;
    run_job(&bridge, "first", &harness).await;
    stand_by(&bridge, 1).await;
    harness.kill_workers();
    stand_by(&bridge, 0).await;
    run_job(&bridge, "second", &harness).await;
    stand_by(&bridge, 1).await;
    assert_eq!(started(&harness), ["first-0-1", "standby 1", "second-0-1", "standby 2"]);
}

#[tokio::test]
async fn one_that_cannot_be_started_is_not_missed() {
    for fault in [StartFault::Refuse("not today".to_owned()), StartFault::NeverConnect] {
        let harness =
            ScriptedHarness::start(Script::new().asks_for_nothing().start_fault(2, fault.clone())).await;
        let config = BridgeConfig {
            standby_time: LONG,
            // Those that do connect have as long.
            worker_connect_timeout: Duration::from_secs(3),
            ..BridgeConfig::default()
        };
        let bridge = Bridge::with(config).await;
        run_job(&bridge, "first", &harness).await;
        // It may wait for the one that never connects, and has to do without it.
        run_job(&bridge, "second", &harness).await;
        stand_by(&bridge, 1).await;
        let served = started(&harness);
        assert!(served.contains(&"second-0-1".to_owned()), "{fault:?}: {served:?}");
    }
}

#[tokio::test]
async fn those_of_one_pool_do_not_work_for_another() {
    let pools = [
        ScriptedHarness::start(Script::new().asks_for_nothing()).await,
        ScriptedHarness::start(Script::new().asks_for_nothing()).await,
    ];
    let bridge = bridge().await;
    run_job(&bridge, "first", &pools[0]).await;
    stand_by(&bridge, 1).await;
    run_job(&bridge, "second", &pools[1]).await;
    assert_eq!(started(&pools[0]), ["first-0-1", "standby 1"]);
    assert_eq!(pools[1].started()[0], "second-0-1");
}

#[tokio::test]
async fn none_stand_by_that_are_threads_of_the_author_of_a_pipeline() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = bridge().await;
    for id in ["first", "second"] {
        let job = bridge.loopback_job(id, &harness.environment());
        job.stage("test:dofn:identity").run("a", &["one"]).await.unwrap();
        job.bundles.close().await;
    }
    assert_eq!(started(&harness), ["first-0-1", "second-0-1"]);
}

#[tokio::test]
async fn one_that_asks_for_its_job_is_the_last_of_its_pool() {
    let harness = ScriptedHarness::start(Script::new().asks_for_nothing()).await;
    let bridge = bridge().await;
    run_job(&bridge, "first", &harness).await;
    stand_by(&bridge, 1).await;
    let mut provision = ProvisionServiceClient::new(channel(&bridge).await);
    let standby = harness.started().pop();
    let request = as_worker(standby.as_deref(), GetProvisionInfoRequest {});
    let refused = provision.get_provision_info(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(bridge.bridge.standbys(), 0);
    run_job(&bridge, "second", &harness).await;
    assert_eq!(started(&harness), ["first-0-1", "standby 1", "second-0-1"]);
}
