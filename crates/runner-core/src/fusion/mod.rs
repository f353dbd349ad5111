//! 3 · Cuts the pipeline into executable stages.
//!
//! Greedy: a transform joins the stage that makes its input, else one that already reads the same
//! input, as long as it runs in the same environment and no side input would have to be ready before
//! the stage that makes it. What joins nobody starts a stage.

use std::collections::{BTreeSet, HashMap, HashSet};

use beam_model::urns::standard_p_transforms::splittable_par_do_components;

use crate::fault::Fault;
use crate::graph::{
    Network, PrimitiveKind, QueryablePipeline, distinct, main_input, pardo_payload, side_inputs,
};
use crate::plan::{is_keyed, is_live};

/// Transforms that a worker executes together on the elements of one PCollection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutableStage {
    pub environment_id: String,
    /// The PCollection that it reads.
    pub input: String,
    /// Producers before consumers.
    pub transforms: Vec<String>,
    pub side_inputs: Vec<SideInputReference>,
    /// The PCollections that something outside the stage reads.
    pub outputs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideInputReference {
    pub transform: String,
    pub tag: String,
    pub pcollection: String,
    /// `SideInput.access_pattern`.
    pub access_pattern: String,
}

/// Stages, and the primitives between them that the runner executes itself.
#[derive(Clone, Debug, Default)]
pub struct FusedPipeline {
    pub stages: Vec<ExecutableStage>,
    /// Ids of Impulse, TestStream, GroupByKey, Flatten and Redistribute transforms, producers before consumers.
    pub runner_transforms: Vec<String>,
}

/// Fuses a rewritten pipeline.
pub fn fuse(pipeline: &QueryablePipeline) -> Result<FusedPipeline, Fault> {
    let mut fuser = GreedyPipelineFuser {
        pipeline,
        network: pipeline.network(),
        fused: FusedPipeline::default(),
        stage_of: HashMap::new(),
    };
    for id in pipeline.primitives() {
        fuser.place(id)?;
    }
    fuser.name_outputs();
    Ok(fuser.fused)
}

struct GreedyPipelineFuser<'a> {
    pipeline: &'a QueryablePipeline,
    network: Network,
    fused: FusedPipeline,
    /// Which stage holds a transform.
    stage_of: HashMap<&'a str, usize>,
}

impl<'a> GreedyPipelineFuser<'a> {
    fn place(&mut self, id: &'a str) -> Result<(), Fault> {
        match self.pipeline.kind(id)? {
            PrimitiveKind::Sdk => self.place_in_stage(id),
            PrimitiveKind::Flatten => {
                match self.stage_that_makes_all_inputs(id) {
                    Some(stage) => self.join(stage, id, Vec::new()),
                    None => self.fused.runner_transforms.push(id.to_owned()),
                }
                Ok(())
            }
            PrimitiveKind::Impulse
            | PrimitiveKind::TestStream
            | PrimitiveKind::GroupByKey
            | PrimitiveKind::Redistribute
            | PrimitiveKind::CombinePerKey => {
                self.fused.runner_transforms.push(id.to_owned());
                Ok(())
            }
        }
    }

    fn place_in_stage(&mut self, id: &'a str) -> Result<(), Fault> {
        let transform = self.pipeline.transform(id)?;
        let environment_id = self.pipeline.environment_id(id)?;
        let no_input = || Fault::runner(format!("transform {} has no main input", self.pipeline.name(id)));
        let (_, input) = main_input(transform).ok_or_else(no_input)?;
        let side: Vec<_> = side_inputs(transform)
            .into_iter()
            .filter_map(|(tag, side)| {
                Some(SideInputReference {
                    transform: id.to_owned(),
                    pcollection: transform.inputs.get(&tag)?.clone(),
                    tag,
                    access_pattern: side.access_pattern.map(|spec| spec.urn).unwrap_or_default(),
                })
            })
            .collect();
        match self.stage_to_join(id, input, &environment_id, &side) {
            Some(stage) => self.join(stage, id, side),
            None => {
                let new = ExecutableStage {
                    environment_id,
                    input: input.to_owned(),
                    transforms: Vec::new(),
                    side_inputs: Vec::new(),
                    outputs: Vec::new(),
                };
                self.fused.stages.push(new);
                self.join(self.fused.stages.len() - 1, id, side);
            }
        }
        Ok(())
    }

