//! The native backend: runner-core's engine on workers of the Fn API. Wiring only.

mod job;
mod logs;
mod options;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use fn_harness_bridge::FnHarnessBridge;
use runner_core::backend::{JobInvocation, PipelineOption, PipelineResult, PortablePipelineRunner, Refusal};
use runner_core::options::PipelineOptions;
use runner_core::plan::{ExecutionPlan, PlanError, PlanGrain, plan_pipeline};
use runner_core::ports::{MemoryBudget, Storage};
use state_store::DiskStorage;
pub use state_store::Error as StorageError;

use options::JobSettings;

/// This part of the memory is for what nobody counts: messages under way, and what the allocator keeps back.
const UNCOUNTED_PART: u64 = 4;

/// Runs jobs on this machine's engine.
pub struct NativeRunner {
    bridge: FnHarnessBridge,
    config: NativeConfig,
    /// All jobs share it.
    storage: Arc<dyn Storage>,
}

/// What the server was told.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// Worker processes (or threads) to start for each environment of a job that does not say.
    pub sdk_worker_parallelism: usize,
    /// Bytes of memory for the data of all jobs. What is more goes to disk.
    pub memory_limit: u64,
    /// Where to; made if it is not there.
    pub spill_dir: PathBuf,
}

impl NativeRunner {
    /// # Errors
    /// No files can be made in `spill_dir`.
    pub fn new(bridge: FnHarnessBridge, config: NativeConfig) -> Result<Self, StorageError> {
        let counted = config.memory_limit - config.memory_limit / UNCOUNTED_PART;
        let storage = DiskStorage::new(MemoryBudget::new(counted), &config.spill_dir)?;
        Ok(Self { bridge, config, storage: Arc::new(storage) })
    }

    /// The memory that data of all jobs share.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        self.storage.budget()
    }
}

#[async_trait]
impl PortablePipelineRunner for NativeRunner {
    fn name(&self) -> &'static str {
        "native"
    }

    fn pipeline_options(&self) -> Vec<PipelineOption> {
        options::describe()
    }

    fn prepare(&self, pipeline: &Pipeline, options: &PipelineOptions) -> Result<(), Refusal> {
        let mut refusal = Refusal::default();
        if let Err(reason) = JobSettings::read(options, &self.config) {
            refusal.invalid("pipeline options", reason);
        }
        match plan_pipeline(pipeline, PlanGrain::Default) {
            Ok(plan) => check_environments(&self.bridge, pipeline, &plan, &mut refusal),
            Err(PlanError::Refused(more)) => {
                refusal.invalid.extend(more.invalid);
                refusal.unsupported.extend(more.unsupported);
            }
            // Validation let it through, so it is for us to mend; the user still has to know now.
            Err(PlanError::Fault(fault)) => refusal.unsupported("pipeline", fault.message),
        }
        refusal.into_result()
    }

    async fn run(&self, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
        job::start(&self.bridge, &self.config, self.storage.clone(), invocation)
    }
}

/// Environments that nothing runs in may be of any kind.
fn check_environments(
    bridge: &FnHarnessBridge,
    pipeline: &Pipeline,
    plan: &ExecutionPlan,
    refusal: &mut Refusal,
) {
    let declared = pipeline.components.as_ref().map(|components| &components.environments);
    for id in &plan.environments {
        if let Some(environment) = declared.and_then(|declared| declared.get(id))
            && let Err(reason) = bridge.check_environment(id, environment)
        {
            refusal.unsupported("pipeline", reason);
        }
    }
}
