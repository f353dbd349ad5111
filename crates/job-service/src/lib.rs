//! Everything that speaks the Job API to a pipeline author.
//!
//! A job comes in by [`rpc`] (`Prepare`, then `Run`), its files by [`artifact_staging`] in between; from
//! `Run` on [`job`] holds its state, messages and metrics while a backend
//! ([`runner_core::backend::PortablePipelineRunner`]) runs it. States and messages are pushed to whoever
//! asked for a stream; nothing here is polled.
//!
//! What this crate does not do: look into a pipeline (the backend judges it), speak to workers, or
//! listen on a port ([`JobService::add_services`] adds to a server that somebody else runs).

mod artifact_staging;
mod error;
mod ids;
mod job;
mod rpc;
mod service;

pub use error::JobServiceError;
pub use job::{JobSnapshot, JobState};
pub use service::{JobService, JobServiceConfig, SetUpError};
