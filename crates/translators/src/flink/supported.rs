//! What Beam's portable Flink runner cannot run, found before the job is sent there.
//!
//! Each refusal is of something that fails, hangs or is wrong on Flink 1.19 with the runner of Beam 2.62. All of it
//! runs on the native backend.

use std::collections::BTreeSet;

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{Coder, PTransform, ParDoPayload, is_bounded, merge_status};
use beam_model::urns::{
    fixed_windows_payload, global_windows_payload, session_windows_payload, sliding_windows_payload,
    standard_coders,
    standard_p_transforms::{combine_components, primitives},
    standard_user_state_types,
};
use runner_core::backend::Refusal;
use runner_core::graph::{
    PrimitiveKind, QueryablePipeline, main_input, pardo_payload, test_stream_payload, test_stream_url,
};

use super::options::FlinkSettings;

const WINDOW_FNS: [&str; 4] = [
    global_windows_payload::PROPERTIES,
    fixed_windows_payload::PROPERTIES,
    sliding_windows_payload::PROPERTIES,
    session_windows_payload::PROPERTIES,
];

/// Transforms that the runner has never heard of.
const UNKNOWN: [&str; 2] =
    [primitives::TO_STRING, combine_components::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS];

/// Coders that the runner's Java code can read and write by itself.
const JAVA_CODERS: [&str; 8] = [
    standard_coders::BYTES,
    standard_coders::KV,
    standard_coders::VARINT,
    standard_coders::ITERABLE,
    standard_coders::LENGTH_PREFIX,
    standard_coders::STRING_UTF8,
    standard_coders::DOUBLE,
    standard_coders::BOOL,
];

const ELSEWHERE: &str = "it runs on backend native";

/// Whether the job has no end that its input gives it, as Beam's runner sees it.
pub(super) fn is_streaming(pipeline: &QueryablePipeline, settings: &FlinkSettings) -> bool {
    let unbounded = |id: &String| {
        pipeline.pcollection(id).is_ok_and(|made| made.is_bounded() == is_bounded::Enum::Unbounded)
    };
    let mut made = pipeline.primitives().iter().filter_map(|id| pipeline.transform(id).ok());
    settings.streaming || made.any(|transform| transform.outputs.values().any(unbounded))
}

/// Names each primitive that asks for what the runner has not got.
pub(super) fn unsupported(pipeline: &QueryablePipeline, settings: &FlinkSettings) -> Refusal {
    let mut all = Objections { refusal: Refusal::default(), pipeline, strategies: BTreeSet::new() };
    let streaming = is_streaming(pipeline, settings);
    for id in pipeline.primitives() {
        let Ok(transform) = pipeline.transform(id) else { continue };
        if let Some(urn) = transform.spec.as_ref().map(|spec| spec.urn.as_str())
            && UNKNOWN.contains(&urn)
        {
            all.object(id, &format!("is a {urn}"));
        }
        all.windows(id, transform);
        match pipeline.kind(id) {
            Ok(PrimitiveKind::Redistribute) => all.redistribute(id, transform),
            Ok(PrimitiveKind::TestStream) => all.test_stream(id, transform),
            Ok(
                PrimitiveKind::Impulse
                // Some of unlike coders fail, those that the runner executes itself. Which ones is its own business;
                // Flink says so when it is asked to start the job.
                | PrimitiveKind::Flatten
                | PrimitiveKind::GroupByKey
                | PrimitiveKind::CombinePerKey
                | PrimitiveKind::Sdk,
            )
            | Err(_) => {}
        }
        if let Ok(Some(payload)) = pardo_payload(transform) {
            all.state(id, transform, &payload);
            all.finalization(id, &payload, streaming);
        }
    }
    all.refusal
}

struct Objections<'a> {
    refusal: Refusal,
    pipeline: &'a QueryablePipeline,
    /// Windowing strategies that have been objected to.
    strategies: BTreeSet<&'a str>,
}

impl<'a> Objections<'a> {
    fn object(&mut self, id: &str, reason: &str) {
        self.refusal.unsupported(
            self.pipeline.name(id),
            format!("{reason}, which Flink's portable runner cannot do; {ELSEWHERE}"),
        );
    }

    fn windows(&mut self, id: &str, transform: &'a PTransform) {
        for output in transform.outputs.values() {
            let Ok(pcollection) = self.pipeline.pcollection(output) else { continue };
            let Ok(strategy) = self.pipeline.windowing_strategy(output) else { continue };
            let urn = strategy.window_fn.as_ref().map_or("", |spec| spec.urn.as_str());
            if !WINDOW_FNS.contains(&urn) && self.strategies.insert(&pcollection.windowing_strategy_id) {
                self.object(id, &format!("has windows of the SDK's own function {urn}"));
            }
        }
    }

