//! What a worker reports of itself as a whole, of no bundle: metrics of its process.

use std::time::Duration;

use beam_model::fn_execution::HarnessMonitoringInfosRequest;
use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::instruction_response::Response;
use beam_model::pipeline::MonitoringInfo;

use super::{ask, monitoring_infos};
use crate::worker::WorkerSession;

/// The metrics of the worker as they are now. `None` if it does not tell within `limit`, for each of the two things
/// that it may be asked.
pub(crate) async fn harness_monitoring_infos(
    worker: &WorkerSession,
    limit: Duration,
) -> Option<Vec<MonitoringInfo>> {
    let request = Request::HarnessMonitoringInfos(HarnessMonitoringInfosRequest {});
    let answer = ask(worker, "harness-metrics", request, limit).await.ok()?;
    let Some(Response::HarnessMonitoringInfos(answer)) = answer.response else {
        tracing::debug!(worker = %worker.id, error = answer.error, "the worker does not tell its own metrics");
        return None;
    };
    match monitoring_infos(worker, Vec::new(), answer.monitoring_data, limit).await {
        Ok(infos) => Some(infos),
        Err(fault) => {
            tracing::debug!(worker = %worker.id, "{fault}");
            None
        }
    }
}
