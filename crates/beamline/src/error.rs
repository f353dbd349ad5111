//! What ends the program with an error.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "port {port} of {host} is in use, maybe by another job server: stop it, or give another port \
         with {flag} (0 picks a free one)"
    )]
    PortInUse { host: String, port: u16, flag: &'static str },
    #[error("cannot listen on port {port} of {host}: {source} (see --job-host and {flag})")]
    Listen { host: String, port: u16, flag: &'static str, source: std::io::Error },
    #[error("{0} (see --artifacts-dir)")]
    Folder(#[from] job_service::SetUpError),
    #[error("{0}")]
    Storage(#[from] translators::native::StorageError),
    #[error("{0}")]
    Flink(#[from] translators::flink::FlinkError),
    #[error("cannot write the ready file {path}: {source}")]
    ReadyFile { path: PathBuf, source: std::io::Error },
    #[error("the server broke down: {0}")]
    Server(#[from] tonic::transport::Error),
    #[error("the asynchronous runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    #[error("{program:?} cannot be run: {source}")]
    Command { program: std::ffi::OsString, source: std::io::Error },
    #[error("--detached leaves jobs to Flink: give --backend flink with it")]
    NothingToDetachFrom,
    #[error("cannot read {path}: {source}")]
    ReadPipeline { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is not a serialized Pipeline message: {source}. One is written by \
         `pipeline.to_runner_api().SerializeToString()` in Python"
    )]
    NotAPipeline { path: PathBuf, source: prost::DecodeError },
    #[error("{0}")]
    Plan(#[from] runner_core::plan::PlanError),
    #[error("no job service answers at {endpoint}: {reason} (see --endpoint)")]
    NoServer { endpoint: String, reason: String },
    #[error("the job service says: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
}
