//! What workers report of themselves as a whole.

use std::collections::BTreeMap;

use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::standard_protocols::HARNESS_MONITORING_INFOS;
use beamline_tests::scripted_harness::{Script, ScriptedHarness, ShortIds};
use fn_harness_bridge::BridgeConfig;

use crate::support::{Bridge, SOON, with_capability};

fn info(payload: u8) -> MonitoringInfo {
    MonitoringInfo {
        urn: "beam:metric:user:sum_int64:v1".to_owned(),
        r#type: "beam:metrics:sum_int64:v1".to_owned(),
        payload: vec![payload].into(),
        labels: BTreeMap::from([("NAME".to_owned(), "loaded".to_owned())]),
        ..Default::default()
    }
}

#[tokio::test]
async fn each_worker_that_can_tell_its_own_metrics_is_asked_for_them() {
    let telling = || Script::new().short_ids(ShortIds::Told).process_metrics(vec![info(7)]);
    let cases = [
        ("it tells", telling(), true, true),
        ("it has not said that it can", telling(), false, false),
        ("it cannot", Script::new(), true, false),
        ("it does not say what they are", telling().short_ids(ShortIds::Untold), true, false),
    ];
    for (name, script, capable, expected) in cases {
        let harness = ScriptedHarness::start(script).await;
        let config = BridgeConfig { harness_metrics_timeout: SOON, ..BridgeConfig::default() };
        let bridge = Bridge::with(config).await;
        let environment = harness.environment();
        let environment = match capable {
            true => with_capability(environment, HARNESS_MONITORING_INFOS),
            false => environment,
        };
        let job = bridge.job("job", &environment, 2);
        assert!(job.bundles.worker_metrics().await.is_empty(), "{name}: no worker has been started");
        let stage = job.stage("test:dofn:identity");
        // That of a bundle may have short ids that do not mean anything.
        stage.run("a", &["one"]).await.ok();
        let told = job.bundles.worker_metrics().await;
        let expected = if expected { vec![("job-0-1".to_owned(), vec![info(7)])] } else { Vec::new() };
        assert_eq!(told, expected, "{name}");
        job.bundles.close().await;
        assert!(job.bundles.worker_metrics().await.is_empty(), "{name}: no worker is there any more");
    }
}
