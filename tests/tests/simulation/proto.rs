//! A case as a pipeline of the protocol.

use std::collections::BTreeMap;

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::test_stream_payload::{self as stream, event};
use beam_model::pipeline::{
    self, BagStateSpec, CombinePayload, Components, Environment, FixedWindowsPayload, FunctionSpec,
    PCollection, PTransform, ParDoPayload, Pipeline, SessionWindowsPayload, SideInput, SlidingWindowsPayload,
    StateSpec, TestStreamPayload, TimerFamilySpec, WindowIntoPayload, WindowingStrategy, accumulation_mode,
    closing_behavior, is_bounded, merge_status, on_time_behavior, output_time, time_domain,
};
use beam_model::urns::standard_p_transforms::{combine_components, composites, primitives};
use beam_model::urns::{
    fixed_windows_payload, global_windows_payload, session_windows_payload, sliding_windows_payload,
    standard_coders, standard_side_input_types, standard_user_state_types,
};
use prost::Message;

use super::case::*;
use super::functions::{self, encoded};

pub const ENVIRONMENTS: [&str; 2] = ["one", "other"];
const TAG: &str = "in";

pub fn pipeline(case: &Case, environment: &Environment) -> Pipeline {
    let mut components = Components::default();
    ENVIRONMENTS.iter().for_each(|id| {
        components.environments.insert((*id).to_owned(), environment.clone());
    });
    let mut writer = Writer { case, components };
    writer.coders();
    for (col, collection) in case.collections.iter().enumerate() {
        writer.strategy(col, &collection.windowing);
        let (key, value) = collection.coders;
        writer.pcollection(&name(col), &format!("kv{key}{value}"), col);
    }
    for (index, step) in case.steps.iter().enumerate() {
        writer.step(index, step);
    }
    Pipeline { components: Some(writer.components), ..Default::default() }
}

/// What a collection is called.
pub fn name(col: Col) -> String {
    format!("c{col}")
}

struct Writer<'a> {
    case: &'a Case,
    components: Components,
}

fn spec(urn: &str, payload: impl Into<bytes::Bytes>) -> FunctionSpec {
    FunctionSpec { urn: urn.to_owned(), payload: payload.into() }
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(tag, id)| ((*tag).to_owned(), (*id).to_owned())).collect()
}

fn duration(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap();
    Some(prost_types::Duration { seconds: millis / 1000, nanos })
}

