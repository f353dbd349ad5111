//! One job: what its workers may ask for, and its environments' workers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use beam_model::pipeline::{Environment, MonitoringInfo};
use prost_types::value::Kind;
use runner_core::fault::Fault;
use runner_core::meters::Meters;
use runner_core::ports::{
    ArtifactSource, JobBundleFactory, StageBundleFactory, StageSpec, TestStreamEvents, WorkerLogSink,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::samples;
use super::stage::StageBundles;
use crate::control::harness_monitoring_infos;
use crate::environment::EnvironmentSpec;
use crate::server::{JobWorkers, Shared};
use crate::test_stream;
use crate::worker::{EnvironmentWorkers, WorkThere, WorkerSession};

/// What the services need of a job.
pub(crate) struct JobContext {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) pipeline_options: prost_types::Struct,
    pub(crate) artifacts: Arc<dyn ArtifactSource>,
    pub(crate) logs: Arc<dyn WorkerLogSink>,
    /// Set when the job's workers are to end.
    pub(crate) closing: CancellationToken,
    /// Starts and ends of workers under way, and calls for a TestStream's events.
    pub(crate) tasks: TaskTracker,
    /// At least as long as it takes to stop a worker.
    close_timeout: Duration,
    /// Whether the user wants workers to keep elements that they fail at.
    pub(crate) samples: bool,
    /// Whether all workers are threads of one process, the pipeline's author's.
    pub(crate) one_process: bool,
    pub(crate) meters: Arc<Meters>,
    pub(crate) work: WorkThere,
    stages: RwLock<HashMap<String, Arc<StageSpec>>>,
}

/// With one of these experiments the Python SDK's workers keep elements.
const SAMPLING_EXPERIMENTS: [&str; 2] = ["enable_data_sampling", "enable_always_on_exception_sampling"];

/// Whether the pipeline option `experiments` has one of those that have workers keep elements.
fn wants_samples(options: &prost_types::Struct) -> bool {
    let Some(Kind::ListValue(experiments)) =
        options.fields.get("beam:option:experiments:v1").and_then(|experiments| experiments.kind.as_ref())
    else {
        return false;
    };
    let mut experiments = experiments.values.iter().filter_map(|experiment| experiment.kind.as_ref());
    experiments.any(
        |experiment| matches!(experiment, Kind::StringValue(name) if SAMPLING_EXPERIMENTS.contains(&&**name)),
    )
}

fn is_loopback(options: &prost_types::Struct) -> bool {
    let kind = options.fields.get("beam:option:environment_type:v1").and_then(|kind| kind.kind.as_ref());
    matches!(kind, Some(Kind::StringValue(kind)) if kind == "LOOPBACK")
}

impl JobContext {
    /// The stage whose descriptor has this id, be it that of a version.
    pub(crate) fn stage(&self, descriptor_id: &str) -> Option<Arc<StageSpec>> {
        let stages = self.stages.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(stage) = stages.get(descriptor_id) {
            return Some(stage.clone());
        }
        let (id, _) = descriptor_id.rsplit_once(VERSION)?;
        let mut stage = stages.get(id)?.as_ref().clone();
        descriptor_id.clone_into(&mut stage.descriptor.id);
        Some(Arc::new(stage))
    }

    /// From now on workers may ask for the stage.
    pub(crate) fn add_stage(&self, stage: Arc<StageSpec>) {
        let mut stages = self.stages.write().unwrap_or_else(PoisonError::into_inner);
        stages.insert(stage.descriptor.id.clone(), stage);
    }

    /// The stages, known so far, of an environment.
    pub(crate) fn stages_of(&self, environment_id: &str) -> Vec<Arc<StageSpec>> {
        let stages = self.stages.read().unwrap_or_else(PoisonError::into_inner);
        stages.values().filter(|stage| stage.environment_id == environment_id).cloned().collect()
    }

    /// Ends every worker of the job and waits until they have ended or were killed.
    pub(crate) async fn close_workers(&self) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.close_timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(job = %self.id, "workers are left that do not end");
        }
    }
}

/// Comes before the version in the id of a descriptor that has one.
const VERSION: &str = "/side-inputs-";

