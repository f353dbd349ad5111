//! A job that Flink has, until it has ended.
//!
//! Flink tells nothing by itself, so that it has to be asked again and again: often at first, when jobs that are
//! small end, then once a second. Of a job's state it tells what is true at that moment. All else that it shows of a job it keeps
//! for `web.refresh-interval` once somebody has looked, 3 s if nobody says otherwise, so it is looked at seldom before the end.

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
use crate::flink::rest::{End, FlinkJobState, JobDetails};
use crate::flink::{JobsOnFlink, causes, metrics};

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);
/// A job's end is known this part of its time late, at most.
const PART_LATE: u32 = 20;
/// Flink shows the same of a job for a while once somebody has looked, so that a job that ends soon after is known
/// whole only then. Clients look at metrics of running jobs now and then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);
/// How long Flink shows the same, if it does not say (`web.refresh-interval`).
const SHOWN_FOR: Duration = Duration::from_secs(3);
/// What Flink may take to look anew.
const LOOKING: Duration = Duration::from_secs(5);
/// Final metrics and exceptions are worth a few tries, not the job's end.
const LAST_TRIES: u32 = 5;

struct Watch<'a> {
    context: &'a Context,
    state: Option<FlinkJobState>,
    /// Whether a TaskManager has tasks of it, as far as is known.
    placed: bool,
    running: bool,
    slots: Slots,
    stop: Stop,
    /// Since when the cluster has not answered, or not known the job.
    away: Option<Instant>,
    unknown: Option<Instant>,
    last_restart: Option<i64>,
    /// Whether somebody has told of its restarts up to the first look.
    restarts_told: bool,
    look_due: Instant,
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
    let begun = Instant::now();
    let (restarts_told, stop_request, look_due) = match past {
        Past::None => (false, None, begun + BETWEEN_LOOKS),
        // Which restarts have been told of is best known at once.
        Past::Watched { stop_request } => (true, stop_request, begun),
    };
    let mut watch = Watch {
        context,
        state: None,
        placed: false,
        running: false,
        slots: Slots::default(),
        stop: stop_request.map(Stop::underway).unwrap_or_default(),
        away: None,
        unknown: None,
        last_restart: None,
        restarts_told,
        look_due,
    };
    loop {
        let wish = *wished.borrow_and_update();
        watch.stop.go_on(context, wish).await;
        let outcome = match context.rest.job_state(&context.flink_job_id).await {
            Ok(state) => watch.news(state).await,
            Err(error) => watch.no_news(&error),
        };
        if let Some(outcome) = outcome {
            return outcome;
        }
        let interval = (begun.elapsed() / PART_LATE).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
        tokio::select! {
            () = sleep(interval) => {}
            // Without anybody who could wish there is nothing but time.
            Ok(()) = wished.changed() => {}
        }
    }
}

impl Watch<'_> {
    async fn news(&mut self, state: FlinkJobState) -> Option<Outcome> {
        self.unknown = None;
        if self.away.take().is_some() {
            let text = format!("Flink at {} answers again", self.context.rest.master());
            self.context.listener.message(Importance::Basic, text);
        }
        if self.state != Some(state) {
            self.changed(state);
        }
        if let Some(end) = state.end() {
            return Some(self.end(end).await);
        }
        self.placement(state).await;
        if self.running && self.context.settings.jobs == JobsOnFlink::Detached {
            let (id, master) = (&self.context.flink_job_id, self.context.rest.master());
            let text = format!("Flink job {id} runs at {master}, and is Flink's alone from here on");
            self.context.listener.message(Importance::Basic, text);
            return Some(Outcome::Done);
        }
        if Instant::now() >= self.look_due {
            self.look_due = Instant::now() + BETWEEN_LOOKS;
            // What is missed in a moment is seen in the next.
            if let Ok(details) = self.context.rest.job(&self.context.flink_job_id).await {
                self.restarts(&details).await;
            }
            let _ = self.read_metrics().await;
        }
        None
    }

    fn changed(&mut self, state: FlinkJobState) {
        let text = format!("Flink job {} is {}", self.context.flink_job_id, state.name());
        self.context.listener.message(Importance::Detailed, text);
        if self.state.replace(state) == Some(FlinkJobState::Running) {
            // It has failed, or its JobManager has: it is placed anew, and why is told when Flink shows it.
            self.placed = false;
            self.look_due = self.look_due.min(Instant::now() + SHOWN_FOR);
        }
    }

    async fn end(&mut self, end: End) -> Outcome {
        let details = self.see_the_end(end).await;
        match end {
            End::Finished => {
                if let Some(details) = details {
                    self.restarts(&details).await;
                }
                self.final_metrics(true).await;
                self.stop.see_the_savepoint(self.context).await;
                if self.stop.has_drained() { Outcome::Drained } else { Outcome::Done }
            }
            End::Canceled => {
                self.final_metrics(false).await;
                Outcome::Cancelled
            }
            End::Failed => {
                self.final_metrics(false).await;
                Outcome::Failed(self.cause().await)
            }
        }
    }

    /// Waits until Flink shows the job as it ended: metrics and exceptions are of what it shows.
    async fn see_the_end(&self, end: End) -> Option<JobDetails> {
        let rest = &self.context.rest;
        let config = rest.config().await.ok();
        let shown_for = config.and_then(|config| config.refresh_interval()).unwrap_or(SHOWN_FOR);
        let until = Instant::now() + shown_for + LOOKING;
        while Instant::now() < until {
            match rest.job(&self.context.flink_job_id).await {
                Ok(details) if details.state.end() == Some(end) => return Some(details),
                Err(error) if !error.is_passing() => return None,
                Ok(_) | Err(_) => sleep(SHORTEST_INTERVAL).await,
            }
        }
        let text = "Flink does not show how the job ended; some of its metrics may be missing".to_owned();
        self.context.listener.message(Importance::Warning, text);
        None
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
    async fn placement(&mut self, state: FlinkJobState) {
        let runs = state == FlinkJobState::Running;
        if runs && !self.placed {
            self.placed = self.context.rest.is_placed(&self.context.flink_job_id).await.unwrap_or(false);
        }
        if self.placed && !std::mem::replace(&mut self.running, true) {
            self.context.listener.running();
        }
        self.slots.look(self.context, runs && !self.placed).await;
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
