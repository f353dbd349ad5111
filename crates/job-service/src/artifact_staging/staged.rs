//! What a preparation has once its artifacts are staged.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation, EmbeddedFilePayload, Environment};
use beam_model::urns::standard_artifacts::types;
use prost::Message;

use super::check;
use super::store::{ArtifactStore, StoredArtifact};
use crate::error::{StagingError, artifact_name};

/// The artifacts of each environment, by its id.
#[derive(Debug, Default)]
pub(crate) struct StagedArtifacts {
    pub(super) by_environment: BTreeMap<String, Vec<StagedArtifact>>,
}

#[derive(Clone, Debug)]
pub(super) enum StagedArtifact {
    Stored {
        file: Arc<StoredArtifact>,
        role_urn: String,
        role_payload: bytes::Bytes,
    },
    /// One that workers fetch themselves, e.g. from PyPI.
    Elsewhere(ArtifactInformation),
}

/// Whether a worker gets the artifact from its registry, rather than from here.
pub(super) fn is_elsewhere(artifact: &ArtifactInformation) -> bool {
    matches!(artifact.type_urn.as_str(), types::PYPI | types::MAVEN)
}

impl StagedArtifact {
    pub(super) fn stored(file: Arc<StoredArtifact>, artifact: ArtifactInformation) -> Self {
        let ArtifactInformation { role_urn, role_payload, .. } = artifact;
        StagedArtifact::Stored { file, role_urn, role_payload }
    }

    /// As workers of the job are told of it.
    fn to_dependency(&self, job_id: &str) -> ArtifactInformation {
        match self {
            StagedArtifact::Elsewhere(artifact) => artifact.clone(),
            StagedArtifact::Stored { file, role_urn, role_payload } => {
                let sha256 = file.sha256().to_owned();
                let payload = ArtifactFilePayload { path: format!("{job_id}/{sha256}"), sha256 };
                ArtifactInformation {
                    type_urn: types::FILE.to_owned(),
                    type_payload: payload.encode_to_vec().into(),
                    role_urn: role_urn.clone(),
                    role_payload: role_payload.clone(),
                }
            }
        }
    }
}

/// Puts the bytes of an embedded artifact into the store.
pub(super) fn store_embedded(
    store: &ArtifactStore,
    artifact: &ArtifactInformation,
) -> Result<Arc<StoredArtifact>, StagingError> {
    let embedded = EmbeddedFilePayload::decode(artifact.type_payload.clone()).map_err(|error| {
        let name = artifact_name(artifact);
        StagingError::Malformed { name, what: "type payload", reason: error.to_string() }
    })?;
    store.put(&embedded.data).map_err(|error| store_error(store, artifact, &error))
}

pub(super) fn store_error(
    store: &ArtifactStore,
    artifact: &ArtifactInformation,
    error: &std::io::Error,
) -> StagingError {
    StagingError::Store {
        name: artifact_name(artifact),
        reason: error.to_string(),
        folder: store.path().display().to_string(),
    }
}

impl StagedArtifacts {
    /// Of a pipeline whose client staged nothing: good as long as no artifact needed it.
    pub(crate) fn without_client(
        environments: &BTreeMap<String, Environment>,
        store: &ArtifactStore,
    ) -> Result<Self, StagingError> {
        let mut staged = Self::default();
        let mut missing = Vec::new();
        for (id, environment) in environments {
            let all = staged.by_environment.entry(id.clone()).or_default();
            for artifact in &environment.dependencies {
                check::check_staged_name(artifact)?;
                if artifact.type_urn == types::EMBEDDED {
                    all.push(StagedArtifact::stored(store_embedded(store, artifact)?, artifact.clone()));
                } else if is_elsewhere(artifact) {
                    all.push(StagedArtifact::Elsewhere(artifact.clone()));
                } else {
                    missing.push(artifact);
                }
            }
        }
        match missing.first() {
            None => Ok(staged),
            Some(first) => Err(StagingError::NotStaged { count: missing.len(), first: artifact_name(first) }),
        }
    }

    /// Makes the environments' dependencies those that were staged.
    pub(crate) fn rewrite(&self, environments: &mut BTreeMap<String, Environment>, job_id: &str) {
        for (id, staged) in &self.by_environment {
            if let Some(environment) = environments.get_mut(id) {
                environment.dependencies =
                    staged.iter().map(|artifact| artifact.to_dependency(job_id)).collect();
            }
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Arc<StoredArtifact>> {
        self.by_environment.values().flatten().filter_map(|artifact| match artifact {
            StagedArtifact::Stored { file, .. } => Some(file),
            StagedArtifact::Elsewhere(_) => None,
        })
    }
}
