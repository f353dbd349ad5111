//! Timers of a stage's ParDos, on their way to a worker.

use std::collections::BTreeSet;

use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::ParDoPayload;
use beam_model::urns::standard_p_transforms::primitives::PAR_DO;
use prost::Message;
use runner_core::fault::Fault;
use runner_core::ports::TimerBlock;

/// A timer family of one ParDo. For each that a stage has, both sides mark the end of its timers in every
/// bundle, also when there are none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerFamily {
    pub(crate) transform_id: String,
    pub(crate) family_id: String,
}

/// The timers that fire in a bundle.
pub(crate) struct FiredTimers {
    pub(crate) blocks: Vec<TimerBlock>,
    /// All families of the stage.
    pub(crate) families: BTreeSet<TimerFamily>,
}

impl FiredTimers {
    /// Errors: a timer of a family that the stage does not have. The worker would not know what to do with
    /// it.
    pub(super) fn new(
        stage: &str,
        families: &BTreeSet<TimerFamily>,
        blocks: Vec<TimerBlock>,
    ) -> Result<Self, Fault> {
        let unknown = blocks.iter().find(|block| {
            !families.iter().any(|family| {
                (&family.transform_id, &family.family_id) == (&block.transform_id, &block.family_id)
            })
        });
        match unknown {
            Some(TimerBlock { transform_id, family_id, .. }) => Err(Fault::runner(format!(
                "{stage}: a bundle has timers of family {family_id:?} of {transform_id:?}, which is no timer \
                 family of the stage"
            ))),
            None => Ok(Self { blocks, families: families.clone() }),
        }
    }
}

/// The timer families of a stage: those of its ParDos. The parts of a splittable ParDo carry the same
/// payload, but harnesses have no timers there.
pub(super) fn families(descriptor: &ProcessBundleDescriptor) -> BTreeSet<TimerFamily> {
    let mut families = BTreeSet::new();
    for (transform_id, transform) in &descriptor.transforms {
        let spec = transform.spec.as_ref().filter(|spec| spec.urn == PAR_DO);
        // What cannot be read was refused with the pipeline.
        let payload = spec.and_then(|spec| ParDoPayload::decode(spec.payload.clone()).ok());
        for family_id in payload.into_iter().flat_map(|payload| payload.timer_family_specs.into_keys()) {
            families.insert(TimerFamily { transform_id: transform_id.clone(), family_id });
        }
    }
    families
}
