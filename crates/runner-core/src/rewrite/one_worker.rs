//! With one worker, what spreads work over workers only makes more bundles of it.
//!
//! A bundle costs a worker some milliseconds before its first element, which is most of a small job's time. So the
//! Reshuffle that the Python SDK's Create puts behind its values is left out, and all Impulses become one, whose
//! readers are then one stage.
//!
//! A Reshuffle of the user's own stays: it also keeps what comes before it from being done again when what comes after it
//! fails. So does everything in an unbounded pipeline, where a bundle that goes on and on would hold up its siblings.

use std::collections::BTreeSet;

use beam_model::pipeline::Components;

use crate::fault::Fault;
use crate::graph::{PrimitiveKind, QueryablePipeline};
use crate::plan::is_streaming;

/// The annotation with which the Python SDK says what a transform is.
const PYTHON_TYPE: &str = "python_type";
const PYTHON_CREATE: &[u8] = b"apache_beam.transforms.core.Create";

/// For a job whose environments have one worker each. The pipeline has been validated.
pub fn for_one_worker(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    if is_streaming(&pipeline.components) {
        return Ok(());
    }
    leave_out_reshuffles(pipeline)?;
    merge_impulses(pipeline)
}

fn leave_out_reshuffles(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    let in_create = parts_of_creates(&pipeline.components);
    for id in pipeline.primitives().to_vec() {
        if !in_create.contains(&id) || pipeline.kind(&id)? != PrimitiveKind::Redistribute {
            continue;
        }
        let reshuffle = pipeline.transform(&id)?;
        let (Some(input), Some(output)) =
            (reshuffle.inputs.values().next(), reshuffle.outputs.values().next())
        else {
            continue;
        };
        if is_alike(pipeline, input, output)? {
            let (input, output) = (input.clone(), output.clone());
            pipeline.replace(&id, Vec::new());
            read_instead(pipeline, &output, &input);
        }
    }
    Ok(())
}

/// The ids of all transforms within a Create.
fn parts_of_creates(components: &Components) -> BTreeSet<String> {
    let is_create = |id: &&String| {
        let kind =
            components.transforms.get(*id).and_then(|transform| transform.annotations.get(PYTHON_TYPE));
        kind.is_some_and(|kind| kind.as_ref() == PYTHON_CREATE)
    };
    let mut open: Vec<_> = components.transforms.keys().filter(is_create).collect();
    let mut parts = BTreeSet::new();
    while let Some(id) = open.pop() {
        let inner = components.transforms.get(id).map(|transform| &transform.subtransforms);
        open.extend(inner.into_iter().flatten().filter(|part| parts.insert((*part).clone())));
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
