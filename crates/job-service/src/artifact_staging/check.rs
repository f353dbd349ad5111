//! What is asked of an artifact before it is believed.

use beam_model::pipeline::{
    ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload, ArtifactUrlPayload,
};
use beam_model::urns::standard_artifacts::{roles, types};
use prost::Message;

use crate::error::{StagingError, artifact_name};

/// The SHA-256 that the artifact itself names (`ArtifactFilePayload.sha256`, `ArtifactUrlPayload.sha256`).
pub(super) fn named_hash(artifact: &ArtifactInformation) -> Result<Option<String>, StagingError> {
    let payload = artifact.type_payload.clone();
    let hash = match artifact.type_urn.as_str() {
        types::FILE => ArtifactFilePayload::decode(payload).map(|file| file.sha256),
        types::URL => ArtifactUrlPayload::decode(payload).map(|url| url.sha256),
        _ => return Ok(None),
    };
    let hash = hash.map_err(|error| malformed(artifact, "type payload", &error))?;
    Ok((!hash.is_empty()).then(|| hash.to_ascii_lowercase()))
}

/// Refuses a hash that is not the one the artifact names.
pub(super) fn check_hash(
    artifact: &ArtifactInformation,
    expected: Option<String>,
    actual: &str,
) -> Result<(), StagingError> {
    match expected {
        Some(expected) if expected != actual => Err(StagingError::WrongHash {
            name: artifact_name(artifact),
            expected,
            actual: actual.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Refuses a name under which a worker would write outside of its folder.
pub(super) fn check_staged_name(artifact: &ArtifactInformation) -> Result<(), StagingError> {
    if artifact.role_urn != roles::STAGING_TO {
        return Ok(());
    }
    let role = ArtifactStagingToRolePayload::decode(artifact.role_payload.clone())
        .map_err(|error| malformed(artifact, "role payload", &error))?;
    if is_inside(&role.staged_name) {
        Ok(())
    } else {
        Err(StagingError::BadName { name: artifact_name(artifact) })
    }
}

/// Also for a worker on Windows, where `\` parts a path and `C:` begins one.
fn is_inside(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']);
    let absolute = name.is_empty() || name.starts_with(['/', '\\']) || name.chars().nth(1) == Some(':');
    !absolute && !name.contains('\0') && parts.all(|part| part != "..")
}

fn malformed(artifact: &ArtifactInformation, what: &'static str, error: &prost::DecodeError) -> StagingError {
    StagingError::Malformed { name: artifact_name(artifact), what, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::is_inside;

    #[test]
    fn names_that_leave_the_folder() {
        for good in ["a.jar", "pickled_main_session", "dir/a", "..a", "a..", "a.b..c"] {
            assert!(is_inside(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "\\a", "a\\..\\b", "C:\\a", "a\0b"]
        {
            assert!(!is_inside(bad), "{bad}");
        }
    }
}
