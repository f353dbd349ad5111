//! Metrics by short ids: the names that a worker gives them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use beam_model::pipeline::MonitoringInfo;
use bytes::Bytes;

/// What one worker's short ids mean.
#[derive(Default)]
pub(super) struct Names(Mutex<HashMap<String, MonitoringInfo>>);

impl Names {
    /// The payloads of `infos` by short id.
    pub(super) fn shorten(&self, infos: Vec<MonitoringInfo>) -> BTreeMap<String, Bytes> {
        let mut names = self.0.lock().unwrap();
        let mut data = BTreeMap::new();
        for mut info in infos {
            let payload = std::mem::take(&mut info.payload);
            let known = names.iter().find(|(_, known)| **known == info).map(|(id, _)| id.clone());
            let id = known.unwrap_or_else(|| format!("{:x}", names.len()));
            names.insert(id.clone(), info);
            data.insert(id, payload);
        }
        data
    }

    pub(super) fn meaning(&self, ids: &[String]) -> BTreeMap<String, MonitoringInfo> {
        let names = self.0.lock().unwrap();
        ids.iter().filter_map(|id| Some((id.clone(), names.get(id)?.clone()))).collect()
    }
}