/// The id of a stage's descriptor for bundles with these contents of side inputs. All versions are alike but
/// for their ids; for each of them a worker sets up its functions anew.
pub(super) fn version_of_descriptor(id: &str, version: u64) -> String {
    format!("{id}{VERSION}{version}")
}

/// The workers of one job, by environment.
pub(crate) struct JobBundles {
    shared: Arc<Shared>,
    context: Arc<JobContext>,
    workers_per_environment: usize,
    declared: BTreeMap<String, Environment>,
    environments: Mutex<HashMap<String, Arc<EnvironmentWorkers>>>,
}

impl JobBundles {
    pub(crate) fn open(shared: Arc<Shared>, job: JobWorkers) -> Arc<dyn JobBundleFactory> {
        let context = Arc::new(JobContext {
            id: job.job_id,
            name: job.job_name,
            samples: wants_samples(&job.pipeline_options),
            one_process: is_loopback(&job.pipeline_options),
            pipeline_options: job.pipeline_options,
            artifacts: job.artifacts,
            logs: job.logs,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            close_timeout: shared.config.worker_stop_timeout + Duration::from_secs(1),
            meters: shared.config.meters.clone(),
            work: WorkThere::default(),
            stages: RwLock::default(),
        });
        shared.registry.add_job(context.clone());
        Arc::new(Self {
            shared,
            context,
            workers_per_environment: job.workers_per_environment.max(1),
            declared: job.environments,
            environments: Mutex::default(),
        })
    }

    fn environment(&self, id: &str, environment: &Environment) -> Arc<EnvironmentWorkers> {
        let mut environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        let others = environments.len();
        let workers = environments.entry(id.to_owned()).or_insert_with(|| {
            let index = self.declared.keys().position(|declared| declared == id);
            Arc::new(EnvironmentWorkers::new(
                self.shared.clone(),
                self.context.clone(),
                EnvironmentSpec::read(id, environment),
                index.unwrap_or(self.declared.len() + others),
                self.workers_per_environment,
            ))
        });
        workers.clone()
    }

    /// The workers that can be asked for the metrics of their process, one of each process as far as is known.
    fn with_own_metrics(&self) -> Vec<Arc<WorkerSession>> {
        let environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        let workers = environments.values().flat_map(|workers| workers.with_own_metrics());
        workers.take(if self.context.one_process { 1 } else { usize::MAX }).collect()
    }
}

#[async_trait]
impl JobBundleFactory for JobBundles {
    fn parallelism(&self, environment_id: &str) -> usize {
        match self.declared.get(environment_id) {
            Some(environment) => self.environment(environment_id, environment).parallelism(),
            None => self.workers_per_environment,
        }
    }

    fn stage(&self, spec: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        self.context.add_stage(spec.clone());
        let environment = self.declared.get(&spec.environment_id).unwrap_or(&spec.environment);
        let workers = self.environment(&spec.environment_id, environment);
        Arc::new(StageBundles::new(self.shared.clone(), workers, spec))
    }

    async fn test_stream_events(
        &self,
        url: &str,
        output_ids: Vec<String>,
    ) -> Result<TestStreamEvents, Fault> {
        test_stream::events(&self.context, url, output_ids).await
    }

    async fn worker_metrics(&self) -> Vec<(String, Vec<MonitoringInfo>)> {
        let limit = self.shared.config.harness_metrics_timeout;
        let mut asked = JoinSet::new();
        for worker in self.with_own_metrics() {
            asked.spawn(async move {
                let infos = tokio::time::timeout(limit, harness_monitoring_infos(&worker, limit)).await;
                Some((worker.id.clone(), infos.ok()??))
            });
        }
        asked.join_all().await.into_iter().flatten().collect()
    }

    fn waited_for_others(&self) {
        self.context.work.now();
    }

    async fn close(&self) {
        if self.context.samples {
            let workers = self.environments.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let report = async {
                for workers in workers.values() {
                    samples::report(&self.shared, workers).await;
                }
            };
            // What is not told by then is not worth waiting for.
            tokio::time::timeout(samples::LIMIT, report).await.ok();
        }
        self.context.close_workers().await;
        self.shared.registry.remove_job(&self.context.id);
        let environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        environments.values().for_each(|workers| workers.have_others_stand_by());
    }
}
