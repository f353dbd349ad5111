//! The streams by which a worker gets its elements: one, and if its SDK can (`beam:protocol:named_data_streams:v1`)
//! one more for each bundle that it runs beside another. Bundles on one stream wait for each other: who reads it
//! cannot go on while the bundle has not taken what has come for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beam_model::fn_execution::Elements;
use tokio_util::sync::CancellationToken;

use super::{Outbox, OutboxStream};

/// Frames of about 1 MiB each: enough that the worker never waits for the next one to be cut.
const DATA_FRAMES: usize = 4;

pub(crate) struct DataStreams {
    /// By name. There from before the worker learns of it.
    streams: Mutex<HashMap<String, Arc<Outbox<Elements>>>>,
    gone: CancellationToken,
}

impl DataStreams {
    /// `gone` ends all of them. The one without a name is there.
    pub(crate) fn new(gone: CancellationToken) -> Self {
        let streams = Self { streams: Mutex::default(), gone };
        streams.outbox("");
        streams
    }

    /// What is to be sent by the stream of this name, which the worker opens when it learns of it.
    pub(crate) fn outbox(&self, name: &str) -> Arc<Outbox<Elements>> {
        let mut streams = self.streams();
        if let Some(outbox) = streams.get(name) {
            return outbox.clone();
        }
        let outbox = Arc::new(Outbox::new(DATA_FRAMES, self.gone.clone()));
        streams.insert(name.to_owned(), outbox.clone());
        outbox
    }

    /// The elements that the worker gets by its stream of this name; `None` if it has opened it already, or has not
    /// been told of such a stream.
    pub(crate) fn attach(&self, name: &str) -> Option<OutboxStream<Elements>> {
        self.streams().get(name)?.attach()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<String, Arc<Outbox<Elements>>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
