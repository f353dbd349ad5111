//! The runner's own counters: elements that it has dropped.

use std::collections::BTreeMap;

use beam_model::coders::varint;
use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::{monitoring_info_specs, monitoring_info_type_urns};

/// What users ask for these counters by, beside their name.
const NAMESPACE: &str = "beamline";

/// Elements that a transform has dropped, each counted once for each window that it is dropped from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Their window had expired.
    pub late: u64,
    /// Their window's trigger had finished.
    pub closed: u64,
}

impl Dropped {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// As user counters of the transform, by the names that Beam's other runners give them.
    pub fn monitoring_infos(self, transform: &str) -> Vec<MonitoringInfo> {
        let counters = [("droppedDueToLateness", self.late), ("droppedDueToClosedWindow", self.closed)];
        let counters = counters.into_iter().filter(|(_, count)| *count > 0);
        counters.map(|(name, count)| counter(transform, name, count)).collect()
    }
}

fn counter(transform: &str, name: &str, count: u64) -> MonitoringInfo {
    let mut payload = Vec::new();
    varint::write(&mut payload, count);
    let labels = [("PTRANSFORM", transform), ("NAMESPACE", NAMESPACE), ("NAME", name)];
    MonitoringInfo {
        urn: monitoring_info_specs::USER_SUM_INT64.to_owned(),
        r#type: monitoring_info_type_urns::SUM_INT64_TYPE.to_owned(),
        payload: payload.into(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        ..Default::default()
    }
}
