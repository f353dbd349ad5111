//! What becomes of a job on the cluster, and how it is told.

use std::time::Duration;

use beam_model::pipeline::is_bounded;
use runner_core::backend::{Importance, Outcome};
use runner_core::fault::Blame;
use serde_json::{Value, json};
use translators::flink::Patience;

use super::scripted_flink::*;
use super::support::*;

async fn run(backend: &Backend, flink: &ScriptedFlink) -> Job {
    backend.run(bounded(), options(&[("flink_master", &flink.address)])).await
}

const COUNTER: &str = r#"{ "metrics": { "attempted": [{
    "urn": "beam:metric:user:sum_int64:v1", "type": "beam:metrics:sum_int64:v1", "payload": "Kg==",
    "labels": { "NAME": "n", "NAMESPACE": "s", "PTRANSFORM": "t" }, "newerField": [1] }] } }"#;

#[tokio::test]
async fn metrics_come_from_the_accumulator_and_are_committed_with_the_job() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let accumulators = json!({ "user-task-accumulators": [
        { "name": "other", "type": "IntCounter", "value": "3" },
        { "name": "__metricscontainers", "type": "MetricsContainerStepMapAccumulator", "value": COUNTER },
    ] });
    flink.answer(ACCUMULATORS, [ok(accumulators)]);
    let job = run(&backend, &flink).await;
    assert!(matches!(job.end().await, Outcome::Done));
    let metrics = job.result.metrics();
    assert_eq!(metrics.attempted.len(), 1);
    let counter = &metrics.attempted[0];
    assert_eq!((counter.urn.as_str(), &counter.payload[..]), ("beam:metric:user:sum_int64:v1", &[42_u8][..]));
    assert_eq!(counter.labels["PTRANSFORM"], "Impulse");
    assert_eq!(metrics.committed, metrics.attempted);
}

/// Flink shows a job as it was when somebody last looked; its metrics are read when it is shown as it ended.
#[tokio::test]
async fn metrics_are_those_of_the_end() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let old = job("RUNNING", "RUNNING");
    flink.answer(DETAILS, [old.clone(), old, job("FINISHED", "FINISHED")]);
    let job = run(&backend, &flink).await;
    assert!(matches!(job.end().await, Outcome::Done));
    let seen = flink.all_seen();
    let when = |what: &str| {
        seen.iter().enumerate().filter(|(_, seen)| seen.what == what).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (looks, readings) = (when(DETAILS), when(ACCUMULATORS));
    assert_eq!((looks.len(), readings.len()), (3, 1));
    assert!(readings[0] > looks[2], "{looks:?} {readings:?}");
}

#[tokio::test]
async fn counts_of_a_job_that_was_restarted_are_attempts() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let restarted = |state: &str| {
        let tasks = json!([{ "parallelism": 1, "tasks": { "RUNNING": 1 } }]);
        ok(json!({ "state": state, "timestamps": { "RESTARTING": 1700 }, "vertices": tasks }))
    };
    flink.answer(JOB, [restarted("RUNNING"), restarted("FINISHED")]);
    let trace = "a.A: lost\n\tat x\nCaused by: b.B: TaskManager is gone\n\tat y\n";
    let history = json!([{ "exceptionName": "a.A", "stacktrace": trace, "timestamp": 1, "taskName": "Map" }]);
    flink.answer(
        EXCEPTIONS,
        [ok(json!({ "root-exception": null, "exceptionHistory": { "entries": history } }))],
    );
    let accumulator = json!({ "name": "__metricscontainers", "type": "x", "value": COUNTER });
    flink.answer(ACCUMULATORS, [ok(json!({ "user-task-accumulators": [accumulator] }))]);
    let job = run(&backend, &flink).await;
    assert!(matches!(job.end().await, Outcome::Done));
    let told = job.listener.message_with(Importance::Warning, "restarts the job").unwrap();
    assert!(told.contains("Flink task Map: b.B: TaskManager is gone"), "{told}");
    let metrics = job.result.metrics();
    assert_eq!((metrics.attempted.len(), metrics.committed.len()), (1, 0));
}

