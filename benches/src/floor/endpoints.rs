//! Every address in a message leads here, or the worker would go past us.

use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::{ApiServiceDescriptor, ExternalPayload, Pipeline};
use beam_model::urns::fn_api_transforms::runner;
use beam_model::urns::standard_environments::environments;
use prost::{DecodeError, Message};

fn here(url: &str) -> Option<ApiServiceDescriptor> {
    Some(ApiServiceDescriptor { url: url.to_owned(), authentication: None })
}

/// Has the runner ask `url` for workers; returns the address of the pool that it would have asked.
///
/// Errors: there is no pool, or there are several.
pub(super) fn redirect_pool(pipeline: &mut Pipeline, url: &str) -> Result<String, String> {
    let mut pools = Vec::new();
    for environment in pipeline.components.iter_mut().flat_map(|all| all.environments.values_mut()) {
        if environment.urn != environments::EXTERNAL {
            continue;
        }
        let payload = ExternalPayload::decode(environment.payload.clone());
        let mut payload = payload.map_err(|error| format!("malformed EXTERNAL environment: {error}"))?;
        pools.extend(payload.endpoint.take().map(|endpoint| endpoint.url));
        payload.endpoint = here(url);
        environment.payload = payload.encode_to_vec().into();
    }
    pools.dedup();
    match pools.as_slice() {
        [pool] => Ok(pool.clone()),
        other => {
            Err(format!("a job needs exactly one worker pool to have a floor, this has {}", other.len()))
        }
    }
}

/// Has the worker open its data and state streams at `url`.
pub(super) fn redirect_bundles(
    descriptor: &mut ProcessBundleDescriptor,
    url: &str,
) -> Result<(), DecodeError> {
    let ProcessBundleDescriptor { state_api_service_descriptor, timer_api_service_descriptor, .. } =
        descriptor;
    for endpoint in [state_api_service_descriptor, timer_api_service_descriptor] {
        if endpoint.is_some() {
            *endpoint = here(url);
        }
    }
    for spec in descriptor.transforms.values_mut().filter_map(|transform| transform.spec.as_mut()) {
        if [runner::DATA_SOURCE, runner::DATA_SINK].contains(&spec.urn.as_str()) {
            let mut port = RemoteGrpcPort::decode(spec.payload.clone())?;
            port.api_service_descriptor = here(url);
            spec.payload = port.encode_to_vec().into();
        }
    }
    Ok(())
}
