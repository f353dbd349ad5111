//! Elements in the request of a bundle.

use std::sync::Arc;

use beam_model::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness};
use runner_core::fault::Fault;

use crate::support::{Bridge, Job, Outputs, encode, with_capability};
use crate::timers::{block, set};

struct Embedding {
    harness: ScriptedHarness,
    job: Job,
    _bridge: Bridge,
}

impl Embedding {
    async fn new(script: Script) -> Self {
        let harness = ScriptedHarness::start(script).await;
        let bridge = Bridge::start().await;
        let environment = with_capability(harness.environment(), CONTROL_REQUEST_ELEMENTS_EMBEDDING);
        let job = bridge.job("job", &environment, 1);
        Self { harness, job, _bridge: bridge }
    }
}

#[tokio::test]
async fn a_small_bundle_comes_with_its_elements_and_a_large_one_does_not() {
    let script = Script::new().bundle_fault(2, BundleFault::EmbedOutput);
    let Embedding { harness, job, _bridge } = Embedding::new(script).await;
    let stage = job.stage("test:dofn:identity");
    assert_eq!(stage.run("a", &["one", "two"]).await.unwrap().values, ["one", "two"]);
    assert_eq!(harness.embedded(), 1);
    // There and back without the data stream.
    assert_eq!(stage.run("b", &["three"]).await.unwrap().values, ["three"]);
    assert_eq!(stage.run("c", &[]).await.unwrap().values, Vec::<String>::new());
    assert_eq!(harness.embedded(), 3);

    let long = "x".repeat(30_000);
    let blocks = [&*long; 3].map(|value| Ok(encode(&[value])));
    let ran = stage.run_blocks("d", Box::new(blocks.into_iter()), Arc::default(), Arc::default()).await;
    assert_eq!(ran.unwrap().values, [&*long; 3]);
    let longer = "x".repeat(3 << 20);
    let ran =
        stage.run_blocks("e", Box::new([Ok(encode(&[&longer]))].into_iter()), Arc::default(), Arc::default());
    assert_eq!(ran.await.unwrap().values, [longer]);
    assert_eq!((harness.embedded(), harness.bundles()), (3, 5));
    job.bundles.close().await;
}

#[tokio::test]
async fn an_sdk_that_does_not_say_that_it_can_gets_its_elements_by_the_data_stream() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &harness.environment(), 1);
    assert_eq!(job.stage("test:dofn:identity").run("a", &["one"]).await.unwrap().values, ["one"]);
    assert_eq!(harness.embedded(), 0);
    job.bundles.close().await;
}

#[tokio::test]
async fn timers_are_embedded_too() {
    let script = Script::new()
        .do_fn("test:dofn:timers", |element, call| {
            call.emit_all(element);
            Ok(())
        })
        .on_timer("test:dofn:timers", |timer, call| {
            call.emit_all(&[b"\x02", &timer.tag.as_bytes()[..2]].concat());
            Ok(())
        });
    let Embedding { harness, job, _bridge } = Embedding::new(script).await;
    let stage = job.stage_with_timers("test:dofn:timers", &["family", "other"]);
    let timer = |tag: &str| block("family", set("key", tag, 1, 1));
    let outputs = Arc::<Outputs>::default();
    let ran = stage.run_timers("a", &["one"], vec![timer("t1"), timer("t2")], outputs).await.unwrap();
    assert_eq!(ran.values, ["one", "t1", "t2"]);
    assert_eq!(harness.embedded(), 1);
    // With these it is too much for one message: elements and timers follow the request.
    let long = "x".repeat(70_000);
    let ran = stage.run_timers("b", &[&long], vec![timer("t1")], Arc::default()).await.unwrap();
    assert_eq!(ran.values, [&*long, "t1"]);
    let ran = stage.run_timers("c", &["one"], vec![timer(&long)], Arc::default()).await.unwrap();
    assert_eq!(ran.values, ["one", "xx"]);
    assert_eq!(harness.embedded(), 1);
    job.bundles.close().await;
}

#[tokio::test]
async fn an_input_that_cannot_be_read_fails_a_bundle_that_was_not_sent_yet() {
    let Embedding { harness, job, _bridge } = Embedding::new(Script::new()).await;
    let stage = job.stage("test:dofn:identity");
    let blocks = [Ok(encode(&["one"])), Err(Fault::runner("the disk is gone"))];
    let failed = stage.run_blocks("a", Box::new(blocks.into_iter()), Arc::default(), Arc::default()).await;
    assert_eq!(failed.err().unwrap().message, "the disk is gone");
    assert_eq!(harness.embedded(), 0);
    assert_eq!(stage.run("b", &["two"]).await.unwrap().values, ["two"]);
    job.bundles.close().await;
}
