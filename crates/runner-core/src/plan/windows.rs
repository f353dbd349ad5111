//! What a GroupByKey has to know of its windowing strategy.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::coders::{Coder, varint};
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::{
    Environment, FunctionSpec, PCollection, PTransform, Trigger, WindowingStrategy, accumulation_mode,
    closing_behavior, is_bounded, merge_status, on_time_behavior, output_time, trigger,
};
use beam_model::urns::standard_p_transforms::primitives;
use beam_model::urns::{
    fn_api_transforms::runner, global_windows_payload, session_windows_payload, standard_coders as coder_urns,
};
use bytes::Bytes;
use prost::Message;

use super::coders::WireCoders;
use super::descriptor::{one, port_transform};
use super::trigger::{ClosingBehavior, Firing};
use crate::fault::Fault;
use crate::graph::{QueryablePipeline, main_input, side_inputs};
use crate::ports::StageSpec;

/// How elements are grouped by key and window.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// Coders of key and value as they travel.
    pub key_coder: Coder,
    pub value_coder: Coder,
    pub window_coder: Coder,
    pub output_time: OutputTime,
    pub merging: Merging,
    pub firing: Firing,
    pub asked: Asked,
    /// `PCollection.is_bounded` of the input. What is bounded needs no early results: each key and window
    /// has one pane, when all elements are there.
    pub bounded: bool,
}

/// When triggers are asked whether to fire, of what comes. The model leaves it open: a pane has "at least" so many elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// As Flink and Prism have it: panes do not depend on how elements are bundled.
    AfterEachElement,
    /// As Python's own runners have it: one pane of all that comes together.
    AfterEachBundle,
}

/// `OutputTime`: the event time of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputTime {
    EndOfWindow,
    Earliest,
    Latest,
}

/// `MergeStatus` and who merges.
#[derive(Clone, Debug)]
pub enum Merging {
    Never,
    /// Interval windows that overlap become one that spans them.
    Sessions,
    /// Only the SDK knows how: `beam:transform:merge_windows:v1`.
    BySdk(Arc<MergeStage>),
}

/// A stage that merges windows: it reads `KV<nonce, Iterable<window>>` and writes
/// `KV<nonce, KV<Iterable<unmerged window>, Iterable<KV<merged window, Iterable<its parts>>>>>`.
#[derive(Clone, Debug)]
pub struct MergeStage {
    pub spec: Arc<StageSpec>,
    pub source: String,
}

/// A stage that maps windows of a transform's main input to those of a side input of it: it reads
/// `KV<nonce, window>` and writes `KV<nonce, window of the side input>`.
#[derive(Clone, Debug)]
pub struct MapStage {
    pub spec: Arc<StageSpec>,
    pub source: String,
    pub side_window_coder: Coder,
}

pub(super) fn grouping(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    transform: &str,
    input: &str,
) -> Result<Grouping, Fault> {
    let strategy = pipeline.windowing_strategy(input)?.clone();
    let element = wire.wire(&pipeline.pcollection(input)?.coder_id)?;
    let Coder::Kv(key_coder, value_coder) = wire.resolve(&element)? else {
        return Err(Fault::runner(format!("{} groups elements without a key", pipeline.name(transform))));
    };
    let window = wire.wire(&strategy.window_coder_id)?;
    let window_coder = wire.resolve(&window)?;
    let output_time = match strategy.output_time() {
        output_time::Enum::EarliestInPane => OutputTime::Earliest,
        output_time::Enum::LatestInPane => OutputTime::Latest,
        output_time::Enum::EndOfWindow | output_time::Enum::Unspecified => OutputTime::EndOfWindow,
    };
    let merging = merging(pipeline, wire, transform, &strategy)?;
    let mut firing = Firing::of(&strategy)
        .map_err(|unfit| Fault::runner(format!("{}: {unfit}", pipeline.name(transform))))?;
    let mut asked = Asked::AfterEachElement;
    if is_pythons(pipeline, &strategy) {
        asked = Asked::AfterEachBundle;
        firing.trigger = firing.trigger.as_python_has_it();
        // Its users cannot choose, and it writes EMIT_ALWAYS for want of a choice: its own runners close a
        // window without a word if nothing has come since the last pane, which is Beam's default.
        firing.closing_behavior = ClosingBehavior::EmitIfNonempty;
    }
    Ok(Grouping {
        key_coder: *key_coder,
        value_coder: *value_coder,
        window_coder,
        output_time,
        merging,
        firing,
        asked,
        bounded: pipeline.pcollection(input)?.is_bounded() != is_bounded::Enum::Unbounded,
    })
}