#[tokio::test]
async fn the_users_exception_is_the_jobs() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING"), job("FAILING", "CANCELING"), job("FAILED", "FAILED")]);
    let trace = "org.apache.flink.runtime.JobException: Recovery is suppressed\n\tat x\nCaused by: \
                 java.lang.RuntimeException: Error received from SDK harness for instruction 3: \
                 Traceback (most recent call last):\n  File \"wc.py\", line 2\nValueError: boom\n\n\tat y\n";
    let history =
        json!([{ "exceptionName": "x", "stacktrace": trace, "timestamp": 1, "taskName": "[1]Split (1/1)" }]);
    flink.answer(
        EXCEPTIONS,
        [ok(json!({ "root-exception": trace, "exceptionHistory": { "entries": history } }))],
    );
    let fault = run(&backend, &flink).await.failure().await;
    assert_eq!(fault.blame, Blame::User);
    assert_eq!(
        fault.message,
        "Flink task [1]Split (1/1): Traceback (most recent call last):\n  File \"wc.py\", line 2\nValueError: boom"
    );
}

#[tokio::test]
async fn a_full_cluster_is_told_and_the_job_can_be_cancelled() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "SCHEDULED")]);
    let overview = json!({ "taskmanagers": 1, "slots-total": 4, "slots-available": 1, "jobs-running": 3 });
    flink.answer(OVERVIEW, [ok(overview)]);
    let job_ = run(&backend, &flink).await;
    let told = job_.wait_for_message(Importance::Warning, "no slots").await;
    assert!(
        told.contains("waits for 2") && told.contains("4 of the cluster's 1 TaskManagers 1 are free"),
        "{told}"
    );
    assert_eq!(*job_.listener.running.lock().unwrap(), 0);
    job_.result.cancel();
    flink.wait_for(CANCEL).await;
    flink.answer(JOB, [job("CANCELLING", "CANCELING"), job("CANCELED", "CANCELED")]);
    assert!(matches!(job_.end().await, Outcome::Cancelled));
    assert_eq!(flink.seen(CANCEL).len(), 1);
}

#[tokio::test]
async fn a_cluster_that_comes_back_goes_on() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    let away = refused(503, "no leader");
    flink.answer(JOB, [job("RUNNING", "RUNNING"), away.clone(), away, job("FINISHED", "FINISHED")]);
    let job = run(&backend, &flink).await;
    assert!(matches!(job.end().await, Outcome::Done));
    assert!(job.listener.message_with(Importance::Warning, "no leader; asking again for 300 s").is_some());
    assert!(job.listener.message_with(Importance::Basic, "answers again").is_some());
}

