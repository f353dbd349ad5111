//! Whole small jobs on workers that are closures.

mod live_side_inputs;
mod merging;
mod splits;
mod spread;
mod streaming;
mod timers;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};

use async_trait::async_trait;
use beam_model::coders::Coder;
use beam_model::coders::varint;
use beam_model::coders::windowed_value::read_header;
use beam_model::pipeline::MonitoringInfo;
use bytes::Bytes;

use super::*;
use crate::fault::Blame;
use crate::plan::testing::PlanBuilder;
use crate::plan::{KeyedStage, Merging};
use crate::ports::memory::SpillingStorage;
use crate::ports::{CacheToken, Finalizer, RemoteBundle, Residual, StageSpec, StateKey};

/// A job that takes longer is hung.
const LIMIT: Duration = Duration::from_secs(60);

type Work = dyn Fn(&str, RemoteBundle) -> Result<BundleResult, Fault> + Send + Sync;

/// Runs every bundle with one function of the stage's name.
struct Workers(Arc<Work>);

#[async_trait]
impl JobBundleFactory for Workers {
    fn parallelism(&self, _: &str) -> usize {
        3
    }

    fn stage(&self, spec: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        Arc::new(StageWorkers { work: self.0.clone(), spec })
    }

    async fn close(&self) {}
}

struct StageWorkers {
    work: Arc<Work>,
    spec: Arc<StageSpec>,
}

#[async_trait]
impl StageBundleFactory for StageWorkers {
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        tokio::task::yield_now().await;
        (self.work)(&self.spec.name, bundle)
    }
}

struct Job {
    outcome: Outcome,
    progress: Arc<Progress>,
}

impl Job {
    #[track_caller]
    fn fault(&self) -> &Fault {
        match &self.outcome {
            Outcome::Failed(fault) => fault,
            other => panic!("the job did not fail: {other:?}"),
        }
    }

    fn committed(&self) -> u64 {
        self.progress.bundles_committed.load(Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        self.progress.bundles_failed.load(Ordering::Relaxed)
    }
}

async fn execute_on(
    plan: Arc<ExecutionPlan>,
    workers: Arc<dyn JobBundleFactory>,
    policy: BundlePolicy,
    inject: FaultInjection,
    wish: watch::Receiver<Wish>,
) -> Job {
    let progress = Arc::new(Progress::default());
    let storage = SpillingStorage::new();
    let execution = Execution {
        plan,
        workers,
        policy,
        inject,
        progress: progress.clone(),
        storage: storage.clone(),
        wish,
        clock: Clock::Machine,
        last_timers: crate::engine::LAST_TIMERS,
    };
    let outcome = tokio::time::timeout(LIMIT, super::run(execution)).await.expect("the job hangs");
    // Tasks that were given up may have to end first.
    let empty = async {
        while storage.budget().on_disk() + storage.budget().used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, empty).await.expect("something of the job is left in the storage");
    Job { outcome, progress }
}

async fn execute(
    plan: Arc<ExecutionPlan>,
    policy: BundlePolicy,
    inject: FaultInjection,
    work: impl Fn(&str, RemoteBundle) -> Result<BundleResult, Fault> + Send + Sync + 'static,
) -> Job {
    let (_keep, wish) = watch::channel(Wish::GoOn);
    execute_on(plan, Arc::new(Workers(Arc::new(work))), policy, inject, wish).await
}

/// A `KV<bytes, varint>` in the global window.
fn pair(key: &str, value: u64) -> Bytes {
    let impulse = impulse_element();
    let mut bytes = impulse[..impulse.len() - 1].to_vec();
    varint::write_prefixed(&mut bytes, key.as_bytes());
    varint::write(&mut bytes, value);
    bytes.into()
}

/// All that the bundle reads: the values behind their headers.
fn input(bundle: &mut RemoteBundle) -> Vec<u8> {
    let mut all = Vec::new();
    for input in &mut bundle.inputs {
        assert_eq!(input.transform_id, "source");
        input.blocks.by_ref().for_each(|block| all.extend_from_slice(&block.unwrap()));
    }
    all
}

/// Each group that the bundle reads, with its values' sum.
fn sums(bundle: &mut RemoteBundle) -> Vec<(String, u64)> {
    let all = input(bundle);
    let mut rest = &all[..];
    let mut sums = Vec::new();
    while !rest.is_empty() {
        rest = &rest[read_header(&Coder::GlobalWindow, rest).unwrap().header_len..];
        let (key, len) = varint::read_prefixed(rest).unwrap();
        rest = &rest[len..];
        let count = u32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        let mut sum = 0;
        for _ in 0..count {
            let (value, len) = varint::read(rest).unwrap();
            sum += value;
            rest = &rest[len..];
        }
        sums.push((String::from_utf8(key.to_vec()).unwrap(), sum));
    }
    sums
}

struct Finalize<F>(F);

#[async_trait]
impl<F: FnOnce() -> Result<(), Fault> + Send> Finalizer for Finalize<F> {
    async fn finalize(self: Box<Self>) -> Result<(), Fault> {
        (self.0)()
    }
}

fn finalized(callback: impl FnOnce() -> Result<(), Fault> + Send + 'static) -> BundleResult {
    BundleResult { finalizer: Some(Box::new(Finalize(callback))), ..Default::default() }
}

/// Counts words, and adds how many elements the side input has to each count.
fn count_plan() -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse(); // node 0
    let words = builder.stage(start, &[], 2); // node 1
    let shuffled = builder.redistribute(words[0]); // node 2
    let both = builder.flatten(&[shuffled, shuffled]); // node 3
    let groups = builder.group(both); // node 4
    builder.stage(groups, &[words[1]], 0); // node 5
    builder.build()
}

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