/// How windows of a transform's input merge.
pub(super) fn merging(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    transform: &str,
    strategy: &WindowingStrategy,
) -> Result<Merging, Fault> {
    let window_fn = strategy.window_fn.as_ref();
    let sessions = window_fn.is_some_and(|it| it.urn == session_windows_payload::PROPERTIES);
    let window = wire.wire(&strategy.window_coder_id)?;
    Ok(match strategy.merge_status() {
        merge_status::Enum::NeedsMerge if sessions && wire.resolve(&window)? == Coder::IntervalWindow => {
            Merging::Sessions
        }
        merge_status::Enum::NeedsMerge => {
            Merging::BySdk(Arc::new(merge_stage(pipeline, wire, transform, strategy, &window)?))
        }
        merge_status::Enum::Unspecified
        | merge_status::Enum::NonMerging
        | merge_status::Enum::AlreadyMerged => Merging::Never,
    })
}

/// Whether a strategy was written by the Python SDK.
fn is_pythons(pipeline: &QueryablePipeline, strategy: &WindowingStrategy) -> bool {
    let environments = &pipeline.components.environments;
    let own = environments.get(&strategy.environment_id);
    let mut all = own.into_iter().chain(environments.values().filter(|_| own.is_none()));
    all.any(runs_python)
}

/// Whether the workers of an environment are the Python SDK's.
pub(crate) fn runs_python(environment: &Environment) -> bool {
    const PYTHON: &str = "beam:version:sdk_base:apache/beam_python";
    environment.capabilities.iter().any(|capability| capability.starts_with(PYTHON))
}

fn merge_stage(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    transform: &str,
    strategy: &WindowingStrategy,
    window: &str,
) -> Result<MergeStage, Fault> {
    let name = pipeline.name(transform);
    let environments = &pipeline.components.environments;
    let known = |id: &&String| environments.contains_key(*id);
    let environment_id = Some(&strategy.environment_id)
        .filter(known)
        .or_else(|| environments.keys().next())
        .ok_or_else(|| Fault::runner(format!("{name}: no environment can merge its windows")))?
        .clone();

    let all = wire.add_standard(&format!("{window}_iterable"), coder_urns::ITERABLE, &[window]);
    let merged = wire.add_standard(&format!("{window}_merged"), coder_urns::KV, &[window, &all]);
    let merged = wire.add_standard(&format!("{window}_all_merged"), coder_urns::ITERABLE, &[&merged]);
    let result = wire.add_standard(&format!("{window}_merge_result"), coder_urns::KV, &[&all, &merged]);
    let function = Function {
        id: format!("merge-windows-{transform}"),
        stage_name: format!("merging of windows for {name}"),
        name: format!("{name}/MergeWindows"),
        environment_id,
        urn: primitives::MERGE_WINDOWS,
        payload: as_worker_reads_it(strategy.window_fn.clone().unwrap_or_default()).encode_to_vec().into(),
        input: all,
        output: result,
    };
    let (spec, source) = function.stage(pipeline, wire);
    Ok(MergeStage { spec: Arc::new(spec), source })
}

/// The stage that maps windows for one side input of a transform, by `SideInput.window_mapping_fn`. `None`:
/// the side input is in the global window, which is then that of every element.
pub(super) fn map_stage(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    transform: &str,
    tag: &str,
) -> Result<Option<MapStage>, Fault> {
    let name = pipeline.name(transform);
    let reader = pipeline.transform(transform)?;
    let no_input = |which: &str| Fault::runner(format!("{name} has no {which}"));
    let (_, main) = main_input(reader).ok_or_else(|| no_input("main input"))?;
    let mut specs = side_inputs(reader);
    let (Some(side), Some(spec)) = (reader.inputs.get(tag), specs.remove(tag)) else {
        return Err(no_input(&format!("side input {tag:?}")));
    };
    let strategy = pipeline.windowing_strategy(side)?;
    if strategy.window_fn.as_ref().is_some_and(|it| it.urn == global_windows_payload::PROPERTIES) {
        return Ok(None);
    }
    let side_window = wire.wire(&strategy.window_coder_id)?;
    let function = Function {
        id: format!("map-windows-{transform}-{tag}"),
        stage_name: format!("mapping of windows for side input {tag} of {name}"),
        name: format!("{name}/MapWindows({tag})"),
        environment_id: pipeline.environment_id(transform)?,
        urn: primitives::MAP_WINDOWS,
        payload: spec.window_mapping_fn.unwrap_or_default().encode_to_vec().into(),
        input: wire.wire(&pipeline.windowing_strategy(main)?.window_coder_id)?,
        output: side_window.clone(),
    };
    let (spec, source) = function.stage(pipeline, wire);
    let side_window_coder = wire.resolve(&side_window)?;
    Ok(Some(MapStage { spec: Arc::new(spec), source, side_window_coder }))
}

