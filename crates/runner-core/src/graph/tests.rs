//! Bad pipelines: each is refused, with its culprit named, and none panics.

mod stateful;
mod test_stream;

use std::collections::BTreeMap;

use beam_model::pipeline::{
    Coder, Components, Environment, FunctionSpec, PCollection, PTransform, ParDoPayload, Pipeline, SideInput,
    Trigger, WindowingStrategy, accumulation_mode, trigger,
};
use beam_model::urns::standard_p_transforms::{composites, primitives};
use beam_model::urns::{standard_coders, standard_side_input_types};
use prost::Message;

use crate::backend::Refusal;
use crate::plan::{PlanError, PlanGrain, plan_pipeline};

fn spec(urn: &str, payload: impl Into<bytes::Bytes>) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

fn coder(urn: &str, components: &[&str]) -> Coder {
    Coder {
        spec: spec(urn, Vec::new()),
        component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(tag, id)| ((*tag).to_owned(), (*id).to_owned())).collect()
}

fn transform(name: &str, urn: &str, inputs: &[(&str, &str)], outputs: &[(&str, &str)]) -> PTransform {
    PTransform {
        unique_name: name.to_owned(),
        spec: spec(urn, Vec::new()),
        inputs: map(inputs),
        outputs: map(outputs),
        ..Default::default()
    }
}

fn pardo(name: &str, input: &str, output: &str, side_inputs: &[(&str, &str)]) -> PTransform {
    let side = |urn: &str| SideInput { access_pattern: spec(urn, Vec::new()), ..Default::default() };
    let payload = ParDoPayload {
        do_fn: spec("test:dofn", Vec::new()),
        side_inputs: side_inputs
            .iter()
            .map(|(tag, _)| ((*tag).to_owned(), side(standard_side_input_types::ITERABLE)))
            .collect(),
        ..Default::default()
    };
    let mut new = transform(name, primitives::PAR_DO, &[("in", input)], &[("out", output)]);
    new.inputs.extend(map(side_inputs));
    new.spec = spec(primitives::PAR_DO, payload.encode_to_vec());
    new
}

fn set_payload(transform: &mut PTransform, payload: impl Into<bytes::Bytes>) {
    transform.spec.as_mut().unwrap().payload = payload.into();
}

/// Impulse → Pair → Group → After, all well.
fn good() -> Pipeline {
    let pcollection = |coder_id: &str| PCollection {
        coder_id: coder_id.to_owned(),
        windowing_strategy_id: "global".to_owned(),
        ..Default::default()
    };
    let mut components = Components::default();
    components.coders.extend([
        ("bytes".to_owned(), coder(standard_coders::BYTES, &[])),
        ("window".to_owned(), coder(standard_coders::GLOBAL_WINDOW, &[])),
        ("kv".to_owned(), coder(standard_coders::KV, &["bytes", "bytes"])),
        ("values".to_owned(), coder(standard_coders::ITERABLE, &["bytes"])),
        ("grouped".to_owned(), coder(standard_coders::KV, &["bytes", "values"])),
    ]);
    let strategy = WindowingStrategy { window_coder_id: "window".to_owned(), ..Default::default() };
    components.windowing_strategies.insert("global".to_owned(), strategy);
    components.environments.insert("env".to_owned(), Environment::default());
    for (id, coder) in [("start", "bytes"), ("pairs", "kv"), ("groups", "grouped"), ("end", "bytes")] {
        components.pcollections.insert(id.to_owned(), pcollection(coder));
    }
    components.transforms.extend([
        ("impulse".to_owned(), transform("Impulse", primitives::IMPULSE, &[], &[("out", "start")])),
        ("pair".to_owned(), pardo("Pair", "start", "pairs", &[])),
        (
            "group".to_owned(),
            transform("Group", primitives::GROUP_BY_KEY, &[("in", "pairs")], &[("out", "groups")]),
        ),
        ("after".to_owned(), pardo("After", "groups", "end", &[])),
    ]);
    let roots = ["impulse", "pair", "group", "after"];
    Pipeline {
        components: Some(components),
        root_transform_ids: roots.map(str::to_owned).to_vec(),
        ..Default::default()
    }
}

