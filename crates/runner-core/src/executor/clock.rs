//! What time it is.

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
        ProcessingTime(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// When it will show `at`.
    pub(super) fn instant(self, began: Instant, at: ProcessingTime) -> Instant {
        // The clock may be set, so nobody sleeps longer than this without looking at it again.
        const LONGEST: u64 = 10_000;
        let millis = at.millis().saturating_sub(self.now(began).millis());
        Instant::now() + Duration::from_millis(millis.max(0).unsigned_abs().min(LONGEST))
    }
}
