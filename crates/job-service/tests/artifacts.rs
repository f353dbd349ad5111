//! Staging, as clients do it and as they should not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]

mod support;

use std::io::Read;
use std::time::Duration;

use beam_model::job_management::artifact_request_wrapper::Request;
use beam_model::job_management::artifact_response_wrapper::Response;
use beam_model::job_management::*;
use beam_model::pipeline::{
    ArtifactFilePayload, ArtifactInformation, ArtifactStagingToRolePayload, EmbeddedFilePayload, Pipeline,
    PyPiPayload,
};
use beam_model::urns::standard_artifacts::{roles, types};
use prost::Message;
use runner_core::backend::Outcome;
use support::{Client, TestServer, pipeline_with, soon};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// SHA-256 of `hello`.
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn artifact(path: &str, sha256: &str, staged_name: &str) -> ArtifactInformation {
    let (path, sha256) = (path.to_owned(), sha256.to_owned());
    let role = ArtifactStagingToRolePayload { staged_name: staged_name.to_owned() };
    ArtifactInformation {
        type_urn: types::FILE.into(),
        type_payload: ArtifactFilePayload { path, sha256 }.encode_to_vec().into(),
        role_urn: roles::STAGING_TO.into(),
        role_payload: role.encode_to_vec().into(),
    }
}

/// A staging stream of a client.
struct Stream {
    responses: mpsc::Sender<ArtifactResponseWrapper>,
    requests: Streaming<ArtifactRequestWrapper>,
}

impl Stream {
    async fn open(client: &mut Client, token: &str) -> Self {
        let (responses, outgoing) = mpsc::channel(16);
        let first = ArtifactResponseWrapper { staging_token: token.to_owned(), ..Default::default() };
        responses.send(first).await.unwrap();
        let call = client.staging.reverse_artifact_retrieval_service(ReceiverStream::new(outgoing));
        let requests = soon(call).await.unwrap().into_inner();
        Self { responses, requests }
    }

    async fn request(&mut self) -> Result<Option<Request>, Status> {
        Ok(soon(self.requests.message()).await?.map(|wrapper| wrapper.request.unwrap()))
    }

    async fn send(&mut self, response: Response, is_last: bool) {
        let response = ArtifactResponseWrapper { response: Some(response), is_last, ..Default::default() };
        self.responses.send(response).await.unwrap();
    }

    async fn send_bytes(&mut self, data: &[u8], is_last: bool) {
        let chunk = GetArtifactResponse { data: data.to_vec().into() };
        self.send(Response::GetArtifactResponse(chunk), is_last).await;
    }
}

/// Stages as the Python client does: artifacts resolve to themselves, the content of a file is its path.
async fn stage(client: &mut Client, token: &str) -> Result<usize, Status> {
    let mut stream = Stream::open(client, token).await;
    let mut sent = 0;
    while let Some(request) = stream.request().await? {
        match request {
            Request::ResolveArtifact(ResolveArtifactsRequest { artifacts, .. }) => {
                let response = ResolveArtifactsResponse { replacements: artifacts };
                stream.send(Response::ResolveArtifactResponse(response), false).await;
            }
            Request::GetArtifact(request) => {
                let payload = request.artifact.unwrap().type_payload;
                for byte in ArtifactFilePayload::decode(payload).unwrap().path.as_bytes() {
                    stream.send_bytes(&[*byte], false).await;
                }
                stream.send_bytes(b"", true).await;
                sent += 1;
            }
        }
    }
    Ok(sent)
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that: {what}");
}

#[tokio::test]
async fn staged_artifacts_reach_the_job_and_go_with_it() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (hello, other) = (artifact("hello", HELLO, "a.txt"), artifact("other", "", "dir/b.txt"));
    let pipeline = pipeline_with(&[&[hello.clone(), other], std::slice::from_ref(&hello), &[]]);
    let prepared = client.prepare(pipeline).await.unwrap();
    let sent = stage(&mut client, &prepared.staging_session_token).await.unwrap();
    assert_eq!((sent, server.stored_files()), (2, 2), "an artifact of two environments is sent once");

    let id = client.run(&prepared.preparation_id).await.unwrap();
    let job = server.next_job().await;
    let environments = job.invocation.pipeline.components.clone().unwrap().environments;
    assert!(environments["env2"].dependencies.is_empty());
    let dependency = environments["env1"].dependencies[0].clone();
    let payload = ArtifactFilePayload::decode(dependency.type_payload.clone()).unwrap();
    assert_eq!((payload.path, &*payload.sha256), (format!("{id}/{HELLO}"), HELLO));
    assert_eq!(
        (dependency.role_urn.clone(), dependency.role_payload.clone()),
        (hello.role_urn, hello.role_payload)
    );
    let mut text = String::new();
    job.invocation.artifacts.open(&dependency).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");

    job.result.finish(Outcome::Done);
    assert_eq!(client.states(&id).await.last(), Some(&"DONE"));
    eventually("the files are removed", || server.stored_files() == 0).await;
    assert!(job.invocation.artifacts.open(&dependency).is_err());
}

