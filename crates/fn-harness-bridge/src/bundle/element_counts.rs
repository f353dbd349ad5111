//! How many elements a bundle had, as its worker counts them.

use std::collections::BTreeSet;

use beam_model::coders::varint;
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use beam_model::urns::monitoring_info::monitoring_info_labels::PCOLLECTION;
use beam_model::urns::monitoring_info_specs::ELEMENT_COUNT;
use runner_core::meters::Meters;

/// The PCollections of a stage that cross the data plane.
pub(super) struct ElementCounts {
    read: BTreeSet<String>,
    written: BTreeSet<String>,
}

impl ElementCounts {
    pub(super) fn new(descriptor: &ProcessBundleDescriptor) -> Self {
        let with_urn = |urn: &'static str| {
            let transforms = descriptor.transforms.values();
            transforms.filter(move |transform| transform.spec.as_ref().is_some_and(|spec| spec.urn == urn))
        };
        let read = with_urn(DATA_SOURCE).flat_map(|transform| transform.outputs.values().cloned());
        let written = with_urn(DATA_SINK).flat_map(|transform| transform.inputs.values().cloned());
        Self { read: read.collect(), written: written.collect() }
    }

    /// Adds what the worker has counted of a bundle (`beam:metric:element_count:v1`).
    pub(super) fn count(&self, infos: &[MonitoringInfo], meters: &Meters) {
        for info in infos.iter().filter(|info| info.urn == ELEMENT_COUNT) {
            let Some(pcollection) = info.labels.get(PCOLLECTION) else { continue };
            let Ok((count, _)) = varint::read(&info.payload) else { continue };
            if self.read.contains(pcollection) {
                meters.to_workers.elements.add(count);
            }
            if self.written.contains(pcollection) {
                meters.from_workers.elements.add(count);
            }
        }
    }
}
