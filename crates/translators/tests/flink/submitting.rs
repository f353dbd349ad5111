//! How a job gets to the cluster.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::time::{Duration, Instant};

use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation, Environment, Pipeline};
use beam_model::urns::{standard_artifacts, standard_environments};
use prost::Message;
use runner_core::backend::{Importance, Outcome};
use runner_core::fault::Blame;
use serde_json::{Value, json};
use translators::flink::{FlinkConfig, FlinkRunner, Patience};
use zip::ZipArchive;

use super::scripted_flink::*;
use super::support::*;

const HASH: &str = "0123abcd";

fn with_artifact() -> Pipeline {
    let mut pipeline = bounded();
    let payload = ArtifactFilePayload { path: format!("{JOB_ID}/{HASH}"), sha256: HASH.to_owned() };
    let artifact = ArtifactInformation {
        type_urn: standard_artifacts::types::FILE.to_owned(),
        type_payload: payload.encode_to_vec().into(),
        ..Default::default()
    };
    let environment = Environment {
        urn: standard_environments::environments::EXTERNAL.to_owned(),
        dependencies: vec![artifact],
        ..Default::default()
    };
    pipeline.components.as_mut().unwrap().environments = BTreeMap::from([("e".to_owned(), environment)]);
    pipeline
}

/// The file in a form upload with one.
fn uploaded(body: &[u8]) -> &[u8] {
    let find = |part: &[u8]| body.windows(part.len()).position(|window| window == part);
    let start = find(b"\r\n\r\n").unwrap() + 4;
    let boundary = &body[..find(b"\r\n").unwrap()];
    let end = body.len() - boundary.len() - "\r\n--\r\n".len();
    assert_eq!(&body[end + 2..end + 2 + boundary.len()], boundary);
    &body[start..end]
}

#[tokio::test]
async fn a_job_is_packed_uploaded_run_and_its_jar_removed() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let given = options(&[("flink_master", &flink.address), ("parallelism", "3")]);
    let mut pipeline = with_artifact();
    pipeline.components.as_mut().unwrap().transforms.get_mut("t").unwrap().unique_name.clear();
    let job = backend.run(pipeline, given).await;
    assert!(matches!(job.end().await, Outcome::Done));

    let upload = flink.seen(UPLOAD).remove(0);
    let head = String::from_utf8_lossy(&upload.body[..300]).into_owned();
    assert!(head.contains("name=\"jarfile\"; filename=\"beamline-") && head.contains(".jar\""), "{head}");
    let mut archive = ZipArchive::new(Cursor::new(uploaded(&upload.body).to_vec())).unwrap();
    let mut artifact = Vec::new();
    let path = format!("BEAM-PIPELINE/pipeline/artifacts/{HASH}");
    archive.by_name(&path).unwrap().read_to_end(&mut artifact).unwrap();
    assert_eq!(artifact, ARTIFACT);
    let mut json = |name: &str| -> Value {
        serde_json::from_reader(archive.by_name(&format!("BEAM-PIPELINE/pipeline/{name}")).unwrap()).unwrap()
    };
    assert_eq!(json("pipeline.json")["rootTransformIds"], json!(["t"]));
    assert_eq!(
        json("pipeline-options.json"),
        json!({
            "beam:option:finish_bundle_before_checkpointing:v1": "true",
            "beam:option:flink_master:v1": "[auto]",
            "beam:option:job_name:v1": "wordcount",
            "beam:option:parallelism:v1": "3",
        })
    );

    // The runner in the cluster wants a name of each.
    assert_eq!(json("pipeline.json")["components"]["transforms"]["t"]["uniqueName"], "t");

    let run = flink.seen(RUN).remove(0);
    let run_body: Value = serde_json::from_slice(&run.body).unwrap();
    assert_eq!(run.path, "/jars/0123-4567-89ab_beamline.jar/run");
    assert_eq!(run_body["entryClass"], "org.apache.beam.runners.flink.FlinkPipelineRunner");
    let id = run_body["jobId"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(run_body.as_object().unwrap().len(), 2, "{run_body}");
    assert_eq!(flink.seen(DELETE).len(), 1);
    assert_eq!(flink.seen(JOB)[0].path, format!("/jobs/{id}/status"));
    assert_eq!(*job.listener.running.lock().unwrap(), 1);
    // Nothing is left but the runner's own jar.
    assert_eq!(std::fs::read_dir(backend.folder.path()).unwrap().count(), 1);
}

/// The runner jar has Flink in it, which is of no use where Flink's classes come from the cluster.
#[tokio::test]
async fn what_the_cluster_has_itself_is_not_uploaded() {
    let first =
        |patterns: &str| json!({ "key": "classloader.parent-first-patterns.default", "value": patterns });
    for (settings, packed) in [
        (ok(json!([])), false),
        (ok(json!([first("java.;org.apache.flink.;org.rocksdb.")])), false),
        (ok(json!([first("java.;org.rocksdb.")])), true),
        (refused(404, "Not found: /jobmanager/config"), true),
    ] {
        let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
        flink.answer(SETTINGS, [settings]);
        let job = backend.run(with_artifact(), options(&[("flink_master", &flink.address)])).await;
        assert!(matches!(job.end().await, Outcome::Done));
        let jar = uploaded(&flink.seen(UPLOAD)[0].body).to_vec();
        let archive = ZipArchive::new(Cursor::new(jar)).unwrap();
        assert_eq!(archive.index_for_name(CLASS_OF_FLINK).is_some(), packed);
        assert!(archive.index_for_name("org/apache/beam/runners/flink/FlinkPipelineRunner.class").is_some());
    }
}

