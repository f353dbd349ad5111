//! Jobs that outlive the server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]

mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use beam_model::job_management::GetJobPipelineRequest;
use beam_model::job_management::job_state::Enum as State;
use beam_model::pipeline::{MonitoringInfo, Pipeline};
use runner_core::backend::{Importance, MetricResults, Outcome};
use support::{PATIENCE, TestServer, soon};
use tempfile::TempDir;
use tonic::Code;

async fn server(journals: &Path) -> TestServer {
    let journals = journals.to_owned();
    TestServer::with(
        move |config| {
            config.journal_dir = Some(journals);
            config.history_size = 3;
            config.shutdown_timeout = PATIENCE;
        },
        |_| Ok(()),
    )
    .await
}

/// What is there once the server is killed at this moment.
fn killed(journals: &Path) -> TempDir {
    let left = TempDir::new().unwrap();
    for entry in std::fs::read_dir(journals).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), left.path().join(entry.file_name())).unwrap();
    }
    left
}

fn journals_in(folder: &Path) -> usize {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|suffix| suffix == "journal")).count()
}

fn pipeline() -> Pipeline {
    Pipeline { root_transform_ids: vec!["root".to_owned()], ..Pipeline::default() }
}

#[tokio::test]
async fn a_server_finds_the_jobs_of_one_that_was_killed() {
    let folder = TempDir::new().unwrap();
    let mut first = server(folder.path()).await;
    let mut client = first.client().await;
    let id = client.submit(pipeline()).await;
    let job = first.next_job().await;
    job.invocation.listener.running();
    job.invocation.listener.message(Importance::Basic, "half way".into());
    job.invocation.listener.note("old".into());
    job.invocation.listener.note("where it runs".into());
    let left = killed(folder.path());
    // Nobody sees this.
    job.result.finish(Outcome::Done);

    let mut second = server(left.path()).await;
    let mut client = second.client().await;
    let found = soon(second.resumed.recv()).await.unwrap();
    assert_eq!((found.job.job_id.as_str(), found.job.note.as_deref()), (id.as_str(), Some("where it runs")));
    assert_eq!((found.job.job_name.as_str(), &found.job.pipeline), ("job", &pipeline()));
    assert_eq!(client.state(&id).await.unwrap(), State::Running);
    let request = GetJobPipelineRequest { job_id: id.clone() };
    let told = soon(client.jobs.get_pipeline(request)).await.unwrap().into_inner();
    assert_eq!(told.pipeline, Some(pipeline()));
    found.job.listener.running();
    found.job.listener.message(Importance::Basic, "found again".into());
    let info = MonitoringInfo { urn: "m".into(), ..MonitoringInfo::default() };
    *found.result.metrics.lock().unwrap() =
        MetricResults { attempted: vec![], committed: vec![info.clone()] };
    assert_eq!(client.metrics(&id).await.committed, std::slice::from_ref(&info));
    assert_eq!(client.cancel(&id).await.unwrap(), State::Cancelling);
    found.result.wait_for_cancel().await;
    found.result.finish(Outcome::Cancelled);
    let all = [
        "STOPPED",
        "STARTING",
        "RUNNING",
        "JOB_MESSAGE_BASIC: half way",
        "JOB_MESSAGE_BASIC: found again",
        "CANCELLING",
        "CANCELLED",
    ];
    assert_eq!(client.messages(&id).await, all);

    // One that has ended is history to the next server, with all that was known of it.
    let mut third = server(killed(left.path()).path()).await;
    let mut client = third.client().await;
    assert_eq!(client.messages(&id).await, all);
    assert_eq!(client.metrics(&id).await.committed, [info]);
    assert!(third.resumed.try_recv().is_err());
    assert_eq!(third.service.jobs()[0].name, "job");
    soon(third.service.idle_for(Duration::from_millis(1))).await;
}

#[tokio::test]
async fn what_was_asked_for_is_asked_again() {
    let folder = TempDir::new().unwrap();
    let mut first = server(folder.path()).await;
    let mut client = first.client().await;
    let (id, job) = first.started_job(&mut client).await;
    job.invocation.listener.running();
    client.cancel(&id).await.unwrap();
    let mut second = server(killed(folder.path()).path()).await;
    soon(second.resumed.recv()).await.unwrap().result.wait_for_cancel().await;
}

#[tokio::test]
async fn a_server_that_ends_leaves_what_was_handed_over() {
    let folder = TempDir::new().unwrap();
    let mut first = server(folder.path()).await;
    let mut client = first.client().await;
    let (stays, staying) = first.started_job(&mut client).await;
    let (goes, going) = first.started_job(&mut client).await;
    going.result.handed_over.store(false, Ordering::SeqCst);
    let ending = tokio::spawn({
        let service = first.service.clone();
        async move { service.shutdown().await }
    });
    going.result.wait_for_cancel().await;
    going.result.finish(Outcome::Cancelled);
    soon(ending).await.unwrap();
    assert_eq!(staying.result.cancels.load(Ordering::SeqCst), 0);
    drop((first, staying, going));

    let mut second = server(killed(folder.path()).path()).await;
    assert_eq!(soon(second.resumed.recv()).await.unwrap().job.job_id, stays);
    assert_eq!(second.client().await.state(&goes).await.unwrap(), State::Cancelled);
}

#[tokio::test]
async fn without_a_folder_all_jobs_end_with_the_server() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (_, job) = server.started_job(&mut client).await;
    let ending = tokio::spawn({
        let service = server.service.clone();
        async move { service.shutdown().await }
    });
    job.result.wait_for_cancel().await;
    job.result.finish(Outcome::Cancelled);
    soon(ending).await.unwrap();
}

#[tokio::test]
async fn two_servers_do_not_share_a_folder() {
    let folder = TempDir::new().unwrap();
    let mut first = server(folder.path()).await;
    let mut client = first.client().await;
    let (id, _job) = first.started_job(&mut client).await;
    assert_eq!(journals_in(folder.path()), 1);
    let mut second = server(folder.path()).await;
    assert_eq!(second.client().await.state(&id).await.unwrap_err().code(), Code::NotFound);
    let mut client = second.client().await;
    second.started_job(&mut client).await;
    assert_eq!(journals_in(folder.path()), 1);
}

#[tokio::test]
async fn a_job_whose_backend_is_not_here_stays_written_down() {
    let folder = TempDir::new().unwrap();
    let mut first = server(folder.path()).await;
    let mut client = first.client().await;
    let (id, _job) = first.started_job(&mut client).await;
    let left = killed(folder.path());
    for entry in std::fs::read_dir(left.path()).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read(&path).unwrap();
        let at = text.windows(4).position(|window| window == b"fake");
        if let Some(at) = at {
            let mut text = text;
            text[at..at + 4].copy_from_slice(b"gone");
            std::fs::write(&path, text).unwrap();
        }
    }
    let second = server(left.path()).await;
    assert_eq!(second.client().await.state(&id).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(journals_in(left.path()), 1);
}
