//! Metrics of a job: `MonitoringInfo`s of many bundles merged into one for each metric.
//!
//! [`MetricsAccumulator`] merges by URN, type and labels; the type says how (`cell`), the payload's
//! form is in `payload` and, for bounded tries, in `trie`. [`JobMetrics`] keeps the two ways of
//! counting apart: committed bundles alone, and all attempts.

mod accumulator;
mod cell;
mod dropped;
mod job;
mod payload;
mod progress;
#[cfg(test)]
mod tests;
mod trie;

pub use accumulator::MetricsAccumulator;
pub use dropped::Dropped;
pub use job::JobMetrics;
pub use progress::elements_done;
