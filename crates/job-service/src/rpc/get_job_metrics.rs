//! `GetJobMetrics`: of the moment while a job runs, final afterwards.

use beam_model::job_management::{GetJobMetricsRequest, GetJobMetricsResponse, MetricResults};
use beam_model::pipeline::Pipeline;
use tonic::metadata::MetadataMap;

use crate::error::JobServiceError;
use crate::service::Shared;

/// Who reads the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Hands attempted and committed metrics on as one list, in which a metric that is in both has its
    /// name twice.
    Java,
    Other,
    /// It did not say.
    Unknown,
}

impl Reader {
    /// As far as its `user-agent` tells, e.g. `grpc-java-netty/1.60.0`.
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        match metadata.get("user-agent").and_then(|agent| agent.to_str().ok()) {
            Some(agent) if agent.contains("grpc-java") => Reader::Java,
            Some(_) => Reader::Other,
            None => Reader::Unknown,
        }
    }
}

pub(super) fn get_job_metrics(
    shared: &Shared,
    request: &GetJobMetricsRequest,
    reader: Reader,
) -> Result<GetJobMetricsResponse, JobServiceError> {
    let job = shared.registry.job(&request.job_id)?;
    let metrics = job.metrics();
    let attempted = match reader {
        Reader::Java => Vec::new(),
        Reader::Unknown if is_all_java(job.pipeline()) => Vec::new(),
        Reader::Other | Reader::Unknown => metrics.attempted,
    };
    Ok(GetJobMetricsResponse { metrics: Some(MetricResults { attempted, committed: metrics.committed }) })
}

/// Whether every environment of the pipeline says that it is of the Java SDK
/// (`beam:version:sdk_base:apache/beam_java…`).
fn is_all_java(pipeline: &Pipeline) -> bool {
    let Some(components) = &pipeline.components else { return false };
    let mut environments = components.environments.values();
    let java = |capability: &String| capability.starts_with("beam:version:sdk_base:apache/beam_java");
    !components.environments.is_empty() && environments.all(|e| e.capabilities.iter().any(java))
}
