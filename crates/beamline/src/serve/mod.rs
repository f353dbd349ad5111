//! `beamline serve`: one server for pipeline authors and workers, and its wiring.

pub(crate) mod allocator;
mod http;
mod listen;
mod progress;
mod ready;
pub(crate) mod signals;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use fn_harness_bridge::{BridgeConfig, FnHarnessBridge};
use job_service::{JobService, JobServiceConfig};
use runner_core::ports::MemoryBudget;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use translators::flink::{Downloads, FlinkConfig, FlinkRunner, JobsOnFlink};
use translators::native::{NativeConfig, NativeRunner};
use translators::{BackendChoice, EnvironmentOverrides};

use crate::config::{Backend, ServeConfig};
use crate::error::Error;
use crate::logging;
use http::Told;
use listen::Ports;
use ready::ReadyFile;

/// A peer that does not answer for that long is gone; its streams end, and its worker counts as dead.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What a sender may have under way on one stream: a data stream must not wait for round trips.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// The largest HTTP/2 frame that a peer may send: the 16 KiB that are usual cost a large message dozens of frames. Not so
/// large that a small message waits long behind one, nor that its buffer is one that the [`allocator`] gives back at once.
const FRAME: u32 = 224 << 10;
/// Streams on one connection; each worker has half a dozen, each client a few per job.
const STREAMS: u32 = 1 << 20;
/// After the jobs and workers have ended, for connections that are still open.
const CLOSE_CONNECTIONS: Duration = Duration::from_secs(2);

