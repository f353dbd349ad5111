//! What time it is.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use beam_model::time::ProcessingTime;
use tokio::time::Instant;

/// What says what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    Machine,
    /// That of the tokio runtime, from 0 at the job's beginning on. It can be stopped, so that a simulation is the
    /// same each time.
    Runtime,
}

impl Clock {
    /// What it shows in a job that began then.
    pub(super) fn now(self, began: Instant) -> ProcessingTime {
        let since = match self {
            Self::Machine => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Self::Runtime => began.elapsed(),
        };
        ProcessingTime::since_epoch(since)
    }

    /// Gets ready to wait until it shows `at`.
    pub(super) fn alarm(self, began: Instant, at: ProcessingTime) -> Alarm {
        // The clock may be set, so nobody sleeps longer than this without looking at it again.
        const LONGEST: Duration = Duration::from_secs(10);
        let instant = Instant::now() + at.since(self.now(began)).min(LONGEST);
        match self {
            Self::Machine => Box::pin(until(instant)),
            Self::Runtime => Box::pin(tokio::time::sleep_until(instant)),
        }
    }
}

/// Ends when it is time.
pub(super) type Alarm = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tokio wakes whoever sleeps up to so much too late: it counts in milliseconds, and rounds up twice.
const TOKIO_IS_LATE: Duration = Duration::from_millis(2);

/// Sleeps until `instant`, and not much longer, since an element of a stream may be late by that.
async fn until(instant: Instant) {
    if let Some(early) = instant.checked_sub(TOKIO_IS_LATE)
        && early > Instant::now()
    {
        tokio::time::sleep_until(early).await;
    }
    let left = instant.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        // An error means that the runtime is shutting down.
        tokio::task::spawn_blocking(move || std::thread::sleep(left)).await.ok();
    }
}
