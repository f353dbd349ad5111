//! `ArtifactRetrievalService`: a job's staged files, for its workers.

use std::io::Read;
use std::sync::Arc;

use beam_model::job_management::artifact_retrieval_service_server::ArtifactRetrievalService as Retrieval;
use beam_model::job_management::{
    GetArtifactRequest, GetArtifactResponse, ResolveArtifactsRequest, ResolveArtifactsResponse,
};
use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation};
use beam_model::urns::standard_artifacts::types;
use bytes::BytesMut;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::bundle::JobContext;
use crate::error::BridgeError;
use crate::server::Shared;
use crate::worker::worker_id;

/// One message of an artifact.
const CHUNK_BYTES: usize = 1 << 20;
/// So many chunks are read ahead of the worker.
const CHUNKS_AHEAD: usize = 2;

pub(crate) struct ArtifactRetrievalService {
    shared: Arc<Shared>,
}

impl ArtifactRetrievalService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The job that an artifact belongs to, if whoever asks may have it.
    fn job(&self, metadata: &MetadataMap, path: &str) -> Result<Arc<JobContext>, BridgeError> {
        let foreign = || BridgeError::ForeignArtifact(path.to_owned());
        let (job_id, name) = path.split_once('/').ok_or_else(foreign)?;
        if name.split(['/', '\\']).any(|part| part == "..") {
            return Err(foreign());
        }
        if let Some(worker_id) = worker_id(metadata)
            && self.shared.registry.worker_by_id(worker_id)?.job.id != job_id
        {
            return Err(foreign());
        }
        self.shared.registry.job(job_id).ok_or_else(foreign)
    }
}

#[tonic::async_trait]
impl Retrieval for ArtifactRetrievalService {
    type GetArtifactStream = ReceiverStream<Result<GetArtifactResponse, Status>>;

    /// Artifacts were resolved when they were staged: each is its own replacement.
    async fn resolve_artifacts(
        &self,
        request: Request<ResolveArtifactsRequest>,
    ) -> Result<Response<ResolveArtifactsResponse>, Status> {
        Ok(Response::new(ResolveArtifactsResponse { replacements: request.into_inner().artifacts }))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let artifact = request.artifact.ok_or(BridgeError::NoArtifact)?;
        let path = path(&artifact)?;
        let job = self.job(&metadata, &path)?;
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(reason) = read(&job, &artifact, &sender) {
                // An error here means that the worker has hung up.
                sender.blocking_send(Err(BridgeError::ArtifactUnreadable { path, reason }.into())).ok();
            }
        });
        Ok(Response::new(ReceiverStream::new(chunks)))
    }
}

fn path(artifact: &ArtifactInformation) -> Result<String, BridgeError> {
    if artifact.type_urn != types::FILE {
        return Err(BridgeError::ArtifactType(artifact.type_urn.clone()));
    }
    let payload = ArtifactFilePayload::decode(artifact.type_payload.clone());
    payload.map(|payload| payload.path).map_err(|_| BridgeError::NoArtifact)
}

/// Sends the artifact in chunks until its end or until nobody listens.
fn read(
    job: &JobContext,
    artifact: &ArtifactInformation,
    chunks: &mpsc::Sender<Result<GetArtifactResponse, Status>>,
) -> Result<(), String> {
    let mut reader = job.artifacts.open(artifact).map_err(|fault| fault.message)?;
    loop {
        let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
        let mut filled = 0;
        while let Some(rest) = chunk.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        chunk.truncate(filled);
        let last = filled < CHUNK_BYTES;
        // The last chunk may be empty: an empty artifact has one message too.
        if chunks.blocking_send(Ok(GetArtifactResponse { data: chunk.freeze() })).is_err() || last {
            return Ok(());
        }
    }
}
