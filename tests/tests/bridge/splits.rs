//! Bundles that are asked things while they run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use beamline_tests::scripted_harness::{BundleFault, Script, ScriptedHarness, SplitAnswer, SplitCall};
use fn_harness_bridge::BridgeConfig;
use runner_core::ports::{ChannelSplit, ElementCount};
use tokio_util::sync::CancellationToken;

use crate::support::{Bridge, Job, Outputs, SOON, Stage, encode, eventually, one_at_a_time};

const PAUSING: &str = "test:dofn:pausing";

/// Bundles of a function that emits its element and then waits to be let on at those called "pause".
struct Paused {
    harness: ScriptedHarness,
    job: Job,
    stage: Stage,
    calls: Arc<Mutex<Vec<SplitCall>>>,
    pauses: Arc<AtomicUsize>,
    let_on: mpsc::Sender<()>,
    _bridge: Bridge,
}

impl Paused {
    async fn new(answer: SplitAnswer) -> Self {
        Self::with(Script::new(), BridgeConfig::default(), answer).await
    }

    async fn with(script: Script, config: BridgeConfig, answer: SplitAnswer) -> Self {
        let (let_on, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let calls = Arc::<Mutex<Vec<SplitCall>>>::default();
        let called = calls.clone();
        let pauses = Arc::<AtomicUsize>::default();
        let pausing = pauses.clone();
        let script = script
            .do_fn(PAUSING, move |element, call| {
                call.emit_all(element);
                if element.ends_with(b"pause") {
                    pausing.fetch_add(1, Ordering::SeqCst);
                    wait.lock().unwrap().recv_timeout(SOON).map_err(|error| error.to_string())?;
                }
                Ok(())
            })
            .on_split(move |call| {
                called.lock().unwrap().push(call.clone());
                answer.clone()
            });
        let harness = ScriptedHarness::start(script).await;
        let bridge = Bridge::with(config).await;
        let job = bridge.job("job", &one_at_a_time(harness.environment()), 1);
        let stage = job.stage(PAUSING);
        Self { harness, job, stage, calls, pauses, let_on, _bridge: bridge }
    }

    async fn begun(&self) {
        eventually("the pause", || self.pauses.load(Ordering::SeqCst) == 1).await;
    }
}

fn channel(last_primary_element: i64, first_residual_element: i64) -> ChannelSplit {
    ChannelSplit { transform_id: "source".to_owned(), last_primary_element, first_residual_element }
}

fn within_element() -> SplitAnswer {
    SplitAnswer::WithinElement {
        transform_id: "user".to_owned(),
        input_id: "in".to_owned(),
        rest: encode(&["rest"]),
    }
}

#[tokio::test]
async fn a_bundle_gives_back_elements_that_it_has_not_begun() {
    let paused = Paused::new(SplitAnswer::BetweenElements).await;
    let (control, running) = paused.stage.start("a", &["one", "pause", "two", "three", "four", "five"]);
    paused.begun().await;
    let split = control.split(0.5).await.expect("a split");
    assert_eq!((split.residuals.len(), &split.channels[..]), (0, &[channel(3, 4)][..]));
    let again = control.split(0.0).await.expect("a split of what is left");
    assert_eq!(again.channels, [channel(1, 2)]);
    assert!(control.split(0.0).await.is_none(), "nothing is left");
    paused.let_on.send(()).unwrap();

    let ran = running.await.unwrap().unwrap();
    assert_eq!(ran.values, ["one", "pause"]);
    assert_eq!(ran.result.splits.len(), 2);
    assert_eq!(ran.result.first_residual_element("source"), Some(2));
    let expected = SplitCall {
        bundle: 1,
        source: "source".to_owned(),
        fraction_of_remainder: 0.5,
        estimated_input_elements: 6,
        current: 1,
    };
    assert_eq!(paused.calls.lock().unwrap()[0], expected);
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn a_bundle_gives_back_the_rest_of_an_element() {
    let paused = Paused::new(within_element()).await;
    let (control, running) = paused.stage.start("a", &["one", "pause", "two"]);
    paused.begun().await;
    let split = control.split(0.0).await.expect("a split");
    let [residual] = &split.residuals[..] else { panic!("one residual was to come") };
    assert_eq!((&*residual.transform_id, &*residual.input_id), ("user", "in"));
    assert_eq!((residual.element.clone(), residual.delay), (encode(&["rest"]), Duration::ZERO));
    assert_eq!(split.channels, [channel(0, 2)]);
    paused.let_on.send(()).unwrap();
    let ran = running.await.unwrap().unwrap();
    assert_eq!(ran.values, ["one", "pause"]);
    assert_eq!(ran.result.first_residual_element("source"), Some(2));

    // The next bundle of the worker is whole.
    let (_, running) = paused.stage.start("b", &["three", "four"]);
    let ran = running.await.unwrap().unwrap();
    assert_eq!((ran.values.len(), ran.result.splits.len()), (2, 0));
    assert_eq!(ran.result.first_residual_element("source"), None);
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn what_is_work_of_others_at_once_is_not_in_the_bundles_result() {
    let paused = Paused::new(within_element()).await;
    let elements = ElementCount::default();
    let outputs = Outputs { splits: Some(Mutex::default()), ..Outputs::default() };
    let (control, running) = paused.stage.begin("a", &["one", "pause", "two"], elements.clone(), outputs);
    paused.begun().await;
    assert!(control.running_for().is_some());
    assert!(control.split(0.5).await.is_none(), "nobody has counted its elements");
    elements.found_out(3);
    let split = control.split(0.5).await.expect("a split");
    let [kept] = &split.primaries[..] else { panic!("one primary was to come") };
    assert_eq!((&*kept.transform_id, kept.element.clone()), ("user", encode(&["rest"])));
    paused.let_on.send(()).unwrap();
    let ran = running.await.unwrap().unwrap();
    assert_eq!((ran.values.len(), ran.result.splits.len()), (2, 0));
    assert_eq!(ran.result.first_residual_element("source"), None);
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn a_split_that_makes_no_sense_to_the_runner_fails_the_bundle() {
    let paused = Paused::new(SplitAnswer::BetweenElements).await;
    let outputs = Outputs { refuse: true, ..Outputs::default() };
    let (control, running) = paused.stage.begin("a", &["pause", "one", "two"], ElementCount::of(3), outputs);
    paused.begun().await;
    assert!(control.split(0.5).await.is_none());
    let fault = running.await.unwrap().err().expect("a failure");
    assert!(fault.message.contains("the split is refused"), "{fault}");
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn a_split_that_is_refused_changes_nothing() {
    for refusal in [SplitAnswer::Nothing, SplitAnswer::Error("the tracker cannot split".to_owned())] {
        let paused = Paused::new(refusal).await;
        let (control, running) = paused.stage.start("a", &["pause", "one"]);
        paused.begun().await;
        assert!(control.split(0.0).await.is_none());
        paused.let_on.send(()).unwrap();
        let ran = running.await.unwrap().unwrap();
        assert_eq!((ran.values, ran.result.splits.len()), (vec!["pause".to_owned(), "one".to_owned()], 0));
        assert!(control.split(0.0).await.is_none(), "the bundle is over");
        assert!(control.progress().await.is_none(), "the bundle is over");
        assert_eq!(paused.calls.lock().unwrap().len(), 1);
        paused.job.bundles.close().await;
    }
}

#[tokio::test]
async fn a_worker_that_does_not_know_the_bundle_any_more_does_not_fail_it() {
    let let_go = CancellationToken::new();
    let script = Script::new().bundle_fault(1, BundleFault::Held(let_go.clone()));
    let paused = Paused::with(script, BridgeConfig::default(), within_element()).await;
    let (control, running) = paused.stage.start("a", &["one"]);
    eventually("the bundle", || paused.harness.bundles() == 1).await;
    while control.progress().await.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!running.is_finished());
    assert!(control.split(0.0).await.is_none());
    let_go.cancel();
    let ran = running.await.unwrap().unwrap();
    assert_eq!((ran.values.len(), ran.result.splits.len()), (1, 0));
    assert!(paused.calls.lock().unwrap().is_empty());
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn an_input_that_was_not_counted_is_not_split() {
    let paused = Paused::new(SplitAnswer::BetweenElements).await;
    let (control, running) = paused.stage.start_uncounted("a", &["pause", "one"]);
    paused.begun().await;
    assert!(control.split(0.0).await.is_none());
    assert_eq!(control.progress().await, Some(Vec::new()));
    paused.let_on.send(()).unwrap();
    assert_eq!(running.await.unwrap().unwrap().values.len(), 2);
    assert!(paused.calls.lock().unwrap().is_empty());
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn a_bundle_that_waits_for_a_worker_is_not_split() {
    let paused = Paused::new(SplitAnswer::BetweenElements).await;
    let (_, running) = paused.stage.start("a", &["pause"]);
    paused.begun().await;
    let (control, waiting) = paused.stage.start("b", &["one", "two"]);
    let asker = tokio::spawn(async move { control.split(0.0).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asker.is_finished());
    paused.let_on.send(()).unwrap();
    running.await.unwrap().unwrap();
    assert!(asker.await.unwrap().is_none());
    assert_eq!(waiting.await.unwrap().unwrap().values, ["one", "two"]);
    assert!(paused.calls.lock().unwrap().is_empty());
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn the_answer_to_a_split_may_come_after_that_to_its_bundle() {
    let late = SplitAnswer::AfterTheBundle(Box::new(SplitAnswer::BetweenElements));
    let paused = Paused::new(late).await;
    let (control, running) = paused.stage.start("a", &["pause", "one", "two"]);
    paused.begun().await;
    let asker = tokio::spawn(async move { control.split(0.0).await });
    eventually("the question", || paused.calls.lock().unwrap().len() == 1).await;
    // Nobody waits any more; that must not lose the elements that are not processed.
    asker.abort();
    paused.let_on.send(()).unwrap();
    let ran = running.await.unwrap().unwrap();
    assert_eq!(ran.values, ["pause"]);
    assert_eq!(ran.result.first_residual_element("source"), Some(1));
    paused.job.bundles.close().await;
}

#[tokio::test]
async fn nobody_knows_what_a_bundle_gave_back_whose_worker_does_not_say_whether_it_split() {
    let cases = [
        (SplitAnswer::Never, Duration::from_millis(300), "not whether it had split it"),
        (SplitAnswer::WrongAnswer, SOON, "with something else"),
        (SplitAnswer::Cut { last_primary_element: 2, first_residual_element: 1 }, SOON, "which cannot be"),
        (SplitAnswer::Cut { last_primary_element: -7, first_residual_element: -6 }, SOON, "which cannot be"),
    ];
    for (answer, split_timeout, expected) in cases {
        let config = BridgeConfig { split_timeout, ..Default::default() };
        let paused = Paused::with(Script::new(), config, answer).await;
        let (control, running) = paused.stage.start("a", &["pause", "one"]);
        paused.begun().await;
        let asker = tokio::spawn(async move { control.split(0.0).await });
        eventually("the question", || paused.calls.lock().unwrap().len() == 1).await;
        paused.let_on.send(()).unwrap();
        let failed = running.await.unwrap().err().expect("a failure");
        assert!(failed.message.contains(expected), "{}", failed.message);
        assert!(asker.await.unwrap().is_none());
        // Its worker is gone; the next bundle has another.
        assert_eq!(paused.stage.run("b", &["two"]).await.unwrap().values, ["two"]);
        assert_eq!(paused.harness.started().len(), 2);
        paused.job.bundles.close().await;
    }
}
