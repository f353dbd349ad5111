//! Worker log lines become job messages, with the user's name of the step.

use std::collections::BTreeMap;
use std::sync::Arc;

use runner_core::backend::{Importance, JobListener};
use runner_core::ports::{LogSeverity, WorkerLog, WorkerLogSink};

pub(super) struct MessagesFromLogs {
    pub(super) listener: Arc<dyn JobListener>,
    /// Transform id → the user's name.
    pub(super) names: BTreeMap<String, String>,
}

impl WorkerLogSink for MessagesFromLogs {
    fn log(&self, entry: WorkerLog) {
        let importance = match entry.severity {
            LogSeverity::Unspecified | LogSeverity::Info | LogSeverity::Notice => Importance::Basic,
            LogSeverity::Trace | LogSeverity::Debug => Importance::Debug,
            LogSeverity::Warn => Importance::Warning,
            // An error line of a worker is not the job's error: the bundle may be tried again, and the
            // client takes the last error message for the reason of a failure.
            LogSeverity::Error | LogSeverity::Critical => Importance::Warning,
        };
        self.listener.message(importance, text(&entry, &self.names));
    }
}

/// `LEVEL step: message (location, worker)`, then the stack if there is one.
fn text(entry: &WorkerLog, names: &BTreeMap<String, String>) -> String {
    let step = names.get(&entry.transform_id).unwrap_or(&entry.transform_id);
    let step = if step.is_empty() { String::new() } else { format!(" [{step}]") };
    let level = format!("{:?}", entry.severity).to_uppercase();
    let place = if entry.location.is_empty() { String::new() } else { format!("{}, ", entry.location) };
    let mut text = format!("{level}{step} {} ({place}{})", entry.message, entry.worker_id);
    if !entry.trace.is_empty() {
        text.push('\n');
        text.push_str(&entry.trace);
    }
    text
}
