//! Checks a submitted pipeline and names every fault at once.

use std::collections::{BTreeMap, HashSet};

use beam_model::pipeline::{Coder, CombinePayload, Components, PTransform, Pipeline};
use beam_model::urns::{standard_coders, standard_requirements};
use prost::Message;

use super::coders::{CoderFault, CoderFaults};
use super::primitive::{self, PrimitiveKind};
use super::{distinct, test_stream, user_name};
use crate::backend::Refusal;
use crate::plan::access_pattern;

const KNOWN_REQUIREMENTS: [&str; 6] = [
    standard_requirements::REQUIRES_STATEFUL_PROCESSING,
    standard_requirements::REQUIRES_BUNDLE_FINALIZATION,
    standard_requirements::REQUIRES_STABLE_INPUT,
    standard_requirements::REQUIRES_TIME_SORTED_INPUT,
    standard_requirements::REQUIRES_SPLITTABLE_DOFN,
    standard_requirements::REQUIRES_ON_WINDOW_EXPIRATION,
];

/// How deep composites may nest.
const MAX_COMPOSITE_DEPTH: usize = 1_000;

/// Adds every fault to `refusal` and returns the primitives in the order in which they were found.
pub(super) fn check(pipeline: &Pipeline, components: &Components, refusal: &mut Refusal) -> Vec<String> {
    for requirement in &pipeline.requirements {
        if !KNOWN_REQUIREMENTS.contains(&requirement.as_str()) {
            refusal.unsupported("pipeline", format!("requirement {requirement} is not known to this runner"));
        }
    }
    if pipeline.root_transform_ids.is_empty() {
        composites_without_root(components, refusal);
    }
    let seen = HashSet::new();
    let mut walk = Walk { components, refusal, seen, primitives: Vec::new(), unknown: Vec::new() };
    for root in roots(pipeline, components) {
        walk.transform(&root, 0);
    }
    let Walk { primitives, unknown, .. } = walk;
    let mut check = Check { components, coders: CoderFaults::new(&components.coders) };
    check.producers(&primitives, &unknown, refusal);
    for id in &primitives {
        check.primitive(id, refusal);
    }
    primitives
}

/// The pipeline's roots; for one that names none, every transform that is no part of another.
fn roots(pipeline: &Pipeline, components: &Components) -> Vec<String> {
    if !pipeline.root_transform_ids.is_empty() {
        return pipeline.root_transform_ids.clone();
    }
    let parts: HashSet<&String> = components.transforms.values().flat_map(|t| &t.subtransforms).collect();
    components.transforms.keys().filter(|id| !parts.contains(id)).cloned().collect()
}

/// Where no roots are named, a transform that no root leads to is in a circle of composites.
fn composites_without_root(components: &Components, refusal: &mut Refusal) {
    let parts: HashSet<&String> = components.transforms.values().flat_map(|t| &t.subtransforms).collect();
    let mut open: Vec<&String> = components.transforms.keys().filter(|id| !parts.contains(id)).collect();
    let mut reached = HashSet::new();
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(
                components.transforms.get(id).into_iter().flat_map(|transform| &transform.subtransforms),
            );
        }
    }
    for id in components.transforms.keys().filter(|id| !reached.contains(id)) {
        refusal.invalid(user_name(components, id), "is a part of itself, or of a composite that is");
    }
}

/// Goes down the composites to the primitives.
struct Walk<'a> {
    components: &'a Components,
    refusal: &'a mut Refusal,
    seen: HashSet<String>,
    primitives: Vec<String>,
    /// Leaves that are refused for their URN. They make their outputs all the same: who reads those is
    /// not at fault.
    unknown: Vec<String>,
}

impl Walk<'_> {
    fn transform(&mut self, id: &str, depth: usize) {
        let Some(transform) = self.components.transforms.get(id) else {
            self.refusal.invalid(format!("transform {id}"), "is named as a part, but not in the pipeline");
            return;
        };
        if !self.seen.insert(id.to_owned()) {
            self.refusal.invalid(self.name(id), "is a part of two composites, or of itself");
            return;
        }
        if depth > MAX_COMPOSITE_DEPTH {
            self.refusal.invalid(self.name(id), "composites nest too deep");
            return;
        }
        let urn = primitive::urn(transform);
        match primitive::kind_of(urn) {
            Some(PrimitiveKind::CombinePerKey) if !transform.subtransforms.is_empty() => {
                self.combine(id, transform, depth)
            }
            Some(_) => self.primitives.push(id.to_owned()),
            None if !transform.subtransforms.is_empty() => self.parts(transform, depth),
            // A composite without parts may hand on its input; there is nothing to execute.
            None if distinct(&transform.outputs).is_subset(&distinct(&transform.inputs)) => {}
            None => {
                let reason = match urn {
                    "" => "has no URN, no parts, and makes a PCollection".to_owned(),
                    urn => format!("transform {urn} is not known to this runner"),
                };
                self.refusal.unsupported(self.name(id), reason);
                self.unknown.push(id.to_owned());
            }
        }
    }

    /// A combine is a primitive if it can be lifted; that is for rewriting to decide, which needs its
    /// parts validated as well.
    fn combine(&mut self, id: &str, transform: &PTransform, depth: usize) {
        if crate::rewrite::can_lift(self.components, transform) {
            self.primitives.push(id.to_owned());
        } else {
            self.parts(transform, depth);
        }
    }

    fn parts(&mut self, transform: &PTransform, depth: usize) {
        for part in &transform.subtransforms {
            self.transform(part, depth + 1);
        }
    }

    fn name(&self, id: &str) -> String {
        user_name(self.components, id)
    }
}

