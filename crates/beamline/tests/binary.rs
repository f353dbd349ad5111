//! The program as its users start it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// For what waits for nobody, on a machine that may stand still for a while.
const AT_ONCE: Duration = Duration::from_secs(30);

fn beamline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beamline"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    beamline(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came to that: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running `beamline serve`.
struct Server {
    process: Child,
    folder: TempDir,
    endpoint: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let ready = folder.path().join("ready").display().to_string();
        let artifacts = folder.path().join("artifacts").display().to_string();
        let mut all = vec!["serve", "--ready-file", &ready, "--artifacts-dir", &artifacts];
        all.extend(arguments);
        let process = beamline(&all).spawn().unwrap();
        let mut server = Self { process, folder, endpoint: String::new() };
        server.endpoint = eventually("the server is ready", || fs::read_to_string(server.ready_file()).ok());
        server.endpoint = server.endpoint.trim().to_owned();
        server
    }

    fn ready_file(&self) -> PathBuf {
        self.folder.path().join("ready")
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        eventually("the server ends", || self.process.try_wait().unwrap())
    }

    fn jobs(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["jobs", "--endpoint", &self.endpoint];
        all.extend(arguments);
        run(&all)
    }

    /// What it wrote, once it has ended.
    fn output(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (out, err)
    }
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

#[test]
fn it_says_where_it_serves_and_ends_cleanly() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&["--job-port", "0"]);
        assert!(server.endpoint.starts_with("127.0.0.1:"), "{}", server.endpoint);
        let artifacts = server.folder.path().join("artifacts");
        assert_eq!(entries(&artifacts), 1);
        let list = server.jobs(&["list"]);
        assert!(list.status.success() && text(&list.stdout).starts_with("ID"), "{list:?}");
        let signalled = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
        assert!(signalled.elapsed() < AT_ONCE, "{:?}", signalled.elapsed());
        let (out, _) = server.output();
        assert_eq!(out, format!("beamline: job service at {}\n", server.endpoint));
        assert_eq!(entries(&artifacts), 0, "a folder was left behind");
        assert!(!server.ready_file().exists());
    }
}

#[test]
fn artifacts_are_staged_on_a_second_port_if_one_is_asked_for() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&["serve", "--job-port", "0", "--artifact-port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(
        err.contains(&format!("port {port} of 127.0.0.1 is in use")) && err.contains("--artifact-port"),
        "{err}"
    );
    drop(taken);
    let server = Server::start(&["--job-port", "0", "--artifact-port", "0"]);
    assert!(server.jobs(&["list"]).status.success());
}

