//! `ArtifactStagingService`: one stream per preparation.

use std::sync::Arc;

use beam_model::job_management::artifact_staging_service_server::ArtifactStagingService;
use beam_model::job_management::{ArtifactRequestWrapper, ArtifactResponseWrapper};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{ArtifactStore, reverse_retrieval};
use crate::job::Registry;

#[derive(Clone)]
pub(crate) struct ArtifactStaging {
    registry: Arc<Registry>,
    store: Arc<ArtifactStore>,
}

impl ArtifactStaging {
    pub(crate) fn new(registry: Arc<Registry>, store: Arc<ArtifactStore>) -> Self {
        Self { registry, store }
    }
}

#[tonic::async_trait]
impl ArtifactStagingService for ArtifactStaging {
    type ReverseArtifactRetrievalServiceStream = ReceiverStream<Result<ArtifactRequestWrapper, Status>>;

    /// Answers with a stream of requests at once; the client's first message names the token.
    async fn reverse_artifact_retrieval_service(
        &self,
        request: Request<Streaming<ArtifactResponseWrapper>>,
    ) -> Result<Response<Self::ReverseArtifactRetrievalServiceStream>, Status> {
        let (requests, stream) = mpsc::channel(1);
        let (registry, store) = (Arc::clone(&self.registry), Arc::clone(&self.store));
        tokio::spawn(reverse_retrieval::serve(registry, store, request.into_inner(), requests));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
