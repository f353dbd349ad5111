//! Runner jars from a Maven repository that does what the test says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use runner_core::backend::{Importance, Outcome, PortablePipelineRunner};
use runner_core::fault::Blame;
use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::net::TcpListener;
use translators::flink::{DownloadError, Downloads, FlinkConfig, FlinkError, FlinkRunner};

use super::scripted_flink::*;
use super::support::*;

const NAME: &str = "beam-runners-flink-1.19-job-server-2.77.0.jar";
const PATH: &str = "/m2/org/apache/beam/beam-runners-flink-1.19-job-server/2.77.0/beam-runners-flink-1.19-job-server-2.77.0.jar";

#[derive(Clone, Default)]
struct Repository {
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    jar: Bytes,
    checksum: String,
    /// Breaks off the next answer with the jar after so many bytes.
    break_at: Option<usize>,
    ignores_ranges: bool,
    /// Path, and `Range` if there was one.
    seen: Vec<(String, Option<String>)>,
}

struct Setting {
    repository: Repository,
    folder: TempDir,
    backend: Backend,
    flink: ScriptedFlink,
}

impl Setting {
    async fn new() -> Self {
        Self::with_version(None).await
    }

    /// A repository with the runner for Flink 1.19, and a server that has no jar yet.
    async fn with_version(version: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/m2/", listener.local_addr().unwrap());
        let repository = Repository::default();
        let app = Router::new().fallback(serve).with_state(repository.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (folder, flink) = (TempDir::new().unwrap(), ScriptedFlink::start().await);
        let jar = std::fs::read(write_runner_jar(&folder, "1.19.0")).unwrap();
        {
            let mut script = repository.script.lock().unwrap();
            script.checksum = format!("{:x}", Sha1::digest(&jar));
            script.jar = jar.into();
        }
        let backend =
            Backend { runner: runner(&folder, Some(url), version), folder: TempDir::new().unwrap() };
        Self { repository, folder, backend, flink }
    }

    fn jars(&self) -> PathBuf {
        self.folder.path().join("jars")
    }

    async fn run(&self) -> Job {
        self.backend.run(bounded(), options(&[("flink_master", &self.flink.address)])).await
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        change(&mut self.repository.script.lock().unwrap())
    }

    /// The ranges with which the jar was asked for.
    fn ranges(&self) -> Vec<Option<String>> {
        self.script(|script| {
            script.seen.iter().filter(|(path, _)| path == PATH).map(|(_, range)| range.clone()).collect()
        })
    }

    fn leave_part(&self, part: &[u8]) {
        std::fs::create_dir_all(self.jars()).unwrap();
        std::fs::write(self.jars().join(format!("{NAME}.part")), part).unwrap();
    }

    /// The jar is in the folder, and nothing else.
    fn assert_downloaded(&self) {
        assert_eq!(std::fs::read(self.jars().join(NAME)).unwrap(), self.script(|script| script.jar.clone()));
        assert_eq!(std::fs::read_dir(self.jars()).unwrap().count(), 1);
    }
}

fn runner(folder: &TempDir, repository: Option<String>, version: Option<&str>) -> FlinkRunner {
    runner_with_jars(folder, repository, version, Vec::new())
}

fn runner_with_jars(
    folder: &TempDir,
    repository: Option<String>,
    version: Option<&str>,
    runner_jars: Vec<PathBuf>,
) -> FlinkRunner {
    FlinkRunner::new(FlinkConfig {
        runner_jars,
        downloads: Some(Downloads {
            folder: folder.path().join("jars"),
            repository,
            version: version.map(str::to_owned),
        }),
        temp_dir: folder.path().to_owned(),
        ..FlinkConfig::default()
    })
    .unwrap()
}

async fn serve(State(repository): State<Repository>, request: Request) -> Response {
    let mut script = repository.script.lock().unwrap();
    let path = request.uri().path().to_owned();
    let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
    script.seen.push((path.clone(), range.clone()));
    let answer = Response::builder();
    if path == format!("{PATH}.sha1") {
        return answer.body(Body::from(format!("{}  {NAME}\n", script.checksum))).unwrap();
    }
    if path != PATH {
        return answer.status(404).body(Body::from("no such thing")).unwrap();
    }
    let (jar, length) = (script.jar.clone(), script.jar.len());
    let from = range.filter(|_| !script.ignores_ranges).map(|range| {
        range
            .strip_prefix("bytes=")
            .and_then(|range| range.strip_suffix('-'))
            .unwrap()
            .parse::<usize>()
            .unwrap()
    });
    let answer = match from {
        Some(from) if from >= length => return answer.status(416).body(Body::empty()).unwrap(),
        Some(from) => {
            answer.status(206).header("content-range", format!("bytes {from}-{}/{length}", length - 1))
        }
        None => answer,
    };
    let rest = jar.slice(from.unwrap_or(0)..);
    let answer = answer.header("content-length", rest.len());
    match script.break_at.take() {
        None => answer.body(Body::from(rest)).unwrap(),
        Some(bytes) => {
            let (sender, parts) = tokio::sync::mpsc::channel(2);
            let first = rest.slice(..bytes);
            tokio::spawn(async move {
                sender.send(Ok(first)).await.ok();
                // What is broken off at once is not sent at all.
                tokio::time::sleep(Duration::from_millis(200)).await;
                sender.send(Err(std::io::Error::other("broken off"))).await.ok();
            });
            let parts = tokio_stream::wrappers::ReceiverStream::new(parts);
            answer.body(Body::from_stream(parts)).unwrap()
        }
    }
}

#[tokio::test]
async fn a_jar_is_downloaded_once() {
    let setting = Setting::new().await;
    let job = setting.run().await;
    assert!(matches!(job.end().await, Outcome::Done), "{:?}", job.listener.messages.lock().unwrap());
    setting.assert_downloaded();
    assert_eq!(setting.ranges(), [None]);
    assert!(job.listener.message_with(Importance::Basic, "downloading http://127.0.0.1").is_some());
    assert!(job.listener.message_with(Importance::Detailed, "the Flink runner is in").is_some());
    assert!(matches!(setting.run().await.end().await, Outcome::Done));
    assert_eq!(setting.ranges().len(), 1);
}

#[tokio::test]
async fn jobs_that_need_it_at_the_same_time_download_it_together() {
    let setting = Setting::new().await;
    let (one, two) = (setting.run().await, setting.run().await);
    assert!(matches!((one.end().await, two.end().await), (Outcome::Done, Outcome::Done)));
    assert_eq!(setting.ranges().len(), 1);
}

#[tokio::test]
async fn a_download_goes_on_where_it_was_broken_off() {
    let setting = Setting::new().await;
    setting.script(|script| script.break_at = Some(100));
    let job = setting.run().await;
    assert!(matches!(job.end().await, Outcome::Done));
    assert!(job.listener.message_with(Importance::Warning, "was broken off").is_some());
    assert_eq!(setting.ranges(), [None, Some("bytes=100-".to_owned())]);
    setting.assert_downloaded();
}

#[tokio::test]
async fn what_an_earlier_server_has_left_is_gone_on_with() {
    let setting = Setting::new().await;
    let jar = setting.script(|script| script.jar.clone());
    for (part, ranges) in [
        (&jar[..50], vec![Some("bytes=50-".to_owned())]),
        (&jar[..], vec![Some(format!("bytes={}-", jar.len()))]),
        // The part of something else.
        (&b"odd"[..], vec![Some("bytes=3-".to_owned()), None]),
    ] {
        std::fs::remove_file(setting.jars().join(NAME)).ok();
        setting.leave_part(part);
        setting.script(|script| script.seen.clear());
        assert!(matches!(setting.run().await.end().await, Outcome::Done));
        assert_eq!(setting.ranges(), ranges);
        setting.assert_downloaded();
    }
}

#[tokio::test]
async fn a_repository_without_ranges_sends_all_again() {
    let setting = Setting::new().await;
    setting.script(|script| script.ignores_ranges = true);
    setting.leave_part(b"anything at all");
    assert!(matches!(setting.run().await.end().await, Outcome::Done));
    setting.assert_downloaded();
}

#[tokio::test]
async fn a_damaged_jar_is_not_used_and_not_kept() {
    let setting = Setting::new().await;
    let good = setting.script(|script| std::mem::replace(&mut script.checksum, "0".repeat(40)));
    let fault = setting.run().await.failure().await;
    assert_eq!(fault.blame, Blame::Environment);
    for words in ["is damaged", good.as_str(), &"0".repeat(40)] {
        assert!(fault.message.contains(words), "{fault}");
    }
    assert!(setting.flink.seen(UPLOAD).is_empty() && !setting.jars().join(NAME).exists());
    setting.script(|script| script.checksum = good);
    assert!(matches!(setting.run().await.end().await, Outcome::Done));
    // From the beginning.
    assert_eq!(setting.ranges(), [None, None]);
}

#[tokio::test]
async fn a_version_without_a_jar_is_told_with_those_that_are_known() {
    let setting = Setting::with_version(Some("2.50.0")).await;
    let fault = setting.run().await.failure().await;
    for words in ["job-server-2.50.0.jar is not there", "1.19, 1.20, 2.0", "--flink-runner-version"] {
        assert!(fault.message.contains(words), "{fault}");
    }
    setting.flink.answer(CONFIG, [ok(serde_json::json!({ "flink-version": "1.14.6" }))]);
    let unknown = Setting::new().await;
    unknown.flink.answer(CONFIG, [ok(serde_json::json!({ "flink-version": "1.14.6" }))]);
    let fault = unknown.run().await.failure().await;
    assert!(fault.message.contains("for Flink 1.14 is known here, only for 1.17, 1.18"), "{fault}");
}

#[tokio::test]
async fn without_a_network_it_says_what_to_do() {
    let setting = Setting::new().await;
    let (_deaf, free) = deaf_address();
    let runner = runner(&setting.folder, Some(format!("http://{free}")), None);
    let backend = Backend { runner, folder: TempDir::new().unwrap() };
    let job = backend.run(bounded(), options(&[("flink_master", &setting.flink.address)])).await;
    let fault = job.failure().await;
    for words in ["cannot be had", "onnect", "--flink-runner-jar", &*setting.jars().to_string_lossy()] {
        assert!(fault.message.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn what_is_in_the_folder_is_used_without_a_repository() {
    let setting = Setting::new().await;
    let runner = runner(&setting.folder, None, None);
    let backend = Backend { runner, folder: TempDir::new().unwrap() };
    let given = options(&[("flink_master", &setting.flink.address)]);
    let fault = backend.run(bounded(), given.clone()).await.failure().await;
    assert!(fault.message.contains("downloads are off"), "{fault}");

    std::fs::create_dir_all(setting.jars()).unwrap();
    for version in ["2.9.0", "2.62.0"] {
        let name = format!("beam-runners-flink-1.19-job-server-{version}.jar");
        let other = if version == "2.9.0" { "1.18.0" } else { "1.19.0" };
        std::fs::rename(write_runner_jar(&setting.folder, other), setting.jars().join(name)).unwrap();
    }
    assert!(matches!(backend.run(bounded(), given).await.end().await, Outcome::Done));
    assert_eq!(setting.ranges().len(), 0);
}

#[tokio::test]
async fn a_given_jar_that_does_not_fit_is_told_with_why_there_is_no_other() {
    let setting = Setting::new().await;
    let given = write_runner_jar(&setting.folder, "1.18.1");
    let runner = runner_with_jars(&setting.folder, None, None, vec![given]);
    let backend = Backend { runner, folder: TempDir::new().unwrap() };
    let job = backend.run(bounded(), options(&[("flink_master", &setting.flink.address)])).await;
    let fault = job.failure().await;
    for words in ["runs Flink 1.19", "runner-1.18.1.jar (Flink 1.18.1)", "downloads are off"] {
        assert!(fault.message.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn a_job_can_be_cancelled_during_its_download() {
    let setting = Setting::new().await;
    setting.script(|script| script.break_at = Some(10));
    let job = setting.run().await;
    job.wait_for_message(Importance::Warning, "was broken off").await;
    job.result.cancel();
    assert!(matches!(job.end().await, Outcome::Cancelled));
    assert_eq!(setting.ranges(), [None], "it was not tried again first");
    // What there is of it is there for the next job.
    assert!(matches!(setting.run().await.end().await, Outcome::Done));
    assert_eq!(setting.ranges(), [None, Some("bytes=10-".to_owned())]);
}

#[test]
fn a_server_does_not_start_with_what_can_never_be_downloaded() {
    let with = |repository: &str, version: Option<&str>| {
        let downloads = Downloads {
            folder: PathBuf::new(),
            repository: Some(repository.to_owned()),
            version: version.map(str::to_owned),
        };
        FlinkRunner::new(FlinkConfig { downloads: Some(downloads), ..FlinkConfig::default() })
    };
    for bad in ["", "repo1.maven.org", "file:///m2"] {
        let error = with(bad, None).err().unwrap();
        assert!(matches!(error, FlinkError::Download(DownloadError::Repository { .. })), "{error}");
    }
    let error = with("http://x/", Some("../..")).err().unwrap();
    assert!(matches!(error, FlinkError::Download(DownloadError::Version { .. })), "{error}");
    assert!(with("http://x/", Some("2.62.0")).unwrap().prepare(&bounded(), &options(&[])).is_err());
}