fn count(stage: &str, mut bundle: RemoteBundle, counts: &Counts) -> Result<BundleResult, Fault> {
    match stage {
        "stage 1" => {
            assert_eq!(input(&mut bundle), impulse_element());
            for word in ["a", "b", "a", "c"] {
                bundle.outputs.receive("sink0", pair(word, 1))?;
            }
            bundle.outputs.receive("sink1", [pair("x", 1), pair("y", 1)].concat().into())?;
            Ok(BundleResult::default())
        }
        "stage 5" => {
            let key = StateKey::IterableSideInput {
                transform_id: "transform".to_owned(),
                side_input_id: "side0".to_owned(),
                window: Bytes::new(),
            };
            let side = bundle.state.get(&key, &Bytes::new())?.data;
            assert_eq!(&side[..], b"\x01x\x01\x01y\x01");
            let sums = sums(&mut bundle);
            let counts = counts.clone();
            Ok(finalized(move || {
                let mut counts = counts.lock().unwrap();
                for (word, sum) in sums {
                    assert_eq!(counts.insert(word, sum), None, "a group came twice");
                }
                Ok(())
            }))
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn results_do_not_depend_on_bundling_or_on_failures() {
    let expected = BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 2), ("c".to_owned(), 2)]);
    for policy in [BundlePolicy::DEFAULT, BundlePolicy::EachBlock, BundlePolicy::Whole] {
        for inject in [FaultInjection::None, FaultInjection::FirstAttempts] {
            let counts = Counts::default();
            let seen = counts.clone();
            let job = execute(count_plan(), policy, inject, move |stage, b| count(stage, b, &seen)).await;
            assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
            assert_eq!(*counts.lock().unwrap(), expected, "{policy:?} {inject:?}");
            let failures = if inject == FaultInjection::None { 0 } else { job.committed() };
            assert_eq!((job.committed(), job.failed()), (2, failures));
        }
    }
}

fn one_stage() -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse();
    builder.stage(start, &[], 1);
    builder.build()
}

/// Runs the one stage with `work` and returns what became of the job.
async fn one(work: impl Fn(RemoteBundle) -> Result<BundleResult, Fault> + Send + Sync + 'static) -> Job {
    execute(one_stage(), BundlePolicy::DEFAULT, FaultInjection::None, move |_, bundle| work(bundle)).await
}

