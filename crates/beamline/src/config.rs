//! Flags and environment variables. Nothing else in the program reads them, but for those that tell the allocator what to do.
//!
//! The spellings of the Java job servers (`--job-port`) and of Prism (`--job_port`, `-job_port`) are both
//! understood; flags of theirs that have no meaning here are accepted with a warning, so that scripts
//! written for either start unchanged.

mod flink_access;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flink_access::FlinkAccessFlags;
use fn_harness_bridge::{Containers, Pull};
use translators::EnvironmentOverride;
use translators::flink::MAVEN_CENTRAL;

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
    /// Run a command whose pipelines run here, on a server of their own, and end with it
    Submit(Box<SubmitConfig>),
    /// Show the stages that a pipeline is fused into
    Plan(PlanConfig),
    /// See to the jobs of a running server
    Jobs(JobsConfig),
}

#[derive(Args, Clone, Debug)]
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
    /// Folder for staged artifacts [default: the system's folder for temporary files]. If it is given, jobs on Flink are
    /// written down there: they go on when the server ends, and a server that is started with the same folder finds them
    /// again
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
    /// HOST:PORT, or the URL, of the REST endpoint of the Flink cluster for jobs on Flink that name none by --flink_master.
    /// With this or another of the next flags, jobs can choose Flink
    #[arg(long, env = "BEAMLINE_FLINK_MASTER")]
    flink_master: Option<String>,
    #[command(flatten)]
    pub(crate) flink_access: FlinkAccessFlags,
    /// Beam's Flink job server jar for the cluster's version of Flink; several for clusters of several versions. Others are
    /// looked for in --flink-jar-dir, and downloaded
    #[arg(long, env = "BEAMLINE_FLINK_RUNNER_JAR", value_delimiter = ',')]
    pub(crate) flink_runner_jar: Vec<PathBuf>,
    /// Folder for Flink job server jars that are downloaded, or put there, under Beam's names for them [default:
    /// beamline in the user's cache folder]
    #[arg(long, env = "BEAMLINE_FLINK_JAR_DIR")]
    flink_jar_dir: Option<PathBuf>,
    /// Version of Beam whose Flink job server jar is taken, e.g. 2.62.0 [default: the newest in --flink-jar-dir, else the
    /// newest that is known for the cluster's version of Flink]
    #[arg(long, env = "BEAMLINE_FLINK_RUNNER_VERSION")]
    pub(crate) flink_runner_version: Option<String>,
    /// Maven repository that Flink job server jars are downloaded from; empty for none
    #[arg(long, default_value = MAVEN_CENTRAL, env = "BEAMLINE_MAVEN_REPOSITORY")]
    maven_repository: String,
    /// REGEX=EXTERNAL:HOST:PORT, REGEX=DOCKER:IMAGE or REGEX=PROCESS:COMMAND: containers whose whole image the expression
    /// matches run there instead, e.g. 'apache/beam_python.*=EXTERNAL:localhost:50000', 'apache/(.*)=DOCKER:mirror/$1'.
    /// After EXTERNAL and PROCESS, also JSON as in --environment_config. May be given again; the first match counts
    #[arg(long, value_name = "REGEX=…", env = "BEAMLINE_ENVIRONMENT_OVERRIDE", value_delimiter = '\n')]
    pub(crate) environment_override: Vec<EnvironmentOverride>,
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
#[derive(Args, Clone, Debug)]
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

#[derive(Args, Debug)]
pub(crate) struct SubmitConfig {
    /// End as soon as the jobs run on Flink, and leave them there: they are Flink's from then on
    #[arg(long)]
    pub(crate) detached: bool,
    #[command(flatten)]
    server: ServeConfig,
    /// What runs the pipelines, e.g. python wordcount.py --output=…. It gets --runner=PortableRunner and --job_endpoint after
    /// its own arguments; if one of those has {endpoint} in it, that becomes HOST:PORT instead. BEAMLINE_ENDPOINT has it too
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Flags of other job servers that have no effect here.
#[derive(Args, Clone, Debug)]
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

impl SubmitConfig {
    /// That of the server: its port is a free one, unless another than the usual is asked for.
    pub(crate) fn server(&self) -> ServeConfig {
        let mut server = self.server.clone();
        if server.job_port == DEFAULT_JOB_PORT {
            server.job_port = 0;
        }
        server
    }
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

    /// Where jobs are written down that outlive the server. Not in a folder that others have too, in which any server would
    /// find the jobs of any other.
    pub(crate) fn journal_dir(&self) -> Option<PathBuf> {
        self.artifacts_dir.as_ref().filter(|_| self.has_flink()).map(|folder| folder.join("beamline-jobs"))
    }

    /// Bytes.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.memory_limit.unwrap_or_else(crate::memory::half_of_all)
    }

    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.spill_dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Whether jobs can choose Flink.
    pub(crate) fn has_flink(&self) -> bool {
        self.backend == Backend::Flink
            || self.flink_master().is_some()
            || self.flink_access.is_given()
            || self.flink_jar_dir.is_some()
            || !self.flink_runner_jar.is_empty()
    }

    /// Where runner jars are kept: XDG's folder for what can be had again.
    pub(crate) fn flink_jar_dir(&self) -> PathBuf {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = || from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
        self.flink_jar_dir
            .clone()
            .unwrap_or_else(|| cache().unwrap_or_else(std::env::temp_dir).join("beamline"))
    }

    pub(crate) fn maven_repository(&self) -> Option<String> {
        Some(self.maven_repository.clone()).filter(|repository| !repository.is_empty())
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
        let flink_master = self.flink_master.clone().filter(|_| self.flink_master().is_none());
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
/// begins with a flag, as Prism's do, is one for `serve`. What comes after `--` is somebody else's.
fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut ours = true;
    let mut all: Vec<OsString> = arguments
        .map(|argument| {
            ours &= argument != "--";
            if ours { normalise_flag(&argument).unwrap_or(argument) } else { argument }
        })
        .collect();
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
mod tests;
