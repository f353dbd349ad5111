//! `beam:transform:to_string:v1`: has an SDK write an element for people, in a bundle of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use beam_model::coders::{Coder, PaneInfo, varint, windowed_value};
use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::{
    self, FunctionSpec, PCollection, PTransform, Trigger, WindowingStrategy, accumulation_mode,
    closing_behavior, merge_status, on_time_behavior, output_time, trigger,
};
use beam_model::time::EventTime;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::standard_p_transforms::primitives::TO_STRING;
use beam_model::urns::{global_windows_payload, standard_coders};
use bytes::Bytes;
use prost::Message;
use runner_core::fault::Fault;
use runner_core::ports::{
    BundleInput, BundleRequests, ElementCount, OutputReceiver, RemoteBundle, StageBundleFactory, StageSpec,
    StateHandler, StateKey, StatePage, TimerBlock,
};

use super::stage::StageBundles;

/// A user's `__str__` may take its time; whoever waits for it waits for an error message.
const LIMIT: Duration = Duration::from_secs(10);

/// The names that the stage has, each told apart from the pipeline's by what none of those begins with.
const SOURCE: &str = "beamline:to_string:read";
const SINK: &str = "beamline:to_string:write";
const QUESTION: &str = "beamline:to_string:question";
const ANSWER: &str = "beamline:to_string:answer";
const WINDOWED_QUESTION: &str = "beamline:to_string:windowed_question";
const WINDOWED_ANSWER: &str = "beamline:to_string:windowed_answer";
const KEY: &str = "beamline:to_string:key";
const TEXT: &str = "beamline:to_string:text";
const WINDOW: &str = "beamline:to_string:window";
const STRATEGY: &str = "beamline:to_string:windowing";

/// What the SDK says of an element of a PCollection of `stage` with coder `coder`, given in the nested context.
/// Nothing if the SDK does not have the transform, or fails.
pub(super) async fn ask(stage: &StageBundles, coder: &str, element: &[u8]) -> Option<String> {
    if !stage.workers.environment.can(TO_STRING) {
        return None;
    }
    let to_string = stage.aside(Arc::new(spec(&stage.spec, coder)));
    let mut input = Vec::new();
    let header = PaneInfo::NO_FIRING_ENCODED;
    windowed_value::write_header(&mut input, EventTime(0), [&b""[..]], header).ok()?;
    // An empty key.
    varint::write_prefixed(&mut input, b"");
    input.extend_from_slice(element);
    let outputs = Arc::new(Output::default());
    let bundle = RemoteBundle {
        instruction: "to-string".to_owned(),
        inputs: vec![BundleInput {
            transform_id: SOURCE.to_owned(),
            blocks: Box::new(std::iter::once(Ok(Bytes::from(input)))),
            elements: ElementCount::default(),
        }],
        timers: Vec::new(),
        state: Arc::new(NoState),
        outputs: outputs.clone(),
        side_inputs_version: None,
        requests: BundleRequests::none(),
    };
    match tokio::time::timeout(LIMIT, to_string.process(bundle)).await {
        Ok(Ok(_)) => outputs.text(),
        Ok(Err(fault)) => {
            tracing::debug!("an element cannot be shown: {fault}");
            None
        }
        Err(_) => None,
    }
}

