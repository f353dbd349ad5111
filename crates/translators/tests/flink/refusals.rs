//! What is said no to before anything is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{OrderedListStateSpec, ParDoPayload, Pipeline, SetStateSpec, StateSpec};
use beam_model::urns::standard_user_state_types;
use runner_core::backend::{Importance, PortablePipelineRunner, Refusal};
use runner_core::options::PipelineOptions;
use translators::BackendChoice;
use translators::flink::{FlinkConfig, FlinkError, FlinkRunner, JobsOnFlink};

use super::scripted_flink::*;
use super::support::*;

fn refusal(pipeline: &Pipeline, given: &[(&str, &str)]) -> Refusal {
    Backend::new().runner.prepare(pipeline, &options(given)).expect_err("is refused")
}

const ON_A_CLUSTER: (&str, &str) = ("flink_master", "flink:8081");

#[test]
fn good_pipelines_are_accepted() {
    let accepted = Backend::new().runner.prepare(&bounded(), &options(&[ON_A_CLUSTER]));
    assert!(accepted.is_ok(), "{accepted:?}");
    let accepted =
        Backend::new().runner.prepare(&with_pardo(&ParDoPayload::default()), &options(&[ON_A_CLUSTER]));
    assert!(accepted.is_ok(), "{accepted:?}");
}

#[test]
fn what_flink_cannot_do_is_named_and_where_it_runs() {
    let list = StateSpec {
        spec: Some(Spec::OrderedListSpec(OrderedListStateSpec { element_coder_id: "bytes".to_owned() })),
        ..Default::default()
    };
    let keeps_list =
        ParDoPayload { state_specs: BTreeMap::from([("list".to_owned(), list)]), ..Default::default() };
    let expires = ParDoPayload {
        timer_family_specs: BTreeMap::from([("end".to_owned(), Default::default())]),
        on_window_expiration_timer_family_spec: "end".to_owned(),
        ..Default::default()
    };
    let finalizes = ParDoPayload { requests_finalization: true, ..Default::default() };
    let mut own_windows = bounded();
    let components = own_windows.components.as_mut().unwrap();
    components.windowing_strategies.get_mut("global").unwrap().window_fn =
        spec("beam:window_fn:pickled_python:v1");
    for (pipeline, place, words) in [
        (with_pardo(&keeps_list), "Do", "an ordered list as its state \"list\""),
        (with_pardo(&expires), "Do", "when its windows expire"),
        (with_pardo(&finalizes), "Do", "finalizes bundles of a bounded job"),
        (own_windows, "Impulse", "pickled_python"),
    ] {
        let refusal = refusal(&pipeline, &[ON_A_CLUSTER]);
        let [objection] = &refusal.unsupported[..] else { panic!("{refusal:?}") };
        assert_eq!(objection.place, place);
        assert!(objection.reason.contains(words), "{objection:?}");
        assert!(objection.reason.contains("runs on backend native"), "{objection:?}");
    }
}

#[test]
fn a_set_that_its_sdk_keeps_as_a_bag_is_accepted() {
    let with_set = |protocol: &str| {
        let set = StateSpec {
            spec: Some(Spec::SetSpec(SetStateSpec { element_coder_id: "bytes".to_owned() })),
            protocol: spec(protocol),
        };
        with_pardo(&ParDoPayload {
            state_specs: BTreeMap::from([("set".to_owned(), set)]),
            ..Default::default()
        })
    };
    let accepted =
        Backend::new().runner.prepare(&with_set(standard_user_state_types::BAG), &options(&[ON_A_CLUSTER]));
    assert!(accepted.is_ok(), "{accepted:?}");
    let refused = refusal(&with_set(standard_user_state_types::MULTIMAP), &[ON_A_CLUSTER]);
    assert!(refused.unsupported[0].reason.contains("a set as its state"), "{refused:?}");
}

