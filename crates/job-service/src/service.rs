//! The job service as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use beam_model::job_management::artifact_staging_service_server::ArtifactStagingServiceServer;
use beam_model::job_management::job_service_server::JobServiceServer;
use runner_core::backend::PortablePipelineRunner;
use tonic::service::RoutesBuilder;

use crate::artifact_staging::{ArtifactStaging, ArtifactStore, WhenUnused};
use crate::job::{JobSnapshot, Registry};
use crate::rpc::JobRpcs;

/// How a job service behaves. [`Default`] has what is said of each field.
#[derive(Clone, Debug)]
pub struct JobServiceConfig {
    /// `HOST:PORT` under which clients reach artifact staging, as `Prepare` answers. Empty: clients are
    /// told nothing and do not stage.
    pub artifact_endpoint: String,
    /// Where the folder for staged artifacts is made; the system's folder for temporary files by default.
    pub artifacts_dir: PathBuf,
    /// Whether a job's artifacts go when no job needs them any more (default), or stay for ever.
    pub clean_artifacts_per_job: bool,
    /// Ended jobs that are remembered (10). More are for a minute, so that clients can read their results.
    pub history_size: usize,
    /// How long a preparation that is not run is kept (1 hour).
    pub preparation_lifetime: Duration,
    /// How long [`JobService::shutdown`] waits for cancelled jobs (10 seconds).
    pub shutdown_timeout: Duration,
}

impl Default for JobServiceConfig {
    fn default() -> Self {
        Self {
            artifact_endpoint: String::new(),
            artifacts_dir: std::env::temp_dir(),
            clean_artifacts_per_job: true,
            history_size: 10,
            preparation_lifetime: Duration::from_secs(3600),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

/// Jobs and their artifacts, to be served on any number of ports. A cheap handle: clones are the same.
#[derive(Clone)]
pub struct JobService {
    shared: Arc<Shared>,
}

/// What all RPCs need.
pub(crate) struct Shared {
    pub(crate) config: JobServiceConfig,
    pub(crate) backend: Arc<dyn PortablePipelineRunner>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<ArtifactStore>,
}

impl JobService {
    /// Fails if the folder for artifacts cannot be made.
    pub fn new(config: JobServiceConfig, backend: Arc<dyn PortablePipelineRunner>) -> std::io::Result<Self> {
        let when_unused = if config.clean_artifacts_per_job { WhenUnused::Remove } else { WhenUnused::Keep };
        let store = Arc::new(ArtifactStore::create(&config.artifacts_dir, when_unused)?);
        let registry = Arc::new(Registry::new(config.history_size, config.preparation_lifetime));
        Ok(Self { shared: Arc::new(Shared { config, backend, registry, store }) })
    }

    /// Adds `JobService` and `ArtifactStagingService`. Messages may have any size: a pipeline can carry
    /// megabytes of pickled functions.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        let staging = ArtifactStaging::new(Arc::clone(&self.shared.registry), Arc::clone(&self.shared.store));
        routes
            .add_service(
                JobServiceServer::new(JobRpcs::new(Arc::clone(&self.shared)))
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(
                ArtifactStagingServiceServer::new(staging)
                    .max_decoding_message_size(usize::MAX)
                    .max_encoding_message_size(usize::MAX),
            );
    }

    /// All jobs that are known, oldest first.
    pub fn jobs(&self) -> Vec<JobSnapshot> {
        self.shared.registry.jobs().iter().map(|job| job.snapshot()).collect()
    }

    /// Waits until no job has run or been prepared for so long.
    pub async fn idle_for(&self, time: Duration) {
        let mut activity = self.shared.registry.activity();
        loop {
            let running = activity.borrow_and_update().running;
            tokio::select! {
                () = tokio::time::sleep(time), if running == 0 => return,
                changed = activity.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes no more jobs, cancels those that run and waits for them (bounded), then removes the staged
    /// artifacts.
    pub async fn shutdown(&self) {
        let running = self.shared.registry.close();
        for job in &running {
            job.cancel();
        }
        let all_ended = async {
            for job in &running {
                job.wait_for_end().await;
            }
        };
        if tokio::time::timeout(self.shared.config.shutdown_timeout, all_ended).await.is_err() {
            for job in running.iter().filter(|job| !job.state().is_terminal()) {
                tracing::warn!(job = job.id(), "the job did not end in time after it was cancelled");
            }
        }
        if let Err(error) = self.shared.store.close() {
            let folder = self.shared.store.path().display();
            tracing::warn!("the folder of staged artifacts {folder} was not removed: {error}");
        }
    }
}
