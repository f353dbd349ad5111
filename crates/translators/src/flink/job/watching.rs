//! A job that Flink has, until it has ended.
//!
//! Flink tells nothing by itself, so that it has to be asked again and again: often at first, when jobs that are
//! small end, then once a second.

use std::sync::PoisonError;
use std::time::Duration;

use runner_core::backend::{Importance, MetricResults, Outcome};
use runner_core::fault::Fault;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::slots::Slots;
use super::stop::Stop;
use super::{Context, Wish};
use crate::flink::error::FlinkError;
use crate::flink::rest::{FlinkJobState, JobDetails};
use crate::flink::{JobsOnFlink, causes, metrics};

const FIRST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
/// Each question takes the cluster some work; clients look at metrics of running jobs now and then.
const BETWEEN_METRICS: Duration = Duration::from_secs(5);
/// Final metrics and exceptions are worth a few tries, not the job's end.
const LAST_TRIES: u32 = 5;

struct Watch<'a> {
    context: &'a Context,
    state: Option<FlinkJobState>,
    running: bool,
    slots: Slots,
    stop: Stop,
    /// Since when the cluster has not answered, or not known the job.
    away: Option<Instant>,
    unknown: Option<Instant>,
    last_restart: Option<i64>,
    /// Whether somebody has told of its restarts up to the first news.
    restarts_told: bool,
    metrics_due: Instant,
}

/// What was done for a job before it is watched.
pub(super) enum Past {
    None,
    /// Another process has watched it, and may have asked for a savepoint.
    Watched {
        stop_request: Option<String>,
    },
}