#[tokio::test]
async fn callbacks_that_never_come_are_a_warning() {
    let pipeline = with_pardo(&ParDoPayload { requests_finalization: true, ..Default::default() });
    let (backend, flink) = (Backend::new(), ScriptedFlink::start().await);
    for (interval, is_warned) in [("-1", true), ("3000", false)] {
        let given = options(&[
            ("flink_master", &flink.address),
            ("streaming", "true"),
            ("checkpointing_interval", interval),
        ]);
        assert!(backend.runner.prepare(&pipeline, &given).is_ok());
        let job = backend.run(pipeline.clone(), given).await;
        job.end().await;
        let warning = job.listener.message_with(Importance::Warning, "--checkpointing_interval");
        assert_eq!(warning.is_some_and(|text| text.starts_with("Do finalizes bundles")), is_warned);
    }
}

#[test]
fn a_job_needs_a_cluster_and_a_runner() {
    assert!(refusal(&bounded(), &[]).invalid[0].reason.contains("--flink_master"));
    let nowhere = refusal(&bounded(), &[("flink_master", "nowhere")]);
    assert!(nowhere.invalid[0].reason.contains("\"nowhere\" is no address"), "{nowhere:?}");
    let bare = FlinkRunner::new(FlinkConfig::default()).unwrap();
    let refusal = bare.prepare(&bounded(), &options(&[ON_A_CLUSTER])).unwrap_err();
    assert!(refusal.invalid[0].reason.contains("--flink-runner-jar"), "{refusal:?}");
}

#[test]
fn a_detached_job_needs_workers_that_stay() {
    let loopback = ("environment_type", "LOOPBACK");
    let refused = refusal(&bounded(), &[ON_A_CLUSTER, ("detached", "true"), loopback]);
    assert!(refused.invalid[0].reason.contains("goes on without its client"), "{refused:?}");
    assert!(Backend::new().runner.prepare(&bounded(), &options(&[ON_A_CLUSTER, loopback])).is_ok());
    let folder = tempfile::tempdir().unwrap();
    let config = FlinkConfig {
        jobs: JobsOnFlink::Detached,
        runner_jars: vec![write_runner_jar(&folder, "1.19.0")],
        ..FlinkConfig::default()
    };
    let detached = FlinkRunner::new(config).unwrap();
    assert!(detached.prepare(&bounded(), &options(&[ON_A_CLUSTER, loopback])).is_err());
    assert!(detached.prepare(&bounded(), &options(&[ON_A_CLUSTER])).is_ok());
}

#[test]
fn a_server_does_not_start_with_what_is_no_runner_jar() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jar");
    std::fs::write(&path, "text").unwrap();
    let config = FlinkConfig { runner_jars: vec![path], ..FlinkConfig::default() };
    assert!(matches!(FlinkRunner::new(config), Err(FlinkError::NotARunnerJar { .. })));
    let config = FlinkConfig { master: Some("nowhere".to_owned()), ..FlinkConfig::default() };
    assert!(matches!(FlinkRunner::new(config), Err(FlinkError::Address { .. })));
}

#[test]
fn each_job_chooses_its_backend() {
    let flink = || Arc::new(FlinkRunner::new(FlinkConfig::default()).unwrap());
    let choice = BackendChoice::new(flink(), Vec::new());
    let reasons = |given: &[(&str, &str)]| choice.prepare(&bounded(), &options(given)).unwrap_err().invalid;
    // To whom it went is seen by what they say.
    assert!(reasons(&[]).iter().any(|objection| objection.reason.contains("runner jar")));
    assert!(reasons(&[("backend", "flink")]).iter().any(|objection| objection.reason.contains("runner jar")));
    let other = reasons(&[("backend", "native")]);
    assert!(
        other[0].reason.contains("--backend=native is none of this server's, which are: flink"),
        "{other:?}"
    );
    let described = choice.pipeline_options();
    assert_eq!(described.iter().filter(|option| option.name == "backend").count(), 1);
    assert!(described.iter().any(|option| option.name == "flink_master"));
    assert!(PipelineOptions::default().string("backend").is_none());
}