#[tokio::test]
async fn the_users_error_ends_the_job_in_its_own_words() {
    let tries = Arc::new(AtomicU32::new(0));
    let tried = tries.clone();
    let job = one(move |_| {
        tried.fetch_add(1, Ordering::Relaxed);
        Err(Fault::user("ValueError: no such word"))
    })
    .await;
    assert_eq!(job.fault().blame, Blame::User);
    assert!(job.fault().message.contains("ValueError: no such word"), "{}", job.fault());
    assert_eq!((tries.load(Ordering::Relaxed), job.committed(), job.failed()), (4, 0, 4));
}

#[tokio::test]
async fn a_failure_that_will_not_pass_is_not_tried_again() {
    let job = one(|_| Err(Fault::environment("no such image").fatal())).await;
    assert!(job.fault().message.contains("no such image"), "{}", job.fault());
    assert!(job.fault().message.contains("stage 1"), "{}", job.fault());
    assert_eq!(job.failed(), 1);
}

#[tokio::test]
async fn a_panic_fails_the_job_instead_of_hanging_it() {
    let job = one(|_| panic!("a slip of ours")).await;
    assert_eq!(job.fault().blame, Blame::Runner);
    assert!(job.fault().message.contains("broke off"), "{}", job.fault());
}

#[tokio::test]
async fn output_to_no_sink_is_refused() {
    let job = one(|bundle| {
        bundle.outputs.receive("sink9", pair("a", 1))?;
        Ok(BundleResult::default())
    })
    .await;
    assert!(job.fault().message.contains("\"sink9\""), "{}", job.fault());
}

#[tokio::test]
async fn work_left_by_what_cannot_be_split_is_refused() {
    let job = one(|_| {
        let residual = Residual {
            transform_id: "other".to_owned(),
            input_id: "in".to_owned(),
            element: pair("a", 1),
            delay: Duration::ZERO,
            output_watermarks: BTreeMap::new(),
        };
        Ok(BundleResult { residuals: vec![residual], ..Default::default() })
    })
    .await;
    assert!(job.fault().message.contains("other"), "{}", job.fault());
    assert_eq!(job.failed(), 1);
}

#[tokio::test]
async fn elements_that_are_none_fail_the_grouping() {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse();
    let pairs = builder.stage(start, &[], 1)[0];
    builder.group(pairs);
    let job = execute(builder.build(), BundlePolicy::DEFAULT, FaultInjection::None, |_, bundle| {
        bundle.outputs.receive("sink0", Bytes::from_static(b"nonsense"))?;
        Ok(BundleResult::default())
    })
    .await;
    assert_eq!(job.fault().blame, Blame::Environment);
    assert!(job.fault().message.contains("Group"), "{}", job.fault());
}

#[tokio::test]
async fn a_stage_has_the_state_that_the_plan_says_and_no_other() {
    let job = one(|bundle| {
        let key = StateKey::IterableSideInput {
            transform_id: "transform".to_owned(),
            side_input_id: "side0".to_owned(),
            window: Bytes::new(),
        };
        let fault = bundle.state.get(&key, &Bytes::new()).unwrap_err();
        assert!(fault.message.contains("side0"), "{fault}");
        assert!(bundle.state.append(&key, Bytes::new()).is_err());
        assert!(bundle.state.clear(&key).is_err());
        Ok(BundleResult::default())
    })
    .await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
}

