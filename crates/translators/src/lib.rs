//! Backends: each turns a prepared pipeline into a running job behind `PortablePipelineRunner`.
//!
//! [`native`] runs it here, on runner-core's engine and the Fn API; [`flink`] has a Flink cluster run it.
//! [`BackendChoice`] is all that a server has, as one; it puts [`EnvironmentOverrides`] in the place of what a
//! pipeline asks for. The job service cannot tell one backend from another.

mod choice;
mod environment_override;
pub mod flink;
pub mod native;

pub use choice::BackendChoice;
pub use environment_override::{EnvironmentOverride, EnvironmentOverrideError, EnvironmentOverrides};
use runner_core::backend::Outcome;
use runner_core::fault::Fault;
use tokio::sync::watch;

/// What a job's task says in the end, or that it broke off before.
async fn outcome_of(mut said: watch::Receiver<Option<Outcome>>) -> Outcome {
    let ended = said.wait_for(Option::is_some).await;
    let outcome = ended.ok().and_then(|outcome| outcome.clone());
    outcome
        .unwrap_or_else(|| Outcome::Failed(Fault::runner("the job's task broke off; see the server's log")))
}
