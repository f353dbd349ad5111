//! What the worker of a bundle that takes long says that it is doing, as a message of the job: whoever waits for a
//! job that does not go on sees where it is.

use std::convert::Infallible;
use std::time::Duration;

use runner_core::ports::{LogSeverity, WorkerLog};

use super::stage::RunningBundle;
use crate::server::BridgeConfig;
use crate::worker::Lease;
use crate::worker_status::query;

/// Never returns: may be dropped at any time.
pub(super) async fn report(
    config: &BridgeConfig,
    RunningBundle { lease: Lease { worker, .. }, instruction, active, .. }: &RunningBundle,
    stage: &str,
) -> Infallible {
    let mut after = config.slow_bundle;
    let mut passed = Duration::ZERO;
    loop {
        tokio::time::sleep(after.saturating_sub(passed)).await;
        passed = after;
        after = after.saturating_mul(2);
        let status = query(worker, config.worker_status_timeout).await;
        let said = status.unwrap_or_else(|fault| fault.message);
        let message = format!(
            "{stage}: a bundle has been running for {} s{}",
            passed.as_secs_f32().round(),
            doing(active.consuming())
        );
        worker.job.logs.log(WorkerLog {
            trace: said,
            instruction_id: instruction.clone(),
            ..WorkerLog::new(&worker.id, LogSeverity::Warn, message)
        });
    }
}

/// What the SDK says of it, to follow what is known anyway.
fn doing(consuming: Option<bool>) -> &'static str {
    match consuming {
        Some(true) => ", and its worker is processing elements",
        Some(false) => {
            ", and its worker is processing no element: it waits for more, or is beginning or ending the bundle"
        }
        None => "",
    }
}