#[tokio::test]
async fn what_a_failed_attempt_has_left_in_a_workers_cache_is_not_used() {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse();
    let more = builder.stage(start, &[], 1)[0];
    builder.stage(more, &[], 0);
    builder.last_stage().keyed = Some(KeyedStage {
        transform: "transform".to_owned(),
        window_coder: Arc::new(Coder::GlobalWindow),
        merging: Merging::Never,
        families: Vec::new(),
        states: Vec::new(),
        time_sorted: false,
        allowed_lateness: 0,
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tokens = seen.clone();
    let work = move |stage: &str, bundle: RemoteBundle| {
        if stage == "stage 1" {
            (0..3).try_for_each(|_| bundle.outputs.receive("sink0", impulse_element()))?;
        } else {
            tokens.lock().unwrap().push(bundle.state.cache_tokens("worker"));
        }
        Ok(BundleResult::default())
    };
    let job = execute(builder.build(), BundlePolicy::EachBlock, FaultInjection::FirstAttempts, work).await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
    let seen = seen.lock().unwrap();
    let token = |generation| CacheToken::UserState { token: format!("user-state-{generation}").into() };
    // One key, so one bundle at a time: what fails changes the token, what is committed does not.
    let expected = (1..).flat_map(|generation| [token(generation), token(generation + 1)]);
    assert!(seen.len() >= 2 && seen.len() % 2 == 0, "{seen:?}");
    assert_eq!(*seen, expected.take(seen.len()).map(|token| vec![token]).collect::<Vec<_>>());
}

/// Splits what it reads until nothing is left: 5, then 4, … with a delay each time.
#[tokio::test]
async fn residuals_come_back_to_their_stage() {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse();
    let made = builder.stage(start, &[], 1)[0];
    builder.stage(made, &[], 0);
    builder.last_stage().restriction_reader = Some("transform".to_owned());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let job = execute(
        builder.build(),
        BundlePolicy::DEFAULT,
        FaultInjection::FirstAttempts,
        move |stage, mut bundle| {
            if stage == "stage 1" {
                bundle.outputs.receive("sink0", pair("work", 5))?;
                return Ok(BundleResult::default());
            }
            let left = u64::from(*input(&mut bundle).last().unwrap());
            let log = log.clone();
            let residual = (left > 1).then(|| Residual {
                transform_id: "transform".to_owned(),
                input_id: "in".to_owned(),
                element: pair("work", left - 1),
                delay: Duration::from_millis(left % 2),
                output_watermarks: BTreeMap::new(),
            });
            let log_it = move || {
                log.lock().unwrap().push(left);
                Ok(())
            };
            Ok(BundleResult { residuals: residual.into_iter().collect(), ..finalized(log_it) })
        },
    )
    .await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn callbacks_run_after_the_commit_and_only_then() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    let job = execute(one_stage(), BundlePolicy::DEFAULT, FaultInjection::FirstAttempts, move |_, bundle| {
        let log = log.clone();
        let instruction = bundle.instruction;
        log.lock().unwrap().push(format!("ran {instruction}"));
        Ok(finalized(move || {
            log.lock().unwrap().push(format!("told {instruction}"));
            Err(Fault::user("a callback's own failure"))
        }))
    })
    .await;
    assert!(matches!(job.outcome, Outcome::Done), "a failed callback fails no job: {:?}", job.outcome);
    let expected = ["ran bundle-1-attempt-1", "ran bundle-1-attempt-2", "told bundle-1-attempt-2"];
    assert_eq!(*calls.lock().unwrap(), expected);
}

/// Says when it is dropped.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A worker that never answers.
struct Silent {
    given_up: Arc<AtomicBool>,
    asked: watch::Sender<bool>,
}

#[async_trait]
impl JobBundleFactory for Silent {
    fn parallelism(&self, _: &str) -> usize {
        0
    }

    fn stage(&self, _: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        Arc::new(Silent { given_up: self.given_up.clone(), asked: self.asked.clone() })
    }

    async fn close(&self) {}
}

#[async_trait]
impl StageBundleFactory for Silent {
    async fn process(&self, _: RemoteBundle) -> Result<BundleResult, Fault> {
        let _guard = Guard(self.given_up.clone());
        self.asked.send_replace(true);
        std::future::pending().await
    }
}

#[tokio::test]
async fn cancelling_gives_up_what_runs() {
    let (asked, mut begun) = watch::channel(false);
    let (wish, wished) = watch::channel(Wish::GoOn);
    let given_up = Arc::new(AtomicBool::new(false));
    let workers = Arc::new(Silent { given_up: given_up.clone(), asked });
    let job =
        tokio::spawn(execute_on(one_stage(), workers, BundlePolicy::DEFAULT, FaultInjection::None, wished));
    tokio::time::timeout(LIMIT, begun.wait_for(|begun| *begun)).await.expect("no bundle begins").unwrap();
    wish.send_replace(Wish::Cancel);
    let job = job.await.unwrap();
    assert!(matches!(job.outcome, Outcome::Cancelled), "{:?}", job.outcome);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(given_up.load(Ordering::SeqCst), "the bundle still runs");
}
