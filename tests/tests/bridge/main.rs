//! The bridge as a whole, against scripted workers and small processes: no Python, no pipeline.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod bundles;
mod embedded;
mod environments;
mod faults;
mod meters;
mod process_metrics;
mod sampling;
mod short_ids;
mod splits;
mod standbys;
mod support;
mod test_stream;
mod timers;
