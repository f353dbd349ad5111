//! Beam's *portable jar*: the Flink runner's jar with one job in it.
//!
//! A jar is a ZIP archive, whose table of contents is at its end. So the job's jar is what is needed of the
//! runner's, then the job's own files, then both tables. Only the job's files are written anywhere; the runner's
//! hundred and more megabytes go from its file straight to the cluster.

mod directory;
mod entries;
mod nothing_to_stage;
mod packed;
mod portable;
mod runner;

pub(super) use packed::FlinkClasses;
pub(super) use portable::{JobContents, PortableJar};
pub(super) use runner::{ENTRY_CLASS, RunnerJar};

#[cfg(test)]
mod tests;
