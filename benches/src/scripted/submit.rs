//! A job's author, as far as it needs to be one.

use std::error::Error;
use std::time::{Duration, Instant};

use beam_model::job_management::job_messages_response::Response as MessageOrState;
use beam_model::job_management::job_service_client::JobServiceClient;
use beam_model::job_management::job_state::Enum as State;
use beam_model::job_management::{GetJobStateRequest, JobMessagesRequest, PrepareJobRequest, RunJobRequest};
use beam_model::pipeline::Pipeline;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::transport::{Channel, Endpoint};

type Failed = Box<dyn Error + Send + Sync>;

/// The job service of a server.
pub struct Jobs {
    client: JobServiceClient<Channel>,
}

/// A job that is DONE.
pub struct Submitted {
    /// From `Run` to DONE.
    pub wall: Duration,
}

impl Jobs {
    /// Errors: nobody answers at `endpoint`, a `host:port`.
    pub async fn connect(endpoint: &str) -> Result<Self, Failed> {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))?.tcp_nodelay(true);
        Ok(Self { client: JobServiceClient::new(channel.connect().await?) })
    }

    /// Runs a job with so many workers to its end.
    ///
    /// Errors: it is refused, or does not end as DONE; then with its messages.
    pub async fn run(&self, pipeline: Pipeline, workers: u32) -> Result<Submitted, Failed> {
        let mut client = self.client.clone();
        let number = Value { kind: Some(Kind::NumberValue(f64::from(workers))) };
        let options = Struct { fields: [("beam:option:sdk_workers:v1".to_owned(), number)].into() };
        let job_name = "scripted".to_owned();
        let request =
            PrepareJobRequest { pipeline: Some(pipeline), pipeline_options: Some(options), job_name };
        let preparation_id = client.prepare(request).await?.into_inner().preparation_id;
        let started = Instant::now();
        let request = RunJobRequest { preparation_id, ..Default::default() };
        let job_id = client.run(request).await?.into_inner().job_id;
        let mut states =
            client.get_state_stream(GetJobStateRequest { job_id: job_id.clone() }).await?.into_inner();
        let mut last = State::Unspecified;
        while let Some(event) = states.message().await? {
            last = event.state();
        }
        match last {
            State::Done => Ok(Submitted { wall: started.elapsed() }),
            other => Err(format!("the job ended as {other:?}: {}", self.messages(job_id).await?).into()),
        }
    }

    async fn messages(&self, job_id: String) -> Result<String, Failed> {
        let mut messages =
            self.client.clone().get_message_stream(JobMessagesRequest { job_id }).await?.into_inner();
        let mut text = String::new();
        while let Some(message) = messages.message().await? {
            if let Some(MessageOrState::MessageResponse(message)) = message.response {
                text.push('\n');
                text.push_str(&message.message_text);
            }
        }
        Ok(text)
    }
}
