//! Flags and environment variables. Nothing else in the program reads them, but for those that tell the allocator what to do.
//!
//! The spellings of the Java job servers (`--job-port`) and of Prism (`--job_port`, `-job_port`) are both
//! understood; flags of theirs that have no meaning here are accepted with a warning, so that scripts
//! written for either start unchanged.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fn_harness_bridge::{Containers, Pull};

pub(crate) const DEFAULT_JOB_PORT: u16 = 8099;
const DEFAULT_ARTIFACT_PORT: u16 = 8098;

/// A runner for Apache Beam pipelines
#[derive(Debug, Parser)]
#[command(name = "beamline", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the Job API, and run the jobs that come in
    Serve(Box<ServeConfig>),
    /// Show the stages that a pipeline is fused into
    Plan(PlanConfig),
    /// See to the jobs of a running server
    Jobs(JobsConfig),
}

#[derive(Args, Debug)]
pub(crate) struct ServeConfig {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", env = "BEAMLINE_JOB_HOST")]
    pub(crate) job_host: String,
    /// Port of the Job API and of everything that workers need; 0 picks a free one
    #[arg(long, default_value_t = DEFAULT_JOB_PORT, env = "BEAMLINE_JOB_PORT")]
    pub(crate) job_port: u16,
    /// A second port on which artifacts can be staged; 0 picks a free one. 8098 beside the default job
    /// port; otherwise artifacts are staged on the job port
    #[arg(long, env = "BEAMLINE_ARTIFACT_PORT")]
    artifact_port: Option<u16>,
    /// Port on which /metrics is served over HTTP, in Prometheus' format; 0 picks a free one. Not served if
    /// no port is given
    #[arg(long, visible_alias = "web-port", env = "BEAMLINE_HTTP_PORT")]
    http_port: Option<u16>,
    /// Name or address under which clients and workers reach this machine. By default the job host; the
    /// machine's own address when that is 0.0.0.0
    #[arg(long, env = "BEAMLINE_ADVERTISE_HOST")]
    pub(crate) advertise_host: Option<String>,
    /// Folder for staged artifacts [default: the system's folder for temporary files]
    #[arg(long, env = "BEAMLINE_ARTIFACTS_DIR")]
    artifacts_dir: Option<PathBuf>,
    /// Remove a job's artifacts when it has ended
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) clean_artifacts_per_job: bool,
    /// Ended jobs that are remembered
    #[arg(long, default_value_t = 10)]
    pub(crate) history_size: usize,
    /// Workers for each environment that can start several; 0 means one per core
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, env = "BEAMLINE_SDK_WORKER_PARALLELISM")]
    sdk_worker_parallelism: i64,
    /// When a job on a worker pool has ended, as many new workers as it had stand by there for the next one, which then
    /// need not wait for them to start. They end after so long without one; 0 has none stand by
    #[arg(long, default_value = "60s", value_parser = parse_time, env = "BEAMLINE_STANDBY_WORKER_TIMEOUT")]
    pub(crate) standby_worker_timeout: Duration,
    #[command(flatten)]
    pub(crate) docker: DockerFlags,
    /// Memory for the data of all jobs, like 512MiB or 4GiB; what is more goes to disk. By default half of what the
    /// machine has, or its control group may have
    #[arg(long, value_parser = crate::memory::parse_size, env = "BEAMLINE_MEMORY_LIMIT")]
    memory_limit: Option<u64>,
    /// Folder for what does not fit in memory [default: the system's folder for temporary files]
    #[arg(long, env = "BEAMLINE_SPILL_DIR")]
    spill_dir: Option<PathBuf>,
    /// What runs the jobs that do not choose by --backend
    #[arg(long, value_enum, default_value_t = Backend::Native, env = "BEAMLINE_BACKEND")]
    pub(crate) backend: Backend,
    /// HOST:PORT of the REST endpoint of the Flink cluster for jobs on Flink that name none by --flink_master
    #[arg(long, env = "BEAMLINE_FLINK_MASTER")]
    flink_master: Option<String>,
    /// Beam's Flink job server jar for the cluster's version of Flink; several for clusters of several versions. With it
    /// jobs can run on Flink
    #[arg(long, env = "BEAMLINE_FLINK_RUNNER_JAR", value_delimiter = ',')]
    pub(crate) flink_runner_jar: Vec<PathBuf>,
    /// After so many seconds, and twice as many, and so on, a bundle that still runs is a warning of its job, with
    /// what its worker says that it is doing
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) slow_bundle_seconds: u64,
    /// Form of the log lines on standard error
    #[arg(long, visible_alias = "log-kind", value_enum, default_value_t = LogFormat::Text, env = "BEAMLINE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// error, warn, info, debug or trace; for parts of the program also like info,job_service=debug
    #[arg(long, default_value = "info", env = "BEAMLINE_LOG_LEVEL")]
    pub(crate) log_level: String,
    /// File that gets HOST:PORT once jobs are accepted
    #[arg(long, env = "BEAMLINE_READY_FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// End when no job has run for so long, e.g. 90s, 5m; by default, never
    #[arg(long, value_parser = parse_timeout, allow_hyphen_values = true)]
    idle_shutdown_timeout: Option<IdleTimeout>,
    #[command(flatten)]
    peers: PeerFlags,
}

