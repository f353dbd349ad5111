//! Metrics of which workers send short ids.

use std::sync::{Mutex, mpsc};

use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness, ShortIds};
use runner_core::fault::Blame;
use runner_core::ports::BundleResult;

use crate::support::{Bridge, Ran, SOON, eventually};

/// The counts of elements, by PCollection.
fn counts(result: &BundleResult) -> Vec<(String, u8)> {
    let infos = result.monitoring_infos.iter();
    infos.map(|info| (info.labels["PCOLLECTION"].clone(), info.payload[0])).collect()
}

#[tokio::test]
async fn a_worker_is_asked_once_what_its_short_ids_mean() {
    let harness = ScriptedHarness::start(Script::new().short_ids(ShortIds::Told)).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    for values in [&["one"][..], &["one", "two"]] {
        let Ran { result, .. } = stage.run("a", values).await.unwrap();
        let count = values.len() as u8;
        assert_eq!(counts(&result), [("read".to_owned(), count), ("written".to_owned(), count)]);
        let info = &result.monitoring_infos[0];
        assert_eq!(
            (&*info.urn, &*info.r#type),
            ("beam:metric:element_count:v1", "beam:metrics:sum_int64:v1")
        );
    }
    assert_eq!(harness.short_ids_asked(), [["0".to_owned(), "1".to_owned()]]);
    job.bundles.close().await;
}

#[tokio::test]
async fn another_worker_may_mean_something_else_by_the_same_short_id() {
    let script =
        Script::new().short_ids(ShortIds::Told).bundle_fault(1, BundleFault::DataForUnknownInstruction);
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:identity");
    assert!(stage.run("a", &["one"]).await.is_err());
    stage.run("b", &["one"]).await.unwrap();
    assert_eq!(harness.short_ids_asked().len(), 1);
    harness.kill_workers();
    eventually("the end of the worker", || harness.running() == 0).await;
    let ran = loop {
        // Until the bridge has seen it too, the bundle may be given to the worker that is gone.
        if let Ok(ran) = stage.run("c", &["one"]).await {
            break ran;
        }
    };
    assert_eq!(counts(&ran.result), [("read".to_owned(), 1), ("written".to_owned(), 1)]);
    assert_eq!(harness.short_ids_asked().len(), 2);
    job.bundles.close().await;
}

#[tokio::test]
async fn progress_may_come_with_short_ids_too() {
    let (let_on, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let script = Script::new().short_ids(ShortIds::Told).do_fn("test:dofn:slow", move |_, _| {
        wait.lock().unwrap().recv_timeout(SOON).map_err(|error| error.to_string())
    });
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    let (control, running) = job.stage("test:dofn:slow").start("a", &["one"]);
    eventually("the bundle", || harness.bundles() == 1).await;
    let progress = loop {
        if let Some(progress) = control.progress().await {
            break progress;
        }
    };
    assert_eq!((progress.len(), progress[0].labels["PCOLLECTION"].as_str()), (1, "read"));
    let_on.send(()).unwrap();
    running.await.unwrap().unwrap();
    job.bundles.close().await;
}

#[tokio::test]
async fn a_worker_that_does_not_tell_what_its_short_ids_mean_is_named() {
    for (short_ids, expected) in [
        (ShortIds::Untold, "sent a metric with short id \"0\" and does not tell what it means"),
        (ShortIds::Refused, "cannot tell what the short ids of its metrics mean: there are no such ids"),
    ] {
        let harness = ScriptedHarness::start(Script::new().short_ids(short_ids)).await;
        let bridge = Bridge::start().await;
        let job = bridge.job("job", &harness.environment(), 1);
        let fault = job.stage("test:dofn:identity").run("a", &["one"]).await.err().unwrap();
        assert_eq!(fault.blame, Blame::Environment);
        assert!(fault.message.contains(expected) && fault.message.contains("job-0-1"), "{fault}");
        job.bundles.close().await;
    }
}