    fn redistribute(&mut self, id: &str, transform: &PTransform) {
        let coder = |pcollection: Option<&String>| {
            pcollection.and_then(|id| self.pipeline.pcollection(id).ok()).map(|made| made.coder_id.as_str())
        };
        let (before, after) =
            (coder(transform.inputs.values().next()), coder(transform.outputs.values().next()));
        if let (Some(before), Some(after)) = (before, after)
            && !self.pipeline.same_coder(before, after)
        {
            self.object(id, "writes its elements with another coder than it reads them with");
        }
    }

    fn test_stream(&mut self, id: &str, transform: &PTransform) {
        let Ok(payload) = test_stream_payload(transform) else { return };
        if transform.outputs.len() > 1 {
            self.object(id, "is a TestStream of several outputs");
        }
        if test_stream_url(&payload).is_some() {
            self.object(id, "is a TestStream with its events from a service");
        }
        if !self.is_java_coder(&payload.coder_id, 0) {
            self.object(id, "is a TestStream of elements that only the SDK can decode");
        }
    }

    /// Whether the runner can decode with it. Coders may be nested; one that is its own part is refused elsewhere.
    fn is_java_coder(&self, id: &str, depth: usize) -> bool {
        const DEEPEST: usize = 64;
        let known = |coder: &Coder| {
            coder.spec.as_ref().is_some_and(|spec| JAVA_CODERS.contains(&spec.urn.as_str()))
                && coder.component_coder_ids.iter().all(|part| self.is_java_coder(part, depth + 1))
        };
        depth < DEEPEST && self.pipeline.coder(id).is_ok_and(known)
    }

    fn state(&mut self, id: &str, transform: &PTransform, payload: &ParDoPayload) {
        let is_keyed = !payload.state_specs.is_empty() || !payload.timer_family_specs.is_empty();
        if !is_keyed {
            return;
        }
        for (name, state) in &payload.state_specs {
            // Whatever its SDK makes of it, for the runner it is a bag: Python's sets are.
            if state.protocol.as_ref().is_some_and(|protocol| protocol.urn == standard_user_state_types::BAG)
            {
                continue;
            }
            let kind = match &state.spec {
                Some(Spec::OrderedListSpec(_)) => "an ordered list",
                Some(Spec::MapSpec(_)) => "a map",
                Some(Spec::MultimapSpec(_)) => "a multimap",
                Some(Spec::SetSpec(_)) => "a set",
                Some(Spec::ReadModifyWriteSpec(_) | Spec::BagSpec(_) | Spec::CombiningSpec(_)) | None => {
                    continue;
                }
            };
            self.object(id, &format!("keeps {kind} as its state {name:?}"));
        }
        if !payload.on_window_expiration_timer_family_spec.is_empty() {
            // It never comes, and nothing says so.
            self.object(id, "asks to be called when its windows expire");
        }
        if !payload.restriction_coder_id.is_empty() {
            self.object(id, "is splittable and uses state or timers");
        }
        let merges = main_input(transform)
            .and_then(|(_, input)| self.pipeline.windowing_strategy(input).ok())
            .is_some_and(|strategy| strategy.merge_status() == merge_status::Enum::NeedsMerge);
        if merges {
            self.object(id, "uses state or timers in windows that merge");
        }
    }

    fn finalization(&mut self, id: &str, payload: &ParDoPayload, streaming: bool) {
        if payload.requests_finalization && !streaming {
            self.object(id, "finalizes bundles of a bounded job");
        }
    }
}

/// What the job can run without, but its author should know of.
pub(super) fn warnings(pipeline: &QueryablePipeline, settings: &FlinkSettings) -> Vec<String> {
    if settings.has_checkpoints || !is_streaming(pipeline, settings) {
        return Vec::new();
    }
    let finalizes = |id: &&String| {
        let payload =
            pipeline.transform(id).ok().and_then(|transform| pardo_payload(transform).ok().flatten());
        payload.is_some_and(|payload| payload.requests_finalization)
    };
    let warning = |id: &String| {
        format!(
            "{} finalizes bundles, which Flink does at checkpoints, and this job has none: its callbacks are never called. \
             Give --checkpointing_interval",
            pipeline.name(id)
        )
    };
    pipeline.primitives().iter().filter(finalizes).map(warning).collect()
}