#[test]
fn a_port_in_use_is_named() {
    let first = Server::start(&["--job-port", "0"]);
    let port = first.endpoint.rsplit(':').next().unwrap();
    let output = run(&["serve", "--job-port", port]);
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(
        err.contains(&format!("port {port} of 127.0.0.1 is in use")) && err.contains("--job-port"),
        "{err}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn what_flink_can_never_run_with_is_told_at_the_start() {
    let folder = TempDir::new().unwrap();
    let no_jar = folder.path().join("no.jar");
    fs::write(&no_jar, "text").unwrap();
    let no_jar = no_jar.to_str().unwrap();
    for (arguments, words) in [
        (&["--backend", "flink", "--maven-repository", "ftp://x"][..], "no base URL of a Maven repository"),
        (&["--flink-master", "x:1", "--flink-runner-version", "../x"], "is no version of Beam's"),
        (&["--flink-master", "https://x:y"], "\"https://x:y\" is no address"),
        (&["--flink-authorization-file", no_jar], "--flink-master names none"),
        (&["--flink-ca-file", no_jar], "it has no certificate in PEM"),
        (&["--flink-master", "https://x", "--flink-ca-file", "/nowhere.pem"], "(see --flink-ca-file)"),
        (&["--flink-runner-jar", no_jar], "no.jar is no Flink runner jar"),
        (&["--flink-runner-jar", "/nowhere.jar"], "/nowhere.jar cannot be read"),
    ] {
        let output = run(&[&["serve", "--job-port", "0"], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn a_command_runs_beside_a_server_of_its_own() {
    let words = "echo $BEAMLINE_ENDPOINT $1; test $MALLOC_ARENA_MAX && echo ours; exit 3";
    let output = run(&["submit", "--", "sh", "-c", words, "x", "--endpoint={endpoint}"]);
    let told = text(&output.stdout);
    let (endpoint, argument) = told.trim().split_once(' ').unwrap();
    assert!(endpoint.starts_with("127.0.0.1:") && argument == format!("--endpoint={endpoint}"), "{told}");
    assert_eq!(output.status.code(), Some(3));
    let output = run(&["submit", "--", "sh", "-c", "echo $0 $1", "x"]);
    assert_eq!(
        (text(&output.stdout).as_str(), output.status.code()),
        ("x --runner=PortableRunner\n", Some(0))
    );
    assert!(text(&output.stderr).contains("has run no job here"), "{}", text(&output.stderr));
    for (arguments, words) in [
        (&["submit", "--", "/no/such/program"][..], "\"/no/such/program\" cannot be run"),
        (&["submit", "--detached", "--", "true"], "give --backend flink"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

/// The command is told to end, and is heard.
#[test]
fn a_submission_that_is_told_to_end_ends_its_command() {
    let words = "trap 'echo put away; exit 7' TERM; echo ready; while true; do sleep 0.05; done";
    let mut process = beamline(&["submit", "--", "sh", "-c", words]).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    assert_eq!(lines.next().unwrap().unwrap(), "put away");
    assert_eq!(process.wait().unwrap().code(), Some(7));
}

#[test]
fn an_environment_override_that_is_none_is_told() {
    let output = run(&["serve", "--job-port", "0", "--environment-override", "x=EXTERNAL:here"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("\"here\" is no HOST:PORT of a worker pool"));
}

#[test]
fn a_command_line_of_prism_starts_it() {
    let line =
        ["--job_port=0", "--serve_http=false", "--log_kind=json", "--web_port=8074", "--jm_override=x"];
    let mut process = beamline(&line).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("beamline: job service at 127.0.0.1:"), "{line}");
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(0));
    let mut err = String::new();
    process.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let warning = err.lines().find(|line| line.contains("--jm-override")).unwrap_or_else(|| panic!("{err}"));
    assert!(warning.starts_with('{') && warning.contains("\"WARN\""), "{warning}");
    assert!(!err.contains("--serve-http"), "{err}");
}

/// Status line, head and body of the answer to a GET.
fn get(endpoint: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(endpoint).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_over_http() {
    let mut server = Server::start(&["--job-port", "0", "--http-port", "0"]);
    let mut lines = BufReader::new(server.process.stdout.take().unwrap()).lines();
    let line = lines.nth(1).unwrap().unwrap();
    let url = line.strip_prefix("beamline: metrics at http://").unwrap_or_else(|| panic!("{line}"));
    let http = url.strip_suffix("/metrics").unwrap();
    let has = |text: &str, sample: &str| text.lines().any(|line| line == sample);

    let before = get(http, "/metrics");
    assert!(before.starts_with("HTTP/1.1 200 OK\r\n"), "{before}");
    assert!(before.contains("content-type: text/plain; version=0.0.4"), "{before}");
    for sample in [
        "# TYPE beamline_bundle_seconds histogram",
        "beamline_jobs{state=\"DONE\"} 0",
        "beamline_workers 0",
        "beamline_bundles_committed_total 0",
        "beamline_data_bytes_total{direction=\"to_worker\"} 0",
        "beamline_waiting_bytes 0",
    ] {
        assert!(has(&before, sample), "no {sample} in\n{before}");
    }
    assert!(get(http, "/elsewhere").starts_with("HTTP/1.1 404"));

    run_impulse(&server.endpoint);
    eventually("the job is counted as done", || {
        has(&get(http, "/metrics"), "beamline_jobs{state=\"DONE\"} 1").then_some(())
    });
    let taken = run(&["serve", "--job-port", "0", "--http-port", http.rsplit(':').next().unwrap()]);
    assert!(text(&taken.stderr).contains("--http-port"), "{taken:?}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Runs a pipeline of one Impulse, which needs no worker.
fn run_impulse(endpoint: &str) {
    use beam_model::job_management::job_service_client::JobServiceClient;
    use beam_model::job_management::{PrepareJobRequest, RunJobRequest};
    use beam_model::pipeline::{Components, Pipeline};
    let pipeline = Pipeline {
        components: Some(impulse(Components::default())),
        root_transform_ids: vec!["t".into()],
        ..Pipeline::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        let mut jobs = JobServiceClient::new(channel.connect().await.unwrap());
        let request =
            PrepareJobRequest { pipeline: Some(pipeline), job_name: "impulse".into(), ..Default::default() };
        let preparation_id = jobs.prepare(request).await.unwrap().into_inner().preparation_id;
        jobs.run(RunJobRequest { preparation_id, ..Default::default() }).await.unwrap();
    });
}

#[test]
fn it_ends_by_itself_when_idle() {
    // It may have ended before anybody has seen that it was ready.
    let line = ["serve", "--job-port", "0", "--idle-shutdown-timeout", "200ms"];
    let mut process = beamline(&line).spawn().unwrap();
    let status = eventually("the server ends", || process.try_wait().unwrap());
    let mut out = String::new();
    process.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!((status.code(), out.starts_with("beamline: job service at ")), (Some(0), true), "{out}");
}

#[test]
fn the_advertised_host_is_told() {
    let server = Server::start(&["--job-port", "0", "--advertise-host", "localhost"]);
    assert!(server.endpoint.starts_with("localhost:"), "{}", server.endpoint);
    let everywhere = Server::start(&["--job-port", "0", "--job-host", "0.0.0.0"]);
    assert!(!everywhere.endpoint.starts_with("0.0.0.0"), "{}", everywhere.endpoint);
    assert!(everywhere.jobs(&["list"]).status.success());
}

#[test]
fn jobs_that_are_not_there() {
    let server = Server::start(&["--job-port", "0"]);
    for command in ["show", "cancel", "drain", "logs"] {
        let output = server.jobs(&[command, "no-such-job"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("\"no-such-job\""), "{output:?}");
    }
    let nobody = run(&["jobs", "list", "--endpoint", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("no job service answers at 127.0.0.1:1"), "{nobody:?}");
    let nonsense = run(&["jobs", "list", "--endpoint", "::::"]);
    assert_eq!(nonsense.status.code(), Some(1), "{nonsense:?}");
}

#[test]
fn plan_names_what_is_wrong_with_its_file() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing.pb").display().to_string();
    let output = run(&["plan", &missing]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&missing), "{output:?}");
    let garbage = folder.path().join("garbage.pb");
    fs::write(&garbage, b"\xff\xff\xff\xff").unwrap();
    let output = run(&["plan", &garbage.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is not a serialized Pipeline message"), "{output:?}");
}

#[test]
fn plan_shows_stages_as_text_and_as_a_graph() {
    use beam_model::pipeline::{Components, Pipeline};
    use prost::Message;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("pipeline.pb");
    let pipeline = impulse(Components::default());
    fs::write(
        &path,
        Pipeline { components: Some(pipeline), root_transform_ids: vec!["t".into()], ..Pipeline::default() }
            .encode_to_vec(),
    )
    .unwrap();
    let path = path.display().to_string();
    let both = run(&["plan", &path]);
    assert!(both.status.success(), "{both:?}");
    let [as_text, as_dot] =
        ["text", "dot"].map(|format| text(&run(&["plan", &path, "--format", format]).stdout));
    assert_eq!(text(&both.stdout), format!("{as_text}\n{as_dot}"));
    assert!(as_text.contains("impulse") && as_dot.starts_with("digraph"), "{as_text}{as_dot}");
}

/// A pipeline of one Impulse.
fn impulse(mut components: beam_model::pipeline::Components) -> beam_model::pipeline::Components {
    use beam_model::pipeline::{Coder, FunctionSpec, PCollection, PTransform, WindowingStrategy};
    use beam_model::urns::{global_windows_payload, standard_coders, standard_p_transforms::primitives};
    let spec = |urn: &str| Some(FunctionSpec { urn: urn.into(), payload: Default::default() });
    let coder = |urn: &str| Coder { spec: spec(urn), component_coder_ids: Vec::new() };
    components.coders.insert("bytes".into(), coder(standard_coders::BYTES));
    components.coders.insert("window".into(), coder(standard_coders::GLOBAL_WINDOW));
    let strategy = WindowingStrategy {
        window_fn: spec(global_windows_payload::PROPERTIES),
        window_coder_id: "window".into(),
        merge_status: 1,
        trigger: Some(beam_model::pipeline::Trigger {
            trigger: Some(beam_model::pipeline::trigger::Trigger::Default(Default::default())),
        }),
        accumulation_mode: 1,
        output_time: 1,
        closing_behavior: 2,
        on_time_behavior: 1,
        ..WindowingStrategy::default()
    };
    components.windowing_strategies.insert("global".into(), strategy);
    components.pcollections.insert(
        "p".into(),
        PCollection {
            unique_name: "p".into(),
            coder_id: "bytes".into(),
            is_bounded: 2,
            windowing_strategy_id: "global".into(),
            ..PCollection::default()
        },
    );
    components.transforms.insert(
        "t".into(),
        PTransform {
            unique_name: "Start".into(),
            spec: spec(primitives::IMPULSE),
            outputs: [("out".into(), "p".into())].into(),
            ..PTransform::default()
        },
    );
    components
}
