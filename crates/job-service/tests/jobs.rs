//! The life of a job as a client sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use beam_model::job_management::job_state::Enum as State;
use beam_model::job_management::*;
use beam_model::pipeline::{MonitoringInfo, Pipeline};
use prost_types::{Struct, Value, value::Kind};
use runner_core::backend::{Importance, MetricResults, Outcome, Refusal};
use runner_core::fault::Fault;
use support::{TestServer, soon};
use tonic::Code;

/// How long the Python client waits for the message stream to end after that of states.
const CLIENT_WAITS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_job_from_prepare_to_done() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(Pipeline::default()).await.unwrap();
    assert!(prepared.artifact_staging_endpoint.unwrap().url.starts_with("127.0.0.1:"));
    let id = client.run(&prepared.preparation_id).await.unwrap();
    assert_ne!(id, prepared.preparation_id);
    assert_eq!(client.state(&id).await.unwrap(), State::Starting);

    let job = server.next_job().await;
    assert_eq!(job.invocation.job_id, id);
    job.invocation.listener.running();
    assert_eq!(client.state(&id).await.unwrap(), State::Running);
    job.invocation.listener.message(Importance::Basic, "half way".into());
    job.result.finish(Outcome::Done);
    let states = ["STOPPED", "STARTING", "RUNNING", "DONE"];
    assert_eq!(client.states(&id).await, states);
    assert_eq!(
        client.messages(&id).await,
        ["STOPPED", "STARTING", "RUNNING", "JOB_MESSAGE_BASIC: half way", "DONE"]
    );
    assert_eq!(client.state(&id).await.unwrap(), State::Done);
}

#[tokio::test]
async fn the_users_error_is_the_last_one_before_failed() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (id, job) = server.started_job(&mut client).await;
    job.invocation.listener.running();
    job.invocation.listener.message(Importance::Error, "attempt 1 failed".into());
    job.result.finish(Outcome::Failed(Fault::user("ValueError: seven")));
    assert_eq!(
        client.messages(&id).await,
        [
            "STOPPED",
            "STARTING",
            "RUNNING",
            "JOB_MESSAGE_ERROR: attempt 1 failed",
            "JOB_MESSAGE_ERROR: ValueError: seven",
            "FAILED"
        ]
    );
    job.invocation.listener.message(Importance::Error, "a late log line".into());
    assert_eq!(client.messages(&id).await.last().unwrap(), "FAILED");
}

#[tokio::test]
async fn streams_opened_before_the_end_close_right_after_it() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (id, job) = server.started_job(&mut client).await;
    let waiting = tokio::spawn({
        let (mut client, id) = (client.clone(), id.clone());
        async move { (client.messages(&id).await, Instant::now()) }
    });
    let states = tokio::spawn({
        let (mut client, id) = (client.clone(), id.clone());
        async move { (client.states(&id).await, Instant::now()) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished() && !states.is_finished());
    let ended = Instant::now();
    job.result.finish(Outcome::Done);
    let (messages, closed) = soon(waiting).await.unwrap();
    let (states, states_closed) = soon(states).await.unwrap();
    assert_eq!(messages, ["STOPPED", "STARTING", "RUNNING", "DONE"]);
    assert_eq!(states, messages);
    for closed in [closed, states_closed] {
        assert!(closed - ended < CLIENT_WAITS, "{:?}", closed - ended);
    }
}

#[tokio::test]
async fn the_terminal_state_waits_for_the_backend_and_finds_the_metrics_final() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (id, job) = server.started_job(&mut client).await;
    job.invocation.listener.running();
    let info = |name: &str| MonitoringInfo { urn: name.into(), ..MonitoringInfo::default() };
    job.result.metrics.lock().unwrap().attempted = vec![info("early")];
    assert_eq!(client.metrics(&id).await.attempted, [info("early")]);
    assert_eq!(client.state(&id).await.unwrap(), State::Running);
    *job.result.metrics.lock().unwrap() =
        MetricResults { attempted: vec![info("a")], committed: vec![info("c")] };
    job.result.finish(Outcome::Done);
    assert_eq!(client.states(&id).await.last(), Some(&"DONE"));
    // What the backend says later changes nothing.
    *job.result.metrics.lock().unwrap() = MetricResults::default();
    let metrics = client.metrics(&id).await;
    assert_eq!((metrics.attempted, metrics.committed), (vec![info("a")], vec![info("c")]));

    let channel = server.channel("grpc-java-netty/1.60.0").await;
    let mut java = job_service_client(channel);
    let metrics = soon(java.get_job_metrics(GetJobMetricsRequest { job_id: id })).await.unwrap();
    let metrics = metrics.into_inner().metrics.unwrap();
    assert_eq!((metrics.attempted, metrics.committed), (vec![], vec![info("c")]));
}

