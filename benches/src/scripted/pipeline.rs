//! A pipeline put together by hand.

use std::collections::BTreeMap;

use beam_model::pipeline::trigger::Trigger as Kind;
use beam_model::pipeline::{
    Coder, Components, Environment, FunctionSpec, PCollection, PTransform, ParDoPayload, Pipeline, Trigger,
    WindowingStrategy,
};
use beam_model::urns::standard_p_transforms::{composites, primitives};
use beam_model::urns::{global_windows_payload, standard_coders};
use prost::Message;

/// Transforms are added in their order; each returns the id of what it makes.
pub struct Builder {
    components: Components,
    roots: Vec<String>,
}

impl Builder {
    /// The coders are `bytes`, `pair` (of bytes) and `group` (of bytes by a key of bytes).
    pub fn new(environment: Environment) -> Self {
        let coder = |urn: &str, components: &[&str]| Coder {
            spec: spec(urn, Vec::new()),
            component_coder_ids: components.iter().map(|id| (*id).to_owned()).collect(),
        };
        let coders = [
            ("bytes", coder(standard_coders::BYTES, &[])),
            ("pair", coder(standard_coders::KV, &["bytes", "bytes"])),
            ("iterable", coder(standard_coders::ITERABLE, &["bytes"])),
            ("group", coder(standard_coders::KV, &["bytes", "iterable"])),
            ("window", coder(standard_coders::GLOBAL_WINDOW, &[])),
        ];
        let global = WindowingStrategy {
            window_fn: spec(global_windows_payload::PROPERTIES, Vec::new()),
            window_coder_id: "window".to_owned(),
            merge_status: 1,
            trigger: Some(Trigger { trigger: Some(Kind::Default(Default::default())) }),
            accumulation_mode: 1,
            output_time: 1,
            closing_behavior: 2,
            on_time_behavior: 1,
            environment_id: ENVIRONMENT.to_owned(),
            ..Default::default()
        };
        let components = Components {
            coders: coders.map(|(id, coder)| (id.to_owned(), coder)).into(),
            windowing_strategies: BTreeMap::from([(GLOBAL.to_owned(), global)]),
            environments: BTreeMap::from([(ENVIRONMENT.to_owned(), environment)]),
            ..Default::default()
        };
        Self { components, roots: Vec::new() }
    }

    pub fn build(self) -> Pipeline {
        Pipeline { components: Some(self.components), root_transform_ids: self.roots, ..Default::default() }
    }

    pub fn impulse(&mut self, name: &str) -> String {
        self.transform(name, primitives::IMPULSE, Vec::new(), &[], "bytes")
    }

    /// `coder` of the output, if there is one.
    pub fn par_do(&mut self, name: &str, do_fn: &str, input: &str, coder: Option<&str>) -> Option<String> {
        let payload = ParDoPayload { do_fn: spec(do_fn, Vec::new()), ..Default::default() }.encode_to_vec();
        let inputs = [input.to_owned()];
        let output = coder.map(|coder| self.output(name, coder));
        self.add(name, primitives::PAR_DO, payload, &inputs, output.as_deref());
        output
    }

    pub fn flatten(&mut self, name: &str, inputs: &[String], coder: &str) -> String {
        self.transform(name, primitives::FLATTEN, Vec::new(), inputs, coder)
    }

    pub fn redistribute(&mut self, name: &str, input: &str, coder: &str) -> String {
        self.transform(name, composites::REDISTRIBUTE_ARBITRARILY, Vec::new(), &[input.to_owned()], coder)
    }

    pub fn group_by_key(&mut self, name: &str, input: &str, coder: &str) -> String {
        self.transform(name, primitives::GROUP_BY_KEY, Vec::new(), &[input.to_owned()], coder)
    }

    fn transform(
        &mut self,
        name: &str,
        urn: &str,
        payload: Vec<u8>,
        inputs: &[String],
        coder: &str,
    ) -> String {
        let output = self.output(name, coder);
        self.add(name, urn, payload, inputs, Some(&output));
        output
    }

    fn output(&mut self, name: &str, coder: &str) -> String {
        let id = format!("output of {name}");
        let output = PCollection {
            unique_name: id.clone(),
            coder_id: coder.to_owned(),
            is_bounded: 2,
            windowing_strategy_id: GLOBAL.to_owned(),
            ..Default::default()
        };
        self.components.pcollections.insert(id.clone(), output);
        id
    }

    fn add(&mut self, name: &str, urn: &str, payload: Vec<u8>, inputs: &[String], output: Option<&str>) {
        let inputs = inputs.iter().enumerate();
        let runs_in_workers = urn == primitives::PAR_DO;
        let transform = PTransform {
            unique_name: name.to_owned(),
            spec: spec(urn, payload),
            inputs: inputs.map(|(index, id)| (index.to_string(), id.clone())).collect(),
            outputs: output.map(|id| ("out".to_owned(), id.to_owned())).into_iter().collect(),
            environment_id: if runs_in_workers { ENVIRONMENT.to_owned() } else { String::new() },
            ..Default::default()
        };
        self.components.transforms.insert(name.to_owned(), transform);
        self.roots.push(name.to_owned());
    }
}

const ENVIRONMENT: &str = "scripted";
const GLOBAL: &str = "global";

fn spec(urn: &str, payload: Vec<u8>) -> Option<FunctionSpec> {
    Some(FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}
