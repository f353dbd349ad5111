//! The workers: who is known, what each is doing, whether it lives.

mod data_streams;
mod outbox;
mod pool;
mod recent_lines;
mod registry;
mod session;
mod standby;
mod standbys;
mod turns;

pub(crate) use data_streams::DataStreams;
pub(crate) use outbox::{Outbox, OutboxStream};
pub(crate) use pool::{EnvironmentWorkers, Lease, parallelism};
pub(crate) use recent_lines::RecentLines;
pub(crate) use registry::{Registry, worker_id};
pub(crate) use session::WorkerSession;
pub(crate) use standby::{Fate, Standby};
pub(crate) use standbys::Standbys;
pub(crate) use turns::{Turns, WorkThere};
