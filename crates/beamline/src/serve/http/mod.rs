//! What is served to people and their monitoring, on a port of its own: `/metrics`.

mod exposition;
mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use fn_harness_bridge::FnHarnessBridge;
use job_service::JobService;
use runner_core::ports::MemoryBudget;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Prometheus' text format, which OpenTelemetry's collectors read too.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told about.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) jobs: JobService,
    pub(super) bridge: FnHarnessBridge,
    pub(super) memory: Arc<MemoryBudget>,
}

/// Serves until `closed` says so.
pub(super) async fn serve(listener: TcpListener, told: Told, mut closed: watch::Receiver<bool>) {
    let routes = Router::new().route("/metrics", get(metrics)).with_state(told);
    let closing = async move {
        // The sender goes only with the whole program.
        let _ = closed.wait_for(|closed| *closed).await;
    };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(closing).await {
        tracing::warn!("metrics are not served any more: {error}");
    }
}

async fn metrics(State(told): State<Told>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], metrics::text(&told))
}