/// The refusal of the good pipeline once it is spoilt.
fn refusal(spoil: impl FnOnce(&mut Components)) -> Refusal {
    refusal_of(|pipeline| spoil(pipeline.components.as_mut().unwrap()))
}

fn refusal_of(spoil: impl FnOnce(&mut Pipeline)) -> Refusal {
    let mut pipeline = good();
    spoil(&mut pipeline);
    match plan_pipeline(&pipeline, PlanGrain::Default) {
        Err(PlanError::Refused(refusal)) => refusal,
        Err(PlanError::Fault(fault)) => panic!("a fault of the runner's: {fault}"),
        Ok(_) => panic!("a bad pipeline was planned"),
    }
}

/// Some objection names this place and says these words.
#[track_caller]
fn names(refusal: &Refusal, place: &str, words: &[&str]) {
    let found = refusal.invalid.iter().chain(&refusal.unsupported).any(|objection| {
        objection.place == place && words.iter().all(|word| objection.reason.contains(word))
    });
    assert!(found, "no objection to {place} with {words:?} in:\n{refusal}");
}

fn of<'a>(components: &'a mut Components, id: &str) -> &'a mut PTransform {
    components.transforms.get_mut(id).unwrap()
}

#[test]
fn the_good_pipeline_is_planned() {
    let plan = plan_pipeline(&good(), PlanGrain::Default).unwrap();
    assert_eq!(plan.nodes.len(), 4);
    assert!(plan_pipeline(&Pipeline::default(), PlanGrain::Default).unwrap().nodes.is_empty());
}

#[test]
fn dangling_ids() {
    let no_input = refusal(|c| drop(of(c, "pair").inputs.insert("in".into(), "nowhere".into())));
    names(&no_input, "Pair", &["nowhere", "not in the pipeline"]);
    let no_producer = refusal(|c| of(c, "impulse").outputs.clear());
    names(&no_producer, "Pair", &["start", "no transform makes"]);
    names(&no_producer, "Impulse", &["0 outputs"]);
    let no_output = refusal(|c| drop(of(c, "after").outputs.insert("out".into(), "nowhere".into())));
    names(&no_output, "After", &["nowhere"]);
    let no_coder = refusal(|c| c.pcollections.get_mut("end").unwrap().coder_id = "lost".into());
    names(&no_coder, "After", &["end", "\"lost\"", "not in the pipeline"]);
    let no_component = refusal(|c| drop(c.coders.remove("values")));
    names(&no_component, "Group", &["groups", "\"values\"", "not in the pipeline"]);
    let no_strategy = refusal(|c| c.windowing_strategies.clear());
    names(&no_strategy, "Group", &["windowing strategy", "\"global\""]);
    let no_window_coder = refusal(|c| drop(c.coders.remove("window")));
    names(&no_window_coder, "Pair", &["windows of PCollection start", "\"window\""]);
    let no_part = refusal_of(|p| p.root_transform_ids.push("gone".into()));
    names(&no_part, "transform gone", &["not in the pipeline"]);
    let no_subtransform = refusal(|c| {
        let group = of(c, "group");
        group.spec = None;
        group.subtransforms.push("gone".into());
    });
    names(&no_subtransform, "transform gone", &["not in the pipeline"]);
}

#[test]
fn environments() {
    let unknown = refusal(|c| of(c, "pair").environment_id = "mars".into());
    names(&unknown, "Pair", &["\"mars\""]);
    let none = refusal(|c| c.environments.clear());
    names(&none, "Pair", &["names no environment"]);
    let ambiguous = refusal(|c| drop(c.environments.insert("other".into(), Environment::default())));
    names(&ambiguous, "After", &["names no environment"]);
}

