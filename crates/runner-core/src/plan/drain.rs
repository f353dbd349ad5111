//! What a stage runs when its job drains: restrictions are truncated before they are processed.

use std::collections::BTreeMap;

use beam_model::pipeline::{PTransform, is_bounded};
use beam_model::urns::standard_p_transforms::splittable_par_do_components::TRUNCATE_SIZED_RESTRICTION;

use super::StageSideInput;
use super::descriptor::one;
use crate::graph::{QueryablePipeline, main_input};
use crate::ports::StageSpec;

pub(super) struct Drain {
    pub spec: StageSpec,
    /// The transform that truncates.
    pub truncate: String,
    /// What it is called.
    pub name: String,
    process: String,
}

impl Drain {
    /// The transform that truncates has all side inputs of the one that processes.
    pub(super) fn side_inputs(&self, of_stage: &[StageSideInput]) -> Vec<StageSideInput> {
        let processing = of_stage.iter().filter(|side| side.transform == self.process);
        processing.map(|side| StageSideInput { transform: self.truncate.clone(), ..side.clone() }).collect()
    }
}

/// The stage with `beam:transform:sdf_truncate_sized_restrictions:v1` between its data source and the
/// transform that processes restrictions. `None` if that ends anyway, since what it makes is bounded.
///
/// The transform that processes keeps its id, its input's tag and coder: what one descriptor gives back
/// may be given to the other.
pub(super) fn drain(
    pipeline: &QueryablePipeline,
    stage: &StageSpec,
    input: &str,
    process: &str,
) -> Option<Drain> {
    let processing = stage.descriptor.transforms.get(process)?;
    let unbounded = |id: &String| {
        pipeline.pcollection(id).is_ok_and(|made| made.is_bounded() == is_bounded::Enum::Unbounded)
    };
    if !processing.outputs.values().any(unbounded) {
        return None;
    }
    let (tag, _) = main_input(processing).filter(|(_, read)| *read == input)?;
    let (truncate, truncated) = (format!("fn/truncate/{process}"), format!("fn/truncated/{input}"));
    let whole_name = pipeline.name(process);
    let whole_name = whole_name.strip_suffix("/ProcessSizedElementsAndRestrictions").unwrap_or(&whole_name);
    let name = format!("{whole_name}/TruncateSizedRestrictions");

    let mut truncating =
        PTransform { unique_name: name.clone(), outputs: one("out", &truncated), ..processing.clone() };
    if let Some(spec) = &mut truncating.spec {
        spec.urn = TRUNCATE_SIZED_RESTRICTION.to_owned();
    }
    let mut processing = processing.clone();
    processing.inputs.insert(tag.to_owned(), truncated.clone());

    let mut descriptor = stage.descriptor.clone();
    let restrictions = descriptor.pcollections.get(input)?.clone();
    descriptor.id = format!("{}-drain", descriptor.id);
    descriptor.pcollections.insert(truncated, restrictions);
    descriptor
        .transforms
        .extend(BTreeMap::from([(truncate.clone(), truncating), (process.to_owned(), processing)]));
    let spec = StageSpec { name: format!("{}, draining", stage.name), descriptor, ..stage.clone() };
    Some(Drain { spec, truncate, name, process: process.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use beam_model::pipeline::Pipeline;
    use beam_model::urns::standard_p_transforms::splittable_par_do_components as parts;
    use prost::Message;

    use super::*;
    use crate::fusion::fuse;
    use crate::plan::{ExecutionPlan, PlanGrain, Stage, plan};

    /// The plan of a pipeline with a splittable ParDo that has a side input.
    fn planned(boundedness: is_bounded::Enum) -> ExecutionPlan {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sdf_side_input.pb");
        let mut pipeline = Pipeline::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let components = pipeline.components.as_mut().unwrap();
        let sdf =
            components.transforms.values().find(|transform| transform.unique_name == "CountTo").unwrap();
        for output in sdf.outputs.values() {
            components.pcollections.get_mut(output).unwrap().is_bounded = boundedness.into();
        }
        let mut graph = QueryablePipeline::new(&pipeline).unwrap();
        crate::rewrite::rewrite(&mut graph).unwrap();
        plan(&graph, &fuse(&graph).unwrap(), PlanGrain::Default).unwrap()
    }

    fn stages(plan: &ExecutionPlan) -> impl Iterator<Item = &Stage> {
        plan.stages().map(|(_, stage)| stage)
    }

    #[test]
    fn restrictions_are_truncated_between_source_and_process() {
        let plan = planned(is_bounded::Enum::Unbounded);
        let drained: Vec<_> = stages(&plan).filter(|stage| stage.drain.is_some()).collect();
        let [stage] = drained[..] else { panic!("one stage is to be drained, not {}", drained.len()) };
        let (usual, drain) = (&stage.spec.descriptor, &stage.drain.as_ref().unwrap().descriptor);
        let process = stage.restriction_reader.as_ref().unwrap();
        let truncate = &format!("fn/truncate/{process}");
        assert_eq!(drain.id, format!("{}-drain", usual.id));

        let (truncating, processing) = (&drain.transforms[truncate], &drain.transforms[process]);
        let (as_usual, spec) = (&usual.transforms[process], truncating.spec.as_ref().unwrap());
        assert_eq!(spec.urn, parts::TRUNCATE_SIZED_RESTRICTION);
        assert_eq!(spec.payload, as_usual.spec.as_ref().unwrap().payload);
        assert_eq!(truncating.unique_name, "CountTo/TruncateSizedRestrictions");
        assert_eq!(truncating.inputs, as_usual.inputs, "the side input too");
        assert_eq!(usual.transforms[&stage.source].outputs, drain.transforms[&stage.source].outputs);

        let (tag, restrictions) = main_input(as_usual).unwrap();
        let truncated = &truncating.outputs["out"];
        assert_eq!(main_input(processing).unwrap(), (tag, truncated.as_str()));
        assert_eq!(drain.pcollections[truncated], usual.pcollections[restrictions]);
        let mut moved_back = processing.clone();
        moved_back.inputs.insert(tag.to_owned(), restrictions.to_owned());
        assert_eq!(moved_back, *as_usual);

        let asks: Vec<_> = stage.side_inputs.iter().map(|side| &side.transform).collect();
        assert_eq!(asks, [process, truncate]);
        assert_eq!(stage.side_inputs[0].collection, stage.side_inputs[1].collection);
        assert_eq!(plan.transform_names[truncate], truncating.unique_name);
    }

    #[test]
    fn what_ends_anyway_is_not_truncated() {
        let plan = planned(is_bounded::Enum::Bounded);
        assert!(stages(&plan).any(|stage| stage.restriction_reader.is_some()));
        assert!(stages(&plan).all(|stage| stage.drain.is_none()));
    }
}
