//! Leaves out what spreads work where there is nothing to spread, or where it is spread anew.
//!
//! The Python SDK's Create has a Reshuffle behind its values. Before a Reshuffle of the user's own it is of no use, nor is it
//! where bundles run one by one, where all Impulses become one besides, so that their readers are one stage: a bundle costs
//! a worker some milliseconds before its first element, which is most of a small job's time.
//!
//! A Reshuffle of the user's own stays: it also keeps what comes before it from being done again when what comes after
//! fails. In unbounded pipelines nothing is joined: a bundle that goes on and on would hold up its siblings.

use std::collections::BTreeSet;

use beam_model::pipeline::{Components, PTransform};

use crate::fault::Fault;
use crate::graph::{PrimitiveKind, QueryablePipeline};
use crate::plan::{PlanGrain, is_streaming};

/// The annotation with which the Python SDK says what a transform is.
const PYTHON_TYPE: &str = "python_type";
const PYTHON_CREATE: &[u8] = b"apache_beam.transforms.core.Create";

/// Leaves out what need not be for this grain. The pipeline has been validated.
pub fn spread_no_more_than(grain: PlanGrain, pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    match grain {
        PlanGrain::Coarse if !is_streaming(&pipeline.components) => join(pipeline),
        PlanGrain::Coarse | PlanGrain::Default => spread_once(pipeline),
        // All of it is to be cut.
        PlanGrain::Key | PlanGrain::Element => Ok(()),
    }
}

fn spread_once(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    let creates: Vec<_> = creates(&pipeline.components).cloned().collect();
    let network = pipeline.network();
    let mut spread_anew = Vec::new();
    for id in creates {
        let made = pipeline.transform(&id)?.outputs.values();
        let mut kinds = Vec::new();
        for (reader, _) in made.filter_map(|id| network.consumers.get(id)).flatten() {
            kinds.push(pipeline.kind(reader)?);
        }
        if !kinds.is_empty() && kinds.iter().all(|kind| *kind == PrimitiveKind::Redistribute) {
            spread_anew.push(id);
        }
    }
    leave_out_reshuffles(pipeline, spread_anew)
}

fn join(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    let creates = creates(&pipeline.components).cloned().collect();
    leave_out_reshuffles(pipeline, creates)?;
    merge_impulses(pipeline)
}

fn creates(components: &Components) -> impl Iterator<Item = &String> {
    let is_create = |transform: &PTransform| {
        transform.annotations.get(PYTHON_TYPE).is_some_and(|kind| kind.as_ref() == PYTHON_CREATE)
    };
    components.transforms.iter().filter(move |(_, transform)| is_create(transform)).map(|(id, _)| id)
}

/// Those that are parts of `composites`.
fn leave_out_reshuffles(pipeline: &mut QueryablePipeline, composites: Vec<String>) -> Result<(), Fault> {
    let parts = parts_of(&pipeline.components, composites);
    for id in pipeline.primitives().to_vec() {
        if !parts.contains(&id) || pipeline.kind(&id)? != PrimitiveKind::Redistribute {
            continue;
        }
        let reshuffle = pipeline.transform(&id)?;
        let ends = (reshuffle.inputs.values().next().cloned(), reshuffle.outputs.values().next().cloned());
        if let (Some(input), Some(output)) = ends
            && is_alike(pipeline, &input, &output)?
        {
            pipeline.replace(&id, Vec::new());
            read_instead(pipeline, &output, &input);
        }
    }
    Ok(())
}

/// The ids of all transforms within the composites.
fn parts_of(components: &Components, composites: Vec<String>) -> BTreeSet<String> {
    let (mut open, mut parts) = (composites, BTreeSet::new());
    while let Some(id) = open.pop() {
        let inner = components.transforms.get(&id).map(|transform| &transform.subtransforms);
        open.extend(inner.into_iter().flatten().filter(|part| parts.insert((*part).clone())).cloned());
    }
    parts
}

fn merge_impulses(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    let mut kept: Vec<String> = Vec::new();
    for id in pipeline.primitives().to_vec() {
        if pipeline.kind(&id)? != PrimitiveKind::Impulse {
            continue;
        }
        let Some(output) = pipeline.transform(&id)?.outputs.values().next().cloned() else { continue };
        let mut same = None;
        for other in &kept {
            if is_alike(pipeline, other, &output)? {
                same = Some(other.clone());
            }
        }
        match same {
            Some(other) => {
                pipeline.replace(&id, Vec::new());
                read_instead(pipeline, &output, &other);
            }
            None => kept.push(output),
        }
    }
    Ok(())
}

/// Whether both PCollections have coders and windows alike.
fn is_alike(pipeline: &QueryablePipeline, one: &str, other: &str) -> Result<bool, Fault> {
    let coder = |id| pipeline.pcollection(id).map(|pcollection| pcollection.coder_id.as_str());
    Ok(pipeline.same_coder(coder(one)?, coder(other)?)
        && pipeline.windowing_strategy(one)? == pipeline.windowing_strategy(other)?)
}

/// Whoever reads `old` reads `new` from now on.
fn read_instead(pipeline: &mut QueryablePipeline, old: &str, new: &str) {
    let transforms = pipeline.components.transforms.values_mut();
    for input in transforms.flat_map(|transform| transform.inputs.values_mut()) {
        if input == old {
            new.clone_into(input);
        }
    }
}