struct Check<'a> {
    components: &'a Components,
    coders: CoderFaults<'a>,
}

impl Check<'_> {
    fn name(&self, id: &str) -> String {
        user_name(self.components, id)
    }

    /// Each PCollection that is read is made, and made once.
    fn producers(&self, primitives: &[String], unknown: &[String], refusal: &mut Refusal) {
        let mut made_by: BTreeMap<&str, &str> = BTreeMap::new();
        let transform = |id| Some((id, self.components.transforms.get(id)?));
        for (id, transform) in primitives.iter().chain(unknown).filter_map(transform) {
            for output in distinct(&transform.outputs) {
                if let Some(other) = made_by.insert(output, id) {
                    let other = self.name(other);
                    refusal.invalid(self.name(id), format!("makes PCollection {output}, as does {other}"));
                }
            }
        }
        for (id, transform) in primitives.iter().filter_map(transform) {
            for (tag, input) in &transform.inputs {
                if !self.components.pcollections.contains_key(input) {
                    refusal.invalid(
                        self.name(id),
                        format!("reads PCollection {input} (input {tag}), which is not in the pipeline"),
                    );
                } else if !made_by.contains_key(input.as_str()) {
                    refusal.invalid(
                        self.name(id),
                        format!("reads PCollection {input} (input {tag}), which no transform makes"),
                    );
                }
            }
        }
    }

    fn primitive(&mut self, id: &str, refusal: &mut Refusal) {
        let Some(transform) = self.components.transforms.get(id) else { return };
        for pcollection in distinct(&transform.inputs).union(&distinct(&transform.outputs)) {
            self.pcollection(id, pcollection, refusal);
        }
        match primitive::kind_of(primitive::urn(transform)) {
            Some(PrimitiveKind::Sdk) => self.sdk_transform(id, transform, refusal),
            Some(PrimitiveKind::GroupByKey | PrimitiveKind::CombinePerKey) => {
                self.one_in_one_out(id, transform, refusal);
                self.keyed_input(id, transform, refusal);
            }
            Some(PrimitiveKind::Redistribute) => self.one_in_one_out(id, transform, refusal),
            Some(PrimitiveKind::Impulse | PrimitiveKind::Flatten) => self.one_output(id, transform, refusal),
            Some(PrimitiveKind::TestStream) => self.test_stream(id, transform, refusal),
            None => {}
        }
    }

    fn pcollection(&mut self, transform_id: &str, id: &str, refusal: &mut Refusal) {
        let name = || self.name(transform_id);
        let Some(pcollection) = self.components.pcollections.get(id) else {
            if self
                .components
                .transforms
                .get(transform_id)
                .is_some_and(|t| t.outputs.values().any(|o| o == id))
            {
                refusal.invalid(name(), format!("makes PCollection {id}, which is not in the pipeline"));
            }
            return;
        };
        match self.components.windowing_strategies.get(&pcollection.windowing_strategy_id) {
            None => {
                let missing = &pcollection.windowing_strategy_id;
                let reason = format!(
                    "PCollection {id} has the windowing strategy {missing:?}, which is not in the pipeline"
                );
                refusal.invalid(name(), reason);
            }
            Some(strategy) => self.coder(
                transform_id,
                &format!("the windows of PCollection {id} need"),
                &strategy.window_coder_id,
                refusal,
            ),
        }
        self.coder(transform_id, &format!("PCollection {id} needs"), &pcollection.coder_id, refusal);
    }

    /// Refuses a transform for every fault of a coder. `needs` begins the sentence, who needs it.
    fn coder(&mut self, transform_id: &str, needs: &str, coder_id: &str, refusal: &mut Refusal) {
        for CoderFault { coder, reason } in self.coders.of(coder_id) {
            refusal.invalid(
                user_name(self.components, transform_id),
                format!("{needs} coder {coder:?}, which {reason}"),
            );
        }
    }

    fn sdk_transform(&mut self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        let environments = &self.components.environments;
        if !transform.environment_id.is_empty() && !environments.contains_key(&transform.environment_id) {
            let missing = &transform.environment_id;
            refusal.invalid(
                self.name(id),
                format!("runs in environment {missing:?}, which is not in the pipeline"),
            );
        } else if transform.environment_id.is_empty() && environments.len() != 1 {
            refusal.invalid(self.name(id), "names no environment to run in");
        }
        match primitive::pardo_payload(transform) {
            Err(error) => refusal.invalid(self.name(id), format!("its ParDoPayload cannot be read: {error}")),
            Ok(None) => {}
            Ok(Some(payload)) => {
                for tag in payload.side_inputs.keys().filter(|tag| !transform.inputs.contains_key(*tag)) {
                    refusal.invalid(self.name(id), format!("side input {tag} is none of its inputs"));
                }
                for (tag, side) in &payload.side_inputs {
                    let urn = side.access_pattern.as_ref().map_or("", |spec| &spec.urn);
                    if access_pattern(urn).is_none() {
                        let reason = format!(
                            "asks for side input {tag} as {urn:?}, which is not known to this runner"
                        );
                        refusal.unsupported(self.name(id), reason);
                    }
                }
                // Else nothing would ever expire, and what the user does then would never be done.
                let expiry = &payload.on_window_expiration_timer_family_spec;
                if !expiry.is_empty() && !payload.timer_family_specs.contains_key(expiry) {
                    let reason =
                        format!("acts on window expiration by timers {expiry:?}, which it does not declare");
                    refusal.invalid(self.name(id), reason);
                }
                if !payload.restriction_coder_id.is_empty() {
                    self.coder(id, "its restrictions need", &payload.restriction_coder_id, refusal);
                }
            }
        }
        let main = transform.inputs.len().saturating_sub(primitive::side_inputs(transform).len());
        if main != 1 {
            refusal.invalid(
                self.name(id),
                format!("has {main} main inputs; a transform that a worker executes has one"),
            );
        }
    }

    fn test_stream(&mut self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        for fault in test_stream::shape_faults(self.components, transform) {
            refusal.invalid(self.name(id), fault);
        }
        match test_stream::test_stream_payload(transform) {
            Err(error) => {
                refusal.invalid(self.name(id), format!("its TestStreamPayload cannot be read: {error}"))
            }
            Ok(payload) => {
                let before = refusal.invalid.len();
                self.coder(id, "its elements need", &payload.coder_id, refusal);
                if refusal.invalid.len() == before {
                    for fault in test_stream::event_faults(self.components, transform, &payload) {
                        refusal.invalid(self.name(id), fault);
                    }
                }
            }
        }
    }

    fn one_in_one_out(&self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        if transform.inputs.len() != 1 {
            refusal.invalid(self.name(id), format!("has {} inputs, and wants one", transform.inputs.len()));
        }
        self.one_output(id, transform, refusal);
    }

    fn one_output(&self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        if transform.outputs.len() != 1 {
            refusal.invalid(self.name(id), format!("has {} outputs, and wants one", transform.outputs.len()));
        }
    }

    fn keyed_input(&mut self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        for pcollection in transform.inputs.values().chain(transform.outputs.values()) {
            let Some(coder) = self.coder_of(pcollection) else { continue };
            let urn = coder.spec.as_ref().map_or("", |spec| &spec.urn);
            if urn != standard_coders::KV || coder.component_coder_ids.len() != 2 {
                let reason = format!(
                    "groups by key, but its elements have the coder {urn} instead of a key-value coder"
                );
                refusal.invalid(self.name(id), reason);
            }
        }
        match primitive::kind_of(primitive::urn(transform)) {
            Some(PrimitiveKind::CombinePerKey) => self.combine(id, transform, refusal),
            Some(PrimitiveKind::GroupByKey) => self.grouped_output(id, transform, refusal),
            Some(
                PrimitiveKind::Impulse
                | PrimitiveKind::TestStream
                | PrimitiveKind::Flatten
                | PrimitiveKind::Redistribute
                | PrimitiveKind::Sdk,
            )
            | None => {}
        }
    }

    fn coder_of(&self, pcollection: &str) -> Option<&Coder> {
        self.components.coders.get(&self.components.pcollections.get(pcollection)?.coder_id)
    }

    /// A combine that is left as it is will be lifted.
    fn combine(&mut self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        let payload = transform.spec.as_ref().map(|spec| spec.payload.clone()).unwrap_or_default();
        match CombinePayload::decode(payload) {
            Err(error) => {
                refusal.invalid(self.name(id), format!("its CombinePayload cannot be read: {error}"))
            }
            Ok(payload) => {
                let before = refusal.invalid.len();
                self.coder(id, "its accumulators need", &payload.accumulator_coder_id, refusal);
                if refusal.invalid.len() == before && !crate::rewrite::can_lift(self.components, transform) {
                    refusal.unsupported(self.name(id), "can be run only as its parts, and has none");
                }
            }
        }
    }

    fn grouped_output(&self, id: &str, transform: &PTransform, refusal: &mut Refusal) {
        for output in transform.outputs.values() {
            let values = self.coder_of(output).and_then(|coder| coder.component_coder_ids.get(1));
            let values = values.and_then(|id| self.components.coders.get(id));
            if values.is_some_and(|values| values.component_coder_ids.len() != 1) {
                refusal.invalid(self.name(id), format!("PCollection {output} has no iterables as values"));
            }
        }
    }
}