#[test]
fn shapes_of_the_graph() {
    let cycle = refusal(|c| drop(of(c, "pair").inputs.insert("in".into(), "end".into())));
    assert!(cycle.to_string().contains("cycle"), "{cycle}");
    let twice = refusal(|c| drop(of(c, "after").outputs.insert("out".into(), "pairs".into())));
    names(&twice, "After", &["pairs", "Pair"]);
    let itself = refusal(|c| {
        let group = of(c, "group");
        group.spec = None;
        group.subtransforms = vec!["group".into()];
    });
    names(&itself, "Group", &["part of two composites, or of itself"]);
    let rootless = refusal_of(|pipeline| {
        pipeline.root_transform_ids.clear();
        let components = pipeline.components.as_mut().unwrap();
        for (id, part) in [("one", "two"), ("two", "one")] {
            let composite = PTransform { subtransforms: vec![part.into()], ..Default::default() };
            components.transforms.insert(id.into(), composite);
        }
    });
    names(&rootless, "one", &["part of itself"]);
    names(&rootless, "two", &["part of itself"]);
    let two_inputs = refusal(|c| drop(of(c, "pair").inputs.insert("more".into(), "end".into())));
    names(&two_inputs, "Pair", &["2 main inputs"]);
    let two_outputs = refusal(|c| drop(of(c, "group").outputs.insert("more".into(), "end".into())));
    names(&two_outputs, "Group", &["2 outputs"]);
}

#[test]
fn what_is_not_known() {
    let urn = refusal(|c| of(c, "pair").spec = spec("beam:transform:magic:v1", Vec::new()));
    names(&urn, "Pair", &["beam:transform:magic:v1"]);
    assert!(urn.invalid.is_empty(), "who reads its output is not at fault: {urn}");
    let no_urn = refusal(|c| of(c, "pair").spec = None);
    names(&no_urn, "Pair", &["no URN"]);
    let requirement = refusal_of(|p| p.requirements.push("beam:requirement:magic:v1".into()));
    names(&requirement, "pipeline", &["beam:requirement:magic:v1"]);
    let access = refusal(|c| {
        let mut payload = ParDoPayload::default();
        let magic =
            SideInput { access_pattern: spec("beam:side_input:magic:v1", vec![]), ..Default::default() };
        payload.side_inputs.insert("side".into(), magic);
        let after = of(c, "after");
        after.inputs.insert("side".into(), "start".into());
        set_payload(after, payload.encode_to_vec());
    });
    names(&access, "After", &["side", "beam:side_input:magic:v1"]);
    let no_coder_urn = refusal(|c| c.coders.get_mut("bytes").unwrap().spec = None);
    names(&no_coder_urn, "Group", &["\"bytes\"", "no URN"]);
}

#[test]
fn expiration_without_its_timers() {
    let undeclared = refusal(|c| {
        let payload =
            ParDoPayload { on_window_expiration_timer_family_spec: "bye".into(), ..Default::default() };
        set_payload(of(c, "after"), payload.encode_to_vec());
    });
    names(&undeclared, "After", &["window expiration", "\"bye\""]);
}

#[test]
fn payloads() {
    let bad = refusal(|c| set_payload(of(c, "pair"), vec![0x0A, 0xFF]));
    names(&bad, "Pair", &["ParDoPayload cannot be read"]);
    let side = refusal(|c| {
        let mut after = pardo("After", "groups", "end", &[("side", "start")]);
        after.inputs.remove("side");
        *of(c, "after") = after;
    });
    names(&side, "After", &["side input side is none of its inputs"]);
    let restriction = refusal(|c| {
        let payload = ParDoPayload { restriction_coder_id: "lost".into(), ..Default::default() };
        set_payload(of(c, "pair"), payload.encode_to_vec());
    });
    names(&restriction, "Pair", &["restrictions need", "\"lost\""]);
}

#[test]
fn grouping_without_keys() {
    let bytes = refusal(|c| c.pcollections.get_mut("pairs").unwrap().coder_id = "bytes".into());
    names(&bytes, "Group", &["beam:coder:bytes:v1", "key-value coder"]);
    let one = refusal(|c| drop(c.coders.insert("kv".into(), coder(standard_coders::KV, &["bytes"]))));
    names(&one, "Group", &["key-value coder"]);
    let no_iterable = refusal(|c| c.pcollections.get_mut("groups").unwrap().coder_id = "kv".into());
    names(&no_iterable, "Group", &["groups", "no iterables"]);
}

