//! From what an earlier process has written down of a job to one that is watched again.

use std::time::Duration;

use runner_core::backend::{Importance, Outcome};
use runner_core::fault::Fault;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::note::{Note, Progress};
use super::watching::{Past, watch};
use super::{Context, Wish, cancelled, submission};
use crate::flink::error::FlinkError;

const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Watches the job to its end, if Flink has it.
pub(super) async fn resume(
    context: &Context,
    note: Option<Result<Note, String>>,
    mut wished: watch::Receiver<Wish>,
) -> Outcome {
    let past = match note {
        None => {
            submission::sweep(context).await;
            let text = "the server ended before it had handed the job to Flink; run it again";
            return Outcome::Failed(Fault::environment(text).fatal());
        }
        // Flink may have it all the same.
        Some(Err(reason)) => {
            tracing::warn!("what was written down of a Flink job is not understood: {reason}");
            Past::Watched { stop_request: None }
        }
        Some(Ok(note)) => match note.progress {
            Progress::Started => Past::Watched { stop_request: None },
            Progress::StopAsked(request_id) => Past::Watched { stop_request: Some(request_id) },
            Progress::StartAsked => {
                let found = tokio::select! {
                    found = find(context) => found,
                    () = cancelled(wished.clone()) => {
                        context.traces().start_asked = true;
                        submission::withdraw(context).await;
                        submission::sweep(context).await;
                        return Outcome::Cancelled;
                    }
                };
                // Flink needs it until it has started the job.
                submission::sweep(context).await;
                if let Err(fault) = found {
                    return Outcome::Failed(fault);
                }
                Note::started(context).write(context);
                Past::Watched { stop_request: None }
            }
        },
    };
    context.submitted.send_replace(true);
    let (id, master) = (&context.flink_job_id, context.rest.master());
    let text = format!("the server was started anew and watches Flink job {id} at {master} again");
    context.listener.message(Importance::Basic, text);
    watch(context, &mut wished, past).await
}

/// Waits for a job that Flink may just be starting.
async fn find(context: &Context) -> Result<(), Fault> {
    let patience = &context.patience;
    let begun = Instant::now();
    loop {
        let (error, bound) = match context.rest.job_state(&context.flink_job_id).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => (not_there(context, &error), patience.submitting),
            Err(error) => (error.to_string(), patience.running),
        };
        if begun.elapsed() > bound {
            return Err(Fault::environment(error).fatal());
        }
        sleep(BETWEEN_TRIES).await;
    }
}

fn not_there(context: &Context, error: &FlinkError) -> String {
    format!(
        "the server ended while it had Flink at {} start the job, and Flink has not done so; run it again. {error}",
        context.rest.master()
    )
}
