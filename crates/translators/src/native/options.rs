//! The pipeline options that the native backend reads.

use std::time::Duration;

use runner_core::backend::{OptionKind, PipelineOption};
use runner_core::engine::{BundlePolicy, LAST_TIMERS};
use runner_core::executor::FaultInjection;
use runner_core::options::PipelineOptions;
use runner_core::plan::{ExecutionPlan, PlanGrain};

use super::NativeConfig;

const BUNDLE_SIZE: &str = "bundle_size";
const SDK_WORKERS: &str = "sdk_workers";
const SDK_WORKER_PARALLELISM: &str = "sdk_worker_parallelism";
const ENVIRONMENT_TYPE: &str = "environment_type";
const INJECT_BUNDLE_FAILURES: &str = "inject_bundle_failures";
const LAST_TIMERS_SECONDS: &str = "last_timers_seconds";
/// Who wants more time than this wants a job that does not end.
const MOST_LAST_TIMERS_SECONDS: i64 = 7 * 24 * 3600;
/// More workers than this for one environment is a typing error.
const MAX_PARALLELISM: i64 = 1024;

pub(super) fn describe() -> Vec<PipelineOption> {
    vec![
        PipelineOption {
            name: BUNDLE_SIZE,
            kind: OptionKind::String,
            description: "How large bundles are: default, element (one element each), key (one key each after \
                          a GroupByKey), or unbounded (all of a stage's input at once).",
            default: "default",
        },
        PipelineOption {
            name: SDK_WORKERS,
            kind: OptionKind::Integer,
            description: "How many SDK workers to start for each environment. Not given: --sdk_worker_parallelism \
                          if that is more than 1, else one for LOOPBACK and the server's own setting for others.",
            default: "",
        },
        PipelineOption {
            name: LAST_TIMERS_SECONDS,
            kind: OptionKind::Integer,
            description: "How long after the end of a step's input its processing-time timers may go on setting \
                          others. Then the job fails or, if it is drained, leaves them out.",
            default: "60",
        },
        PipelineOption {
            name: INJECT_BUNDLE_FAILURES,
            kind: OptionKind::String,
            description: "For tests: first_attempt fails the first attempt of every bundle after its work.",
            default: "none",
        },
    ]
}

/// Has Python workers read side inputs in the global window anew for each bundle. Else they go on using what
/// the first bundle has read.
const READ_SIDE_INPUTS_ANEW: &str = "disable_global_windowed_args_caching";

/// The options as workers are told them.
pub(super) fn for_workers(options: &PipelineOptions, plan: &ExecutionPlan) -> PipelineOptions {
    let live = plan.collections.iter().any(|collection| collection.live.is_some());
    if live { options.with_experiment(READ_SIDE_INPUTS_ANEW) } else { options.clone() }
}

/// The options of one job, understood.
pub(super) struct JobSettings {
    pub(super) grain: PlanGrain,
    pub(super) policy: BundlePolicy,
    /// Workers for each environment.
    pub(super) workers: usize,
    pub(super) inject: FaultInjection,
    /// How long processing-time timers may go on setting others when no more input comes.
    pub(super) last_timers: Duration,
}

impl JobSettings {
    /// The error says which option cannot be understood and what it may be.
    pub(super) fn read(options: &PipelineOptions, config: &NativeConfig) -> Result<Self, String> {
        let (grain, policy) = match options.string(BUNDLE_SIZE).unwrap_or("default") {
            "default" => (PlanGrain::Default, BundlePolicy::DEFAULT),
            "element" => (PlanGrain::Element, BundlePolicy::EachBlock),
            "key" => (PlanGrain::Key, BundlePolicy::EachBlock),
            "unbounded" => (PlanGrain::Default, BundlePolicy::Whole),
            other => {
                return Err(format!("--{BUNDLE_SIZE} is default, element, key or unbounded, not {other:?}"));
            }
        };
        let workers = workers(options, config)?;
        let inject = match options.string(INJECT_BUNDLE_FAILURES).unwrap_or("none") {
            "none" => FaultInjection::None,
            "first_attempt" => FaultInjection::FirstAttempts,
            other => {
                return Err(format!("--{INJECT_BUNDLE_FAILURES} is none or first_attempt, not {other:?}"));
            }
        };
        let last_timers = match options.integer(LAST_TIMERS_SECONDS)? {
            None => LAST_TIMERS,
            Some(seconds @ 0..=MOST_LAST_TIMERS_SECONDS) => Duration::from_secs(seconds.unsigned_abs()),
            Some(other) => {
                return Err(format!(
                    "--{LAST_TIMERS_SECONDS} is 0 to {MOST_LAST_TIMERS_SECONDS}, not {other}"
                ));
            }
        };
        Ok(Self { grain, policy, workers, inject, last_timers })
    }
}

/// Workers for each environment.
///
/// The Python client sends `sdk_worker_parallelism` with every job, and 1 if the user said nothing, so 1
/// does not say anything. LOOPBACK workers are threads of one interpreter: more than one only take turns.
fn workers(options: &PipelineOptions, config: &NativeConfig) -> Result<usize, String> {
    let given = |name: &str| match options.integer(name)? {
        Some(number @ 0..=MAX_PARALLELISM) => Ok(usize::try_from(number).ok().filter(|number| *number > 0)),
        Some(other) => Err(format!("--{name} is 1 to {MAX_PARALLELISM}, not {other}")),
        None => Ok(None),
    };
    let loopback = options.string(ENVIRONMENT_TYPE) == Some("LOOPBACK");
    let unsaid = if loopback { 1 } else { config.sdk_worker_parallelism };
    let parallelism = given(SDK_WORKER_PARALLELISM)?.filter(|number| *number > 1);
    Ok(given(SDK_WORKERS)?.or(parallelism).unwrap_or(unsaid))
}
