//! A stage's `ProcessBundleDescriptor`, completed for a worker: with where it reaches its services.

use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::ApiServiceDescriptor;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::standard_protocols::DATA_SAMPLING;
use prost::Message;
use runner_core::ports::StageSpec;

use super::sampled::sampled;
use crate::error::BridgeError;
use crate::worker::WorkerSession;

pub(super) fn for_worker(
    worker: &WorkerSession,
    stage: &StageSpec,
    endpoint: &ApiServiceDescriptor,
) -> Result<ProcessBundleDescriptor, BridgeError> {
    let mut descriptor = stage.descriptor.clone();
    descriptor.state_api_service_descriptor = Some(endpoint.clone());
    descriptor.timer_api_service_descriptor = Some(endpoint.clone());
    for (id, transform) in &mut descriptor.transforms {
        let Some(spec) =
            transform.spec.as_mut().filter(|spec| [DATA_SOURCE, DATA_SINK].contains(&&*spec.urn))
        else {
            continue;
        };
        let mut port = RemoteGrpcPort::decode(spec.payload.clone()).map_err(|source| {
            let what = format!("RemoteGrpcPort of transform {id}");
            BridgeError::MalformedDescriptor { stage: stage.name.clone(), what, source }
        })?;
        port.api_service_descriptor = Some(endpoint.clone());
        spec.payload = port.encode_to_vec().into();
    }
    if worker.job.samples && worker.environment.can(DATA_SAMPLING) {
        sampled(&mut descriptor, &stage.environment_id);
    }
    Ok(descriptor)
}
