//! Staging with the roles reversed: the server asks over the stream, the client answers.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use beam_model::job_management::artifact_request_wrapper::Request;
use beam_model::job_management::artifact_response_wrapper::Response;
use beam_model::job_management::{
    ArtifactRequestWrapper, ArtifactResponseWrapper, GetArtifactRequest, ResolveArtifactsRequest,
};
use beam_model::pipeline::{ArtifactInformation, Pipeline};
use beam_model::urns::standard_artifacts::types;
use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::check;
use super::staged::{StagedArtifact, StagedArtifacts, is_elsewhere, store_embedded, store_error};
use super::store::{ArtifactStore, StoredArtifact};
use crate::error::{StagingError, artifact_name};
use crate::job::Registry;

/// The longest silence of a client: it may read the next chunk from a slow remote file, but one that is
/// gone without closing its connection must not hold the staging for ever.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);
/// Chunks (2 MB each, from Python) that wait for the disk; the client is held back beyond that.
const CHUNKS_AHEAD: usize = 4;

/// Serves one stream from its first message to its end.
pub(super) async fn serve(
    registry: Arc<Registry>,
    store: Arc<ArtifactStore>,
    responses: Streaming<ArtifactResponseWrapper>,
    requests: mpsc::Sender<Result<ArtifactRequestWrapper, Status>>,
) {
    let mut session = Session { store, responses, requests, fetched: HashMap::new() };
    if let Err(error) = session.run(&registry).await {
        tracing::info!("staging failed: {error}");
        // Nobody is there to be told if the client has gone.
        let _ = session.requests.send(Err(error.into())).await;
    }
}

struct Session {
    store: Arc<ArtifactStore>,
    responses: Streaming<ArtifactResponseWrapper>,
    requests: mpsc::Sender<Result<ArtifactRequestWrapper, Status>>,
    /// What this client has sent already, by type and type payload: environments share artifacts.
    fetched: HashMap<(String, Bytes), Arc<StoredArtifact>>,
}

impl Session {
    async fn run(&mut self, registry: &Registry) -> Result<(), StagingError> {
        let token = self.next().await?.staging_token;
        let preparation = registry.preparation_of(&token).ok_or(StagingError::UnknownToken(token))?;
        let claim = preparation.begin_staging()?;
        drop(preparation);
        // The claim is settled before the stream closes: the client calls Run right after.
        let result = self.stage(claim.pipeline()).await;
        let told = result.as_ref().err().cloned();
        claim.finish(result);
        told.map_or(Ok(()), Err)
    }

    async fn stage(&mut self, pipeline: &Pipeline) -> Result<StagedArtifacts, StagingError> {
        let mut staged = StagedArtifacts::default();
        let Some(components) = &pipeline.components else { return Ok(staged) };
        for (id, environment) in &components.environments {
            let mut artifacts = Vec::new();
            for artifact in self.resolve(&environment.dependencies).await? {
                artifacts.push(self.stage_one(artifact).await?);
            }
            staged.by_environment.insert(id.clone(), artifacts);
        }
        Ok(staged)
    }

    /// What the client would have in place of these artifacts.
    async fn resolve(
        &mut self,
        artifacts: &[ArtifactInformation],
    ) -> Result<Vec<ArtifactInformation>, StagingError> {
        if artifacts.is_empty() {
            return Ok(Vec::new());
        }
        let request = ResolveArtifactsRequest { artifacts: artifacts.to_vec(), preferred_urns: Vec::new() };
        self.ask(Request::ResolveArtifact(request)).await?;
        match self.next().await?.response {
            Some(Response::ResolveArtifactResponse(response)) => Ok(response.replacements),
            Some(Response::GetArtifactResponse(_)) => {
                Err(StagingError::Protocol("asked to resolve artifacts, it sent the bytes of one".to_owned()))
            }
            None => Err(StagingError::Protocol("asked to resolve artifacts, it sent nothing".to_owned())),
        }
    }

