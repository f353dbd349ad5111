//! The job service as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use beam_model::job_management::artifact_staging_service_server::ArtifactStagingServiceServer;
use beam_model::job_management::job_service_server::JobServiceServer;
use runner_core::backend::PortablePipelineRunner;
use tonic::service::RoutesBuilder;

use crate::artifact_staging::{ArtifactStaging, ArtifactStore, WhenUnused};
use crate::job::{Job, JobSnapshot, Journals, Registry, resume_all};
use crate::rpc::JobRpcs;

/// How a job service behaves. [`Default`] has what is said of each field.
#[derive(Clone, Debug)]
pub struct JobServiceConfig {
    /// `HOST:PORT` under which clients reach artifact staging, as `Prepare` answers. Empty: clients are
    /// told nothing and do not stage.
    pub artifact_endpoint: String,
    /// Where the folder for staged artifacts is made; the system's folder for temporary files by default.
    pub artifacts_dir: PathBuf,
    /// Where jobs are written down that go on when the server ends, to be found again by the next one; with `None` (default)
    /// such jobs are cancelled like all others, and not found again.
    pub journal_dir: Option<PathBuf>,
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
            journal_dir: None,
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
    pub(crate) journals: Option<Arc<Journals>>,
}

/// Why there is no job service.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("cannot make a folder for staged artifacts in {folder}: {source}")]
    Artifacts { folder: PathBuf, source: std::io::Error },
    #[error("jobs cannot be written down in {folder}: {source}")]
    Journals { folder: PathBuf, source: std::io::Error },
}

impl JobService {
    /// # Errors
    /// A folder cannot be made. A journal folder that another server has is no error: this one keeps no journals then.
    pub fn new(
        config: JobServiceConfig,
        backend: Arc<dyn PortablePipelineRunner>,
    ) -> Result<Self, SetUpError> {
        let when_unused = if config.clean_artifacts_per_job { WhenUnused::Remove } else { WhenUnused::Keep };
        let store = ArtifactStore::create(&config.artifacts_dir, when_unused)
            .map_err(|source| SetUpError::Artifacts { folder: config.artifacts_dir.clone(), source })?;
        let journals = config.journal_dir.as_deref().map(open_journals).transpose()?.flatten();
        let registry = Arc::new(Registry::new(config.history_size, config.preparation_lifetime));
        let (store, journals) = (Arc::new(store), journals.map(Arc::new));
        Ok(Self { shared: Arc::new(Shared { config, backend, registry, store, journals }) })
    }

    /// Takes up the jobs that an earlier server has written down. To be called once, before anything is served.
    pub async fn resume_jobs(&self) {
        let Some(journals) = self.shared.journals.clone() else { return };
        let reading = tokio::task::spawn_blocking(move || journals.read_all()).await;
        match reading.map_err(std::io::Error::other).and_then(|read| read) {
            Ok(jobs) => resume_all(jobs, &self.shared.registry, &self.shared.backend).await,
            Err(error) => tracing::error!("the jobs of an earlier server are not found again: {error}"),
        }
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
    /// artifacts. Jobs that are written down and have been handed over go on without the server.
    pub async fn shutdown(&self) {
        let running = self.shared.registry.close();
        futures::future::join_all(running.iter().map(|job| self.end_or_leave(job))).await;
        if let Err(error) = self.shared.store.close() {
            let folder = self.shared.store.path().display();
            tracing::warn!("the folder of staged artifacts {folder} was not removed: {error}");
        }
    }

    async fn end_or_leave(&self, job: &Job) {
        let bound = self.shared.config.shutdown_timeout;
        if let Ok(true) = tokio::time::timeout(bound, job.handed_over()).await {
            tracing::info!(job = job.id(), "the job goes on without the server");
            return;
        }
        job.cancel();
        if tokio::time::timeout(bound, job.wait_for_end()).await.is_err() {
            tracing::warn!(job = job.id(), "the job did not end in time after it was cancelled");
        }
    }
}

fn open_journals(folder: &Path) -> Result<Option<Journals>, SetUpError> {
    match Journals::open(folder) {
        Ok(journals) => Ok(Some(journals)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            let folder = folder.display();
            tracing::warn!(
                "another server writes its jobs down in {folder}; those of this one end with it, and are not found again"
            );
            Ok(None)
        }
        Err(source) => Err(SetUpError::Journals { folder: folder.to_owned(), source }),
    }
}