#[tokio::test]
async fn a_cluster_that_is_gone_or_has_lost_the_job_fails_it() {
    let short = Duration::from_millis(300);
    let patience = Patience { running: short, job_unknown: short, ..Patience::default() };
    for (answer, words) in [
        (refused(503, "no leader"), "has been away"),
        (refused(404, "Job could not be found."), "no longer knows job"),
        (
            refused(
                500,
                "<Exception on server side:\norg.apache.flink.runtime.messages.FlinkJobNotFoundException: Could not find",
            ),
            "no longer knows job",
        ),
    ] {
        let (backend, flink) = (Backend::with_patience(patience.clone()), ScriptedFlink::start().await);
        flink.answer(JOB, [job("RUNNING", "RUNNING"), answer]);
        let fault = run(&backend, &flink).await.failure().await;
        assert_eq!(fault.blame, Blame::Environment);
        assert!(fault.message.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn a_job_cancelled_elsewhere_is_cancelled() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING"), job("CANCELED", "CANCELED")]);
    assert!(matches!(run(&backend, &flink).await.end().await, Outcome::Cancelled));
}

#[tokio::test]
async fn a_streaming_job_is_drained_with_a_savepoint() {
    for (how, closes_windows) in [("savepoint", false), ("end", true)] {
        drain_with_a_savepoint(how, closes_windows).await;
    }
}

async fn drain_with_a_savepoint(how: &str, closes_windows: bool) {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    flink.answer(STOP, [Answer::Json(202, json!({ "request-id": "cafe" }))]);
    let progress = |id: &str, operation| ok(json!({ "status": { "id": id }, "operation": operation }));
    let done = progress("COMPLETED", json!({ "location": "file:/s/1" }));
    flink.answer(SAVEPOINT, [progress("IN_PROGRESS", Value::Null), done]);
    let given = options(&[
        ("flink_master", &flink.address),
        ("flink_savepoint_target", "file:/s"),
        ("flink_drain", how),
    ]);
    let draining = backend.run(impulse(is_bounded::Enum::Unbounded), given).await;
    flink.wait_for(JOB).await;
    draining.result.drain().unwrap();
    draining.wait_for_message(Importance::Basic, "stopped; the savepoint is file:/s/1").await;
    flink.answer(JOB, [job("FINISHED", "FINISHED")]);
    assert!(matches!(draining.end().await, Outcome::Drained));
    let stop: Value = serde_json::from_slice(&flink.seen(STOP)[0].body).unwrap();
    assert_eq!(stop, json!({ "drain": closes_windows, "targetDirectory": "file:/s" }));
    assert_eq!(flink.seen(STOP).len(), 1);
}

/// The job is seen to have ended before anybody has asked for its savepoint again.
#[tokio::test]
async fn a_savepoint_is_told_of_after_the_end_too() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    flink.answer(STOP, [Answer::Json(202, json!({ "request-id": "cafe" }))]);
    flink.answer(SAVEPOINT, [ok(json!({ "status": { "id": "IN_PROGRESS" } }))]);
    let unbounded = impulse(is_bounded::Enum::Unbounded);
    let draining = backend.run(unbounded, options(&[("flink_master", &flink.address)])).await;
    flink.wait_for(JOB).await;
    draining.result.drain().unwrap();
    flink.wait_for(SAVEPOINT).await;
    flink.answer(JOB, [job("FINISHED", "FINISHED")]);
    flink.wait_for(ACCUMULATORS).await;
    let operation = json!({ "location": "file:/s/1" });
    flink.answer(SAVEPOINT, [ok(json!({ "status": { "id": "COMPLETED" }, "operation": operation }))]);
    assert!(matches!(draining.end().await, Outcome::Drained));
    assert!(
        draining.listener.message_with(Importance::Basic, "stopped; the savepoint is file:/s/1").is_some()
    );
}

#[tokio::test]
async fn a_drain_that_fails_is_told_and_the_job_runs_on() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    flink.answer(STOP, [refused(400, "Config key [state.savepoints.dir] is not set")]);
    let unbounded = impulse(is_bounded::Enum::Unbounded);
    let draining = backend.run(unbounded, options(&[("flink_master", &flink.address)])).await;
    flink.wait_for(JOB).await;
    draining.result.drain().unwrap();
    draining.wait_for_message(Importance::Warning, "state.savepoints.dir").await;
    flink.answer(JOB, [job("FINISHED", "FINISHED")]);
    assert!(matches!(draining.end().await, Outcome::Done));
}

#[tokio::test]
async fn a_bounded_job_is_not_drained() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    let job_ = run(&backend, &flink).await;
    flink.wait_for(JOB).await;
    assert!(job_.result.drain().unwrap_err().message.contains("streaming"));
    job_.result.cancel();
    flink.wait_for(CANCEL).await;
    flink.answer(JOB, [job("CANCELED", "CANCELED")]);
    assert!(matches!(job_.end().await, Outcome::Cancelled));
}

#[tokio::test]
async fn a_detached_job_is_done_as_soon_as_it_runs() {
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    flink.answer(JOB, [job("CREATED", "SCHEDULED"), job("RUNNING", "SCHEDULED"), job("RUNNING", "RUNNING")]);
    let given = options(&[("flink_master", &flink.address), ("detached", "true")]);
    let detached = backend.run(bounded(), given).await;
    assert!(matches!(detached.end().await, Outcome::Done));
    let id = translators::flink::flink_job_id(JOB_ID);
    assert!(flink.seen(JOB)[0].path.contains(&id));
    let told = format!("Flink job {id} runs at {}", flink.address);
    assert!(detached.listener.message_with(Importance::Basic, &told).is_some());
    assert!(flink.seen(CANCEL).is_empty() && flink.seen(DELETE).len() == 1);
}
