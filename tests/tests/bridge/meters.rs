//! What the bridge counts of itself.

use std::sync::Arc;

use beamline_tests::scripted_harness::{Script, ScriptedHarness};
use fn_harness_bridge::BridgeConfig;
use runner_core::meters::Meters;

use crate::support::{Bridge, encode};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_elements_and_times_of_bundles_are_counted() {
    let meters = Arc::new(Meters::default());
    let bridge = Bridge::with(BridgeConfig { meters: meters.clone(), ..BridgeConfig::default() }).await;
    let script = Script::new().do_fn("test:dofn:twice", |element, call| {
        call.emit_all(element);
        call.emit_all(element);
        Ok(())
    });
    let harness = ScriptedHarness::start(script).await;
    let job = bridge.job("job", &harness.environment(), 1);
    let stage = job.stage("test:dofn:twice");
    stage.run("first", &["a", "bc"]).await.unwrap();
    let bytes = encode(&["a", "bc"]).len() as u64;
    assert_eq!((meters.to_workers.bytes.get(), meters.from_workers.bytes.get()), (bytes, 2 * bytes));
    assert_eq!((meters.to_workers.elements.get(), meters.from_workers.elements.get()), (2, 4));
    assert_eq!((meters.bundle_time.counts().1, meters.worker_wait.counts().1), (1, 0));
    assert_eq!(bridge.bridge.connected_workers(), 1);

    stage.run("second", &["d"]).await.unwrap();
    assert_eq!(meters.to_workers.elements.get(), 3);
    assert_eq!((meters.bundle_time.counts().1, meters.worker_wait.counts().1), (2, 1));
    job.bundles.close().await;
    assert_eq!(bridge.bridge.connected_workers(), 0);
}
