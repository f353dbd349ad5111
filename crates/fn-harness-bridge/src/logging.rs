//! `BeamFnLogging`: workers' log lines, handed on to the job.

use std::sync::Arc;
use std::time::SystemTime;

use beam_model::fn_execution::beam_fn_logging_server::BeamFnLogging;
use beam_model::fn_execution::log_entry::severity::Enum as Severity;
use beam_model::fn_execution::{LogControl, LogEntry, log_entry};
use runner_core::ports::{LogSeverity, WorkerLog};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::server::Shared;
use crate::worker::WorkerSession;

pub(crate) struct LoggingService {
    shared: Arc<Shared>,
}

impl LoggingService {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl BeamFnLogging for LoggingService {
    type LoggingStream = ReceiverStream<Result<LogControl, Status>>;

    async fn logging(
        &self,
        request: Request<Streaming<log_entry::List>>,
    ) -> Result<Response<Self::LoggingStream>, Status> {
        let worker = self.shared.registry.worker(request.metadata())?;
        // Nothing is ever sent back, but the stream must stay open until the worker has sent all: the
        // Java harness takes its end for a failure.
        let (open, control) = mpsc::channel(1);
        worker.logging.opened.cancel();
        tokio::spawn(async move {
            read_entries(&worker, request.into_inner()).await;
            worker.logging.ended.cancel();
            drop(open);
        });
        Ok(Response::new(ReceiverStream::new(control)))
    }
}

async fn read_entries(worker: &WorkerSession, mut lists: Streaming<log_entry::List>) {
    loop {
        let list = tokio::select! {
            () = worker.finished.cancelled() => return,
            list = lists.message() => list,
        };
        match list {
            Ok(Some(list)) => list.log_entries.into_iter().for_each(|entry| hand_on(worker, entry)),
            // A worker may do without its logs, and its other streams tell whether it lives.
            Ok(None) | Err(_) => return,
        }
    }
}

fn hand_on(worker: &WorkerSession, entry: LogEntry) {
    worker.recent_lines.push(&entry.message);
    let severity = severity(&entry);
    worker.job.logs.log(WorkerLog {
        severity,
        time: entry
            .timestamp
            .and_then(|time| SystemTime::try_from(time).ok())
            .unwrap_or_else(SystemTime::now),
        message: entry.message,
        trace: entry.trace,
        worker_id: worker.id.clone(),
        instruction_id: entry.instruction_id,
        transform_id: entry.transform_id,
        location: entry.log_location,
        thread: entry.thread,
    });
}

fn severity(entry: &LogEntry) -> LogSeverity {
    match entry.severity() {
        Severity::Unspecified => LogSeverity::Unspecified,
        Severity::Trace => LogSeverity::Trace,
        Severity::Debug => LogSeverity::Debug,
        Severity::Info => LogSeverity::Info,
        Severity::Notice => LogSeverity::Notice,
        Severity::Warn => LogSeverity::Warn,
        Severity::Error => LogSeverity::Error,
        Severity::Critical => LogSeverity::Critical,
    }
}
