//! The bridge itself: configuration, the services it adds to a server, and the jobs that use it.

mod config;

use std::sync::Arc;
use std::time::Duration;

use beam_model::fn_execution::beam_fn_control_server::BeamFnControlServer;
use beam_model::fn_execution::beam_fn_logging_server::BeamFnLoggingServer;
use beam_model::fn_execution::beam_fn_state_server::BeamFnStateServer;
use beam_model::fn_execution::beam_fn_worker_status_server::BeamFnWorkerStatusServer;
use beam_model::fn_execution::provision_service_server::ProvisionServiceServer;
use beam_model::job_management::artifact_retrieval_service_server::ArtifactRetrievalServiceServer;
use beam_model::pipeline::Environment;
use runner_core::fault::Fault;
use runner_core::meters::Meters;
use runner_core::ports::JobBundleFactory;
use tonic::service::RoutesBuilder;

use crate::artifact_retrieval::ArtifactRetrievalService;
use crate::bundle::JobBundles;
use crate::control::ControlService;
use crate::data::DataService;
use crate::environment::EnvironmentSpec;
use crate::logging::LoggingService;
use crate::provision::ProvisionService;
use crate::state::StateService;
use crate::worker::Registry;
use crate::worker_status::WorkerStatusService;

pub(crate) use config::Endpoint;
pub use config::{BridgeConfig, JobWorkers};

/// The Fn API's side of a server. Cheap to clone; there is one for each server.
#[derive(Clone)]
pub struct FnHarnessBridge {
    shared: Arc<Shared>,
}

/// What all services and jobs of a bridge share.
pub(crate) struct Shared {
    pub(crate) config: BridgeConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) registry: Registry,
}

impl FnHarnessBridge {
    pub fn new(config: BridgeConfig) -> Self {
        let endpoint = Endpoint::new(config.advertise_host.clone());
        Self { shared: Arc::new(Shared { config, endpoint, registry: Registry::default() }) }
    }

    /// Whether workers can be started in an environment.
    ///
    /// # Errors
    /// Why not, and what to use instead.
    pub fn check_environment(&self, id: &str, environment: &Environment) -> Result<(), String> {
        crate::environment::check(id, environment, &self.shared.config.containers)
    }

    /// How many bundles of a job could run at once in an environment with so many workers: more than those if it says so.
    pub fn parallelism(&self, id: &str, environment: &Environment, workers: usize) -> usize {
        crate::worker::parallelism(&EnvironmentSpec::read(id, environment), workers)
    }

    /// Adds the services control, data, state, logging, provision, artifact retrieval and worker
    /// status, without a bound on message sizes: an element may be as large as it likes.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        let shared = &self.shared;
        macro_rules! add {
            ($server:ident, $service:ident) => {
                routes.add_service(
                    $server::new($service::new(shared.clone()))
                        .max_decoding_message_size(usize::MAX)
                        .max_encoding_message_size(usize::MAX),
                );
            };
        }
        add!(BeamFnControlServer, ControlService);
        routes.add_service(DataService::new(shared.clone()));
        add!(BeamFnStateServer, StateService);
        add!(BeamFnLoggingServer, LoggingService);
        add!(ProvisionServiceServer, ProvisionService);
        add!(ArtifactRetrievalServiceServer, ArtifactRetrievalService);
        add!(BeamFnWorkerStatusServer, WorkerStatusService);
    }

    /// Tells the bridge on which port its services are reached. To be called before a bundle is run.
    pub fn set_port(&self, port: u16) {
        self.shared.endpoint.set_port(port);
    }

    /// Where this bridge counts what it does.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.shared.config.meters
    }

    /// How many workers, of all jobs, are connected.
    pub fn connected_workers(&self) -> usize {
        self.shared.registry.connected_workers()
    }

    /// How many workers without a job are connected.
    pub fn standbys(&self) -> usize {
        self.shared.registry.standbys.connected()
    }

    /// The workers of one job. None is started before the first bundle.
    pub fn job(&self, job: JobWorkers) -> Arc<dyn JobBundleFactory> {
        JobBundles::open(self.shared.clone(), job)
    }

    /// What the worker says of itself, as text for people: for Python a dump of its threads.
    ///
    /// Errors: no such worker, it serves no status, or it does not answer within
    /// [`BridgeConfig::worker_status_timeout`].
    pub async fn worker_status(&self, worker_id: &str) -> Result<String, Fault> {
        let worker = self
            .shared
            .registry
            .worker_by_id(worker_id)
            .map_err(|error| Fault::environment(error.to_string()).fatal())?;
        crate::worker_status::query(&worker, self.shared.config.worker_status_timeout).await
    }

    /// Ends the workers that stand by for a next job; from now on none do.
    pub fn end_standbys(&self) {
        self.shared.registry.standbys.close();
    }

    /// Ends all workers of all jobs, and those without one. Bounded as [`JobBundleFactory::close`] is.
    pub async fn shutdown(&self) {
        self.end_standbys();
        let closing: Vec<_> = self
            .shared
            .registry
            .jobs()
            .into_iter()
            .map(|job| tokio::spawn(async move { job.close_workers().await }))
            .collect();
        for job in closing {
            // An error here is a panic in the task or the runtime's own end; either way it is over.
            job.await.ok();
        }
        let timeout = self.shared.config.worker_stop_timeout + Duration::from_secs(1);
        self.shared.registry.standbys.closed(timeout).await;
    }
}
