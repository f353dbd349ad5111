//! What a bridge and its jobs are told from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use beam_model::pipeline::{ApiServiceDescriptor, Environment};
use runner_core::meters::Meters;
use runner_core::ports::{ArtifactSource, WorkerLogSink};

use crate::environment::Containers;

#[derive(Clone, Debug)]
pub struct BridgeConfig {
    /// The host in the endpoints that workers are told.
    pub advertise_host: String,
    /// How long a worker may take from its start to its control stream.
    pub worker_connect_timeout: Duration,
    /// How long a worker may take to end of itself once its streams are closed, before it is made to.
    pub worker_stop_timeout: Duration,
    /// How long workers of worker pools stand by for a next job after one has ended; none do if it is zero. There are as
    /// many as the job had at once.
    pub standby_time: Duration,
    /// How long the callbacks of a bundle's finalization may take.
    pub finalization_timeout: Duration,
    /// How long a worker that has answered a bundle may be silent before it marks the end of the bundle's output.
    pub end_of_output_timeout: Duration,
    /// How long a worker that has answered a bundle may take to say whether it had split it.
    pub split_timeout: Duration,
    /// How long a worker may take to tell what the short ids of its metrics mean.
    pub short_ids_timeout: Duration,
    /// How long a worker may take to tell the metrics of its process. They are left out then.
    pub harness_metrics_timeout: Duration,
    /// How long a worker may take to say what it is doing.
    pub worker_status_timeout: Duration,
    /// How long a bundle runs before the worker is asked what it is doing. It is asked again after twice the time.
    pub slow_bundle: Duration,
    /// So many starts of an environment's worker in a row may fail before the job is given up.
    pub max_start_failures: u32,
    /// Environment variables of the server that worker processes do not inherit.
    pub not_for_workers: Vec<&'static str>,
    /// How workers of DOCKER environments are run.
    pub containers: Containers,
    /// Of the server, to be counted in.
    pub meters: Arc<Meters>,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            advertise_host: "localhost".to_owned(),
            worker_connect_timeout: Duration::from_secs(60),
            worker_stop_timeout: Duration::from_secs(5),
            standby_time: Duration::ZERO,
            finalization_timeout: Duration::from_secs(60),
            end_of_output_timeout: Duration::from_secs(60),
            split_timeout: Duration::from_secs(60),
            short_ids_timeout: Duration::from_secs(60),
            harness_metrics_timeout: Duration::from_secs(1),
            worker_status_timeout: Duration::from_secs(5),
            slow_bundle: Duration::from_secs(300),
            max_start_failures: 4,
            not_for_workers: Vec::new(),
            containers: Containers::default(),
            meters: Arc::default(),
        }
    }
}

/// What the bridge needs to know of a job.
pub struct JobWorkers {
    pub job_id: String,
    /// The user's name for the job.
    pub job_name: String,
    /// Handed on to workers as they are.
    pub pipeline_options: prost_types::Struct,
    /// By environment id.
    pub environments: BTreeMap<String, Environment>,
    /// How many workers to run at most in each environment; 0 counts as 1.
    pub workers_per_environment: usize,
    pub artifacts: Arc<dyn ArtifactSource>,
    pub logs: Arc<dyn WorkerLogSink>,
}

/// Where workers reach the services: one address for all of them.
pub(crate) struct Endpoint {
    host: String,
    port: AtomicU16,
}

impl Endpoint {
    pub(crate) fn new(host: String) -> Self {
        Self { host, port: AtomicU16::new(0) }
    }

    pub(crate) fn set_port(&self, port: u16) {
        self.port.store(port, Ordering::Release);
    }

    pub(crate) fn url(&self) -> String {
        let port = self.port.load(Ordering::Acquire);
        // An IPv6 address would otherwise run into the port.
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{port}", self.host)
        } else {
            format!("{}:{port}", self.host)
        }
    }

    pub(crate) fn descriptor(&self) -> ApiServiceDescriptor {
        ApiServiceDescriptor { url: self.url(), authentication: None }
    }
}
