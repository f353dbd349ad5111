//! The pipeline options that the native backend reads.

use runner_core::backend::{OptionKind, PipelineOption};
use runner_core::engine::BundlePolicy;
use runner_core::executor::FaultInjection;
use runner_core::options::PipelineOptions;
use runner_core::plan::PlanGrain;

use super::NativeConfig;

const BUNDLE_SIZE: &str = "bundle_size";
const SDK_WORKER_PARALLELISM: &str = "sdk_worker_parallelism";
const INJECT_BUNDLE_FAILURES: &str = "inject_bundle_failures";
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
            name: SDK_WORKER_PARALLELISM,
            kind: OptionKind::String,
            description: "How many SDK workers to start for each environment; the server's own setting if empty.",
            default: "",
        },
        PipelineOption {
            name: INJECT_BUNDLE_FAILURES,
            kind: OptionKind::String,
            description: "For tests: first_attempt fails the first attempt of every bundle after its work.",
            default: "none",
        },
    ]
}

/// The options of one job, understood.
pub(super) struct JobSettings {
    pub(super) grain: PlanGrain,
    pub(super) policy: BundlePolicy,
    /// Workers for each environment.
    pub(super) workers: usize,
    pub(super) inject: FaultInjection,
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
        let workers = match options.integer(SDK_WORKER_PARALLELISM)? {
            None => config.sdk_worker_parallelism,
            Some(number @ 1..=MAX_PARALLELISM) => usize::try_from(number).unwrap_or(1),
            // The Java job server's way of saying "you choose".
            Some(0) => config.sdk_worker_parallelism,
            Some(other) => {
                return Err(format!("--{SDK_WORKER_PARALLELISM} is 1 to {MAX_PARALLELISM}, not {other}"));
            }
        };
        let inject = match options.string(INJECT_BUNDLE_FAILURES).unwrap_or("none") {
            "none" => FaultInjection::None,
            "first_attempt" => FaultInjection::FirstAttempts,
            other => return Err(format!("--{INJECT_BUNDLE_FAILURES} is none or first_attempt, not {other:?}")),
        };
        Ok(Self { grain, policy, workers, inject })
    }
}
