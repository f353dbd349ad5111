//! What the worker of a bundle that takes long says that it is doing, as a message of the job: whoever waits for a
//! job that does not go on sees where it is.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use runner_core::ports::{LogSeverity, WorkerLog};

use crate::server::BridgeConfig;
use crate::worker::WorkerSession;
use crate::worker_status::query;

/// Never returns: may be dropped at any time.
pub(super) async fn report(
    config: &BridgeConfig,
    worker: &WorkerSession,
    instruction: &str,
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
        worker.job.logs.log(WorkerLog {
            severity: LogSeverity::Warn,
            time: SystemTime::now(),
            message: format!("{stage}: a bundle has been running for {} s", passed.as_secs_f32().round()),
            trace: said,
            worker_id: worker.id.clone(),
            instruction_id: instruction.to_owned(),
            transform_id: String::new(),
            location: String::new(),
            thread: String::new(),
        });
    }
}
