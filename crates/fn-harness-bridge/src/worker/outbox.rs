//! Messages on their way to a worker, from before it has opened the stream for them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// One direction of a worker's stream. Holds back whoever sends once `capacity` messages wait.
pub(crate) struct Outbox<T> {
    sender: mpsc::Sender<T>,
    waiting: Mutex<Option<mpsc::Receiver<T>>>,
    closed: CancellationToken,
}

/// The stream will take no more messages.
#[derive(Debug)]
pub(crate) struct Closed;

impl<T> Outbox<T> {
    /// `closed` ends it, connected or not.
    pub(crate) fn new(capacity: usize, closed: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(capacity);
        Self { sender, waiting: Mutex::new(Some(receiver)), closed }
    }

    pub(crate) async fn send(&self, message: T) -> Result<(), Closed> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Closed),
            sent = self.sender.send(message) => sent.map_err(|_| Closed),
        }
    }

    /// The messages as the stream of an RPC. There can be one such stream only.
    pub(crate) fn attach(&self) -> Option<OutboxStream<T>> {
        let receiver = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(OutboxStream { receiver, closed: Box::pin(self.closed.clone().cancelled_owned()), open: true })
    }
}

/// Ends well once the outbox is closed and what was in it has been sent.
pub(crate) struct OutboxStream<T> {
    receiver: mpsc::Receiver<T>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    open: bool,
}

impl<T> Stream for OutboxStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.open && self.closed.as_mut().poll(context).is_ready() {
            self.open = false;
            self.receiver.close();
        }
        self.receiver.poll_recv(context).map(|message| message.map(Ok))
    }
}
