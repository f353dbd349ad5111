//! Where workers run and how they are started there, by the URN of the environment.

mod container;
mod external;
mod process;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::{
    AnyOfEnvironmentPayload, ArtifactInformation, DockerPayload, Environment, ExternalPayload, ProcessPayload,
};
use beam_model::urns::standard_environments::environments;
use beam_model::urns::standard_resource_hints::MAX_ACTIVE_BUNDLES_PER_WORKER;
use prost::Message;
use runner_core::fault::Fault;
use tokio::time::Instant;

use crate::server::Shared;
use crate::worker::WorkerSession;
use container::ContainerImage;
pub use container::{Containers, Pull};
pub(crate) use external::WorkerPool;
use process::{ProcessCommand, RunningProcess};

/// How deep `beam:env:anyof:v1` may nest.
const MAX_NESTING: usize = 8;

/// An environment, read once.
pub(crate) struct EnvironmentSpec {
    pub(crate) id: String,
    urn: String,
    /// What workers are to fetch before they begin.
    pub(crate) dependencies: Vec<ArtifactInformation>,
    /// `beam:resources:max_active_bundles_per_worker:v1`: a worker must not run more bundles at once than these.
    pub(crate) most_bundles: Option<NonZeroUsize>,
    /// What its SDK can do beyond the least that is needed (`Environment.capabilities`).
    capabilities: BTreeSet<String>,
    /// Whether its SDK says that it is the Python SDK.
    pub(crate) is_python: bool,
    launcher: Launcher,
}

/// Whether workers can be started in an environment.
///
/// Errors: why not, and what to use instead.
pub(crate) fn check(id: &str, environment: &Environment, containers: &Containers) -> Result<(), String> {
    let spec = EnvironmentSpec::read(id, environment);
    let checked = match &spec.launcher {
        Launcher::External(_) | Launcher::Process(_) => Ok(()),
        Launcher::Container(_) => containers.check(),
        Launcher::Unsupported(why) => Err(why.clone()),
    };
    checked.map_err(|why| format!("{spec} {why}"))
}

/// How an SDK names, among its capabilities, the container image that it would run in.
const SDK_BASE: &str = "beam:version:sdk_base:";

/// How a worker is started.
enum Launcher {
    External(WorkerPool),
    Process(ProcessCommand),
    Container(ContainerImage),
    /// Cannot be; here is why.
    Unsupported(String),
}

/// What has to be stopped when the worker is to end.
pub(crate) enum Running {
    External(WorkerPool),
    /// The worker's, or that of the command that runs its container.
    Process(RunningProcess),
}

impl EnvironmentSpec {
    pub(crate) fn read(id: &str, environment: &Environment) -> Self {
        let (chosen, launcher) = choose(environment, MAX_NESTING);
        let dependencies =
            if chosen.dependencies.is_empty() { &environment.dependencies } else { &chosen.dependencies };
        let capabilities = || environment.capabilities.iter().chain(&chosen.capabilities);
        let hints = || [&environment.resource_hints, &chosen.resource_hints].into_iter();
        let most_bundles = hints().find_map(|hints| hints.get(MAX_ACTIVE_BUNDLES_PER_WORKER));
        Self {
            id: id.to_owned(),
            urn: chosen.urn.clone(),
            dependencies: dependencies.clone(),
            is_python: capabilities().any(|it| it.starts_with(SDK_BASE) && it.contains("beam_python")),
            // What is no number is no hint.
            most_bundles: most_bundles.and_then(|number| str::from_utf8(number).ok()?.trim().parse().ok()),
            capabilities: capabilities().cloned().collect(),
            launcher,
        }
    }

