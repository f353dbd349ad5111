//! Jobs of a server that is no more.

use std::time::Duration;

use beam_model::pipeline::is_bounded;
use runner_core::backend::{Importance, Outcome, PortablePipelineRunner, ResumedJob};
use runner_core::fault::Blame;
use runner_core::options::PipelineOptions;
use serde_json::json;
use translators::flink::Patience;

use super::scripted_flink::*;
use super::support::*;

fn on(flink: &ScriptedFlink) -> PipelineOptions {
    options(&[("flink_master", &flink.address)])
}

/// The last note of a job that has run, and the id that Flink knows it by.
async fn noted(backend: &Backend, flink: &ScriptedFlink) -> (Vec<String>, String) {
    let job = backend.run(bounded(), on(flink)).await;
    assert!(matches!(job.end().await, Outcome::Done));
    assert!(job.result.handed_over().await);
    let notes = job.listener.notes.lock().unwrap().clone();
    let path = flink.seen(JOB)[0].path.clone();
    (notes, path.split('/').nth(2).unwrap().to_owned())
}

fn jar_of(id: &str) -> Answer {
    let jar = |id: &str, name: String| json!({ "id": id, "name": name, "uploaded": 1, "entry": [] });
    ok(json!({ "address": "x", "files": [
        jar("1_other.jar", "other.jar".to_owned()),
        jar("2_mine.jar", format!("beamline-{id}.jar")),
    ] }))
}

#[tokio::test]
async fn a_job_that_flink_has_is_watched_again() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let (notes, id) = noted(&backend, &flink).await;
    assert_eq!(notes.len(), 2, "{notes:?}");
    let begun = flink.seen(RUN).len();
    flink.answer(JOB, [job("RUNNING", "RUNNING"), job("FINISHED", "FINISHED")]);
    let resumed = backend.resume(bounded(), on(&flink), notes.last().cloned()).await;
    assert!(resumed.result.handed_over().await);
    assert!(matches!(resumed.end().await, Outcome::Done));
    assert!(flink.seen(JOB).last().unwrap().path.contains(&id));
    assert!(
        resumed.listener.message_with(Importance::Basic, &format!("watches Flink job {id} at")).is_some()
    );
    assert_eq!((flink.seen(RUN).len(), *resumed.listener.running.lock().unwrap()), (begun, 1));
}

/// The cluster is the one that has the job, whatever the server is told now.
#[tokio::test]
async fn the_cluster_is_that_of_the_note() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let (notes, _) = noted(&backend, &flink).await;
    flink.answer(JOB, [job("FINISHED", "FINISHED")]);
    let resumed = backend.resume(bounded(), PipelineOptions::default(), notes.last().cloned()).await;
    assert!(matches!(resumed.end().await, Outcome::Done));
}

#[tokio::test]
async fn a_job_that_flink_never_heard_of_has_failed() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let (_, id) = noted(&backend, &flink).await;
    let (asked, deleted) = (flink.seen(JOB).len(), flink.seen(DELETE).len());
    // It was uploaded, though.
    flink.answer(JARS, [jar_of(&id)]);
    let resumed = backend.resume(bounded(), on(&flink), None).await;
    let fault = resumed.failure().await;
    assert_eq!(fault.blame, Blame::Environment);
    assert!(fault.message.contains("before it had handed the job to Flink; run it again"), "{fault}");
    assert!(!resumed.result.handed_over().await);
    assert_eq!(flink.seen(JOB).len(), asked);
    let deletions = flink.seen(DELETE);
    assert_eq!(deletions.len(), deleted + 1);
    assert_eq!(deletions.last().unwrap().path, "/jars/2_mine.jar");
}

/// Killed between the question and the answer.
#[tokio::test]
async fn a_job_that_flink_may_just_be_starting_is_waited_for() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let (notes, id) = noted(&backend, &flink).await;
    flink.answer(JARS, [jar_of(&id)]);
    let unknown = refused(404, "Job could not be found");
    flink.answer(JOB, [unknown, job("RUNNING", "RUNNING"), job("FINISHED", "FINISHED")]);
    let resumed = backend.resume(bounded(), on(&flink), notes.first().cloned()).await;
    assert!(matches!(resumed.end().await, Outcome::Done));
    assert_eq!(flink.seen(DELETE).last().unwrap().path, "/jars/2_mine.jar");
    assert_eq!(resumed.listener.notes.lock().unwrap().last(), notes.last());
}

#[tokio::test]
async fn a_job_that_flink_has_not_started_has_failed() {
    let patience = Patience { submitting: Duration::from_millis(10), ..Patience::default() };
    let (backend, flink) = (Backend::with_patience(patience), ScriptedFlink::start().await);
    let (notes, _) = noted(&backend, &flink).await;
    flink.answer(JOB, [refused(404, "Job could not be found")]);
    let fault = backend.resume(bounded(), on(&flink), notes.first().cloned()).await.failure().await;
    assert!(fault.message.contains("Flink has not done so; run it again"), "{fault}");
}

#[tokio::test]
async fn a_job_can_be_cancelled_before_it_is_found() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let (notes, _) = noted(&backend, &flink).await;
    flink.answer(JARS, [ok(json!({ "files": [] }))]);
    flink.answer(JOB, [refused(404, "Job could not be found")]);
    let resumed = backend.resume(bounded(), on(&flink), notes.first().cloned()).await;
    resumed.result.cancel();
    assert!(matches!(resumed.end().await, Outcome::Cancelled));
    assert_eq!(flink.seen(CANCEL).len(), 1);
}

#[tokio::test]
async fn a_savepoint_that_was_asked_for_is_told_of() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    flink.answer(STOP, [Answer::Json(202, json!({ "request-id": "r7" }))]);
    flink.answer(SAVEPOINT, [ok(json!({ "status": { "id": "IN_PROGRESS" }, "operation": null }))]);
    let unbounded = || impulse(is_bounded::Enum::Unbounded);
    let first = backend.run(unbounded(), on(&flink)).await;
    first.result.drain().unwrap();
    flink.wait_for(SAVEPOINT).await;
    let note = first.listener.notes.lock().unwrap().last().cloned();

    let done = json!({ "status": { "id": "COMPLETED" }, "operation": { "location": "s3://sp" } });
    flink.answer(SAVEPOINT, [ok(done)]);
    flink.answer(JOB, [job("RUNNING", "RUNNING"), job("FINISHED", "FINISHED")]);
    let second = backend.resume(unbounded(), on(&flink), note).await;
    // As the job service does with a job that was draining.
    second.result.drain().unwrap();
    assert!(matches!(second.end().await, Outcome::Drained));
    assert!(second.listener.message_with(Importance::Basic, "the savepoint is s3://sp").is_some());
    assert_eq!(flink.seen(STOP).len(), 1);
    first.result.cancel();
}

#[tokio::test]
async fn other_backends_jobs_are_not_taken() {
    let backend = Backend::new();
    let job = ResumedJob {
        job_id: JOB_ID.to_owned(),
        job_name: String::new(),
        pipeline: bounded(),
        options: PipelineOptions::default(),
        note: None,
        listener: std::sync::Arc::new(Heard::default()),
    };
    assert!(backend.runner.resume("native", job).await.is_none());
    assert_eq!(backend.runner.outlives_server(&PipelineOptions::default()), Some("flink"));
}
