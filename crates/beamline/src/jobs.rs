//! `beamline jobs`: asks a running server over the Job API, as any other client.

use std::time::Duration;

use beam_model::job_management::job_messages_response::Response;
use beam_model::job_management::job_service_client::JobServiceClient;
use beam_model::job_management::{
    CancelJobRequest, DrainJobRequest, GetJobMetricsRequest, GetJobPipelineRequest, GetJobStateRequest,
    GetJobsRequest, JobMessagesRequest,
};
use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::monitoring_info_type_urns as types;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::config::{JobsCommand, JobsConfig};
use crate::error::Error;

/// A server that is there answers in milliseconds.
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) fn jobs(config: JobsConfig) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        let mut client = connect(&config.endpoint).await?;
        let result = match config.command {
            JobsCommand::List => list(&mut client).await,
            JobsCommand::Show { job_id } => show(&mut client, job_id).await,
            JobsCommand::Cancel { job_id } => cancel(&mut client, job_id).await,
            JobsCommand::Drain { job_id } => drain(&mut client, job_id).await,
            JobsCommand::Logs { job_id } => logs(&mut client, job_id).await,
        };
        result.map_err(|status| Error::Refused(Box::new(status)))
    })
}

async fn connect(endpoint: &str) -> Result<JobServiceClient<Channel>, Error> {
    let no_server = |error: tonic::transport::Error| {
        let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        Error::NoServer { endpoint: endpoint.to_owned(), reason }
    };
    let channel = Endpoint::from_shared(format!("http://{endpoint}")).map_err(no_server)?;
    let channel = channel.connect_timeout(CONNECT).connect().await.map_err(no_server)?;
    Ok(JobServiceClient::new(channel).max_decoding_message_size(usize::MAX))
}

async fn list(client: &mut JobServiceClient<Channel>) -> Result<(), Status> {
    let jobs = client.get_jobs(GetJobsRequest {}).await?.into_inner().job_info;
    let width = jobs.iter().map(|job| job.job_id.len()).max().unwrap_or_default().max(2);
    println!("{:width$}  {:10}  NAME", "ID", "STATE");
    for job in jobs {
        println!("{:width$}  {:10}  {}", job.job_id, job.state().as_str_name(), job.job_name);
    }
    Ok(())
}

async fn show(client: &mut JobServiceClient<Channel>, job_id: String) -> Result<(), Status> {
    let state = client.get_state(GetJobStateRequest { job_id: job_id.clone() }).await?.into_inner();
    let since = state.timestamp.map(|time| format!(" since {time}")).unwrap_or_default();
    println!("{job_id}\n  state       {}{since}", state.state().as_str_name());
    let pipeline = client.get_pipeline(GetJobPipelineRequest { job_id: job_id.clone() }).await?.into_inner();
    if let Some(components) = pipeline.pipeline.and_then(|pipeline| pipeline.components) {
        println!("  transforms  {}", components.transforms.len());
    }
    let metrics = client.get_job_metrics(GetJobMetricsRequest { job_id }).await?.into_inner().metrics;
    // The user's own: those of the SDK are by transform and PCollection, and a screen full of them.
    let own = |info: &MonitoringInfo| info.urn.starts_with("beam:metric:user:");
    for info in metrics.unwrap_or_default().committed.into_iter().filter(own) {
        if let Some(value) = value(&info) {
            println!("  {}  {value}", name(&info));
        }
    }
    Ok(())
}

async fn cancel(client: &mut JobServiceClient<Channel>, job_id: String) -> Result<(), Status> {
    let answer = client.cancel(CancelJobRequest { job_id }).await?.into_inner();
    println!("{}", answer.state().as_str_name());
    Ok(())
}

async fn drain(client: &mut JobServiceClient<Channel>, job_id: String) -> Result<(), Status> {
    let answer = client.drain(DrainJobRequest { job_id }).await?.into_inner();
    println!("{}", answer.state().as_str_name());
    Ok(())
}

async fn logs(client: &mut JobServiceClient<Channel>, job_id: String) -> Result<(), Status> {
    let mut stream = client.get_message_stream(JobMessagesRequest { job_id }).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.response {
            Some(Response::MessageResponse(message)) => {
                let importance = message.importance().as_str_name().trim_start_matches("JOB_MESSAGE_");
                println!("{} {importance} {}", message.time, message.message_text);
            }
            Some(Response::StateResponse(state)) => {
                let time = state.timestamp.map(|time| time.to_string()).unwrap_or_default();
                println!("{time} STATE {}", state.state().as_str_name());
            }
            None => {}
        }
    }
    Ok(())
}

/// `namespace:name` of a user's metric, else its URN; and where it was counted.
fn name(info: &MonitoringInfo) -> String {
    let label = |label: &str| info.labels.get(label).map(String::as_str);
    let name = match (label("NAMESPACE"), label("NAME")) {
        (Some(namespace), Some(name)) => format!("{namespace}:{name}"),
        _ => info.urn.clone(),
    };
    let place = label("PTRANSFORM").or(label("PCOLLECTION")).unwrap_or_default();
    if place.is_empty() { name } else { format!("{name} [{place}]") }
}

/// Sums and distributions of whole numbers, which is nearly all there is.
fn value(info: &MonitoringInfo) -> Option<String> {
    let mut payload = info.payload.clone();
    let mut int = || prost::encoding::decode_varint(&mut payload).ok().map(|value| value as i64);
    match info.r#type.as_str() {
        types::SUM_INT64_TYPE => Some(int()?.to_string()),
        types::DISTRIBUTION_INT64_TYPE => {
            let (count, sum, min, max) = (int()?, int()?, int()?, int()?);
            Some(format!("count {count}, sum {sum}, min {min}, max {max}"))
        }
        _ => None,
    }
}
