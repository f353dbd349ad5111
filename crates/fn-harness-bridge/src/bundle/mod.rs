//! Bundles on workers: what the executor sees of this crate.

mod active;
mod element_counts;
mod failing_element;
mod finalizer;
mod job;
mod questions;
mod response;
mod samples;
mod slow;
mod stage;
mod timers;
mod to_string;

pub(crate) use active::{ActiveBundle, Ending, OutputStream};
pub(crate) use job::{JobBundles, JobContext};
pub(crate) use timers::{FiredTimers, TimerFamily};
