//! What a GroupByKey has to know of its windowing strategy.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::coders::{Coder, varint};
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::{
    FunctionSpec, PCollection, PTransform, Trigger, WindowingStrategy, accumulation_mode, closing_behavior,
    is_bounded, merge_status, on_time_behavior, output_time, trigger,
};
use beam_model::urns::standard_p_transforms::primitives;
use beam_model::urns::{
    fn_api_transforms::runner, global_windows_payload, session_windows_payload, standard_coders as coder_urns,
};
use bytes::Bytes;
use prost::Message;

use super::coders::WireCoders;
use super::descriptor::{one, port_transform};
use super::trigger::Firing;
use crate::fault::Fault;
use crate::graph::QueryablePipeline;
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
    /// `PCollection.is_bounded` of the input. What is bounded needs no early results: each key and window
    /// has one pane, when all elements are there.
    pub bounded: bool,
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
    let sessions = strategy
        .window_fn
        .as_ref()
        .is_some_and(|window_fn| window_fn.urn == session_windows_payload::PROPERTIES);
    let merging = match strategy.merge_status() {
        merge_status::Enum::NeedsMerge if sessions && window_coder == Coder::IntervalWindow => {
            Merging::Sessions
        }
        merge_status::Enum::NeedsMerge => {
            Merging::BySdk(Arc::new(merge_stage(pipeline, wire, transform, &strategy, &window)?))
        }
        merge_status::Enum::Unspecified
        | merge_status::Enum::NonMerging
        | merge_status::Enum::AlreadyMerged => Merging::Never,
    };
    let firing = Firing::of(&strategy)
        .map_err(|unfit| Fault::runner(format!("{}: {unfit}", pipeline.name(transform))))?;
    Ok(Grouping {
        key_coder: *key_coder,
        value_coder: *value_coder,
        window_coder,
        output_time,
        merging,
        firing,
        bounded: pipeline.pcollection(input)?.is_bounded() != is_bounded::Enum::Unbounded,
    })
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

    let global = wire.add_standard("merge_global_window", coder_urns::GLOBAL_WINDOW, &[]);
    let bytes = wire.add_standard("merge_nonce", coder_urns::BYTES, &[]);
    let all = wire.add_standard(&format!("{window}_iterable"), coder_urns::ITERABLE, &[window]);
    let input = wire.add_standard(&format!("{window}_to_merge"), coder_urns::KV, &[&bytes, &all]);
    let merged = wire.add_standard(&format!("{window}_merged"), coder_urns::KV, &[window, &all]);
    let merged = wire.add_standard(&format!("{window}_all_merged"), coder_urns::ITERABLE, &[&merged]);
    let result = wire.add_standard(&format!("{window}_merge_result"), coder_urns::KV, &[&all, &merged]);
    let output = wire.add_standard(&format!("{window}_merge_output"), coder_urns::KV, &[&bytes, &result]);

    let port = |wire: &mut WireCoders, urn, coder: &str| port_transform(urn, wire.windowed(coder, &global));
    let read = PTransform { outputs: one("out", "in"), ..port(wire, runner::DATA_SOURCE, &input) };
    let write = PTransform { inputs: one("in", "out"), ..port(wire, runner::DATA_SINK, &output) };
    let payload = as_worker_reads_it(strategy.window_fn.clone().unwrap_or_default()).encode_to_vec().into();
    let merge = PTransform {
        unique_name: format!("{name}/MergeWindows"),
        spec: Some(FunctionSpec { urn: primitives::MERGE_WINDOWS.to_owned(), payload }),
        inputs: one("in", "in"),
        outputs: one("out", "out"),
        environment_id: environment_id.clone(),
        ..Default::default()
    };
    let pcollection = |id: &str, coder_id: String| PCollection {
        unique_name: id.to_owned(),
        coder_id,
        windowing_strategy_id: "merge_global".to_owned(),
        ..Default::default()
    };
    let source = "fn/read/windows".to_owned();
    let descriptor = ProcessBundleDescriptor {
        id: format!("merge-windows-{transform}"),
        transforms: BTreeMap::from([
            (source.clone(), read),
            ("merge".to_owned(), merge),
            ("fn/write/windows".to_owned(), write),
        ]),
        pcollections: BTreeMap::from([
            ("in".to_owned(), pcollection("in", input)),
            ("out".to_owned(), pcollection("out", output)),
        ]),
        windowing_strategies: BTreeMap::from([("merge_global".to_owned(), global_strategy(&global))]),
        coders: wire.all().clone(),
        environments: environments.clone(),
        ..Default::default()
    };
    let environment = environments.get(&environment_id).cloned().unwrap_or_default();
    let spec =
        StageSpec { name: format!("merging of windows for {name}"), environment_id, environment, descriptor };
    Ok(MergeStage { spec: Arc::new(spec), source })
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