fn job_service_client(
    channel: tonic::transport::Channel,
) -> job_service_client::JobServiceClient<tonic::transport::Channel> {
    job_service_client::JobServiceClient::new(channel)
}

#[tokio::test]
async fn a_preparation_id_is_no_job_id() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let id = client.prepare(Pipeline::default()).await.unwrap().preparation_id;
    for run in [false, true] {
        if run {
            client.run(&id).await.unwrap();
            server.next_job().await;
        }
        assert_eq!(client.state(&id).await.unwrap_err().code(), Code::NotFound);
        let states = client.jobs.get_state_stream(GetJobStateRequest { job_id: id.clone() });
        assert_eq!(soon(states).await.unwrap_err().code(), Code::NotFound);
        let messages = client.jobs.get_message_stream(JobMessagesRequest { job_id: id.clone() });
        assert_eq!(soon(messages).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.cancel(&id).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn running_an_unknown_preparation_or_one_twice_fails() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let unknown = client.run("prepared-nothing").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("prepared-nothing"), "{unknown}");
    let prepared = client.prepare(Pipeline::default()).await.unwrap();
    let id = client.run(&prepared.preparation_id).await.unwrap();
    server.next_job().await;
    let twice = client.run(&prepared.preparation_id).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    assert!(twice.message().contains(&id), "{twice}");
}