    async fn stage_one(&mut self, artifact: ArtifactInformation) -> Result<StagedArtifact, StagingError> {
        check::check_staged_name(&artifact)?;
        if is_elsewhere(&artifact) {
            return Ok(StagedArtifact::Elsewhere(artifact));
        }
        let key = (artifact.type_urn.clone(), artifact.type_payload.clone());
        if let Some(file) = self.fetched.get(&key) {
            return Ok(StagedArtifact::stored(Arc::clone(file), artifact));
        }
        let file = if artifact.type_urn == types::EMBEDDED {
            store_embedded(&self.store, &artifact)?
        } else {
            self.fetch(&artifact).await?
        };
        self.fetched.insert(key, Arc::clone(&file));
        Ok(StagedArtifact::stored(file, artifact))
    }

    /// Has the client send an artifact into the store. Broken off, it leaves nothing there.
    async fn fetch(&mut self, artifact: &ArtifactInformation) -> Result<Arc<StoredArtifact>, StagingError> {
        let expected = check::named_hash(artifact)?;
        self.ask(Request::GetArtifact(GetArtifactRequest { artifact: Some(artifact.clone()) })).await?;
        let (chunks, incoming) = mpsc::channel(CHUNKS_AHEAD);
        let store = Arc::clone(&self.store);
        let writing = tokio::task::spawn_blocking(move || write(&store, incoming));
        let received = self.receive(artifact, chunks).await;
        let written = writing.await.map_err(|error| io::Error::other(error.to_string()));
        // A client that went away is what there is to tell, not that the file is not whole.
        received?;
        let file = written
            .and_then(|written| written)
            .map_err(|error| store_error(&self.store, artifact, &error))?;
        check::check_hash(artifact, expected, file.sha256())?;
        Ok(file)
    }

    async fn receive(
        &mut self,
        artifact: &ArtifactInformation,
        chunks: mpsc::Sender<Chunk>,
    ) -> Result<(), StagingError> {
        loop {
            let ArtifactResponseWrapper { is_last, response, .. } = self.next().await?;
            match response {
                Some(Response::GetArtifactResponse(chunk)) => {
                    let sent = chunks.send(Chunk::Data(chunk.data)).await;
                    if sent.is_err() {
                        // The writer has given up; its reason is told by whoever waits for it.
                        return Ok(());
                    }
                }
                Some(Response::ResolveArtifactResponse(_)) => {
                    let name = artifact_name(artifact);
                    let text = format!("asked for the bytes of artifact {name}, it sent a resolution");
                    return Err(StagingError::Protocol(text));
                }
                None => {}
            }
            if is_last {
                let _ = chunks.send(Chunk::End).await;
                return Ok(());
            }
        }
    }

    async fn ask(&self, request: Request) -> Result<(), StagingError> {
        let request = ArtifactRequestWrapper { request: Some(request) };
        self.requests.send(Ok(request)).await.map_err(|_| StagingError::Disconnected)
    }

    async fn next(&mut self) -> Result<ArtifactResponseWrapper, StagingError> {
        match tokio::time::timeout(LONGEST_SILENCE, self.responses.message()).await {
            Ok(Ok(Some(response))) => Ok(response),
            Ok(Ok(None) | Err(_)) => Err(StagingError::Disconnected),
            Err(_) => Err(StagingError::TimedOut(LONGEST_SILENCE)),
        }
    }
}

enum Chunk {
    Data(Bytes),
    /// Without it the file is not whole.
    End,
}

/// Writes what arrives, on a thread that may wait for the disk.
fn write(store: &ArtifactStore, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<Arc<StoredArtifact>> {
    let mut writer = store.begin()?;
    while let Some(chunk) = chunks.blocking_recv() {
        match chunk {
            Chunk::Data(data) => writer.write(&data)?,
            Chunk::End => return store.finish(writer),
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client broke off"))
}