#[tokio::test]
async fn a_job_opens_its_own_artifacts_only() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let mut jobs = Vec::new();
    for content in ["one", "two"] {
        let prepared = client.prepare(pipeline_with(&[&[artifact(content, "", "f")]])).await.unwrap();
        stage(&mut client, &prepared.staging_session_token).await.unwrap();
        client.run(&prepared.preparation_id).await.unwrap();
        jobs.push(server.next_job().await.invocation);
    }
    let of = |job: usize| {
        jobs[job].pipeline.components.as_ref().unwrap().environments["env0"].dependencies[0].clone()
    };
    assert!(jobs[0].artifacts.open(&of(0)).is_ok());
    assert!(jobs[0].artifacts.open(&of(1)).is_err());
    let hash_of_two = ArtifactFilePayload::decode(of(1).type_payload).unwrap().sha256;
    for path in [
        format!("{}/{hash_of_two}", jobs[0].job_id),
        format!("{}/../{}/{hash_of_two}", jobs[0].job_id, jobs[1].job_id),
        "/etc/passwd".to_owned(),
        format!("{}//etc/passwd", jobs[0].job_id),
    ] {
        let error = jobs[0].artifacts.open(&artifact(&path, "", "f")).err().unwrap();
        assert!(error.message.contains("none of those that were staged"), "{error}");
    }
}

#[tokio::test]
async fn equal_artifacts_of_two_jobs_are_one_file_until_both_have_ended() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let prepared = client.prepare(pipeline_with(&[&[artifact("same", "", "f")]])).await.unwrap();
        stage(&mut client, &prepared.staging_session_token).await.unwrap();
        let id = client.run(&prepared.preparation_id).await.unwrap();
        jobs.push((id, server.next_job().await));
    }
    assert_eq!(server.stored_files(), 1);
    jobs[0].1.result.finish(Outcome::Done);
    client.states(&jobs[0].0).await;
    assert_eq!(server.stored_files(), 1);
    jobs[1].1.result.finish(Outcome::Done);
    client.states(&jobs[1].0).await;
    eventually("the file is removed", || server.stored_files() == 0).await;
}

#[tokio::test]
async fn a_wrong_hash_is_refused_by_name() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(pipeline_with(&[&[artifact("not hello", HELLO, "a.txt")]])).await.unwrap();
    let error = stage(&mut client, &prepared.staging_session_token).await.unwrap_err();
    assert_eq!(error.code(), Code::DataLoss);
    assert!(error.message().contains("\"a.txt\"") && error.message().contains(HELLO), "{error}");
    eventually("nothing is left", || server.stored_files() == 0).await;
    let error = client.run(&prepared.preparation_id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("damaged"), "{error}");
}

#[tokio::test]
async fn names_that_escape_are_refused() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    for name in ["../evil", "/etc/evil", "a/../../b", ""] {
        let prepared = client.prepare(pipeline_with(&[&[artifact("x", "", name)]])).await.unwrap();
        let error = stage(&mut client, &prepared.staging_session_token).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{name}");
        assert!(error.message().contains(&format!("{name:?}")), "{error}");
    }
    assert_eq!(server.stored_files(), 0);
}

