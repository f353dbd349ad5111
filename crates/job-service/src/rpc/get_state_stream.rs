//! `GetStateStream`: all states, past and to come; closes after the terminal one.
//!
//! A preparation id gets `NOT_FOUND`, at once: the Python client asks with it first, with a deadline that
//! would end its stream while the job runs on, and only after an error asks again with the job's id.

use std::sync::Arc;

use beam_model::job_management::{GetJobStateRequest, JobStateEvent};
use futures::stream::{BoxStream, StreamExt};
use tonic::Status;

use crate::error::JobServiceError;
use crate::job::Event;
use crate::service::Shared;

pub(super) fn get_state_stream(
    shared: &Arc<Shared>,
    request: &GetJobStateRequest,
) -> Result<BoxStream<'static, Result<JobStateEvent, Status>>, JobServiceError> {
    let events = shared.registry.job(&request.job_id)?.events();
    let states = futures::stream::unfold(events, |mut events| async {
        loop {
            match events.next().await? {
                Event::State(state) => return Some((Ok(state), events)),
                Event::Message(_) => {}
            }
        }
    });
    Ok(states.boxed())
}