/// A transform that computes what the runner needs to know, e.g. of windows alone, whatever their elements.
pub(super) struct Function {
    /// Of the descriptor.
    pub(super) id: String,
    pub(super) stage_name: String,
    pub(super) name: String,
    pub(super) environment_id: String,
    pub(super) urn: &'static str,
    pub(super) payload: Bytes,
    /// Wire coders. Both sides have a nonce besides, by which an answer is known.
    pub(super) input: String,
    pub(super) output: String,
}

impl Function {
    /// The function between a data source and a data sink; and the source's id.
    pub(super) fn stage(self, pipeline: &QueryablePipeline, wire: &mut WireCoders) -> (StageSpec, String) {
        let global = wire.add_standard("windows_global_window", coder_urns::GLOBAL_WINDOW, &[]);
        let nonce = wire.add_standard("windows_nonce", coder_urns::BYTES, &[]);
        let input =
            wire.add_standard(&format!("{}_asked", self.input), coder_urns::KV, &[&nonce, &self.input]);
        let output =
            wire.add_standard(&format!("{}_answered", self.output), coder_urns::KV, &[&nonce, &self.output]);
        let mut port = |urn, coder: &str| port_transform(urn, wire.windowed(coder, &global));
        let read = PTransform { outputs: one("out", "in"), ..port(runner::DATA_SOURCE, &input) };
        let write = PTransform { inputs: one("in", "out"), ..port(runner::DATA_SINK, &output) };
        let compute = PTransform {
            unique_name: self.name,
            spec: Some(FunctionSpec { urn: self.urn.to_owned(), payload: self.payload }),
            inputs: one("in", "in"),
            outputs: one("out", "out"),
            environment_id: self.environment_id.clone(),
            ..Default::default()
        };
        let pcollection = |id: &str, coder_id: String| PCollection {
            unique_name: id.to_owned(),
            coder_id,
            windowing_strategy_id: "windows_global".to_owned(),
            ..Default::default()
        };
        let source = "fn/read/windows".to_owned();
        let descriptor = ProcessBundleDescriptor {
            id: self.id,
            transforms: BTreeMap::from([
                (source.clone(), read),
                ("compute".to_owned(), compute),
                ("fn/write/windows".to_owned(), write),
            ]),
            pcollections: BTreeMap::from([
                ("in".to_owned(), pcollection("in", input)),
                ("out".to_owned(), pcollection("out", output)),
            ]),
            windowing_strategies: BTreeMap::from([("windows_global".to_owned(), global_strategy(&global))]),
            coders: wire.all().clone(),
            environments: pipeline.components.environments.clone(),
            ..Default::default()
        };
        let environment = pipeline.components.environments.get(&self.environment_id);
        let spec = StageSpec {
            name: self.stage_name,
            environment: environment.cloned().unwrap_or_default(),
            environment_id: self.environment_id,
            descriptor,
        };
        (spec, source)
    }
}

/// The Python SDK writes its pickled window functions within a `BytesValue`, but its workers unpickle the
/// payload as it is. Base64 being lenient, that works unless the length in front happens to be a letter.
fn as_worker_reads_it(window_fn: FunctionSpec) -> FunctionSpec {
    const PICKLED_PYTHON: &str = "beam:window_fn:pickled_python:v1";
    match bytes_value(&window_fn.payload) {
        Some(payload) if window_fn.urn == PICKLED_PYTHON => FunctionSpec { payload, ..window_fn },
        _ => window_fn,
    }
}

/// The bytes in a `google.protobuf.BytesValue`, if that is what is given and nothing more.
fn bytes_value(encoded: &Bytes) -> Option<Bytes> {
    const FIELD_1_LENGTH_DELIMITED: u8 = 0x0A;
    let (&FIELD_1_LENGTH_DELIMITED, rest) = encoded.split_first()? else { return None };
    let (value, len) = varint::read_prefixed(rest).ok()?;
    (len == rest.len()).then(|| encoded.slice_ref(value))
}