/// source → ToString → sink, on `KV<bytes, element>` and `KV<bytes, string>`.
fn spec(of: &StageSpec, coder: &str) -> StageSpec {
    let coders = [
        (KEY, standard_coders::BYTES, vec![]),
        (TEXT, standard_coders::STRING_UTF8, vec![]),
        (WINDOW, standard_coders::GLOBAL_WINDOW, vec![]),
        (QUESTION, standard_coders::KV, vec![KEY, coder]),
        (ANSWER, standard_coders::KV, vec![KEY, TEXT]),
        (WINDOWED_QUESTION, standard_coders::WINDOWED_VALUE, vec![QUESTION, WINDOW]),
        (WINDOWED_ANSWER, standard_coders::WINDOWED_VALUE, vec![ANSWER, WINDOW]),
    ];
    let coders = coders.into_iter().map(|(id, urn, components)| {
        let component_coder_ids = components.into_iter().map(str::to_owned).collect();
        (id.to_owned(), pipeline::Coder { spec: Some(function(urn)), component_coder_ids })
    });
    let port = |coder: &str| {
        let port = RemoteGrpcPort { api_service_descriptor: None, coder_id: coder.to_owned() };
        Bytes::from(port.encode_to_vec())
    };
    let transform = |urn: &str, payload, input: Option<&str>, output: Option<&str>| PTransform {
        unique_name: urn.to_owned(),
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload }),
        inputs: input.map(|id| ("in".to_owned(), id.to_owned())).into_iter().collect(),
        outputs: output.map(|id| ("out".to_owned(), id.to_owned())).into_iter().collect(),
        environment_id: of.environment_id.clone(),
        ..Default::default()
    };
    let to_string = transform(TO_STRING, Bytes::new(), Some(QUESTION), Some(ANSWER));
    let transforms = [
        (SOURCE, transform(DATA_SOURCE, port(WINDOWED_QUESTION), None, Some(QUESTION))),
        (TO_STRING, to_string),
        (SINK, transform(DATA_SINK, port(WINDOWED_ANSWER), Some(ANSWER), None)),
    ];
    let pcollection = |coder: &str| PCollection {
        unique_name: coder.to_owned(),
        coder_id: coder.to_owned(),
        windowing_strategy_id: STRATEGY.to_owned(),
        ..Default::default()
    };
    let descriptor = ProcessBundleDescriptor {
        id: format!("to-string-{coder}-of-{}", of.descriptor.id),
        transforms: transforms.map(|(id, transform)| (id.to_owned(), transform)).into(),
        pcollections: [QUESTION, ANSWER].map(|id| (id.to_owned(), pcollection(id))).into(),
        windowing_strategies: BTreeMap::from([(STRATEGY.to_owned(), global(&of.environment_id))]),
        coders: of.descriptor.coders.clone().into_iter().chain(coders).collect(),
        environments: of.descriptor.environments.clone(),
        ..Default::default()
    };
    StageSpec { name: "the writing of an element for people".to_owned(), descriptor, ..of.clone() }
}

fn function(urn: &str) -> FunctionSpec {
    FunctionSpec { urn: urn.to_owned(), payload: Bytes::new() }
}

fn global(environment_id: &str) -> WindowingStrategy {
    WindowingStrategy {
        window_fn: Some(function(global_windows_payload::PROPERTIES)),
        merge_status: merge_status::Enum::NonMerging.into(),
        window_coder_id: WINDOW.to_owned(),
        trigger: Some(Trigger { trigger: Some(trigger::Trigger::Default(trigger::Default {})) }),
        accumulation_mode: accumulation_mode::Enum::Discarding.into(),
        output_time: output_time::Enum::EndOfWindow.into(),
        closing_behavior: closing_behavior::Enum::EmitIfNonempty.into(),
        on_time_behavior: on_time_behavior::Enum::FireAlways.into(),
        assigns_to_one_window: true,
        environment_id: environment_id.to_owned(),
        ..Default::default()
    }
}

#[derive(Default)]
struct Output(Mutex<Vec<u8>>);

impl Output {
    fn text(&self) -> Option<String> {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let header = windowed_value::read_header(&Coder::GlobalWindow, &written).ok()?;
        let answer = written.get(header.header_len..)?;
        let (_, key_len) = varint::read_prefixed(answer).ok()?;
        let (text, _) = varint::read_prefixed(answer.get(key_len..)?).ok()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

impl OutputReceiver for Output {
    fn receive(&self, _transform_id: &str, block: Bytes) -> Result<(), Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&block);
        Ok(())
    }

    fn receive_timers(&self, _timers: TimerBlock) -> Result<(), Fault> {
        Err(Fault::environment("a worker set a timer where there is none"))
    }
}

/// There is none.
struct NoState;

impl NoState {
    fn refuse<T>() -> Result<T, Fault> {
        Err(Fault::environment("a worker asked for state where there is none"))
    }
}

impl StateHandler for NoState {
    fn get(&self, _: &StateKey, _: &Bytes) -> Result<StatePage, Fault> {
        Self::refuse()
    }

    fn append(&self, _: &StateKey, _: Bytes) -> Result<(), Fault> {
        Self::refuse()
    }

    fn clear(&self, _: &StateKey) -> Result<(), Fault> {
        Self::refuse()
    }
}
