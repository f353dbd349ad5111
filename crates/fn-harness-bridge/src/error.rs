//! What can be wrong with a call to one of the Fn API services.

use tonic::Status;

/// Why a call was refused. The worker sees it as a gRPC status.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("the call has no worker_id in its metadata; a worker must send the id that it was started with")]
    NoWorkerId,
    #[error("worker {0:?} is not known here: it was never started by this runner, or it has been stopped")]
    UnknownWorker(String),
    #[error("worker {0:?} stands by: there is no job yet of which it could be told anything")]
    StandsBy(String),
    #[error("worker {worker:?} has opened its {stream} stream already; it may open one only")]
    StreamTaken { worker: String, stream: &'static str },
    #[error("job {job} has no ProcessBundleDescriptor {id:?}")]
    UnknownDescriptor { job: String, id: String },
    #[error("the descriptor of {stage} holds a malformed {what}: {source}")]
    MalformedDescriptor { stage: String, what: String, source: prost::DecodeError },
    #[error("the request names no artifact")]
    NoArtifact,
    #[error(
        "artifact type {0:?} is not served; workers are told of artifacts of type beam:artifact:type:file:v1 only"
    )]
    ArtifactType(String),
    #[error("artifact {0:?} is none of the job's")]
    ForeignArtifact(String),
    #[error("artifact {path:?} cannot be read: {reason}")]
    ArtifactUnreadable { path: String, reason: String },
}

impl From<BridgeError> for Status {
    fn from(error: BridgeError) -> Self {
        let message = error.to_string();
        match error {
            BridgeError::NoWorkerId | BridgeError::NoArtifact | BridgeError::ArtifactType(_) => {
                Status::invalid_argument(message)
            }
            BridgeError::UnknownWorker(_) | BridgeError::UnknownDescriptor { .. } => {
                Status::not_found(message)
            }
            BridgeError::StandsBy(_) => Status::failed_precondition(message),
            BridgeError::StreamTaken { .. } => Status::already_exists(message),
            BridgeError::ForeignArtifact(_) => Status::permission_denied(message),
            BridgeError::MalformedDescriptor { .. } | BridgeError::ArtifactUnreadable { .. } => {
                Status::internal(message)
            }
        }
    }
}
