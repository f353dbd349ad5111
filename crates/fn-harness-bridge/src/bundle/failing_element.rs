//! The element that a user's function could not process, where the worker has kept it
//! (`beam:protocol:data_sampling:v1`). It does if the user wants that: Python with the experiment
//! `enable_data_sampling` or `enable_always_on_exception_sampling`, in workers that get pipeline options.

use std::time::Duration;

use beam_model::coders::{Coder, Value};
use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::instruction_response::Response;
use beam_model::fn_execution::{SampleDataRequest, SampleDataResponse};
use beam_model::urns::standard_protocols::DATA_SAMPLING;
use bytes::Bytes;
use runner_core::ports::StageSpec;

use super::stage::StageBundles;
use super::to_string;
use crate::control::ask;
use crate::worker::WorkerSession;

/// The user's error is there already, and more important than this.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(5);
/// So many characters of an element are shown.
const SHOWN_CHARACTERS: usize = 1000;

/// An element as the worker has encoded it, in the nested context.
struct Sample {
    pcollection: String,
    element: Bytes,
}

/// What the bundle failed at, to follow the user's error; nothing if that is not known.
pub(super) async fn describe(
    stage: &StageBundles,
    worker: &WorkerSession,
    instruction: &str,
) -> Option<String> {
    if !worker.job.samples || !worker.environment.can(DATA_SAMPLING) {
        return None;
    }
    let Sample { pcollection, element } = sample(&stage.spec, worker, instruction).await?;
    let coder = &stage.spec.descriptor.pcollections.get(&pcollection)?.coder_id;
    Some(format!("The element was: {}", text_of(stage, coder, &element).await))
}

/// An element of a PCollection of `stage`, given in the nested context, for people.
pub(super) async fn text_of(stage: &StageBundles, coder: &str, element: &[u8]) -> String {
    let text = match to_string::ask(stage, coder, element).await {
        Some(text) => text,
        None => without_sdk(&stage.spec, coder, element),
    };
    shown(&text)
}

async fn sample(spec: &StageSpec, worker: &WorkerSession, instruction: &str) -> Option<Sample> {
    let pcollection_ids = spec.descriptor.pcollections.keys().cloned().collect();
    let request = Request::SampleData(SampleDataRequest { pcollection_ids });
    let answer = ask(worker, "sample", request, SAMPLE_TIMEOUT).await.ok()?;
    let Some(Response::SampleData(SampleDataResponse { element_samples })) = answer.response else {
        return None;
    };
    // Other samples are of what went well, or of other bundles.
    element_samples.into_iter().find_map(|(pcollection, samples)| {
        let failed = samples.elements.into_iter().find(|sample| {
            sample.exception.as_ref().is_some_and(|exception| exception.instruction_id == instruction)
        });
        failed.map(|sample| Sample { pcollection, element: sample.element })
    })
}

/// The element if its coder is a standard one, else its bytes.
fn without_sdk(spec: &StageSpec, coder: &str, element: &[u8]) -> String {
    let coder = Coder::from_proto(coder, &spec.descriptor.coders);
    match coder.ok().and_then(|coder| coder.decode_prefix(element).ok()) {
        Some((value, _)) => text(&value),
        None => format!("b\"{}\", encoded with a coder of its SDK", element.escape_ascii()),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Bytes(value) => format!("b\"{}\"", value.escape_ascii()),
        Value::String(value) => format!("{value:?}"),
        Value::Kv(pair) => format!("({}, {})", text(&pair.0), text(&pair.1)),
        Value::Iterable(values) => format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join(", ")),
        Value::StateBackedIterable { .. }
        | Value::Map(_)
        | Value::Row(_)
        | Value::Instant(_)
        | Value::Decimal { .. }
        | Value::ShardedKey { .. }
        | Value::GlobalWindow
        | Value::IntervalWindow(_)
        | Value::CustomWindow { .. }
        | Value::WindowedValue { .. }
        | Value::Timer { .. } => format!("{value:?}"),
    }
}

/// On one line, and not too long.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text.chars();
    for character in rest.by_ref().take(SHOWN_CHARACTERS) {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    match rest.count() {
        0 => shown,
        more => format!("{shown}… ({more} characters more)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_standard_coder_is_shown_as_it_is() {
        let key = Value::Kv(Box::new((Value::String("a\"".to_owned()), Value::Int(-1))));
        let value = Value::Iterable(vec![Value::Bytes(b"b\0".to_vec()), Value::Null, Value::Bool(true)]);
        let element = Value::Kv(Box::new((key, value)));
        assert_eq!(text(&element), r#"(("a\"", -1), [b"b\x00", null, true])"#);
    }

    #[test]
    fn an_element_is_shown_on_one_line_and_not_as_a_whole_if_it_is_long() {
        assert_eq!(shown("('a', 1)"), "('a', 1)");
        assert_eq!(shown("a\nb\u{0}é"), "a\\nb\\u{0}é");
        let long = "é".repeat(SHOWN_CHARACTERS + 7);
        assert_eq!(shown(&long), format!("{}… (7 characters more)", "é".repeat(SHOWN_CHARACTERS)));
    }
}