/// How workers of DOCKER environments are run.
#[derive(Args, Debug)]
pub(crate) struct DockerFlags {
    /// The command that runs containers: docker, or what takes the same arguments, such as podman
    #[arg(long, default_value = "docker", env = "BEAMLINE_DOCKER_COMMAND")]
    docker_command: String,
    /// An option of `docker run` for all workers' containers, like --docker-run-option=--volume=/data:/data; may be
    /// given again
    #[arg(long, allow_hyphen_values = true)]
    docker_run_option: Vec<String>,
    /// When images of workers are pulled; missing: if this machine has none of that name, always: for each job
    #[arg(long, value_enum, default_value_t = DockerPull::Missing, env = "BEAMLINE_DOCKER_PULL")]
    docker_pull: DockerPull,
    /// How long an image may take to be pulled
    #[arg(long, default_value = "10m", value_parser = parse_time)]
    docker_pull_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DockerPull {
    Missing,
    Always,
    Never,
}

impl DockerFlags {
    pub(crate) fn containers(&self) -> Containers {
        Containers {
            command: self.docker_command.clone(),
            run_options: self.docker_run_option.clone(),
            pull: match self.docker_pull {
                DockerPull::Missing => Pull::Missing,
                DockerPull::Always => Pull::Always,
                DockerPull::Never => Pull::Never,
            },
            pull_timeout: self.docker_pull_timeout,
        }
    }
}

/// Flags of other job servers that have no effect here.
#[derive(Args, Debug)]
struct PeerFlags {
    #[arg(long, hide = true)]
    expansion_port: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    serve_http: Option<String>,
    #[arg(long, hide = true)]
    jm_override: Option<String>,
    #[arg(long, hide = true)]
    flink_conf_dir: Option<String>,
    #[arg(long, hide = true)]
    spark_master_url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    Native,
    Flink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[value(alias = "dev")]
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct PlanConfig {
    /// A serialized Pipeline message; - reads standard input
    pub(crate) pipeline: PathBuf,
    /// Only as text, or only as a DOT graph; by default both
    #[arg(long, value_enum)]
    pub(crate) format: Option<PlanFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    Text,
    Dot,
}

#[derive(Args, Debug)]
pub(crate) struct JobsConfig {
    /// HOST:PORT of the job service
    #[arg(long, global = true, default_value = "127.0.0.1:8099", env = "BEAMLINE_ENDPOINT")]
    pub(crate) endpoint: String,
    #[command(subcommand)]
    pub(crate) command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// All jobs that the server knows
    List,
    /// State and metrics of a job
    Show { job_id: String },
    /// Ask a job to stop
    Cancel { job_id: String },
    /// Ask a streaming job to read no more, and to end when it is done with what it has read
    Drain { job_id: String },
    /// The messages of a job, until it ends
    Logs { job_id: String },
}

/// Reads the command line. Ends the program on a bad one, and for --help.
pub(crate) fn read() -> Command {
    Cli::parse_from(normalise(std::env::args_os())).command
}

impl ServeConfig {
    /// The port of the second listener; `None` if artifacts are staged on the job port.
    pub(crate) fn second_port(&self) -> Option<u16> {
        match self.artifact_port {
            None if self.job_port == DEFAULT_JOB_PORT => Some(DEFAULT_ARTIFACT_PORT),
            None => None,
            Some(port) if port == self.job_port && port != 0 => None,
            Some(port) => Some(port),
        }
    }

    /// The port of `/metrics`, if it is to be served.
    pub(crate) fn http_port(&self) -> Option<u16> {
        self.http_port.filter(|_| self.peers.serve_http.as_deref() != Some("false"))
    }

    pub(crate) fn artifacts_dir(&self) -> PathBuf {
        self.artifacts_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Bytes.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.memory_limit.unwrap_or_else(crate::memory::half_of_all)
    }

    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.spill_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The cluster, unless it is one of the words with which Java's job server means its own process.
    pub(crate) fn flink_master(&self) -> Option<&str> {
        self.flink_master.as_deref().filter(|master| !master.starts_with('['))
    }

