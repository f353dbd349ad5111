//! Asking a bundle while a worker runs it: to split, how far it is.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use beam_model::pipeline::MonitoringInfo;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Residual;

/// So many requests may wait while the worker is at one. More would only be about a bundle that is over by
/// the time they are asked.
const WAITING_REQUESTS: usize = 4;
/// How long whoever asks waits. A worker answers at once, or it is in code that lets nothing else run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A question to a running bundle. An answer that does not come (the sender is dropped) is `None`.
#[derive(Debug)]
pub enum BundleRequest {
    /// `ProcessBundleSplitRequest`: give back a part of what is not processed yet.
    Split {
        /// `DesiredSplit.fraction_of_remainder`: how much of what is left the bundle is to keep, from 0 to 1.
        /// 0 is a checkpoint: as much as can be is given back. That may be all, if the worker has not begun.
        fraction_of_remainder: f64,
        /// `None`: the worker cannot split now, or it has not got the bundle yet, or the bundle is over.
        reply: oneshot::Sender<Option<BundleSplit>>,
    },
    /// `ProcessBundleProgressRequest`.
    Progress {
        /// The bundle's metrics so far, tentative like all of it; `None` if it is over.
        reply: oneshot::Sender<Option<Vec<MonitoringInfo>>>,
    },
}

/// What a worker gave back of a running bundle (`ProcessBundleSplitResponse`). Whoever receives the bundle's output
/// says what that means ([`super::OutputReceiver::receive_split`]).
#[derive(Clone, Debug, Default)]
pub struct BundleSplit {
    /// Parts of elements that the worker had begun on.
    pub residuals: Vec<Residual>,
    /// What the bundle keeps of those elements. Without delays.
    pub primaries: Vec<Residual>,
    /// For each data source that was cut between elements.
    pub channels: Vec<ChannelSplit>,
}

/// Where the input of one data source was cut (`ProcessBundleSplitResponse.ChannelSplit`). Elements are
/// counted from 0, in the order in which the bundle's input has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSplit {
    pub transform_id: String,
    /// The last element that the bundle processes as a whole; -1 if there is none. An element between this
    /// one and the first residual one was cut itself: its rest is among the residuals.
    pub last_primary_element: i64,
    /// This element and all after it are not processed by the bundle, though they were sent. May be one past
    /// the last: then no element as a whole was given back.
    pub first_residual_element: i64,
}

/// Asks a running bundle. The other end is in its [`super::RemoteBundle`].
#[derive(Clone, Debug)]
pub struct BundleControl {
    requests: mpsc::Sender<BundleRequest>,
    begun: Arc<OnceLock<Instant>>,
}

impl BundleControl {
    /// Asks for a split. `None`: nothing was split as far as is known by now, after 10 s at the latest. What
    /// counts is [`super::BundleResult::splits`]; this answer may come in time to use it earlier.
    pub async fn split(&self, fraction_of_remainder: f64) -> Option<BundleSplit> {
        let (reply, answer) = oneshot::channel();
        self.ask(BundleRequest::Split { fraction_of_remainder, reply }, answer).await
    }

    /// The metrics of what was done so far. `None` as for [`Self::split`].
    pub async fn progress(&self) -> Option<Vec<MonitoringInfo>> {
        let (reply, answer) = oneshot::channel();
        self.ask(BundleRequest::Progress { reply }, answer).await
    }

    /// For how long a worker has had the bundle; `None` if none has.
    pub fn running_for(&self) -> Option<Duration> {
        self.begun.get().map(Instant::elapsed)
    }

    /// Whether the bundle may still be asked something.
    pub fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    async fn ask<T>(&self, request: BundleRequest, answer: oneshot::Receiver<Option<T>>) -> Option<T> {
        self.requests.try_send(request).ok()?;
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()?
    }
}

/// The questions to one bundle.
#[derive(Debug)]
pub struct BundleRequests {
    requests: mpsc::Receiver<BundleRequest>,
    begun: Arc<OnceLock<Instant>>,
}

impl BundleRequests {
    pub fn channel() -> (BundleControl, Self) {
        let (sender, requests) = mpsc::channel(WAITING_REQUESTS);
        let begun = Arc::<OnceLock<Instant>>::default();
        (BundleControl { requests: sender, begun: begun.clone() }, Self { requests, begun })
    }

    /// Nobody asks.
    pub fn none() -> Self {
        Self::channel().1
    }

    /// The next question; none if nobody can ask any more. Dropping the future loses no question.
    pub async fn next(&mut self) -> Option<BundleRequest> {
        self.requests.recv().await
    }

    /// A worker has got the bundle. All questions that came before are answered with `None`.
    pub fn begin(&mut self) {
        // An error means that it has begun before.
        self.begun.set(Instant::now()).ok();
        while self.requests.try_recv().is_ok() {}
    }
}
