//! Many reports of a metric made one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use beam_model::pipeline::MonitoringInfo;
use prost_types::Timestamp;

use super::cell::Cell;

/// More metrics than any real job has. A pipeline that makes metric names out of its data would
/// otherwise fill the runner's memory.
const MOST_METRICS: usize = 100_000;

/// Merges `MonitoringInfo`s that have the same URN, type and labels.
#[derive(Clone, Debug, Default)]
pub struct MetricsAccumulator {
    metrics: Vec<Metric>,
    /// Where in `metrics` those with this hash of URN, type and labels are; so that merging a report
    /// of a known metric copies no string.
    index: HashMap<u64, Vec<usize>>,
    malformed: u64,
    left_out: u64,
}

#[derive(Clone, Debug)]
struct Metric {
    /// Its payload and start time are not kept up to date.
    info: MonitoringInfo,
    start_time: Option<Timestamp>,
    cell: Cell,
}

impl MetricsAccumulator {
    /// Merges the reports of one bundle. One whose payload does not have the form of its type is left
    /// out and counted; one of a type that is not known replaces what was reported before.
    pub fn add(&mut self, infos: &[MonitoringInfo]) {
        for info in infos {
            self.add_one(info);
        }
    }

    /// How many reports were left out for their payload.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// One `MonitoringInfo` for each metric, ordered by URN, labels and type.
    pub fn snapshot(&self) -> Vec<MonitoringInfo> {
        let mut infos: Vec<MonitoringInfo> = self.metrics.iter().map(Metric::to_info).collect();
        infos.sort_by(|a, b| (&a.urn, &a.labels, &a.r#type).cmp(&(&b.urn, &b.labels, &b.r#type)));
        infos
    }

    fn add_one(&mut self, info: &MonitoringInfo) {
        let Some(cell) = Cell::decode(&info.r#type, &info.payload) else {
            self.reject(info, "its payload does not have the form of its type");
            return;
        };
        let hash = identity_hash(info);
        let known = self.index.get(&hash).and_then(|positions| {
            positions.iter().copied().find(|&at| self.metrics.get(at).is_some_and(|m| m.is_of(info)))
        });
        match known.and_then(|at| self.metrics.get_mut(at)) {
            Some(metric) => {
                metric.start_time = earlier(metric.start_time, info.start_time);
                if !metric.cell.merge(cell) {
                    self.reject(info, "it does not fit what was reported before");
                }
            }
            None => self.insert(hash, info, cell),
        }
    }

    fn insert(&mut self, hash: u64, info: &MonitoringInfo, cell: Cell) {
        if self.metrics.len() >= MOST_METRICS {
            if self.left_out == 0 {
                tracing::warn!(
                    urn = info.urn,
                    "the job has more than {MOST_METRICS} metrics; further ones are not counted"
                );
            }
            self.left_out += 1;
            return;
        }
        self.index.entry(hash).or_default().push(self.metrics.len());
        let identity = MonitoringInfo { payload: Default::default(), start_time: None, ..info.clone() };
        self.metrics.push(Metric { info: identity, start_time: info.start_time, cell });
    }

    fn reject(&mut self, info: &MonitoringInfo, why: &str) {
        if self.malformed == 0 {
            tracing::warn!(urn = info.urn, r#type = info.r#type, "a metric is left out: {why}");
        }
        self.malformed += 1;
    }
}

impl Metric {
    fn is_of(&self, info: &MonitoringInfo) -> bool {
        self.info.urn == info.urn && self.info.r#type == info.r#type && self.info.labels == info.labels
    }

    fn to_info(&self) -> MonitoringInfo {
        MonitoringInfo { payload: self.cell.encode(), start_time: self.start_time, ..self.info.clone() }
    }
}

fn identity_hash(info: &MonitoringInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&info.urn, &info.r#type, &info.labels).hash(&mut hasher);
    hasher.finish()
}

fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if (b.seconds, b.nanos) < (a.seconds, a.nanos) { b } else { a }),
        (a, b) => a.or(b),
    }
}
