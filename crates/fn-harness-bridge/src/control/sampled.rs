//! What a descriptor needs so that the worker keeps the elements that it fails at.
//!
//! The Python harness keeps an element as the output of a transform, but not as that of a data source; so that
//! nothing would be kept where the first transform of a stage fails. A Flatten of one PCollection, which changes
//! nothing, stands between the two then.

use std::collections::BTreeMap;

use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::{FunctionSpec, PTransform};
use beam_model::urns::fn_api_transforms::runner::DATA_SOURCE;
use beam_model::urns::standard_p_transforms::primitives::FLATTEN;
use beam_model::urns::standard_p_transforms::splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS;

/// How the id of a PCollection begins that only the worker has.
const READ: &str = "beamline:read:";

pub(super) fn sampled(descriptor: &mut ProcessBundleDescriptor, environment_id: &str) {
    let urn = |transform: &PTransform| transform.spec.as_ref().map(|spec| spec.urn.clone());
    // A restriction is split where it is read.
    let restrictions = Some(PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS.to_owned());
    if descriptor.transforms.values().any(|transform| urn(transform) == restrictions) {
        return;
    }
    let transforms = descriptor.transforms.iter();
    let sources = transforms.filter(|(_, transform)| urn(transform).as_deref() == Some(DATA_SOURCE));
    let sources: Vec<String> = sources.map(|(id, _)| id.clone()).collect();
    for source in sources {
        let Some(transform) = descriptor.transforms.get_mut(&source) else { continue };
        let mut flattens = Vec::new();
        for pcollection in transform.outputs.values_mut() {
            let read = format!("{READ}{pcollection}");
            let Some(proto) = descriptor.pcollections.get(pcollection).cloned() else { continue };
            descriptor.pcollections.insert(read.clone(), proto);
            flattens.push((read.clone(), std::mem::replace(pcollection, read)));
        }
        for (read, pcollection) in flattens {
            let flatten = PTransform {
                unique_name: read.clone(),
                spec: Some(FunctionSpec { urn: FLATTEN.to_owned(), payload: Default::default() }),
                inputs: BTreeMap::from([("in".to_owned(), read.clone())]),
                outputs: BTreeMap::from([("out".to_owned(), pcollection)]),
                environment_id: environment_id.to_owned(),
                ..Default::default()
            };
            descriptor.transforms.insert(read, flatten);
        }
    }
}

/// Whether a transform or PCollection is one of those that only the worker has.
pub(super) fn is_workers_own(id: &str) -> bool {
    id.starts_with(READ)
}
