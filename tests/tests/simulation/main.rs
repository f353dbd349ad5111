//! Random pipelines on scripted workers, under lost workers, failed bundles, splits, late data and replies in any
//! order: what is committed is what a plain computation gives.
//!
//! `SEEDS=n` runs the first n cases, `SEED=n` one case again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test may stop at the first surprise.

mod case;
mod functions;
mod generate;
mod judge;
mod over_grpc;
mod plain;
mod proto;
mod random;
mod words;
mod workers;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::Environment;
use runner_core::backend::Outcome;
use runner_core::engine::{BundlePolicy, LAST_TIMERS};
use runner_core::executor::{Clock, Execution, FaultInjection, Progress, Wish, run};
use runner_core::plan::{PlanGrain, plan_pipeline};
use runner_core::ports::memory::MemoryStorage;
use runner_core::ports::{JobBundleFactory, MemoryBudget, Storage};
use tokio::sync::watch;

use case::{Case, Row};
use random::{Chance, Random};
use workers::Workers;

/// How many cases there are if nobody says otherwise.
const CASES: u64 = 300;
/// A case that takes longer, on its own clock, does not end.
const LIMIT: Duration = Duration::from_secs(3_600);

fn seeds(cases: u64) -> Range<u64> {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number but {value:?}")))
    };
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 0..seeds,
        (None, None) => 0..cases,
    }
}

/// What a seed makes.
struct Simulated {
    case: Arc<Case>,
    policy: BundlePolicy,
    grain: PlanGrain,
    inject: FaultInjection,
    /// For all that is still open.
    chance: Chance,
}

impl Simulated {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let case = Arc::new(generate::case(&mut random));
        let policy = match random.below(4) {
            0 => BundlePolicy::EachBlock,
            1 => BundlePolicy::Whole,
            2 => BundlePolicy::Bytes(random.below(400) as u64),
            _ => BundlePolicy::DEFAULT,
        };
        let grain = random.pick(&[PlanGrain::Coarse, PlanGrain::Default, PlanGrain::Key, PlanGrain::Element]);
        let inject = if random.one_in(5) { FaultInjection::FirstAttempts } else { FaultInjection::None };
        Self { case, policy, grain, inject, chance: Chance::new(random) }
    }
}

/// A job that runs.
struct Ran {
    progress: Arc<Progress>,
    _wish: watch::Sender<Wish>,
}

impl Ran {
    fn begin(
        simulated: &Simulated,
        environment: &Environment,
        workers: Arc<dyn JobBundleFactory>,
        clock: Clock,
        storage: Arc<dyn Storage>,
    ) -> (Self, Execution) {
        let Simulated { case, policy, grain, inject, .. } = simulated;
        let plan = plan_pipeline(&proto::pipeline(case, environment), *grain);
        let plan = Arc::new(plan.unwrap_or_else(|error| panic!("{error}")));
        let progress = Arc::new(Progress::default());
        let (_wish, wish) = watch::channel(Wish::GoOn);
        let (policy, inject) = (*policy, *inject);
        let (seen, last_timers) = (progress.clone(), LAST_TIMERS);
        let execution =
            Execution { plan, workers, policy, inject, progress: seen, storage, wish, last_timers, clock };
        (Self { progress, _wish }, execution)
    }

    /// Returns how many elements were dropped.
    fn judge(&self, case: &Case, outcome: Outcome, written: &BTreeMap<usize, Vec<Row>>) -> u64 {
        match outcome {
            Outcome::Done => {}
            other => panic!("the job is not done but {other:?}"),
        }
        let dropped = judge::dropped(&self.progress.metrics.lock().unwrap().results().committed);
        judge::judge(case, &plain::compute(case), written, dropped);
        dropped
    }
}

/// Returns what has come about, and how often.
fn simulate(seed: u64) -> BTreeMap<&'static str, u64> {
    let simulated = Simulated::new(seed);
    let (case, chance) = (&simulated.case, &simulated.chance);
    let environment = Environment { urn: "beam:env:default:v1".to_owned(), ..Default::default() };
    let written = Arc::new(functions::Written::default());
    let workers = Arc::new(Workers::new(functions::script(case, chance, &written), chance.clone()));
    // A third of the jobs have next to no memory. What reads from a disk does so on threads, and would make the run another one
    // each time; so there is none.
    let limit = if chance.one_in(3) { 1 << 10 } else { u64::MAX };
    let budget = MemoryBudget::new(limit);
    let storage = Arc::new(MemoryStorage::new(budget.clone()));
    let (ran, execution) = Ran::begin(&simulated, &environment, workers.clone(), Clock::Runtime, storage);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(async { tokio::time::timeout(LIMIT, run(execution)).await });
    let dropped = ran.judge(case, outcome.expect("the job hangs"), &written.of(&workers.committed()));
    let mut seen = workers.seen();
    seen.extend(case.features().into_iter().map(|feature| (feature, 1)));
    seen.insert("dropped element", dropped);
    seen.insert("short of memory", u64::from(budget.spilled() > 0));
    seen
}

/// Else a case could not be looked into again.
#[test]
fn a_seed_is_the_same_each_time() {
    for seed in seeds(CASES).take(40) {
        assert_eq!(simulate(seed), simulate(seed), "SEED={seed}");
    }
}

/// What the cases are worth nothing without.
const WANTED: [&str; 19] = [
    "short of memory",
    "failed attempt",
    "lost worker",
    "bundle lost with its worker",
    "split at once",
    "split with its bundle",
    "state from a cache",
    "dropped element",
    "sessions",
    "sliding windows",
    "early or late panes",
    "group",
    "combine",
    "state",
    "side input",
    "live side input",
    "splittable",
    "test stream",
    "late elements",
];
/// More failures than this show no more.
const MOST_FAILURES: usize = 20;

#[test]
fn results_are_those_of_the_plain_computation() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    let seeds = seeds(CASES);
    let cases = seeds.end - seeds.start;
    for seed in seeds {
        match catch_unwind(|| simulate(seed)) {
            Ok(counts) => {
                counts.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count)
            }
            Err(_) => {
                eprintln!("SEED={seed}");
                failed.push(seed);
            }
        }
        assert!(failed.len() < MOST_FAILURES, "seeds {failed:?} fail");
    }
    assert!(failed.is_empty(), "seeds {failed:?} fail");
    println!("{seen:#?}");
    // Few cases show little.
    if cases >= CASES {
        for wanted in WANTED {
            assert!(seen.get(wanted).is_some_and(|count| *count > 3), "{wanted:?} has hardly come about");
        }
    }
}
