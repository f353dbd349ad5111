//! An SDK worker in Rust that obeys a script.
//!
//! [`ScriptedHarness`] is a worker pool (`BeamFnExternalWorkerPool`) on a port of its own. A pipeline
//! whose environment is [`ScriptedHarness::environment`] has its bundles run here: descriptors are
//! executed as they come, the user's functions are closures registered by URN in a [`Script`], and the
//! script says which bundle or worker is to go wrong, and how.

mod bundle;
mod call;
mod element;
mod lean;
mod local;
mod samples;
mod script;
mod short_ids;
mod split;
mod state;
mod step;
mod timers;
mod windows;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use beam_model::fn_execution::beam_fn_external_worker_pool_server::{
    BeamFnExternalWorkerPool, BeamFnExternalWorkerPoolServer,
};
use beam_model::fn_execution::process_bundle_request::CacheToken;
use beam_model::fn_execution::{
    StartWorkerRequest, StartWorkerResponse, StopWorkerRequest, StopWorkerResponse,
};
use beam_model::pipeline::{ApiServiceDescriptor, Environment, ExternalPayload};
use beam_model::urns::standard_environments::environments;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub use call::Call;
pub use lean::Emitter;
pub use local::{BundleHost, LocalBundle, LocalSplit};
pub use script::{BundleFault, Script, ShortIds, StartFault};
pub use split::{SplitAnswer, SplitCall};
pub use timers::FiredTimer;

/// A pool of scripted workers. Dropped, it is gone with all its workers, as a LOOPBACK pool is when
/// its client ends.
pub struct ScriptedHarness {
    endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    script: Script,
    workers: Mutex<BTreeMap<String, JoinHandle<()>>>,
    started: Mutex<Vec<String>>,
    stopped: Mutex<Vec<String>>,
    bundles: AtomicUsize,
    embedded: AtomicUsize,
    descriptors: Mutex<Vec<String>>,
    finalized: Mutex<Vec<String>>,
    short_ids_asked: Mutex<Vec<Vec<String>>>,
    cache_tokens: Mutex<Vec<Vec<CacheToken>>>,
}

impl ScriptedHarness {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = listener.local_addr().expect("a bound socket").to_string();
        let shared = Arc::new(Shared {
            script,
            workers: Mutex::default(),
            started: Mutex::default(),
            stopped: Mutex::default(),
            bundles: AtomicUsize::new(0),
            embedded: AtomicUsize::new(0),
            descriptors: Mutex::default(),
            finalized: Mutex::default(),
            short_ids_asked: Mutex::default(),
            cache_tokens: Mutex::default(),
        });
        let pool = BeamFnExternalWorkerPoolServer::new(Pool { shared: shared.clone() });
        let server = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().add_service(pool).serve_with_incoming(incoming).await.ok();
        });
        Self { endpoint, shared, server }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The EXTERNAL environment that means this pool.
    pub fn environment(&self) -> Environment {
        external_environment(&self.endpoint)
    }

    /// Ids of the workers that were asked for, in order.
    pub fn started(&self) -> Vec<String> {
        self.shared.started.lock().unwrap().clone()
    }

    /// Ids of the workers that were to be stopped, in order.
    pub fn stopped(&self) -> Vec<String> {
        self.shared.stopped.lock().unwrap().clone()
    }

    /// How many bundles were begun.
    pub fn bundles(&self) -> usize {
        self.shared.bundles.load(Ordering::SeqCst)
    }

    /// How many of them came with their elements in the request.
    pub fn embedded(&self) -> usize {
        self.shared.embedded.load(Ordering::SeqCst)
    }

    /// Ids of the descriptors that bundles were begun by, in order.
    pub fn descriptors(&self) -> Vec<String> {
        self.shared.descriptors.lock().unwrap().clone()
    }

    /// Instruction ids of the bundles that were finalized, in order.
    pub fn finalized(&self) -> Vec<String> {
        self.shared.finalized.lock().unwrap().clone()
    }

    /// The short ids of metrics that workers were asked to tell the meaning of, request by request.
    pub fn short_ids_asked(&self) -> Vec<Vec<String>> {
        self.shared.short_ids_asked.lock().unwrap().clone()
    }

    /// The cache tokens of each bundle that was begun.
    pub fn cache_tokens(&self) -> Vec<Vec<CacheToken>> {
        self.shared.cache_tokens.lock().unwrap().clone()
    }

    /// How many workers are at work.
    pub fn running(&self) -> usize {
        self.shared.workers.lock().unwrap().values().filter(|worker| !worker.is_finished()).count()
    }

    /// Ends all workers at once, in the middle of whatever they do.
    pub fn kill_workers(&self) {
        self.shared.workers.lock().unwrap().values().for_each(JoinHandle::abort);
    }
}

impl Drop for ScriptedHarness {
    fn drop(&mut self) {
        self.server.abort();
        self.kill_workers();
    }
}

/// An EXTERNAL environment with a worker pool at `endpoint`.
pub fn external_environment(endpoint: &str) -> Environment {
    let endpoint = ApiServiceDescriptor { url: endpoint.to_owned(), authentication: None };
    let payload = ExternalPayload { endpoint: Some(endpoint), params: BTreeMap::new() };
    Environment {
        urn: environments::EXTERNAL.to_owned(),
        payload: payload.encode_to_vec().into(),
        ..Default::default()
    }
}

struct Pool {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl BeamFnExternalWorkerPool for Pool {
    async fn start_worker(
        &self,
        request: Request<StartWorkerRequest>,
    ) -> Result<Response<StartWorkerResponse>, Status> {
        let request = request.into_inner();
        let id = request.worker_id.clone();
        let number = {
            let mut started = self.shared.started.lock().unwrap();
            started.push(id.clone());
            started.len()
        };
        match self.shared.script.fault_of_start(number) {
            Some(StartFault::Refuse(error)) => {
                return Ok(Response::new(StartWorkerResponse { error: error.clone() }));
            }
            Some(StartFault::NeverConnect) => {}
            None => {
                let worker = tokio::spawn(worker::run(request, self.shared.clone()));
                self.shared.workers.lock().unwrap().insert(id, worker);
            }
        }
        Ok(Response::new(StartWorkerResponse::default()))
    }

    async fn stop_worker(
        &self,
        request: Request<StopWorkerRequest>,
    ) -> Result<Response<StopWorkerResponse>, Status> {
        self.shared.stopped.lock().unwrap().push(request.into_inner().worker_id);
        Ok(Response::new(StopWorkerResponse::default()))
    }
}