impl Writer<'_> {
    fn coder(&mut self, id: &str, urn: &str, components: &[&str]) {
        let component_coder_ids = components.iter().map(|id| (*id).to_owned()).collect();
        let coder = pipeline::Coder { spec: Some(spec(urn, Vec::new())), component_coder_ids };
        self.components.coders.insert(id.to_owned(), coder);
    }

    fn coders(&mut self) {
        self.coder("bytes", standard_coders::BYTES, &[]);
        self.coder("utf8", standard_coders::STRING_UTF8, &[]);
        self.coder("opaque", "simulation:coder:opaque", &[]);
        self.coder("prefixed", standard_coders::LENGTH_PREFIX, &["bytes"]);
        self.coder("global", standard_coders::GLOBAL_WINDOW, &[]);
        self.coder("interval", standard_coders::INTERVAL_WINDOW, &[]);
        for (v, value) in CODERS.iter().enumerate() {
            self.coder(&format!("iterable{v}"), standard_coders::ITERABLE, &[value]);
        }
        for (k, key) in CODERS.iter().enumerate() {
            for (v, value) in CODERS.iter().enumerate() {
                self.coder(&format!("kv{k}{v}"), standard_coders::KV, &[key, value]);
                let values = format!("iterable{v}");
                self.coder(&format!("grouped{k}{v}"), standard_coders::KV, &[key, &values]);
            }
            for window in ["global", "interval"] {
                self.coder(&format!("timer{k}{window}"), standard_coders::TIMER, &[key, window]);
            }
        }
    }

    fn strategy(&mut self, col: Col, windowing: &Windowing) {
        let sessions = matches!(windowing.windows, Windows::Sessions { .. });
        let merge_status = match (sessions, windowing.merged) {
            (false, _) => merge_status::Enum::NonMerging,
            (true, false) => merge_status::Enum::NeedsMerge,
            (true, true) => merge_status::Enum::AlreadyMerged,
        };
        let output_time = match windowing.output_time {
            OutputTime::EndOfWindow => output_time::Enum::EndOfWindow,
            OutputTime::Earliest => output_time::Enum::EarliestInPane,
            OutputTime::Latest => output_time::Enum::LatestInPane,
        };
        let strategy = WindowingStrategy {
            window_fn: Some(window_fn(windowing.windows)),
            merge_status: merge_status.into(),
            window_coder_id: window_coder(windowing.windows).to_owned(),
            trigger: Some(trigger_of(windowing.trigger)),
            accumulation_mode: accumulation_mode::Enum::Discarding.into(),
            output_time: output_time.into(),
            closing_behavior: closing_behavior::Enum::EmitIfNonempty.into(),
            allowed_lateness: windowing.lateness,
            on_time_behavior: on_time_behavior::Enum::FireIfNonempty.into(),
            assigns_to_one_window: !matches!(windowing.windows, Windows::Sliding { size, period } if size > period),
            environment_id: String::new(),
        };
        self.components.windowing_strategies.insert(name(col), strategy);
    }

    /// A PCollection in the windows of a collection.
    fn pcollection(&mut self, id: &str, coder_id: &str, windows_of: Col) {
        let bounded = match self.case.collections[windows_of].unbounded {
            true => is_bounded::Enum::Unbounded,
            false => is_bounded::Enum::Bounded,
        };
        let pcollection = PCollection {
            unique_name: id.to_owned(),
            coder_id: coder_id.to_owned(),
            is_bounded: bounded.into(),
            windowing_strategy_id: name(windows_of),
            ..Default::default()
        };
        self.components.pcollections.insert(id.to_owned(), pcollection);
    }

    fn transform(
        &mut self,
        id: &str,
        spec: FunctionSpec,
        inputs: BTreeMap<String, String>,
        outputs: BTreeMap<String, String>,
        environment: Option<usize>,
    ) {
        let environment_id = environment.map(|index| ENVIRONMENTS[index].to_owned()).unwrap_or_default();
        let transform = PTransform {
            unique_name: id.to_owned(),
            spec: Some(spec),
            inputs,
            outputs,
            environment_id,
            ..Default::default()
        };
        self.components.transforms.insert(id.to_owned(), transform);
    }

    fn step(&mut self, index: usize, step: &Step) {
        let id = format!("s{index}");
        let environment = Some(step.environment);
        let input = step.inputs.first().map(|col| name(*col)).unwrap_or_default();
        let output = step.outputs.first().map(|col| name(*col)).unwrap_or_default();
        let do_fn = |urn: &str| Some(spec(urn, index.to_string().into_bytes()));
        let par_do = |urn: &str| ParDoPayload { do_fn: do_fn(urn), ..Default::default() };
        let one_in = map(&[(TAG, &input)]);
        let one_out = map(&[("out", &output)]);
        let tagged = step.outputs.iter().enumerate().map(|(n, col)| (n.to_string(), name(*col))).collect();
        match &step.kind {
            Kind::Create(_) => {
                let start = format!("{id}start");
                let payload = par_do(functions::CREATE).encode_to_vec();
                self.pcollection(&start, "bytes", step.outputs[0]);
                self.transform(
                    &format!("{id}impulse"),
                    spec(primitives::IMPULSE, Vec::new()),
                    BTreeMap::new(),
                    map(&[("out", &start)]),
                    None,
                );
                let start = map(&[(TAG, &start)]);
                self.transform(&id, spec(primitives::PAR_DO, payload), start, one_out, environment);
            }
            Kind::TestStream(events) => {
                let payload = test_stream(events).encode_to_vec();
                self.transform(&id, spec(primitives::TEST_STREAM, payload), BTreeMap::new(), tagged, None);
            }
            Kind::Map { .. } => {
                let payload = par_do(functions::MAP).encode_to_vec();
                self.transform(&id, spec(primitives::PAR_DO, payload), one_in, tagged, environment);
            }
            Kind::Assign => {
                let windows = self.case.collections[step.outputs[0]].windowing.windows;
                let payload = WindowIntoPayload { window_fn: Some(window_fn(windows)) }.encode_to_vec();
                self.transform(&id, spec(primitives::ASSIGN_WINDOWS, payload), one_in, one_out, environment);
            }
            Kind::Group(_) => {
                let grouped = self.grouped(&id, step);
                self.transform(
                    &format!("{id}group"),
                    spec(primitives::GROUP_BY_KEY, Vec::new()),
                    one_in,
                    map(&[("out", &grouped)]),
                    None,
                );
                let payload = par_do(functions::UNGROUP).encode_to_vec();
                let grouped = map(&[(TAG, &grouped)]);
                self.transform(&id, spec(primitives::PAR_DO, payload), grouped, one_out, environment);
            }
            Kind::Combine(_) => self.combine(&id, step, do_fn("simulation:join")),
            Kind::Flatten => {
                let inputs = step.inputs.iter().enumerate().map(|(n, col)| (n.to_string(), name(*col)));
                let inputs = inputs.collect();
                self.transform(&id, spec(primitives::FLATTEN, Vec::new()), inputs, one_out, None);
            }
            Kind::Reshuffle => {
                self.transform(&id, spec(composites::RESHUFFLE, Vec::new()), one_in, one_out, None);
            }
            Kind::Stateful(kind) => {
                let payload = self.stateful(step, *kind, par_do(functions::STATEFUL)).encode_to_vec();
                self.transform(&id, spec(primitives::PAR_DO, payload), one_in, one_out, environment);
            }
            Kind::SideInput(access) | Kind::LiveSideInput(access) => {
                let side = step.inputs[1];
                let side_inputs = [("side".to_owned(), self.side_input(side, *access))].into();
                let payload = ParDoPayload { side_inputs, ..par_do(functions::SIDE_INPUT) }.encode_to_vec();
                let inputs = map(&[(TAG, &input), ("side", &name(side))]);
                self.transform(&id, spec(primitives::PAR_DO, payload), inputs, one_out, environment);
            }
            Kind::Read => {
                let restriction_coder_id = "bytes".to_owned();
                let payload = ParDoPayload { restriction_coder_id, ..par_do(functions::READ) };
                let payload = payload.encode_to_vec();
                self.transform(&id, spec(primitives::PAR_DO, payload), one_in, one_out, environment);
            }
            Kind::Sink(_) => {
                let payload = ParDoPayload { requests_finalization: true, ..par_do(functions::SINK) };
                let payload = payload.encode_to_vec();
                self.transform(&id, spec(primitives::PAR_DO, payload), one_in, BTreeMap::new(), environment);
            }
        }
    }

    /// A PCollection of what the step groups.
    fn grouped(&mut self, id: &str, step: &Step) -> String {
        let grouped = format!("{id}grouped");
        let (key, value) = self.case.collections[step.inputs[0]].coders;
        // Keys and values that are encoded otherwise are transcoded.
        let value = if step.salt.is_multiple_of(5) { (value + 1) % CODERS.len() } else { value };
        self.pcollection(&grouped, &format!("grouped{key}{value}"), step.inputs[0]);
        grouped
    }

    fn combine(&mut self, id: &str, step: &Step, combine_fn: Option<FunctionSpec>) {
        let (input, output) = (name(step.inputs[0]), name(step.outputs[0]));
        let grouped = self.grouped(id, step);
        let (combined, whole) = (format!("{id}combined"), format!("{id}combine"));
        let (key, value) = self.case.collections[step.outputs[0]].coders;
        self.pcollection(&combined, &format!("kv{key}{value}"), step.inputs[0]);
        let payload =
            CombinePayload { combine_fn: combine_fn.clone(), accumulator_coder_id: "bytes".to_owned() };
        let payload = payload.encode_to_vec();
        let parts = [format!("{id}group"), format!("{id}values")];
        let (one_in, together) = (map(&[(TAG, &input)]), map(&[("out", &combined)]));
        self.transform(
            &parts[0],
            spec(primitives::GROUP_BY_KEY, Vec::new()),
            one_in.clone(),
            map(&[("out", &grouped)]),
            None,
        );
        let values = spec(combine_components::COMBINE_GROUPED_VALUES, payload.clone());
        self.transform(&parts[1], values, map(&[(TAG, &grouped)]), together.clone(), Some(step.environment));
        self.transform(
            &whole,
            spec(composites::COMBINE_PER_KEY, payload),
            one_in,
            together,
            Some(step.environment),
        );
        if let Some(transform) = self.components.transforms.get_mut(&whole) {
            transform.subtransforms = parts.to_vec();
        }
        let do_fn = combine_fn.map(|it| spec(functions::TAKE_APART, it.payload));
        let payload = ParDoPayload { do_fn, ..Default::default() }.encode_to_vec();
        let (inputs, outputs) = (map(&[(TAG, &combined)]), map(&[("out", &output)]));
        self.transform(id, spec(primitives::PAR_DO, payload), inputs, outputs, Some(step.environment));
    }

    fn stateful(&self, step: &Step, kind: Stateful, payload: ParDoPayload) -> ParDoPayload {
        let bag = || {
            let bag = BagStateSpec { element_coder_id: "bytes".to_owned() };
            let protocol = Some(spec(standard_user_state_types::BAG, Vec::new()));
            StateSpec { protocol, spec: Some(Spec::BagSpec(bag)) }
        };
        let input = &self.case.collections[step.inputs[0]];
        let timer_family_coder_id =
            format!("timer{}{}", input.coders.0, window_coder(input.windowing.windows));
        let family = |domain: time_domain::Enum| {
            let time_domain = domain.into();
            TimerFamilySpec { time_domain, timer_family_coder_id: timer_family_coder_id.clone() }
        };
        let (state, timer) = match kind {
            Stateful::AtEnd(_) => ("kept", Some(("event", time_domain::Enum::EventTime))),
            Stateful::CountAtExpiry => ("kept", Some(("expiry", time_domain::Enum::EventTime))),
            Stateful::Distinct => ("kept", None),
            Stateful::Ticks => ("once", Some(("event", time_domain::Enum::EventTime))),
            Stateful::AtTime(_) => ("kept", Some(("processing", time_domain::Enum::ProcessingTime))),
        };
        let families = timer.map(|(id, domain)| (id.to_owned(), family(domain))).into_iter().collect();
        let expiry = if kind == Stateful::CountAtExpiry { "expiry".to_owned() } else { String::new() };
        ParDoPayload {
            state_specs: [(state.to_owned(), bag())].into(),
            timer_family_specs: families,
            on_window_expiration_timer_family_spec: expiry,
            ..payload
        }
    }

    fn side_input(&self, side: Col, access: Access) -> SideInput {
        let urn = match access {
            Access::Iterable => standard_side_input_types::ITERABLE,
            Access::OfKey => standard_side_input_types::MULTIMAP,
        };
        let sizes = match self.case.collections[side].windowing.windows {
            Windows::Sliding { size, period } => format!("{size},{period}"),
            Windows::Global | Windows::Sessions { .. } => String::new(),
        };
        SideInput {
            access_pattern: Some(spec(urn, Vec::new())),
            view_fn: None,
            window_mapping_fn: Some(spec("simulation:mapping", sizes.into_bytes())),
        }
    }
}