    pub(crate) fn sdk_worker_parallelism(&self) -> usize {
        match usize::try_from(self.sdk_worker_parallelism) {
            // Java's job server takes -1 for "as many as make sense".
            Ok(0) | Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
            Ok(workers) => workers,
        }
    }

    pub(crate) fn idle_shutdown_timeout(&self) -> Option<Duration> {
        match self.idle_shutdown_timeout {
            Some(IdleTimeout::After(time)) => Some(time),
            Some(IdleTimeout::Never) | None => None,
        }
    }

    /// The flags that were given and have no effect.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let PeerFlags { expansion_port, serve_http, jm_override, flink_conf_dir, spark_master_url } =
            &self.peers;
        // Nothing goes to Flink without a runner for it.
        let flink_master = self
            .flink_master
            .clone()
            .filter(|_| self.flink_master().is_none() || self.flink_runner_jar.is_empty());
        let flags = [
            ("--expansion-port", expansion_port),
            // Not to be served, or on a port that is given, is what happens.
            (
                "--serve-http",
                &serve_http.clone().filter(|value| value != "false" && self.http_port.is_none()),
            ),
            ("--jm-override", jm_override),
            ("--flink-master", &flink_master),
            ("--flink-conf-dir", flink_conf_dir),
            ("--spark-master-url", spark_master_url),
        ];
        flags.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum IdleTimeout {
    Never,
    After(Duration),
}

/// `90s`, `5m`, `1h30m`, `250ms`; a bare number is seconds; anything below zero means never.
fn parse_timeout(text: &str) -> Result<IdleTimeout, String> {
    let bad = || format!("{text:?} is no duration; give one like 90s, 5m or 1h30m");
    if text.starts_with('-') {
        return Ok(IdleTimeout::Never);
    }
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_length = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_length);
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        seconds += number.parse::<f64>().map_err(|_| bad())? * scale;
        rest = after;
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(seconds).map(IdleTimeout::After).map_err(|_| bad())
}

/// As [`parse_timeout`], but not for ever.
fn parse_time(text: &str) -> Result<Duration, String> {
    match parse_timeout(text)? {
        IdleTimeout::After(time) => Ok(time),
        IdleTimeout::Never => Err(format!("{text:?} is below zero; give a duration like 90s, or 0")),
    }
}

/// One spelling out of many: `-job_port` and `--job_port` become `--job-port`, and a command line that
/// begins with a flag, as Prism's do, is one for `serve`.
fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> =
        arguments.map(|argument| normalise_flag(&argument).unwrap_or(argument)).collect();
    let own = ["--help", "-h", "--version", "-V"];
    let first = all.get(1).and_then(|argument| argument.to_str());
    if first.is_some_and(|first| first.starts_with('-') && !own.contains(&first)) {
        all.insert(1, "serve".into());
    }
    all
}

fn normalise_flag(argument: &OsString) -> Option<OsString> {
    let text = argument.to_str()?;
    let flag = text.strip_prefix("--").or_else(|| text.strip_prefix('-').filter(|flag| flag.len() > 1))?;
    if !flag.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
    Some(format!("--{}{value}", name.replace('_', "-")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(line: &str) -> ServeConfig {
        let words = std::iter::once("beamline").chain(line.split_whitespace()).map(OsString::from);
        match Cli::try_parse_from(normalise(words)).unwrap().command {
            Command::Serve(config) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_spellings_are_understood() {
        for line in [
            "serve --job-port 8073 --log-format json",
            "serve --job_port=8073 --log_kind=json",
            "-job_port 8073 -log_kind=json",
            "--job_port 8073 --log_kind json --serve_http=false",
        ] {
            let config = serve(line);
            assert_eq!((config.job_port, config.log_format), (8073, LogFormat::Json), "{line}");
            assert!(config.without_effect().is_empty(), "{line}");
        }
        assert_eq!(serve("--log_kind=dev").log_format, LogFormat::Text);
    }

    #[test]
    fn flags_of_peers_are_told_to_have_no_effect() {
        let config = serve("serve --expansion-port 8097 --jm_override=x -serve_http --job-port 1");
        assert_eq!(config.without_effect(), ["--expansion-port", "--serve-http", "--jm-override"]);
        assert_eq!(config.job_port, 1);
    }

    #[test]
    fn flink() {
        let config =
            serve("serve --flink_master=flink:8081 --flink-runner-jar a.jar --flink-runner-jar b.jar");
        assert_eq!((config.backend, config.flink_master()), (Backend::Native, Some("flink:8081")));
        assert_eq!(config.flink_runner_jar, [PathBuf::from("a.jar"), PathBuf::from("b.jar")]);
        assert!(config.without_effect().is_empty());
        assert_eq!(serve("serve --backend flink --flink-runner-jar a.jar").backend, Backend::Flink);
        for line in ["serve --flink-master flink:8081", "--flink-master=[local] --flink-runner-jar a.jar"] {
            assert_eq!(serve(line).without_effect(), ["--flink-master"], "{line}");
        }
        assert_eq!(serve("--flink-master [auto]").flink_master(), None);
    }

    #[test]
    fn the_http_port() {
        assert_eq!(serve("serve").http_port(), None);
        assert_eq!(serve("serve --http-port 0").http_port(), Some(0));
        let prism = serve("--web_port=8074 -serve_http");
        assert_eq!((prism.http_port(), prism.without_effect()), (Some(8074), Vec::new()));
        assert_eq!(serve("--web_port=8074 --serve_http=false").http_port(), None);
    }

    #[test]
    fn the_artifact_port() {
        assert_eq!(serve("serve").second_port(), Some(8098));
        assert_eq!(serve("serve --job-port 0").second_port(), None);
        assert_eq!(serve("serve --job-port 8073").second_port(), None);
        assert_eq!(serve("serve --job-port 0 --artifact-port 0").second_port(), Some(0));
        assert_eq!(serve("serve --job-port 7 --artifact-port 7").second_port(), None);
        assert_eq!(serve("serve --artifact-port 7").second_port(), Some(7));
    }

    #[test]
    fn values_stay_as_they_are() {
        let config =
            serve("serve --artifacts_dir=/tmp/a_b --ready-file /tmp/c_d --clean_artifacts_per_job=false");
        assert_eq!(config.artifacts_dir(), PathBuf::from("/tmp/a_b"));
        assert_eq!(config.ready_file, Some(PathBuf::from("/tmp/c_d")));
        assert!(!config.clean_artifacts_per_job);
        assert!(serve("serve --clean-artifacts-per-job").clean_artifacts_per_job);
        assert_eq!(serve("serve --sdk-worker-parallelism 3").sdk_worker_parallelism(), 3);
        assert!(serve("serve --sdk-worker-parallelism -1").sdk_worker_parallelism() >= 1);
    }

    #[test]
    fn memory() {
        let config = serve("serve --memory_limit=64MiB --spill-dir /tmp/s_t");
        assert_eq!((config.memory_limit(), config.spill_dir()), (64 << 20, PathBuf::from("/tmp/s_t")));
        assert_eq!(serve("serve").memory_limit(), crate::memory::half_of_all());
        assert_eq!(serve("serve").spill_dir(), std::env::temp_dir());
    }

    #[test]
    fn containers() {
        let containers = |line| serve(line).docker.containers();
        let line = "serve --docker-run-option=--volume=/a:/a --docker_run_option --init --docker-pull never";
        let told = containers(line);
        assert_eq!(told.run_options, ["--volume=/a:/a", "--init"]);
        assert_eq!((told.pull, told.command.as_str()), (Pull::Never, "docker"));
        assert_eq!(containers("serve").pull, Pull::Missing);
    }

    #[test]
    fn standby_workers() {
        let timeout = |line| serve(line).standby_worker_timeout;
        assert_eq!(timeout("serve"), Duration::from_secs(60));
        assert_eq!(timeout("serve --standby_worker_timeout=2m"), Duration::from_secs(120));
        assert_eq!(timeout("serve --standby-worker-timeout 0"), Duration::ZERO);
        assert!(parse_time("-1s").is_err());
    }

    #[test]
    fn timeouts() {
        let after = |seconds| Ok(IdleTimeout::After(Duration::from_secs_f64(seconds)));
        assert_eq!(parse_timeout("90s"), after(90.0));
        assert_eq!(parse_timeout("1h30m"), after(5400.0));
        assert_eq!(parse_timeout("250ms"), after(0.25));
        assert_eq!(parse_timeout("7"), after(7.0));
        assert_eq!(parse_timeout("-1ns"), Ok(IdleTimeout::Never));
        for bad in ["", "s", "5x", "1..2s"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
        assert_eq!(serve("-idle_shutdown_timeout -1ns").idle_shutdown_timeout(), None);
        assert_eq!(serve("--idle_shutdown_timeout=2s").idle_shutdown_timeout(), Some(Duration::from_secs(2)));
    }
}