fn combine(c: &mut Components, accumulator: &str) {
    let payload = beam_model::pipeline::CombinePayload {
        combine_fn: spec("test:combinefn", Vec::new()),
        accumulator_coder_id: accumulator.to_owned(),
    };
    c.pcollections.get_mut("groups").unwrap().coder_id = "kv".into();
    of(c, "group").spec = spec(composites::COMBINE_PER_KEY, payload.encode_to_vec());
}

#[test]
fn combines() {
    let mut good = good();
    combine(good.components.as_mut().unwrap(), "bytes");
    assert_eq!(plan_pipeline(&good, PlanGrain::Default).unwrap().nodes.len(), 4);
    let lost = refusal(|c| combine(c, "lost"));
    names(&lost, "Group", &["accumulators need", "\"lost\""]);
    let circle = refusal(|c| {
        c.coders.insert("circle".into(), coder(standard_coders::ITERABLE, &["circle"]));
        combine(c, "circle");
    });
    names(&circle, "Group", &["\"circle\"", "part of itself"]);
    let undecodable = refusal(|c| {
        combine(c, "bytes");
        set_payload(of(c, "group"), vec![0x0A, 0xFF]);
    });
    names(&undecodable, "Group", &["CombinePayload cannot be read"]);
    let earliest = refusal(|c| {
        combine(c, "bytes");
        let strategy = c.windowing_strategies.get_mut("global").unwrap();
        strategy.output_time = beam_model::pipeline::output_time::Enum::EarliestInPane as i32;
    });
    names(&earliest, "Group", &["only as its parts"]);
}

#[test]
fn circles_of_coders() {
    let own =
        refusal(|c| drop(c.coders.insert("bytes".into(), coder(standard_coders::ITERABLE, &["bytes"]))));
    names(&own, "Pair", &["\"bytes\"", "part of itself"]);
    let both = refusal(|c| {
        c.coders.insert("bytes".into(), coder(standard_coders::KV, &["other", "other"]));
        c.coders.insert("other".into(), coder(standard_coders::KV, &["bytes", "bytes"]));
    });
    assert!(both.to_string().contains("part of itself"), "{both}");
}

/// A strategy that no PCollection has may be nonsense: nobody reads it.
#[test]
fn what_nobody_reads_may_be_bad() {
    let mut pipeline = good();
    let components = pipeline.components.as_mut().unwrap();
    components.coders.insert("circle".into(), coder(standard_coders::ITERABLE, &["circle"]));
    let strategy = WindowingStrategy { window_coder_id: "circle".into(), ..Default::default() };
    components.windowing_strategies.insert("unread".into(), strategy);
    plan_pipeline(&pipeline, PlanGrain::Default).unwrap();
}

#[test]
fn hostile_depth() {
    let deep = refusal(|c| {
        c.coders.insert("bytes".into(), coder(standard_coders::ITERABLE, &["c0"]));
        for n in 0..100_000 {
            let next = format!("c{}", n + 1);
            c.coders.insert(format!("c{n}"), coder(standard_coders::ITERABLE, &[&next]));
        }
    });
    names(&deep, "Pair", &["nests too deep"]);
    let composites = refusal_of(|pipeline| {
        pipeline.root_transform_ids.push("t0".into());
        let components = pipeline.components.as_mut().unwrap();
        for n in 0..100_000 {
            let composite = PTransform { subtransforms: vec![format!("t{}", n + 1)], ..Default::default() };
            components.transforms.insert(format!("t{n}"), composite);
        }
    });
    assert!(composites.to_string().contains("nest too deep"), "{composites}");
}

