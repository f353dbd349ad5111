//! Combining states of a stage whose windows merge. The Python SDK keeps several accumulators and merges them when
//! it reads; other SDKs keep one and read the first, so the runner has them merged when windows are.

use std::sync::Arc;

use beam_model::pipeline::state_spec::Spec;
use beam_model::pipeline::{CombinePayload, merge_status};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS;
use prost::Message;

use super::coders::WireCoders;
use super::windows::{Function, runs_python};
use crate::fault::Fault;
use crate::fusion::ExecutableStage;
use crate::graph::{QueryablePipeline, main_input, pardo_payload};
use crate::ports::StageSpec;

/// A stage that merges what a combining state has: it reads `KV<nonce, Iterable<accumulator>>` and writes
/// `KV<nonce, accumulator>`, both accumulators as they are in the state.
#[derive(Clone, Debug)]
pub struct CombineStage {
    /// The transform whose state it is.
    pub transform: String,
    pub state_id: String,
    pub spec: Arc<StageSpec>,
    pub source: String,
}

/// Those of the stage's first transform, which is the one that has state.
pub(super) fn combine_stages(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    stage: &ExecutableStage,
) -> Result<Vec<CombineStage>, Fault> {
    let Some(root) = stage.transforms.first() else { return Ok(Vec::new()) };
    let transform = pipeline.transform(root)?;
    let (Some(payload), Some((_, input))) = (pardo_payload(transform).ok().flatten(), main_input(transform))
    else {
        return Ok(Vec::new());
    };
    let environment = pipeline.components.environments.get(&stage.environment_id);
    let merge = pipeline.windowing_strategy(input)?.merge_status() == merge_status::Enum::NeedsMerge;
    if !merge || environment.is_some_and(runs_python) {
        return Ok(Vec::new());
    }
    let name = pipeline.name(root);
    let mut stages = Vec::new();
    for (state_id, spec) in &payload.state_specs {
        let Some(Spec::CombiningSpec(combining)) = &spec.spec else { continue };
        let accumulator = combining.accumulator_coder_id.clone();
        let several = format!("{accumulator}_several");
        let several = wire.add_standard(&several, standard_coders::ITERABLE, &[&accumulator]);
        let combine =
            CombinePayload { combine_fn: combining.combine_fn.clone(), accumulator_coder_id: accumulator };
        let function = Function {
            id: format!("merge-accumulators-{root}-{state_id}"),
            stage_name: format!("merging of state {state_id} of {name}"),
            name: format!("{name}/MergeAccumulators({state_id})"),
            environment_id: stage.environment_id.clone(),
            urn: COMBINE_PER_KEY_MERGE_ACCUMULATORS,
            payload: combine.encode_to_vec().into(),
            input: several,
            output: combine.accumulator_coder_id,
        };
        let (spec, source) = function.stage(pipeline, wire);
        let (transform, state_id) = (root.clone(), state_id.clone());
        stages.push(CombineStage { transform, state_id, spec: Arc::new(spec), source });
    }
    Ok(stages)
}
