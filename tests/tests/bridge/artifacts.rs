//! What a worker gets besides work, and what it does not get.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::fn_execution::GetProvisionInfoRequest;
use beam_model::fn_execution::beam_fn_control_client::BeamFnControlClient;
use beam_model::fn_execution::provision_service_client::ProvisionServiceClient;
use beam_model::job_management::artifact_retrieval_service_client::ArtifactRetrievalServiceClient;
use beam_model::job_management::{GetArtifactRequest, ResolveArtifactsRequest};
use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation};
use beam_model::urns::standard_artifacts::types;
use beamline_tests::scripted_harness::{Script, ScriptedHarness};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::support::{Bridge, Files};

fn artifact(path: &str) -> ArtifactInformation {
    let payload = ArtifactFilePayload { path: path.to_owned(), sha256: String::new() };
    ArtifactInformation {
        type_urn: types::FILE.to_owned(),
        type_payload: payload.encode_to_vec().into(),
        ..Default::default()
    }
}

pub(crate) fn as_worker<T>(worker: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(worker) = worker {
        request.metadata_mut().insert("worker_id", worker.parse().unwrap());
    }
    request
}

pub(crate) async fn channel(bridge: &Bridge) -> Channel {
    Endpoint::try_from(format!("http://127.0.0.1:{}", bridge.port)).unwrap().connect().await.unwrap()
}

async fn get(
    channel: &Channel,
    worker: Option<&str>,
    artifact: ArtifactInformation,
) -> Result<Vec<u8>, Status> {
    let request = as_worker(worker, GetArtifactRequest { artifact: Some(artifact) });
    let mut chunks =
        ArtifactRetrievalServiceClient::new(channel.clone()).get_artifact(request).await?.into_inner();
    let mut content = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        assert!(chunk.data.len() <= 1 << 20);
        content.extend_from_slice(&chunk.data);
    }
    Ok(content)
}

#[tokio::test]
async fn workers_get_their_jobs_artifacts_and_no_others() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let files = Files(BTreeMap::from([
        ("one/large".to_owned(), large.clone()),
        ("one/empty".to_owned(), Vec::new()),
        ("two/secret".to_owned(), b"secret".to_vec()),
        ("one/../two/secret".to_owned(), b"secret".to_vec()),
    ]));
    let files = Arc::new(files);
    let one = bridge.job_with("one", &harness.environment(), 1, files.clone());
    let two = bridge.job_with("two", &harness.environment(), 1, files);
    for job in [&one, &two] {
        job.stage("test:dofn:identity").run("a", &["x"]).await.unwrap();
    }
    let channel = channel(&bridge).await;
    assert_eq!(get(&channel, Some("one-0-1"), artifact("one/large")).await.unwrap(), large);
    assert_eq!(get(&channel, None, artifact("one/empty")).await.unwrap(), b"");
    let resolve = ResolveArtifactsRequest { artifacts: vec![artifact("one/large")], ..Default::default() };
    let resolved = ArtifactRetrievalServiceClient::new(channel.clone())
        .resolve_artifacts(as_worker(Some("one-0-1"), resolve.clone()))
        .await
        .unwrap();
    assert_eq!(resolved.into_inner().replacements, resolve.artifacts);

    let url = ArtifactInformation { type_urn: types::URL.to_owned(), ..artifact("one/large") };
    let refused = [
        (Some("one-0-1"), artifact("two/secret"), Code::PermissionDenied),
        (Some("one-0-1"), artifact("one/../two/secret"), Code::PermissionDenied),
        (None, artifact("one/../two/secret"), Code::PermissionDenied),
        (None, artifact("three/x"), Code::PermissionDenied),
        (None, artifact("/etc/passwd"), Code::PermissionDenied),
        (None, artifact("passwd"), Code::PermissionDenied),
        (Some("nobody"), artifact("one/large"), Code::NotFound),
        (Some("one-0-1"), artifact("one/unstaged"), Code::Internal),
        (Some("one-0-1"), url, Code::InvalidArgument),
    ];
    for (worker, artifact, code) in refused {
        let what = format!("{worker:?} {artifact:?}");
        assert_eq!(get(&channel, worker, artifact).await.unwrap_err().code(), code, "{what}");
    }
    one.bundles.close().await;
    two.bundles.close().await;
    assert_eq!(get(&channel, None, artifact("one/large")).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_worker_is_told_what_it_needs_and_a_stranger_nothing() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let bridge = Bridge::start().await;
    let mut environment = harness.environment();
    environment.dependencies = vec![artifact("job/main.py")];
    let job = bridge.job("job", &environment, 1);
    job.stage("test:dofn:identity").run("a", &["x"]).await.unwrap();
    let channel = channel(&bridge).await;
    let mut provision = ProvisionServiceClient::new(channel.clone());
    let info =
        provision.get_provision_info(as_worker(Some("job-0-1"), GetProvisionInfoRequest {})).await.unwrap();
    let info = info.into_inner().info.unwrap();
    let here = format!("127.0.0.1:{}", bridge.port);
    let endpoints =
        [info.control_endpoint, info.logging_endpoint, info.artifact_endpoint, info.status_endpoint];
    assert!(endpoints.into_iter().all(|endpoint| endpoint.unwrap().url == here));
    assert_eq!((info.retrieval_token, info.dependencies), ("job".to_owned(), environment.dependencies));
    assert_eq!(info.metadata["job_name"], "a job");

    for (worker, code) in [(Some("nobody"), Code::NotFound), (None, Code::InvalidArgument)] {
        let request = as_worker(worker, GetProvisionInfoRequest {});
        assert_eq!(provision.get_provision_info(request).await.unwrap_err().code(), code);
        let control = as_worker(worker, tokio_stream::empty());
        let refused = BeamFnControlClient::new(channel.clone()).control(control).await;
        assert_eq!(refused.unwrap_err().code(), code);
    }
    let second = as_worker(Some("job-0-1"), tokio_stream::pending());
    let refused = BeamFnControlClient::new(channel).control(second).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    job.bundles.close().await;
}