pub(crate) fn serve(config: &ServeConfig) -> Result<(), Error> {
    allocator::set_up();
    logging::start(config.log_format, &config.log_level);
    for flag in config.without_effect() {
        tracing::warn!("{flag} is accepted, but has no effect here");
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?
        .block_on(run(config))
}

async fn run(config: &ServeConfig) -> Result<(), Error> {
    let stop = signals::listen()?;
    let mut server = Running::start(config, JobsOnFlink::Attached).await?;
    let ready = ReadyFile::write(config.ready_file.as_deref(), &server.endpoint)?;
    println!("beamline: job service at {}", server.endpoint);
    if let Some(endpoint) = &server.http_endpoint {
        println!("beamline: metrics at http://{endpoint}/metrics");
    }
    if std::io::stderr().is_terminal() {
        tokio::spawn(progress::show(server.jobs.clone()));
    }
    let ended = wait_for_end(config, &server.jobs, stop, &mut server.servers).await;
    drop(ready);
    server.end().await;
    ended
}

/// A server that takes jobs.
pub(crate) struct Running {
    pub(crate) jobs: JobService,
    /// HOST:PORT of the Job API.
    pub(crate) endpoint: String,
    http_endpoint: Option<String>,
    bridge: FnHarnessBridge,
    closing: watch::Sender<bool>,
    servers: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Running {
    /// Takes up what an earlier server has left, then jobs that come.
    pub(crate) async fn start(config: &ServeConfig, on_flink: JobsOnFlink) -> Result<Self, Error> {
        let mut ports = Ports::bind(config).await?;
        let (bridge, jobs, memory) = wire(config, on_flink, &ports)?;
        jobs.resume_jobs().await;
        let (endpoint, http_endpoint) = (ports.job_endpoint(), ports.http_endpoint());

        let mut routes = Routes::builder();
        jobs.add_services(&mut routes);
        bridge.add_services(&mut routes);
        let (closing, closed) = watch::channel(false);
        let http = ports.take_http_listener();
        let mut servers = start_servers(ports, &routes.routes(), &closed);
        if let Some(listener) = http {
            let told = Told { jobs: jobs.clone(), bridge: bridge.clone(), memory };
            let http = http::serve(listener, told, closed);
            servers.spawn(async move {
                http.await;
                Ok(())
            });
        }
        Ok(Self { jobs, endpoint, http_endpoint, bridge, closing, servers })
    }

    /// Ends jobs, workers and connections, in that order.
    pub(crate) async fn end(mut self) {
        self.bridge.end_standbys();
        self.jobs.shutdown().await;
        self.bridge.shutdown().await;
        self.closing.send_replace(true);
        let all_closed = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_CONNECTIONS, all_closed).await.is_err() {
            tracing::debug!("connections that are still open are cut");
        }
    }
}

/// Which part gets which.
fn wire(
    config: &ServeConfig,
    on_flink: JobsOnFlink,
    ports: &Ports,
) -> Result<(FnHarnessBridge, JobService, Arc<MemoryBudget>), Error> {
    let bridge = FnHarnessBridge::new(BridgeConfig {
        advertise_host: ports.host().to_owned(),
        slow_bundle: Duration::from_secs(config.slow_bundle_seconds),
        standby_time: config.standby_worker_timeout,
        not_for_workers: allocator::not_for_workers(),
        containers: config.docker.containers(),
        ..BridgeConfig::default()
    });
    bridge.set_port(ports.job_port());
    let native = NativeConfig {
        sdk_worker_parallelism: config.sdk_worker_parallelism(),
        memory_limit: config.memory_limit(),
        spill_dir: config.spill_dir(),
    };
    let native = Arc::new(NativeRunner::new(bridge.clone(), native)?);
    let memory = native.memory().clone();
    let overrides = EnvironmentOverrides::new(config.environment_override.clone());
    let backend = Arc::new(choose(config, on_flink, native)?.with_overrides(overrides));
    let jobs = JobServiceConfig {
        artifact_endpoint: ports.artifact_endpoint(),
        artifacts_dir: config.artifacts_dir(),
        journal_dir: config.journal_dir(),
        clean_artifacts_per_job: config.clean_artifacts_per_job,
        history_size: config.history_size,
        ..JobServiceConfig::default()
    };
    let jobs = JobService::new(jobs, backend)?;
    Ok((bridge, jobs, memory))
}

/// The backends that jobs may choose from.
fn choose(
    config: &ServeConfig,
    on_flink: JobsOnFlink,
    native: Arc<NativeRunner>,
) -> Result<BackendChoice, Error> {
    if !config.has_flink() {
        return Ok(BackendChoice::new(native, Vec::new()));
    }
    let flink = Arc::new(FlinkRunner::new(FlinkConfig {
        master: config.flink_master().map(str::to_owned),
        access: config.flink_access.access(),
        runner_jars: config.flink_runner_jar.clone(),
        downloads: Some(Downloads {
            folder: config.flink_jar_dir(),
            repository: config.maven_repository(),
            version: config.flink_runner_version.clone(),
        }),
        temp_dir: config.artifacts_dir(),
        jobs: on_flink,
        ..FlinkConfig::default()
    })?);
    Ok(match config.backend {
        Backend::Native => BackendChoice::new(native, vec![flink]),
        Backend::Flink => BackendChoice::new(flink, vec![native]),
    })
}

/// Everything is served on every port.
fn start_servers(
    ports: Ports,
    routes: &Routes,
    closed: &watch::Receiver<bool>,
) -> JoinSet<Result<(), tonic::transport::Error>> {
    let mut servers = JoinSet::new();
    for listener in ports.into_listeners() {
        let mut closed = closed.clone();
        let closing = async move {
            // The sender goes only with the whole program.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_concurrent_streams(STREAMS)
            .add_routes(routes.clone());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        servers.spawn(server.serve_with_incoming_shutdown(incoming, closing));
    }
    servers
}

/// Waits for a signal, for idleness, or for a server that broke down.
async fn wait_for_end(
    config: &ServeConfig,
    jobs: &JobService,
    stop: signals::Stop,
    servers: &mut JoinSet<Result<(), tonic::transport::Error>>,
) -> Result<(), Error> {
    let idle = async {
        match config.idle_shutdown_timeout() {
            Some(time) => jobs.idle_for(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        signal = stop.first() => {
            tracing::info!("{signal}: ending, and with the server all jobs that cannot go on without it; a second signal ends at once");
            Ok(())
        }
        () = idle => {
            tracing::info!("no job for the idle shutdown timeout: ending");
            Ok(())
        }
        Some(ended) = servers.join_next() => match ended {
            Ok(result) => result.map_err(Error::Server),
            Err(broken) => {
                tracing::error!("a server task broke down: {broken}");
                Ok(())
            }
        },
    }
}