    /// Whether its SDK has this capability (`StandardProtocols`).
    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.contains(capability)
    }

    /// Whether the runner itself starts a process for each worker.
    pub(crate) fn has_process(&self) -> bool {
        matches!(self.launcher, Launcher::Process(_) | Launcher::Container(_))
    }

    /// The worker pool that starts its workers, if there is one.
    pub(crate) fn pool(&self) -> Option<&WorkerPool> {
        match &self.launcher {
            Launcher::External(pool) => Some(pool),
            Launcher::Process(_) | Launcher::Container(_) | Launcher::Unsupported(_) => None,
        }
    }

    /// Gets what workers need before any of them is started, which may take longer than a start.
    pub(crate) async fn provide(&self, worker: &WorkerSession, shared: &Shared) -> Result<(), Fault> {
        match &self.launcher {
            Launcher::Container(image) => {
                let provided = image.provide(worker, shared).await;
                provided.map_err(|failure| Fault::environment(format!("{self} {failure}")).fatal())
            }
            Launcher::External(_) | Launcher::Process(_) | Launcher::Unsupported(_) => Ok(()),
        }
    }

    /// Starts a worker. That it is started does not mean that it is connected.
    pub(crate) async fn launch(
        &self,
        worker: &Arc<WorkerSession>,
        shared: &Shared,
        deadline: Instant,
    ) -> Result<Running, Fault> {
        match &self.launcher {
            Launcher::External(pool) => {
                let started =
                    tokio::time::timeout_at(deadline, pool.start_worker(&worker.id, &shared.endpoint));
                let failure = match started.await {
                    Ok(Ok(())) => return Ok(Running::External(pool.clone())),
                    Ok(Err(failure)) => failure,
                    Err(_) => "did not answer StartWorker in time".to_owned(),
                };
                Err(Fault::environment(format!(
                    "worker {} could not be started: the worker pool of {self} {failure}",
                    worker.id
                )))
            }
            Launcher::Process(command) => self.running(worker, command.start(worker.clone(), shared)),
            Launcher::Container(image) => self.running(worker, image.start(worker.clone(), shared)),
            Launcher::Unsupported(why) => Err(Fault::environment(format!("{self} {why}")).fatal()),
        }
    }

    fn running(
        &self,
        worker: &WorkerSession,
        started: Result<RunningProcess, String>,
    ) -> Result<Running, Fault> {
        started.map(Running::Process).map_err(|failure| {
            Fault::environment(format!("worker {} of {self} {failure}", worker.id)).fatal()
        })
    }

    /// Undoes a start that failed halfway, as far as it can be.
    pub(crate) fn forget(&self, worker_id: &str) -> impl Future<Output = ()> + Send + 'static {
        let pool = self.pool().cloned();
        let worker_id = worker_id.to_owned();
        async move {
            if let Some(pool) = pool {
                pool.stop_worker(&worker_id, Duration::from_secs(1)).await.ok();
            }
        }
    }
}

impl fmt::Display for EnvironmentSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "environment {} ({}", self.id, self.urn)?;
        match &self.launcher {
            Launcher::External(pool) => write!(formatter, ", endpoint {})", pool.endpoint()),
            Launcher::Process(command) => write!(formatter, ", command {:?})", command.command()),
            Launcher::Container(image) => write!(formatter, ", image {})", image.image()),
            Launcher::Unsupported(_) => write!(formatter, ")"),
        }
    }
}

impl Running {
    /// Sees to it that the worker ends, within about `timeout`.
    pub(crate) async fn stop(self, worker_id: &str, timeout: Duration) {
        match self {
            Self::External(pool) => {
                if pool.stop_worker(worker_id, timeout).await.is_err() {
                    tracing::warn!(worker_id, ?timeout, "the worker pool does not answer StopWorker");
                }
            }
            Self::Process(process) => process.stop(timeout).await,
        }
    }
}

/// The environment itself or, of several, the one that is to be used.
fn choose(environment: &Environment, nesting: usize) -> (Environment, Launcher) {
    let payload = environment.payload.clone();
    let launcher = match environment.urn.as_str() {
        environments::EXTERNAL => {
            ExternalPayload::decode(payload).map_or_else(malformed, WorkerPool::launcher)
        }
        environments::PROCESS => {
            ProcessPayload::decode(payload).map_or_else(malformed, ProcessCommand::launcher)
        }
        environments::ANYOF if nesting > 0 => match AnyOfEnvironmentPayload::decode(payload) {
            Ok(any_of) => return choose_any(environment, any_of, nesting - 1),
            Err(error) => malformed(error),
        },
        environments::DOCKER => {
            DockerPayload::decode(payload).map_or_else(malformed, ContainerImage::launcher)
        }
        _ => Launcher::Unsupported(
            "is of a kind that is not known here; use LOOPBACK, EXTERNAL, PROCESS or DOCKER, \
             or a server that is started with --environment-override"
                .to_owned(),
        ),
    };
    (environment.clone(), launcher)
}

/// Of several environments the first external one, else the first process, else the first container; a worker pool
/// that someone runs already needs nothing of this machine.
fn choose_any(
    environment: &Environment,
    any_of: AnyOfEnvironmentPayload,
    nesting: usize,
) -> (Environment, Launcher) {
    let rank = |launcher: &Launcher| match launcher {
        Launcher::External(_) => 0,
        Launcher::Process(_) => 1,
        Launcher::Container(_) => 2,
        Launcher::Unsupported(_) => 3,
    };
    let choices = any_of.environments.iter().map(|choice| choose(choice, nesting));
    match choices.min_by_key(|(_, launcher)| rank(launcher)) {
        Some((chosen, launcher)) if rank(&launcher) < 3 => (chosen, launcher),
        Some(_) | None => {
            let urns: Vec<_> = any_of.environments.iter().map(|choice| choice.urn.as_str()).collect();
            let why = format!(
                "offers {}, none of which can be started here; offer EXTERNAL, PROCESS or DOCKER",
                urns.join(", ")
            );
            (environment.clone(), Launcher::Unsupported(why))
        }
    }
}

fn malformed(error: prost::DecodeError) -> Launcher {
    Launcher::Unsupported(format!("has a malformed payload: {error}"))
}
