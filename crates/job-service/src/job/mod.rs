//! Jobs and what is known of them.
//!
//! [`preparation`] is a job before `Run`. From then on it is a [`job`]: its [`state`] moves by rules, its
//! [`events`] (states and messages) go to every stream, its [`supervisor`] carries it from the backend's
//! start to its end. The [`registry`] knows all of them and forgets the oldest. Of jobs that outlive the server a
//! [`journal`] is kept, so that the next one knows them too.

mod events;
#[expect(clippy::module_inception, reason = "the folder is about jobs, this file is one job")]
mod job;
mod journal;
mod metrics_size;
mod preparation;
mod registry;
mod state;
mod supervisor;

pub(crate) use events::Event;
pub(crate) use job::Job;
pub use job::JobSnapshot;
pub(crate) use journal::{Description, Journal, Journals};
pub(crate) use preparation::{Preparation, Staging};
pub(crate) use registry::{JobDescription, Registry};
pub use state::JobState;
pub(crate) use supervisor::{resume_all, supervise};
