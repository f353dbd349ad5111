//! ParDos with state: what of them is refused, and how windows with state merge.

use beam_model::coders::Coder;
use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{
    CombinePayload, CombiningStateSpec, FunctionSpec, ReadModifyWriteStateSpec, StateSpec, TimerFamilySpec,
    merge_status,
};
use beam_model::urns::session_windows_payload;
use beam_model::urns::standard_p_transforms::combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS;

use super::*;
use crate::plan::{ExecutionPlan, Merging};

const PYTHON: &str = "beam:version:sdk_base:apache/beam_python3.11_sdk:2.77.0";

/// Adds a ParDo over the pairs, with this payload.
fn keep(components: &mut Components, payload: ParDoPayload) {
    let mut keep = pardo("Keep", "pairs", "kept", &[]);
    let do_fn = spec("test:dofn", Vec::new());
    set_payload(&mut keep, ParDoPayload { do_fn, ..payload }.encode_to_vec());
    keep.environment_id = "env".to_owned();
    components.transforms.insert("keep".to_owned(), keep);
    let kept = components.pcollections["end"].clone();
    components.pcollections.insert("kept".to_owned(), kept);
}

fn with_state(spec: Spec) -> ParDoPayload {
    let state = StateSpec { spec: Some(spec), ..Default::default() };
    ParDoPayload { state_specs: BTreeMap::from([("state".to_owned(), state)]), ..Default::default() }
}

fn value() -> ParDoPayload {
    with_state(Spec::ReadModifyWriteSpec(ReadModifyWriteStateSpec { coder_id: "bytes".to_owned() }))
}

fn combining() -> ParDoPayload {
    let combine_fn = Some(FunctionSpec { urn: "its own".to_owned(), ..Default::default() });
    with_state(Spec::CombiningSpec(CombiningStateSpec {
        accumulator_coder_id: "bytes".to_owned(),
        combine_fn,
    }))
}

/// Puts all PCollections in windows of this function, which merge.
fn merging(components: &mut Components, window_fn: &str) {
    components.coders.insert("window".to_owned(), coder(standard_coders::INTERVAL_WINDOW, &[]));
    let strategy = components.windowing_strategies.get_mut("global").unwrap();
    strategy.window_fn = spec(window_fn, Vec::new());
    strategy.merge_status = merge_status::Enum::NeedsMerge as i32;
}

fn planned(change: impl FnOnce(&mut Components)) -> ExecutionPlan {
    let mut pipeline = good();
    change(pipeline.components.as_mut().unwrap());
    pipeline.root_transform_ids.push("keep".to_owned());
    plan_pipeline(&pipeline, PlanGrain::Default).unwrap_or_else(|error| panic!("{error}"))
}

/// How the windows of the stage with the state merge.
fn merging_of(plan: &ExecutionPlan) -> Merging {
    let keyed: Vec<_> = plan.stages().filter_map(|(_, stage)| stage.keyed.as_ref()).collect();
    assert_eq!(keyed.len(), 1);
    keyed[0].merging.clone()
}

fn refused(change: impl FnOnce(&mut Components)) -> Refusal {
    refusal_of(|pipeline| {
        change(pipeline.components.as_mut().unwrap());
        pipeline.root_transform_ids.push("keep".to_owned());
    })
}

#[test]
fn windows_with_state_merge_as_their_function_says() {
    let plan = planned(|c| keep(c, value()));
    assert!(matches!(merging_of(&plan), Merging::Never), "{:?}", merging_of(&plan));
    let plan = planned(|c| {
        keep(c, value());
        merging(c, session_windows_payload::PROPERTIES);
    });
    assert!(matches!(merging_of(&plan), Merging::Sessions), "{:?}", merging_of(&plan));
    let plan = planned(|c| {
        keep(c, value());
        merging(c, "test:windows");
    });
    let Merging::BySdk(stage) = merging_of(&plan) else { panic!("{:?}", merging_of(&plan)) };
    assert_eq!(stage.spec.descriptor.id, "merge-windows-keep");
    assert_eq!(stage.spec.environment_id, "env");
}

#[test]
fn timers_alone_need_merged_windows_too_and_sorted_input_does_not() {
    let timer_coder = |c: &mut Components| {
        c.coders.insert("timer".to_owned(), coder(standard_coders::TIMER, &["bytes", "window"]));
    };
    let family = TimerFamilySpec { timer_family_coder_id: "timer".to_owned(), ..Default::default() };
    let timers = ParDoPayload {
        timer_family_specs: BTreeMap::from([("family".to_owned(), family)]),
        ..Default::default()
    };
    let plan = planned(|c| {
        timer_coder(c);
        keep(c, timers);
        merging(c, session_windows_payload::PROPERTIES);
    });
    assert!(matches!(merging_of(&plan), Merging::Sessions));
    let plan = planned(|c| {
        keep(c, ParDoPayload { requires_time_sorted_input: true, ..Default::default() });
        merging(c, session_windows_payload::PROPERTIES);
    });
    assert!(matches!(merging_of(&plan), Merging::Never));
}

#[test]
fn accumulators_are_merged_with_windows_unless_the_sdk_reads_several() {
    let in_sessions = |c: &mut Components| {
        keep(c, combining());
        merging(c, session_windows_payload::PROPERTIES);
    };
    let combines = |plan: &ExecutionPlan| {
        plan.stages().flat_map(|(_, stage)| stage.combines.clone()).collect::<Vec<_>>()
    };
    let plan = planned(in_sessions);
    let [stage] = &combines(&plan)[..] else { panic!("one state is to be merged") };
    let descriptor = &stage.spec.descriptor;
    let spec = descriptor.transforms["compute"].spec.as_ref().unwrap();
    assert_eq!(spec.urn, COMBINE_PER_KEY_MERGE_ACCUMULATORS);
    let payload = CombinePayload::decode(spec.payload.clone()).unwrap();
    assert_eq!(payload.combine_fn.unwrap().urn, "its own");
    let coder =
        |id: &str| Coder::from_proto(&descriptor.pcollections[id].coder_id, &descriptor.coders).unwrap();
    let with_nonce = |coder| Coder::Kv(Box::new(Coder::Bytes), Box::new(coder));
    assert_eq!(coder("in"), with_nonce(Coder::Iterable(Box::new(Coder::Bytes))));
    assert_eq!(coder("out"), with_nonce(Coder::Bytes), "as it is in the state");

    let plan = planned(|c| {
        in_sessions(c);
        c.environments.get_mut("env").unwrap().capabilities.push(PYTHON.to_owned());
    });
    assert!(matches!(merging_of(&plan), Merging::Sessions) && combines(&plan).is_empty());
    let plan = planned(|c| keep(c, combining()));
    assert!(matches!(merging_of(&plan), Merging::Never) && combines(&plan).is_empty());

    let spoilt = |c: &mut Components| {
        in_sessions(c);
        keep(c, with_state(Spec::CombiningSpec(CombiningStateSpec::default())));
    };
    names(&refused(spoilt), "Keep", &["combining state", "windows that merge"]);
}

#[test]
fn a_splittable_dofn_with_state_is_refused_by_name() {
    let refusal = refused(|c| keep(c, ParDoPayload { restriction_coder_id: "bytes".to_owned(), ..value() }));
    names(&refusal, "Keep", &["splittable", "state or timers", "make it two"]);
}
