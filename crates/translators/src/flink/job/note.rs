//! What is written down of a job, so that another process can go on with it.
//!
//! The job's id in the cluster is not: it follows from its id here, so that there is no moment at which Flink has a job
//! that could not be found.

use serde::{Deserialize, Serialize};

use super::Context;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// The cluster's address.
    pub(super) master: String,
    pub(super) progress: Progress,
}

/// How far it is. Before the first of these Flink has never heard of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Progress {
    /// Flink was about to be asked to start it.
    StartAsked,
    /// Flink has it.
    Started,
    /// It stops with a savepoint; the id to ask for it with.
    StopAsked(String),
}

impl Note {
    pub(super) fn start_asked(context: &Context) -> Self {
        Self::of(context, Progress::StartAsked)
    }

    pub(super) fn started(context: &Context) -> Self {
        Self::of(context, Progress::Started)
    }

    pub(super) fn stop_asked(context: &Context, request_id: String) -> Self {
        Self::of(context, Progress::StopAsked(request_id))
    }

    fn of(context: &Context, progress: Progress) -> Self {
        Self { master: context.settings.master.address(), progress }
    }

    pub(super) fn read(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    pub(super) fn write(&self, context: &Context) {
        match serde_json::to_string(self) {
            Ok(text) => context.listener.note(text),
            Err(error) => tracing::warn!("a note on a Flink job cannot be written: {error}"),
        }
    }
}
