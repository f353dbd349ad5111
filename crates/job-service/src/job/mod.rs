//! Jobs and what is known of them.
//!
//! [`preparation`] is a job before `Run`. From then on it is a [`job`]: its [`state`] moves by rules, its
//! [`events`] (states and messages) go to every stream, its [`supervisor`] carries it from the backend's
//! start to its end. The [`registry`] knows all of them and forgets the oldest.

mod events;
#[expect(clippy::module_inception, reason = "the folder is about jobs, this file is one job")]
mod job;
mod metrics_size;
mod preparation;
mod registry;
mod state;
mod supervisor;

pub(crate) use events::Event;
pub(crate) use job::Job;
pub use job::JobSnapshot;
pub(crate) use preparation::{Preparation, Staging};
pub(crate) use registry::{JobDescription, Registry};
pub use state::JobState;
pub(crate) use supervisor::supervise;