fn window_coder(windows: Windows) -> &'static str {
    match windows {
        Windows::Global => "global",
        Windows::Sliding { .. } | Windows::Sessions { .. } => "interval",
    }
}

fn window_fn(windows: Windows) -> FunctionSpec {
    match windows {
        Windows::Global => spec(global_windows_payload::PROPERTIES, Vec::new()),
        Windows::Sliding { size, period } if size == period => {
            let fixed = FixedWindowsPayload { size: duration(size), offset: None };
            spec(fixed_windows_payload::PROPERTIES, fixed.encode_to_vec())
        }
        Windows::Sliding { size, period } => {
            let sliding =
                SlidingWindowsPayload { size: duration(size), period: duration(period), offset: None };
            spec(sliding_windows_payload::PROPERTIES, sliding.encode_to_vec())
        }
        Windows::Sessions { gap } => {
            let sessions = SessionWindowsPayload { gap_size: duration(gap) };
            spec(session_windows_payload::PROPERTIES, sessions.encode_to_vec())
        }
    }
}

fn trigger_of(trigger: Trigger) -> pipeline::Trigger {
    use pipeline::trigger::*;
    use pipeline::{TimestampTransform, timestamp_transform};
    let of = |trigger| pipeline::Trigger { trigger: Some(trigger) };
    let boxed = |trigger| Some(Box::new(of(trigger)));
    let count = |element_count| Trigger::ElementCount(ElementCount { element_count });
    let repeat = |trigger| Trigger::Repeat(Box::new(Repeat { subtrigger: boxed(trigger) }));
    of(match trigger {
        super::case::Trigger::Default => Trigger::Default(Default {}),
        super::case::Trigger::EachCount(n) => repeat(count(n)),
        super::case::Trigger::EarlyAndLate => Trigger::AfterEndOfWindow(Box::new(AfterEndOfWindow {
            early_firings: boxed(count(1)),
            late_firings: boxed(count(1)),
        })),
        super::case::Trigger::EachDelay(delay_millis) => {
            let delay = timestamp_transform::Delay { delay_millis };
            let delay = timestamp_transform::TimestampTransform::Delay(delay);
            let transform = TimestampTransform { timestamp_transform: Some(delay) };
            let timestamp_transforms = vec![transform];
            repeat(Trigger::AfterProcessingTime(AfterProcessingTime { timestamp_transforms }))
        }
    })
}

fn test_stream(events: &[Event]) -> TestStreamPayload {
    let of = |event| stream::Event { event: Some(event) };
    let event = |event: &Event| match event {
        Event::Elements { output, elements } => {
            let element = |element: &Element| stream::TimestampedElement {
                encoded_element: encoded(&[&element.key, &element.value]).into(),
                timestamp: element.time,
            };
            let elements = elements.iter().map(element).collect();
            of(event::Event::ElementEvent(event::AddElements { elements, tag: output.to_string() }))
        }
        Event::Watermark { output, to } => {
            let tag = output.to_string();
            of(event::Event::WatermarkEvent(event::AdvanceWatermark { new_watermark: *to, tag }))
        }
        Event::Clock { by } => {
            let advance_duration = *by;
            of(event::Event::ProcessingTimeEvent(event::AdvanceProcessingTime { advance_duration }))
        }
    };
    let coder_id = format!("kv{STREAM_CODER}{STREAM_CODER}");
    TestStreamPayload { coder_id, events: events.iter().map(event).collect(), endpoint: None }
}
