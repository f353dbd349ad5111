//! How the files of a pipeline get from its author to its workers.
//!
//! The client opens a stream and is asked over it ([`reverse_retrieval`]): resolve these artifacts, send
//! me that one. What it sends is kept by content in the [`store`] and checked before it is believed
//! ([`check`]). [`staged`] is what a preparation then has, [`job_artifacts`] what a running job may open.

mod check;
mod job_artifacts;
mod reverse_retrieval;
mod service;
mod staged;
mod store;

pub(crate) use job_artifacts::JobArtifacts;
pub(crate) use service::ArtifactStaging;
pub(crate) use staged::StagedArtifacts;
pub(crate) use store::{ArtifactStore, WhenUnused};
