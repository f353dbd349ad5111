//! What can go wrong in the Job API, and the gRPC status that says so.

use std::time::Duration;

use beam_model::pipeline::ArtifactInformation;
use runner_core::backend::Refusal;
use runner_core::fault::Fault;
use tonic::{Code, Status};

use crate::job::JobState;

/// A status message travels as a header: clients take 8 kB of headers by default, so that a longer one
/// would reach them as "received header list too large" instead.
const LONGEST_STATUS_MESSAGE: usize = 6_000;

/// An error of this crate. Its text is what the client is shown.
#[derive(Debug, thiserror::Error)]
pub enum JobServiceError {
    #[error("there is no job {0:?} here: it was never run, or it ended long ago and is forgotten")]
    UnknownJob(String),
    #[error(
        "there is no preparation {0:?} here: prepare the job again (a preparation that is not run is \
         forgotten after a while, and when the server ends)"
    )]
    UnknownPreparation(String),
    #[error("preparation {preparation_id:?} has been run already, as job {job_id:?}; prepare it anew")]
    AlreadyRun { preparation_id: String, job_id: String },
    #[error("the request has no {0}")]
    Missing(&'static str),
    #[error("{0}")]
    Refused(Refusal),
    #[error("job {job_id} cannot be drained: it is {state}")]
    NothingToDrain { job_id: String, state: JobState },
    #[error("job {job_id} cannot be drained: {fault}")]
    CannotDrain { job_id: String, fault: Fault },
    #[error("the server is shutting down and takes no more jobs")]
    ShuttingDown,
    #[error("the server failed while it {doing}: {reason}; this is a fault of the server, see its log")]
    Internal { doing: &'static str, reason: String },
    #[error(transparent)]
    Staging(#[from] StagingError),
}

/// What can go wrong between a client and its staged files.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StagingError {
    #[error(
        "staging token {0:?} is unknown: it is neither that of a job prepared here, nor was its \
         preparation run or forgotten since"
    )]
    UnknownToken(String),
    #[error("another client is staging with this token already")]
    Busy,
    #[error("artifact {name} is damaged: it should have SHA-256 {expected}, but what arrived has {actual}")]
    WrongHash { name: String, expected: String, actual: String },
    #[error(
        "artifact {name} is refused: a staged name must be a relative path without \"..\", so that it \
         cannot leave the worker's folder"
    )]
    BadName { name: String },
    #[error("artifact {name}: its {what} cannot be read: {reason}")]
    Malformed { name: String, what: &'static str, reason: String },
    #[error("the client broke the staging protocol: {0}")]
    Protocol(String),
    #[error("the client went away before all artifacts were staged")]
    Disconnected,
    #[error("the client sent nothing for {0:?} while artifacts were being staged")]
    TimedOut(Duration),
    #[error("artifact {name} cannot be stored: {reason}; see to the disk that holds {folder}")]
    Store { name: String, reason: String, folder: String },
    #[error(
        "{count} artifacts of the pipeline were never staged, the first is {first}: stage them with \
         ArtifactStagingService before Run"
    )]
    NotStaged { count: usize, first: String },
    #[error("staging the artifacts of this job did not succeed: {0}")]
    Failed(Box<StagingError>),
}

impl JobServiceError {
    fn code(&self) -> Code {
        match self {
            Self::UnknownJob(_) | Self::UnknownPreparation(_) => Code::NotFound,
            Self::AlreadyRun { .. } | Self::NothingToDrain { .. } => Code::FailedPrecondition,
            Self::Missing(_) => Code::InvalidArgument,
            Self::Refused(refusal) if refusal.invalid.is_empty() => Code::Unimplemented,
            Self::Refused(_) => Code::InvalidArgument,
            // The backend can never drain this job, as against: not now.
            Self::CannotDrain { fault, .. } if fault.retry == runner_core::fault::Retry::Never => {
                Code::Unimplemented
            }
            Self::CannotDrain { .. } => Code::FailedPrecondition,
            Self::ShuttingDown => Code::Unavailable,
            Self::Internal { .. } => Code::Internal,
            Self::Staging(staging) => staging.code(),
        }
    }
}

impl StagingError {
    fn code(&self) -> Code {
        match self {
            Self::UnknownToken(_) => Code::NotFound,
            Self::Busy | Self::NotStaged { .. } | Self::Failed(_) => Code::FailedPrecondition,
            Self::WrongHash { .. } => Code::DataLoss,
            Self::BadName { .. } | Self::Malformed { .. } | Self::Protocol(_) => Code::InvalidArgument,
            Self::Disconnected => Code::Cancelled,
            Self::TimedOut(_) => Code::DeadlineExceeded,
            Self::Store { .. } => Code::Internal,
        }
    }
}

impl From<JobServiceError> for Status {
    fn from(error: JobServiceError) -> Self {
        Status::new(error.code(), shorten(&error.to_string()))
    }
}

impl From<StagingError> for Status {
    fn from(error: StagingError) -> Self {
        Status::new(error.code(), shorten(&error.to_string()))
    }
}

/// As much of the text as fits into a header, with a word on what is missing.
fn shorten(text: &str) -> String {
    let mut length = 0;
    for (at, c) in text.char_indices() {
        length += if c.is_ascii_alphanumeric() || "-_.,:;/()='".contains(c) { 1 } else { 3 * c.len_utf8() };
        if length > LONGEST_STATUS_MESSAGE {
            let (kept, rest) = text.split_at(at);
            return format!("{kept}\n… and {} more lines; the server's log has them", rest.lines().count());
        }
    }
    text.to_owned()
}

/// What to call an artifact in an error: the name under which it is staged, else its type and hash.
pub(crate) fn artifact_name(artifact: &ArtifactInformation) -> String {
    use beam_model::pipeline::{ArtifactFilePayload, ArtifactStagingToRolePayload, ArtifactUrlPayload};
    use beam_model::urns::standard_artifacts::{roles, types};
    use prost::Message;

    if artifact.role_urn == roles::STAGING_TO
        && let Ok(role) = ArtifactStagingToRolePayload::decode(artifact.role_payload.clone())
    {
        return format!("{:?}", role.staged_name);
    }
    let path = match artifact.type_urn.as_str() {
        types::FILE => ArtifactFilePayload::decode(artifact.type_payload.clone()).ok().map(|file| file.path),
        types::URL => ArtifactUrlPayload::decode(artifact.type_payload.clone()).ok().map(|url| url.url),
        _ => None,
    };
    match path {
        Some(path) => format!("{path:?} (role {})", artifact.role_urn),
        None => format!("of type {} (role {})", artifact.type_urn, artifact.role_urn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_refusal_still_fits_into_a_header() {
        let mut refusal = Refusal::default();
        for number in 0..5_000 {
            refusal.unsupported(
                format!("Schritt Nr. {number} für alle"),
                "urn beam:transform:x:v1 ist unbekannt",
            );
        }
        let status = Status::from(JobServiceError::Refused(refusal));
        assert_eq!(status.code(), Code::Unimplemented);
        let headers = status.clone().into_http::<()>();
        let message = headers.headers().get("grpc-message").unwrap();
        assert!(message.len() < 7_000, "{}", message.len());
        assert!(status.message().contains("Schritt Nr. 0 für alle"));
        assert!(status.message().contains("more lines"), "{}", status.message());
    }
}
