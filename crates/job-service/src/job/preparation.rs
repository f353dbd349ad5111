//! A job between `Prepare` and `Run`.

use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::Pipeline;
use runner_core::options::PipelineOptions;
use tokio::sync::watch;

use crate::artifact_staging::StagedArtifacts;
use crate::error::StagingError;

/// For a client that stages and runs from two threads: how long `Run` waits for the staging. Large files
/// over a slow line take minutes.
const WAIT_FOR_STAGING: Duration = Duration::from_secs(600);

/// A pipeline that a backend has accepted, and how far its artifacts are.
pub(crate) struct Preparation {
    pub(crate) id: String,
    /// With which the client shows that it is the one that prepared the job.
    pub(crate) staging_token: String,
    pub(crate) job_name: String,
    pub(crate) pipeline: Pipeline,
    pub(crate) options: PipelineOptions,
    staging: watch::Sender<Staging>,
}

/// How far the artifacts of a preparation are.
#[derive(Clone, Default)]
pub(crate) enum Staging {
    #[default]
    NotBegun,
    Busy,
    Staged(Arc<StagedArtifacts>),
    Failed(StagingError),
}

impl Preparation {
    pub(crate) fn new(
        id: String,
        staging_token: String,
        job_name: String,
        pipeline: Pipeline,
        options: PipelineOptions,
    ) -> Self {
        Self { id, staging_token, job_name, pipeline, options, staging: watch::Sender::default() }
    }

    /// Claims the staging for one client. What an earlier one staged is dropped.
    pub(crate) fn begin_staging(self: &Arc<Self>) -> Result<StagingClaim, StagingError> {
        let mine = self.staging.send_if_modified(|staging| {
            let free = !matches!(staging, Staging::Busy);
            if free {
                *staging = Staging::Busy;
            }
            free
        });
        if mine { Ok(StagingClaim { preparation: Arc::clone(self) }) } else { Err(StagingError::Busy) }
    }

    /// How the staging went, waiting for one that is under way.
    pub(crate) async fn staging(&self) -> Staging {
        let mut changes = self.staging.subscribe();
        let settled = changes.wait_for(|staging| !matches!(staging, Staging::Busy));
        match tokio::time::timeout(WAIT_FOR_STAGING, settled).await {
            Ok(Ok(staging)) => staging.clone(),
            Ok(Err(_)) | Err(_) => Staging::Failed(StagingError::TimedOut(WAIT_FOR_STAGING)),
        }
    }
}

/// The right to stage. Dropped without a result, the staging counts as broken off and may be tried anew.
pub(crate) struct StagingClaim {
    preparation: Arc<Preparation>,
}

impl StagingClaim {
    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.preparation.pipeline
    }

    pub(crate) fn finish(self, result: Result<StagedArtifacts, StagingError>) {
        let end = match result {
            Ok(artifacts) => Staging::Staged(Arc::new(artifacts)),
            Err(error) => Staging::Failed(error),
        };
        self.preparation.staging.send_replace(end);
    }
}

impl Drop for StagingClaim {
    fn drop(&mut self) {
        self.preparation.staging.send_if_modified(|staging| {
            let unfinished = matches!(staging, Staging::Busy);
            if unfinished {
                *staging = Staging::Failed(StagingError::Disconnected);
            }
            unfinished
        });
    }
}
