//! Calling services of the pipeline's author: worker pools, sources of TestStream events.

use std::error::Error;
use std::time::Duration;

use tonic::transport::Endpoint;

/// To reach a service's socket, not for its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What to call for the `url` of an `ApiServiceDescriptor`, which is most often an address alone.
///
/// Errors: it is no address.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let uri = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    Ok(Endpoint::from_shared(uri)?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

/// What the operating system said, e.g. that the connection was refused.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => root_cause(source),
        None => error.to_string(),
    }
}
