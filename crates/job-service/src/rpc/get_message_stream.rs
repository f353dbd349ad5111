//! `GetMessageStream`: all messages and states in order, past and to come; closes after the terminal
//! state.
//!
//! States belong here too: the Go client learns of a job's end from this stream alone. And it must close
//! at once: the Python client waits for that before it returns.

use std::sync::Arc;

use beam_model::job_management::job_messages_response::Response;
use beam_model::job_management::{JobMessagesRequest, JobMessagesResponse};
use futures::stream::{BoxStream, StreamExt};
use tonic::Status;

use crate::error::JobServiceError;
use crate::job::Event;
use crate::service::Shared;

pub(super) fn get_message_stream(
    shared: &Arc<Shared>,
    request: &JobMessagesRequest,
) -> Result<BoxStream<'static, Result<JobMessagesResponse, Status>>, JobServiceError> {
    let events = shared.registry.job(&request.job_id)?.events();
    let messages = futures::stream::unfold(events, |mut events| async {
        let response = match events.next().await? {
            Event::State(state) => Response::StateResponse(state),
            Event::Message(message) => Response::MessageResponse(message),
        };
        Some((Ok(JobMessagesResponse { response: Some(response) }), events))
    });
    Ok(messages.boxed())
}