#[tokio::test]
async fn another_client_cancels_a_running_job() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (id, job) = server.started_job(&mut client).await;
    job.invocation.listener.running();
    let mut second = server.client().await;
    assert_eq!(second.cancel(&id).await.unwrap(), State::Cancelling);
    assert_eq!(second.cancel(&id).await.unwrap(), State::Cancelling);
    // Who asks again is heard again; a backend does not mind.
    assert_eq!(job.result.cancels.load(Ordering::SeqCst), 2);
    job.result.finish(Outcome::Cancelled);
    let states = ["STOPPED", "STARTING", "RUNNING", "CANCELLING", "CANCELLED"];
    assert_eq!(client.states(&id).await, states);
    assert_eq!(second.cancel(&id).await.unwrap(), State::Cancelled);
    assert_eq!(client.cancel("no-job").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn draining() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (id, job) = server.started_job(&mut client).await;
    job.invocation.listener.running();
    *job.result.drain_answer.lock().unwrap() = Err(Fault::user("not in this phase"));
    let refused = client.drain(&id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("not in this phase"), "{refused}");
    *job.result.drain_answer.lock().unwrap() = Err(Fault::runner("this backend cannot drain"));
    assert_eq!(client.drain(&id).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(client.state(&id).await.unwrap(), State::Running);
    *job.result.drain_answer.lock().unwrap() = Ok(());
    assert_eq!(client.drain(&id).await.unwrap(), State::Draining);
    job.result.finish(Outcome::Drained);
    assert_eq!(client.states(&id).await, ["STOPPED", "STARTING", "RUNNING", "DRAINING", "DRAINED"]);
    assert_eq!(client.drain(&id).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_backend_that_breaks_down_fails_its_job_alone() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare_named("panic", Pipeline::default()).await.unwrap();
    let id = client.run(&prepared.preparation_id).await.unwrap();
    let messages = client.messages(&id).await;
    assert_eq!(messages.last().unwrap(), "FAILED");
    assert!(
        messages[messages.len() - 2].contains("JOB_MESSAGE_ERROR: a fault of the server"),
        "{messages:?}"
    );
    let (id, job) = server.started_job(&mut client).await;
    job.result.finish(Outcome::Done);
    assert_eq!(client.states(&id).await.last(), Some(&"DONE"));
}

#[tokio::test]
async fn a_refused_pipeline_is_told_as_a_whole() {
    let verdict = |pipeline: &Pipeline| {
        let mut refusal = Refusal::default();
        match pipeline.root_transform_ids.first().map(String::as_str) {
            Some("bad") => refusal.invalid("Map(f)", "reads PCollection x, which nobody writes"),
            Some("new") => {}
            Some("panic") => panic!("while judging"),
            _ => return Ok(()),
        }
        refusal.unsupported("Stateful", "state is not supported");
        refusal.unsupported("Timed", "timers are not supported");
        refusal.into_result()
    };
    let server = TestServer::with(|_| {}, verdict).await;
    let mut client = server.client().await;
    let mut prepare = async |root: &str| {
        let pipeline = Pipeline { root_transform_ids: vec![root.to_owned()], ..Pipeline::default() };
        client.prepare(pipeline).await
    };
    let bad = prepare("bad").await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    for part in ["Map(f): reads PCollection x", "Stateful: state", "Timed: timers"] {
        assert!(bad.message().contains(part), "{}", bad.message());
    }
    assert_eq!(prepare("new").await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(prepare("panic").await.unwrap_err().code(), Code::Internal);
    assert!(prepare("good").await.is_ok());
    let nothing = client.jobs.prepare(PrepareJobRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn jobs_are_listed_by_the_name_that_the_user_gave() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let name = Value { kind: Some(Kind::StringValue("Count words!".into())) };
    let options = Struct { fields: [("beam:option:job_name:v1".into(), name)].into() };
    let request = PrepareJobRequest {
        pipeline: Some(Pipeline { root_transform_ids: vec!["t".into()], ..Pipeline::default() }),
        pipeline_options: Some(options.clone()),
        job_name: "job".into(),
    };
    let prepared = client.jobs.prepare(request).await.unwrap().into_inner();
    let id = client.run(&prepared.preparation_id).await.unwrap();
    assert!(id.starts_with("count-words--"), "{id}");
    let job = server.next_job().await;
    assert_eq!(job.invocation.job_name, "Count words!");
    let jobs = client.jobs.get_jobs(GetJobsRequest {}).await.unwrap().into_inner().job_info;
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        (&jobs[0].job_id, &*jobs[0].job_name, jobs[0].state()),
        (&id, "Count words!", State::Starting)
    );
    assert_eq!(jobs[0].pipeline_options, Some(options));
    let pipeline = client.jobs.get_pipeline(GetJobPipelineRequest { job_id: id }).await.unwrap();
    assert_eq!(pipeline.into_inner().pipeline.unwrap().root_transform_ids, ["t"]);
    assert_eq!(server.service.jobs()[0].name, "Count words!");
}

#[tokio::test]
async fn options_are_described() {
    let server = TestServer::start().await;
    let mut client = server.client().await;
    let options = client.jobs.describe_pipeline_options(DescribePipelineOptionsRequest {}).await.unwrap();
    let options = options.into_inner().options;
    let seen: Vec<_> = options.iter().map(|o| (&*o.name, o.r#type(), &*o.default_value, &*o.group)).collect();
    assert_eq!(
        seen,
        [
            ("parallelism", pipeline_option_type::Enum::Integer, "1", "fake"),
            ("fast", pipeline_option_type::Enum::Boolean, "false", "fake")
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_jobs_at_once() {
    let mut server = TestServer::start().await;
    let mut clients = Vec::new();
    for number in 0..50 {
        let mut client = server.client().await;
        clients.push(tokio::spawn(async move {
            let prepared = client.prepare_named(&format!("n{number}"), Pipeline::default()).await.unwrap();
            let id = client.run(&prepared.preparation_id).await.unwrap();
            let messages = client.messages(&id).await;
            (number, messages, client.states(&id).await, client.metrics(&id).await)
        }));
    }
    for _ in 0..50 {
        let job = server.next_job().await;
        let name = job.invocation.job_name.clone();
        job.invocation.listener.running();
        job.invocation.listener.message(Importance::Basic, name.clone());
        job.result.metrics.lock().unwrap().committed =
            vec![MonitoringInfo { urn: name, ..MonitoringInfo::default() }];
        job.result.finish(Outcome::Done);
    }
    for client in clients {
        let (number, messages, states, metrics) = soon(client).await.unwrap();
        assert!(messages.contains(&format!("JOB_MESSAGE_BASIC: n{number}")), "{messages:?}");
        assert_eq!(states.last(), Some(&"DONE"));
        assert_eq!(metrics.committed[0].urn, format!("n{number}"));
    }
}

#[tokio::test]
async fn shutdown_cancels_what_runs_and_takes_nothing_new() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let prepared = client.prepare(Pipeline::default()).await.unwrap();
    let (id, job) = server.started_job(&mut client).await;
    let service = server.service.clone();
    let down = tokio::spawn(async move { service.shutdown().await });
    job.result.wait_for_cancel().await;
    assert!(!down.is_finished());
    let late = client.prepare(Pipeline::default()).await.unwrap_err();
    assert_eq!(late.code(), Code::Unavailable);
    assert_eq!(client.run(&prepared.preparation_id).await.unwrap_err().code(), Code::NotFound);
    job.result.finish(Outcome::Cancelled);
    soon(down).await.unwrap();
    assert_eq!(client.states(&id).await.last(), Some(&"CANCELLED"));
    assert_eq!(std::fs::read_dir(server.artifacts.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let configure =
        |config: &mut job_service::JobServiceConfig| config.shutdown_timeout = Duration::from_millis(100);
    let mut server = TestServer::with(configure, |_| Ok(())).await;
    let mut client = server.client().await;
    let (_, job) = server.started_job(&mut client).await;
    soon(server.service.shutdown()).await;
    assert_eq!(job.result.cancels.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_is_idle_only_without_jobs() {
    let mut server = TestServer::start().await;
    let mut client = server.client().await;
    let (_, job) = server.started_job(&mut client).await;
    let service = server.service.clone();
    let idle = tokio::spawn(async move { service.idle_for(Duration::from_millis(50)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!idle.is_finished());
    job.result.finish(Outcome::Done);
    soon(idle).await.unwrap();
}
