//! What a running job may open: its own files, and no others.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation};
use beam_model::urns::standard_artifacts::types;
use prost::Message;
use runner_core::fault::Fault;
use runner_core::ports::ArtifactSource;

use super::StagedArtifacts;
use super::store::StoredArtifact;
use crate::error::artifact_name;

/// The files of one job, by hash. Looked up there and nowhere else: a path in a request is never a path
/// on this machine.
pub(crate) struct JobArtifacts {
    job_id: String,
    files: Mutex<HashMap<String, Arc<StoredArtifact>>>,
}

impl JobArtifacts {
    pub(crate) fn new(job_id: String, staged: &StagedArtifacts) -> Self {
        let files = staged.files().map(|file| (file.sha256().to_owned(), Arc::clone(file)));
        Self { job_id, files: Mutex::new(files.collect()) }
    }

    /// Lets go of the files, however long somebody keeps this.
    pub(crate) fn release(&self) {
        let released = std::mem::take(&mut *self.files.lock().unwrap_or_else(PoisonError::into_inner));
        // Files are removed here, when the lock is free again.
        drop(released);
    }

    fn find(&self, artifact: &ArtifactInformation) -> Option<Arc<StoredArtifact>> {
        if artifact.type_urn != types::FILE {
            return None;
        }
        let payload = ArtifactFilePayload::decode(artifact.type_payload.clone()).ok()?;
        let hash = payload.path.strip_prefix(&self.job_id)?.strip_prefix('/')?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }
}

impl ArtifactSource for JobArtifacts {
    fn open(&self, artifact: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        let name = artifact_name(artifact);
        let Some(file) = self.find(artifact) else {
            let text = format!("artifact {name} is none of those that were staged for job {}", self.job_id);
            return Err(Fault::environment(text).fatal());
        };
        match file.open() {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(Fault::runner(format!("staged artifact {name} cannot be read: {error}"))),
        }
    }
}