/// Sixty coders that share components stand for 2^60: looked at one by one, this never ends.
#[test]
fn hostile_sharing() {
    let shared = |c: &mut Components, prefix: &str, last: &str| {
        for n in 0..60 {
            let next = if n == 59 { last.to_owned() } else { format!("{prefix}{}", n + 1) };
            c.coders.insert(format!("{prefix}{n}"), coder(standard_coders::KV, &[&next, &next]));
        }
    };
    let lost = refusal(|c| {
        shared(c, "c", "lost");
        c.pcollections.get_mut("start").unwrap().coder_id = "c0".into();
    });
    names(&lost, "Pair", &["\"lost\""]);
    let mut sound = good();
    let components = sound.components.as_mut().unwrap();
    shared(components, "c", "bytes");
    shared(components, "d", "bytes");
    components.pcollections.get_mut("end").unwrap().coder_id = "c0".into();
    let flatten = transform("Flatten", primitives::FLATTEN, &[("in", "end")], &[("out", "flat")]);
    components.transforms.insert("flatten".into(), flatten);
    let end = components.pcollections["end"].clone();
    components.pcollections.insert("flat".into(), PCollection { coder_id: "d0".into(), ..end });
    sound.root_transform_ids.push("flatten".into());
    plan_pipeline(&sound, PlanGrain::Default).unwrap();
}

/// Nothing bounds how long a pipeline is.
#[test]
fn a_long_chain_is_planned() {
    let mut pipeline = good();
    let components = pipeline.components.as_mut().unwrap();
    let like = components.pcollections["end"].clone();
    let mut last = "end".to_owned();
    for n in 0..2_000 {
        let next = format!("p{n}");
        components.pcollections.insert(next.clone(), like.clone());
        let new = transform("", composites::RESHUFFLE, &[("in", &last)], &[("out", &next)]);
        components.transforms.insert(format!("t{n}"), new);
        pipeline.root_transform_ids.push(format!("t{n}"));
        last = next;
    }
    assert_eq!(plan_pipeline(&pipeline, PlanGrain::Default).unwrap().nodes.len(), 2_004);
}

#[test]
fn all_faults_are_told_at_once() {
    let all = refusal_of(|pipeline| {
        pipeline.requirements.push("beam:requirement:magic:v1".into());
        let components = pipeline.components.as_mut().unwrap();
        of(components, "pair").environment_id = "mars".into();
        components.pcollections.get_mut("pairs").unwrap().coder_id = "lost".into();
        set_payload(of(components, "after"), vec![0x0A, 0xFF]);
        let magic = transform("Magic", "beam:transform:magic:v1", &[("in", "end")], &[("out", "start")]);
        components.transforms.insert("magic".into(), magic);
        pipeline.root_transform_ids.push("magic".into());
    });
    names(&all, "pipeline", &["beam:requirement:magic:v1"]);
    names(&all, "Pair", &["\"mars\""]);
    names(&all, "Group", &["\"lost\""]);
    names(&all, "After", &["ParDoPayload"]);
    names(&all, "Magic", &["beam:transform:magic:v1"]);
}

fn global(components: &mut Components) -> &mut WindowingStrategy {
    components.windowing_strategies.get_mut("global").unwrap()
}

#[test]
fn triggers_are_planned_if_they_make_sense() {
    let counts = |element_count| {
        let count = trigger::ElementCount { element_count };
        Some(Trigger { trigger: Some(trigger::Trigger::ElementCount(count)) })
    };
    let mut pipeline = good();
    global(pipeline.components.as_mut().unwrap()).trigger = counts(3);
    plan_pipeline(&pipeline, PlanGrain::Default).unwrap();
    let spoilt = refusal(|components| global(components).trigger = counts(0));
    names(&spoilt, "Group", &["after 0 elements"]);
    let empty = refusal(|components| global(components).trigger = Some(Trigger::default()));
    names(&empty, "Group", &["a trigger that says nothing"]);
}

#[test]
fn retractions_are_refused_by_name() {
    let retracting = accumulation_mode::Enum::Retracting as i32;
    let refusal = refusal(|components| global(components).accumulation_mode = retracting);
    names(&refusal, "Group", &["RETRACTING", "ACCUMULATING or DISCARDING"]);
    assert!(refusal.invalid.is_empty(), "it is good Beam");
}