/// Watches the job to its end and does what is wished.
pub(super) async fn watch(context: &Context, wished: &mut watch::Receiver<Wish>, past: Past) -> Outcome {
    let (restarts_told, stop_request) = match past {
        Past::None => (false, None),
        Past::Watched { stop_request } => (true, stop_request),
    };
    let mut watch = Watch {
        context,
        state: None,
        running: false,
        slots: Slots::default(),
        stop: stop_request.map(Stop::underway).unwrap_or_default(),
        away: None,
        unknown: None,
        last_restart: None,
        restarts_told,
        metrics_due: Instant::now() + BETWEEN_METRICS,
    };
    let mut interval = FIRST_INTERVAL;
    loop {
        let wish = *wished.borrow_and_update();
        watch.stop.go_on(context, wish).await;
        let outcome = match context.rest.job(&context.flink_job_id).await {
            Ok(details) => watch.news(&details).await,
            Err(error) => watch.no_news(&error),
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
        tokio::select! {
            () = sleep(interval) => interval = (interval * 5 / 4).min(LONGEST_INTERVAL),
            // Without anybody who could wish there is nothing but time.
            Ok(()) = wished.changed() => {}
        }
    }
}

impl Watch<'_> {
    async fn news(&mut self, details: &JobDetails) -> Option<Outcome> {
        self.unknown = None;
        if self.away.take().is_some() {
            let text = format!("Flink at {} answers again", self.context.rest.master());
            self.context.listener.message(Importance::Basic, text);
        }
        if self.state != Some(details.state) {
            self.state = Some(details.state);
            let text = format!("Flink job {} is {}", self.context.flink_job_id, details.state.name());
            self.context.listener.message(Importance::Detailed, text);
        }
        if let Some(outcome) = self.end(details.state).await {
            return Some(outcome);
        }
        self.restarts(details).await;
        self.placement(details).await;
        if self.running && self.context.settings.jobs == JobsOnFlink::Detached {
            let (id, master) = (&self.context.flink_job_id, self.context.rest.master());
            let text = format!("Flink job {id} runs at {master}, and is Flink's alone from here on");
            self.context.listener.message(Importance::Basic, text);
            return Some(Outcome::Done);
        }
        if self.running && Instant::now() >= self.metrics_due {
            // Those of a moment are no loss.
            let _ = self.read_metrics().await;
            self.metrics_due = Instant::now() + BETWEEN_METRICS;
        }
        None
    }

    /// The outcome, if this state is an end.
    async fn end(&mut self, state: FlinkJobState) -> Option<Outcome> {
        match state {
            FlinkJobState::Finished => {
                self.final_metrics(true).await;
                Some(if self.stop.has_drained() { Outcome::Drained } else { Outcome::Done })
            }
            FlinkJobState::Canceled => {
                self.final_metrics(false).await;
                Some(Outcome::Cancelled)
            }
            FlinkJobState::Failed => {
                self.final_metrics(false).await;
                Some(Outcome::Failed(self.cause().await))
            }
            FlinkJobState::Initializing
            | FlinkJobState::Created
            | FlinkJobState::Running
            | FlinkJobState::Failing
            | FlinkJobState::Cancelling
            | FlinkJobState::Restarting
            | FlinkJobState::Suspended
            | FlinkJobState::Reconciling
            | FlinkJobState::Other => None,
        }
    }

    /// Tells of a failure that Flink mends itself.
    async fn restarts(&mut self, details: &JobDetails) {
        let last = details.last_restart();
        let told = std::mem::take(&mut self.restarts_told);
        if last == self.last_restart {
            return;
        }
        self.last_restart = last;
        if told {
            return;
        }
        let why = match self.context.rest.exceptions(&self.context.flink_job_id).await {
            Ok(exceptions) => causes::newest(&exceptions).map(|fault| fault.message),
            Err(error) => Some(error.to_string()),
        };
        let text = format!("Flink restarts the job after a failure: {}", why.unwrap_or_default());
        self.context.listener.message(Importance::Warning, text);
    }

    /// Whether the job has a place, and what is missing if it has none.
    async fn placement(&mut self, details: &JobDetails) {
        let placed = details.vertices.iter().any(|vertex| vertex.is_placed());
        if placed && !std::mem::replace(&mut self.running, true) {
            self.context.listener.running();
        }
        let waits = details.state == FlinkJobState::Running && !placed;
        self.slots.look(self.context, details, waits).await;
    }

    /// What an error says about the job, and the outcome if that was too long.
    fn no_news(&mut self, error: &FlinkError) -> Option<Outcome> {
        let Context { flink_job_id, rest, listener, patience, .. } = self.context;
        if error.is_not_found() {
            let since = *self.unknown.get_or_insert_with(Instant::now);
            let text = format!(
                "Flink at {} no longer knows job {flink_job_id}: its JobManager was started anew and keeps no jobs \
                 (high-availability.type), or has forgotten it (jobstore.expiration-time). {error}",
                rest.master()
            );
            return (since.elapsed() > patience.job_unknown)
                .then(|| Outcome::Failed(Fault::environment(text).fatal()));
        }
        let since = match self.away {
            Some(since) => since,
            None => {
                let text = format!("{error}; asking again for {} s", patience.running.as_secs());
                listener.message(Importance::Warning, text);
                *self.away.insert(Instant::now())
            }
        };
        let text = format!(
            "the cluster has been away for {} s, and what became of Flink job {flink_job_id} is not known: {error}",
            patience.running.as_secs()
        );
        (since.elapsed() > patience.running).then(|| Outcome::Failed(Fault::environment(text).fatal()))
    }

    async fn read_metrics(&self) -> Result<MetricResults, FlinkError> {
        let accumulators = self.context.rest.accumulators(&self.context.flink_job_id).await?;
        let results = metrics::read(&accumulators, &self.context.transform_names)?;
        *self.context.metrics.lock().unwrap_or_else(PoisonError::into_inner) = results.clone();
        Ok(results)
    }

    /// `whole`: the job came to its end, so that what was counted has happened.
    async fn final_metrics(&self, whole: bool) {
        for _ in 0..LAST_TRIES {
            match self.read_metrics().await {
                Ok(results) => {
                    if whole && self.last_restart.is_none() {
                        let results = metrics::as_committed(results);
                        *self.context.metrics.lock().unwrap_or_else(PoisonError::into_inner) = results;
                    }
                    return;
                }
                Err(error) if error.is_passing() => sleep(LONGEST_INTERVAL).await,
                Err(error) => {
                    let text = format!("the job's metrics are not known: {error}");
                    return self.context.listener.message(Importance::Warning, text);
                }
            }
        }
    }

    /// Why the job failed.
    async fn cause(&self) -> Fault {
        let unknown = |why: String| {
            let text = format!("Flink job {} failed; {why}", self.context.flink_job_id);
            Fault::environment(text).fatal()
        };
        let mut last = None;
        for _ in 0..LAST_TRIES {
            match self.context.rest.exceptions(&self.context.flink_job_id).await {
                Ok(exceptions) => {
                    return causes::newest(&exceptions)
                        .unwrap_or_else(|| unknown("Flink does not say why".to_owned()));
                }
                Err(error) if error.is_passing() => last = Some(error),
                Err(error) => return unknown(error.to_string()),
            }
            sleep(LONGEST_INTERVAL).await;
        }
        unknown(last.map(|error| error.to_string()).unwrap_or_default())
    }
}
