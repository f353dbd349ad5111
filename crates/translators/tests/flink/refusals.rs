//! What is said no to before anything is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{
    Coder, OrderedListStateSpec, PCollection, PTransform, ParDoPayload, Pipeline, StateSpec,
};
use beam_model::urns::{standard_coders, standard_p_transforms::primitives};
use prost::Message;
use runner_core::backend::{PortablePipelineRunner, Refusal};
use runner_core::options::PipelineOptions;
use translators::BackendChoice;
use translators::flink::{FlinkConfig, FlinkError, FlinkRunner, JobsOnFlink};

use super::support::*;

fn refusal(pipeline: &Pipeline, given: &[(&str, &str)]) -> Refusal {
    Backend::new().runner.prepare(pipeline, &options(given)).expect_err("is refused")
}

const ON_A_CLUSTER: (&str, &str) = ("flink_master", "flink:8081");

/// The Impulse, and a ParDo after it that is called `Do`.
fn with_pardo(payload: &ParDoPayload) -> Pipeline {
    let mut pipeline = bounded();
    let components = pipeline.components.as_mut().unwrap();
    let coder = |urn: &str, parts: &[&str]| Coder {
        spec: spec(urn),
        component_coder_ids: parts.iter().map(|part| (*part).to_owned()).collect(),
    };
    components.coders.insert("kv".to_owned(), coder(standard_coders::KV, &["bytes", "bytes"]));
    components.pcollections.get_mut("p").unwrap().coder_id = "kv".to_owned();
    let made = PCollection { coder_id: "bytes".to_owned(), ..components.pcollections["p"].clone() };
    components.pcollections.insert("q".to_owned(), made);
    let mut do_ = PTransform {
        spec: spec(primitives::PAR_DO),
        unique_name: "Do".to_owned(),
        inputs: BTreeMap::from([("in".to_owned(), "p".to_owned())]),
        outputs: BTreeMap::from([("out".to_owned(), "q".to_owned())]),
        ..Default::default()
    };
    do_.spec.as_mut().unwrap().payload = payload.encode_to_vec().into();
    components.transforms.insert("do".to_owned(), do_);
    components.environments.insert("e".to_owned(), Default::default());
    pipeline.root_transform_ids.push("do".to_owned());
    pipeline
}

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
fn finalization_in_streams_needs_checkpoints() {
    let pipeline = with_pardo(&ParDoPayload { requests_finalization: true, ..Default::default() });
    let streaming = ("streaming", "true");
    let without = refusal(&pipeline, &[ON_A_CLUSTER, streaming]);
    assert!(without.unsupported[0].reason.contains("--checkpointing_interval"), "{without:?}");
    let with = options(&[ON_A_CLUSTER, streaming, ("checkpointing_interval", "3000")]);
    assert!(Backend::new().runner.prepare(&pipeline, &with).is_ok());
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
