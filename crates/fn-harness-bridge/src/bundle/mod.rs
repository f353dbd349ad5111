//! Bundles on workers: what the executor sees of this crate.

mod active;
mod finalizer;
mod job;
mod response;
mod stage;

pub(crate) use active::{ActiveBundle, Ending};
pub(crate) use job::{JobBundles, JobContext};