fn global_strategy(window_coder_id: &str) -> WindowingStrategy {
    let urn = global_windows_payload::PROPERTIES.to_owned();
    WindowingStrategy {
        window_fn: Some(FunctionSpec { urn, payload: Default::default() }),
        merge_status: merge_status::Enum::NonMerging as i32,
        window_coder_id: window_coder_id.to_owned(),
        trigger: Some(Trigger { trigger: Some(trigger::Trigger::Default(trigger::Default {})) }),
        accumulation_mode: accumulation_mode::Enum::Discarding as i32,
        output_time: output_time::Enum::EndOfWindow as i32,
        closing_behavior: closing_behavior::Enum::EmitIfNonempty as i32,
        on_time_behavior: on_time_behavior::Enum::FireAlways as i32,
        assigns_to_one_window: true,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use beam_model::pipeline::Pipeline;

    use super::*;
    use crate::fusion::fuse;
    use crate::plan::{ExecutionPlan, PlanGrain, StageSideInput, plan};

    /// The plan of a pipeline whose splittable ParDo has a side input in windows of this function.
    fn planned(window_fn: &str) -> ExecutionPlan {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sdf_side_input.pb");
        let mut pipeline = Pipeline::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let components = pipeline.components.as_mut().unwrap();
        let sdf =
            components.transforms.values().find(|transform| transform.unique_name == "CountTo").unwrap();
        let side = sdf.inputs["python_side_input0"].clone();
        let urn = window_fn.to_owned();
        let strategy = WindowingStrategy {
            window_fn: Some(FunctionSpec { urn, payload: Bytes::new() }),
            window_coder_id: "sides".to_owned(),
            ..global_strategy("sides")
        };
        components.windowing_strategies.insert("sides".to_owned(), strategy);
        let spec = FunctionSpec { urn: coder_urns::INTERVAL_WINDOW.to_owned(), payload: Bytes::new() };
        let coder = beam_model::pipeline::Coder { spec: Some(spec), ..Default::default() };
        components.coders.insert("sides".to_owned(), coder);
        components.pcollections.get_mut(&side).unwrap().windowing_strategy_id = "sides".to_owned();
        let mut graph = QueryablePipeline::new(&pipeline).unwrap();
        crate::rewrite::rewrite(&mut graph).unwrap();
        plan(&graph, &fuse(&graph).unwrap(), PlanGrain::Default).unwrap()
    }

    fn side_inputs(plan: &ExecutionPlan) -> Vec<&StageSideInput> {
        plan.stages().flat_map(|(_, stage)| &stage.side_inputs).collect()
    }

    #[test]
    fn the_sdk_maps_windows_to_those_of_a_side_input() {
        let plan = planned("beam:window_fn:fixed_windows:v1");
        let sides = side_inputs(&plan);
        assert_eq!(sides.len(), 3, "of each part of the splittable ParDo");
        let mut ids = Vec::new();
        for side in sides {
            let stage = side.map_windows.as_ref().unwrap();
            assert_eq!(stage.side_window_coder, Coder::IntervalWindow);
            let descriptor = &stage.spec.descriptor;
            ids.push(&descriptor.id);
            let spec = descriptor.transforms["compute"].spec.as_ref().unwrap();
            assert_eq!(spec.urn, primitives::MAP_WINDOWS);
            let function = FunctionSpec::decode(spec.payload.clone()).unwrap();
            assert_eq!(function.urn, "beam:window_mapping_fn:pickled_python:v1");
            let coder = |id: &str| {
                let coder = &descriptor.pcollections[id].coder_id;
                Coder::from_proto(coder, &descriptor.coders).unwrap()
            };
            let with_nonce = |window| Coder::Kv(Box::new(Coder::Bytes), Box::new(window));
            assert_eq!(coder("in"), with_nonce(Coder::GlobalWindow));
            assert_eq!(coder("out"), with_nonce(Coder::IntervalWindow));
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "descriptors are known by their ids");
    }

    #[test]
    fn windows_of_a_global_side_input_need_no_mapping() {
        let plan = planned(global_windows_payload::PROPERTIES);
        assert!(side_inputs(&plan).iter().all(|side| side.map_windows.is_none()));
    }
}