    fn join(&mut self, stage: usize, id: &'a str, side: Vec<SideInputReference>) {
        if let Some(stage) = self.fused.stages.get_mut(stage) {
            stage.transforms.push(id.to_owned());
            stage.side_inputs.extend(side);
        }
        self.stage_of.insert(id, stage);
    }

    fn stage_to_join(
        &self,
        id: &str,
        input: &str,
        environment_id: &str,
        side: &[SideInputReference],
    ) -> Option<usize> {
        // Restrictions are to spread over workers, and residuals of a running one come back as its
        // input: the transform that processes them reads from the runner.
        if self.starts_a_stage(id) {
            return None;
        }
        let producer =
            self.network.producer.get(input).and_then(|id| self.stage_of.get(id.as_str())).copied();
        let siblings = self.fused.stages.iter().enumerate().filter(|(_, stage)| {
            stage.input == input && !stage.transforms.first().is_some_and(|root| self.starts_a_stage(root))
        });
        producer.into_iter().chain(siblings.map(|(index, _)| index)).find(|index| {
            self.fused.stages[*index].environment_id == environment_id
                && side.iter().all(|side| !self.depends_on(&side.pcollection, *index))
        })
    }

    fn starts_a_stage(&self, id: &str) -> bool {
        let Some(transform) = self.pipeline.components.transforms.get(id) else { return false };
        let processes_restrictions = transform.spec.as_ref().is_some_and(|spec| {
            spec.urn == splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
        });
        // State is by key, so the runner has to see the keys; and input that is to be the same in every
        // attempt must have been committed.
        let payload = pardo_payload(transform).ok().flatten();
        // An element waits until its windows of such a side input are ready, so the runner has to see them.
        let awaits = side_inputs(transform)
            .keys()
            .filter_map(|tag| transform.inputs.get(tag))
            .any(|pcollection| is_live(self.pipeline, pcollection));
        processes_restrictions
            || awaits
            || payload.is_some_and(|payload| is_keyed(&payload) || payload.requires_stable_input)
    }

    /// A Flatten whose inputs are all made in one stage costs nothing there. One that reads a
    /// PCollection twice stays with the runner: workers know a Flatten by its distinct inputs.
    fn stage_that_makes_all_inputs(&self, id: &str) -> Option<usize> {
        let transform = self.pipeline.components.transforms.get(id)?;
        let inputs = distinct(&transform.inputs);
        if inputs.len() != transform.inputs.len() {
            return None;
        }
        let stages: BTreeSet<Option<usize>> = inputs
            .iter()
            .map(|input| self.stage_of.get(self.network.producer.get(*input)?.as_str()).copied())
            .collect();
        match stages.len() {
            1 => stages.into_iter().next().flatten(),
            _ => None,
        }
    }

    /// Whether making `pcollection` needs anything of the stage.
    fn depends_on(&self, pcollection: &str, stage: usize) -> bool {
        let mut open = vec![pcollection];
        let mut seen = HashSet::new();
        while let Some(id) = open.pop() {
            let Some(producer) = self.network.producer.get(id).filter(|_| seen.insert(id)) else { continue };
            match self.stage_of.get(producer.as_str()) {
                Some(index) if *index == stage => return true,
                Some(index) => {
                    let made_by = &self.fused.stages[*index];
                    open.push(&made_by.input);
                    open.extend(made_by.side_inputs.iter().map(|side| side.pcollection.as_str()));
                }
                None => {
                    let inputs = self.pipeline.components.transforms.get(producer).map(|t| &t.inputs);
                    open.extend(inputs.into_iter().flat_map(|inputs| inputs.values()).map(String::as_str));
                }
            }
        }
        false
    }

    fn name_outputs(&mut self) {
        let mut outputs = vec![BTreeSet::new(); self.fused.stages.len()];
        for (pcollection, readers) in &self.network.consumers {
            let Some(producer) = self.network.producer.get(pcollection) else { continue };
            let Some(stage) = self.stage_of.get(producer.as_str()) else { continue };
            let read_outside = readers.iter().any(|(reader, tag)| {
                self.stage_of.get(reader.as_str()) != Some(stage) || self.is_side_input(reader, tag)
            });
            if read_outside {
                outputs[*stage].insert(pcollection.clone());
            }
        }
        for (stage, outputs) in self.fused.stages.iter_mut().zip(outputs) {
            stage.outputs = outputs.into_iter().collect();
        }
    }

    fn is_side_input(&self, transform: &str, tag: &str) -> bool {
        self.pipeline.components.transforms.get(transform).is_some_and(|t| side_inputs(t).contains_key(tag))
    }
}