#[tokio::test]
async fn a_savepoint_to_go_on_from_is_handed_on() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let given = options(&[
        ("flink_master", &flink.address),
        ("savepoint_path", "s3://a/b"),
        ("allow_non_restored_state", "true"),
    ]);
    assert!(matches!(backend.run(bounded(), given).await.end().await, Outcome::Done));
    let run: Value = serde_json::from_slice(&flink.seen(RUN)[0].body).unwrap();
    assert_eq!((&run["savepointPath"], &run["allowNonRestoredState"]), (&json!("s3://a/b"), &json!(true)));
}

#[tokio::test]
async fn the_runner_jar_is_that_of_the_clusters_version() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(CONFIG, [ok(json!({ "flink-version": "1.20.1" }))]);
    let given = options(&[("flink_master", &flink.address)]);
    let fault = backend.run(bounded(), given.clone()).await.failure().await;
    assert_eq!(fault.blame, Blame::Environment);
    for words in ["Flink 1.20.1", "runner-1.19.0.jar (Flink 1.19.0)", "--flink-runner-jar", &flink.address] {
        assert!(fault.message.contains(words), "{fault}");
    }
    assert!(flink.seen(UPLOAD).is_empty());

    let both = FlinkConfig {
        runner_jars: ["1.19.0", "1.20.0"].map(|version| write_runner_jar(&backend.folder, version)).to_vec(),
        temp_dir: backend.folder.path().to_owned(),
        ..FlinkConfig::default()
    };
    let backend = Backend { runner: FlinkRunner::new(both).unwrap(), ..backend };
    assert!(matches!(backend.run(bounded(), given).await.end().await, Outcome::Done));
    let jar = uploaded(&flink.seen(UPLOAD)[0].body).to_vec();
    let mut archive = ZipArchive::new(Cursor::new(jar)).unwrap();
    let mut note = String::new();
    archive.by_name(".flink-runtime.version.properties").unwrap().read_to_string(&mut note).unwrap();
    assert_eq!(note, "project.version=1.20.0\n");
}

#[tokio::test]
async fn a_cluster_that_is_away_for_a_while_is_waited_for() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let leaderless = refused(503, "ongoing leader election");
    flink.answer(CONFIG, [leaderless, ok(json!({ "flink-version": "1.19.3" }))]);
    let job = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await;
    assert!(matches!(job.end().await, Outcome::Done));
    let told = job.listener.message_with(Importance::Warning, "ongoing leader election").unwrap();
    assert!(told.contains("trying again for 90 s"), "{told}");
}

#[tokio::test]
async fn a_cluster_that_stays_away_fails_the_job() {
    let patience = Patience { submitting: Duration::from_millis(10), ..Patience::default() };
    let backend = Backend::with_patience(patience);
    let (_deaf, free) = deaf_address();
    let fault = backend.run(bounded(), options(&[("flink_master", &free)])).await.failure().await;
    assert_eq!(fault.blame, Blame::Environment);
    assert!(
        fault.message.contains(&free) && fault.message.contains("does not answer GET /config"),
        "{fault}"
    );
}

#[tokio::test]
async fn a_program_that_flink_cannot_start_is_an_error_in_flinks_words() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(RUN, [refused(400, "The program caused an error: no such coder")]);
    let fault = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await.failure().await;
    assert!(fault.message.contains("status 400") && fault.message.contains("no such coder"), "{fault}");
    assert_eq!(flink.seen(DELETE).len(), 1);
}

#[tokio::test]
async fn a_flatten_that_flink_cannot_do_is_explained() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(
        RUN,
        [refused(400, "InvalidProgramException: Cannot union inputs of different types. Input1=x")],
    );
    let fault = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await.failure().await;
    assert!(
        fault.message.contains("runs on backend native") && fault.message.contains("Input1=x"),
        "{fault}"
    );
}

/// The answer is lost, but the job is there: it is not started a second time.
#[tokio::test]
async fn a_job_is_started_once() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(RUN, [refused(504, "gateway timeout"), refused(400, "started twice")]);
    let job = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await;
    assert!(matches!(job.end().await, Outcome::Done));
    assert_eq!((flink.seen(RUN).len(), flink.seen(DELETE).len()), (1, 1));
}

#[tokio::test]
async fn a_job_under_another_id_is_nobodys_and_is_ended() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(RUN, [ok(json!({ "jobid": "77" }))]);
    let fault = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await.failure().await;
    assert!(fault.message.contains("an id of its own, 77"), "{fault}");
    assert_eq!(flink.seen(CANCEL)[0].path, "/jobs/77?mode=cancel");
}

#[tokio::test]
async fn a_job_can_be_cancelled_while_it_is_uploaded() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(UPLOAD, [Answer::Silence]);
    let job = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await;
    flink.wait_for(UPLOAD).await;
    let asked = Instant::now();
    job.result.cancel();
    assert!(matches!(job.end().await, Outcome::Cancelled));
    assert!(asked.elapsed() < PATIENCE / 2);
    assert!(flink.seen(RUN).is_empty() && flink.seen(CANCEL).is_empty());
}

/// Flink may go on with a request whose asker is gone.
#[tokio::test]
async fn a_job_can_be_cancelled_while_it_is_started() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(RUN, [Answer::Silence]);
    flink.answer(CANCEL, [refused(404, "no such job yet"), Answer::Json(202, json!({}))]);
    let job = backend.run(bounded(), options(&[("flink_master", &flink.address)])).await;
    flink.wait_for(RUN).await;
    job.result.cancel();
    assert!(matches!(job.end().await, Outcome::Cancelled));
    assert_eq!((flink.seen(CANCEL).len(), flink.seen(DELETE).len()), (2, 1));
}
