//! `ProvisionService`: what a worker's container or boot program has to know before it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::fn_execution::provision_service_server::ProvisionService as Provision;
use beam_model::fn_execution::{GetProvisionInfoRequest, GetProvisionInfoResponse, ProvisionInfo};
use beam_model::urns::standard_runner_protocols::{
    CONTROL_RESPONSE_ELEMENTS_EMBEDDING, MONITORING_INFO_SHORT_IDS, MULTIMAP_KEYS_VALUES_SIDE_INPUT,
};
use tonic::{Request, Response, Status};

use crate::server::Shared;

/// What a worker may use without being asked to (`StandardRunnerProtocols`).
const RUNNER_CAPABILITIES: [&str; 3] =
    [MONITORING_INFO_SHORT_IDS, CONTROL_RESPONSE_ELEMENTS_EMBEDDING, MULTIMAP_KEYS_VALUES_SIDE_INPUT];

pub(crate) struct ProvisionService {
    shared: Arc<Shared>,
}

impl ProvisionService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl Provision for ProvisionService {
    async fn get_provision_info(
        &self,
        request: Request<GetProvisionInfoRequest>,
    ) -> Result<Response<GetProvisionInfoResponse>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        worker.provision();
        let endpoint = self.shared.endpoint.descriptor();
        let job = &worker.job;
        let metadata = [("job_id", &job.id), ("job_name", &job.name)];
        let info = ProvisionInfo {
            pipeline_options: Some(job.pipeline_options.clone()),
            retrieval_token: job.id.clone(),
            status_endpoint: Some(endpoint.clone()),
            logging_endpoint: Some(endpoint.clone()),
            artifact_endpoint: Some(endpoint.clone()),
            control_endpoint: Some(endpoint),
            dependencies: worker.environment.dependencies.clone(),
            runner_capabilities: RUNNER_CAPABILITIES.map(str::to_owned).to_vec(),
            metadata: BTreeMap::from(metadata.map(|(key, value)| (key.to_owned(), value.clone()))),
            sibling_worker_ids: Vec::new(),
        };
        Ok(Response::new(GetProvisionInfoResponse { info: Some(info) }))
    }
}