#[tokio::test]
async fn an_unknown_token_is_refused() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(Pipeline::default()).await.unwrap();
    for token in ["", "guessed", &prepared.preparation_id] {
        assert_eq!(stage(&mut client, token).await.unwrap_err().code(), Code::NotFound, "{token}");
    }
    assert_eq!(stage(&mut client, &prepared.staging_session_token).await.unwrap(), 0);
    client.run(&prepared.preparation_id).await.unwrap();
    server.next_job().await;
    let late = stage(&mut client, &prepared.staging_session_token).await.unwrap_err();
    assert_eq!(late.code(), Code::NotFound);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_and_may_come_back() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let pipeline = pipeline_with(&[&[artifact("first", "", "1"), artifact("second", "", "2")]]);
    let prepared = client.prepare(pipeline).await.unwrap();
    let token = prepared.staging_session_token;

    let mut stream = Stream::open(&mut client, &token).await;
    let Some(Request::ResolveArtifact(request)) = stream.request().await.unwrap() else { panic!() };
    let response = ResolveArtifactsResponse { replacements: request.artifacts };
    stream.send(Response::ResolveArtifactResponse(response), false).await;
    assert!(matches!(stream.request().await.unwrap(), Some(Request::GetArtifact(_))));
    stream.send_bytes(b"first", true).await;
    assert!(matches!(stream.request().await.unwrap(), Some(Request::GetArtifact(_))));
    stream.send_bytes(b"sec", false).await;
    eventually("one file and a part are there", || server.stored_files() == 2).await;
    // While one client stages, no other may.
    assert_eq!(stage(&mut client, &token).await.unwrap_err().code(), Code::FailedPrecondition);
    drop(stream);
    eventually("the files are removed", || server.stored_files() == 0).await;
    let error = client.run(&prepared.preparation_id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("went away"), "{error}");

    assert_eq!(stage(&mut client, &token).await.unwrap(), 2);
    client.run(&prepared.preparation_id).await.unwrap();
    server.next_job().await;
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(pipeline_with(&[&[artifact("x", "", "x")]])).await.unwrap();
    let mut stream = Stream::open(&mut client, &prepared.staging_session_token).await;
    assert!(matches!(stream.request().await.unwrap(), Some(Request::ResolveArtifact(_))));
    stream.send_bytes(b"what?", true).await;
    assert_eq!(stream.request().await.unwrap_err().code(), Code::InvalidArgument);

    let garbage = ArtifactInformation {
        type_urn: types::FILE.into(),
        type_payload: vec![0xff].into(),
        ..Default::default()
    };
    let prepared = client.prepare(pipeline_with(&[&[garbage]])).await.unwrap();
    let error = stage(&mut client, &prepared.staging_session_token).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn run_waits_for_a_staging_that_is_under_way() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(pipeline_with(&[&[artifact("x", "", "x")]])).await.unwrap();
    let mut stream = Stream::open(&mut client, &prepared.staging_session_token).await;
    assert!(stream.request().await.unwrap().is_some());
    let run = tokio::spawn({
        let (mut client, id) = (client.clone(), prepared.preparation_id.clone());
        async move { client.run(&id).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!run.is_finished());
    let response = ResolveArtifactsResponse { replacements: Vec::new() };
    stream.send(Response::ResolveArtifactResponse(response), false).await;
    assert!(stream.request().await.unwrap().is_none());
    soon(run).await.unwrap().unwrap();
    let job = server.next_job().await;
    let environments = job.invocation.pipeline.components.unwrap().environments;
    assert!(environments["env0"].dependencies.is_empty());
}

#[tokio::test]
async fn without_staging_embedded_artifacts_work_and_files_do_not() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let embedded = ArtifactInformation {
        type_urn: types::EMBEDDED.into(),
        type_payload: EmbeddedFilePayload { data: "hello".into() }.encode_to_vec().into(),
        ..artifact("", "", "f")
    };
    client.submit(pipeline_with(&[std::slice::from_ref(&embedded)])).await;
    let job = server.next_job().await.invocation;
    let environments = job.pipeline.components.unwrap().environments;
    let dependency = environments["env0"].dependencies[0].clone();
    assert_eq!(ArtifactFilePayload::decode(dependency.type_payload.clone()).unwrap().sha256, HELLO);
    assert!(job.artifacts.open(&dependency).is_ok());

    let pipeline = pipeline_with(&[&[embedded, artifact("x", "", "needed.jar")]]);
    let prepared = client.prepare(pipeline).await.unwrap();
    let error = client.run(&prepared.preparation_id).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("needed.jar"), "{error}");
}

#[tokio::test]
async fn artifacts_of_the_registries_are_left_to_the_workers() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let package = ArtifactInformation {
        type_urn: types::PYPI.into(),
        type_payload: PyPiPayload { artifact_id: "numpy".into(), version: "2".into() }.encode_to_vec().into(),
        ..artifact("", "", "numpy")
    };
    let prepared = client.prepare(pipeline_with(&[std::slice::from_ref(&package)])).await.unwrap();
    assert_eq!(stage(&mut client, &prepared.staging_session_token).await.unwrap(), 0);
    client.run(&prepared.preparation_id).await.unwrap();
    let pipeline = server.next_job().await.invocation.pipeline;
    assert_eq!(pipeline.components.unwrap().environments["env0"].dependencies, [package]);
}

#[tokio::test]
async fn kept_artifacts_stay() {
    let configure = |config: &mut job_service::JobServiceConfig| config.clean_artifacts_per_job = false;
    let mut server = TestServer::with(configure, |_| Ok(())).await;
    let mut client = server.client().await;
    let prepared = client.prepare(pipeline_with(&[&[artifact("kept", "", "f")]])).await.unwrap();
    stage(&mut client, &prepared.staging_session_token).await.unwrap();
    let id = client.run(&prepared.preparation_id).await.unwrap();
    server.next_job().await.result.finish(Outcome::Done);
    client.states(&id).await;
    server.service.shutdown().await;
    assert_eq!(server.stored_files(), 1);
}
