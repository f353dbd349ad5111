//! `TestStreamService`: whoever runs a TestStream that has an endpoint asks there for its events.

use std::time::Duration;

use beam_model::interactive::EventsRequest;
use beam_model::interactive::test_stream_service_client::TestStreamServiceClient;
use beam_model::pipeline::test_stream_payload::Event;
use runner_core::fault::Fault;
use runner_core::ports::TestStreamEvents;
use tokio::sync::mpsc;
use tonic::Code;
use tonic::transport::Channel;

use crate::bundle::JobContext;
use crate::dial;

/// An event may come hours after the one before it, and the service's first answer with the first event;
/// so that what bounds the wait is whether the service is still there. Servers hang up on those who ask
/// that more often than every five minutes.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(330);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Events that are read before they are asked for; enough to hide the way, few enough to be small.
const EVENTS_AHEAD: usize = 16;

/// Calls the service at `url`. The call ends with its events, with the receiver, or with the job.
pub(crate) async fn events(
    context: &JobContext,
    url: &str,
    output_ids: Vec<String>,
) -> Result<TestStreamEvents, Fault> {
    let endpoint = dial::endpoint(url).map_err(|error| {
        fault(url, &format!("is no address that can be called: {}", dial::root_cause(&error)))
    })?;
    let endpoint =
        endpoint.http2_keep_alive_interval(KEEP_ALIVE_INTERVAL).keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|error| unreachable_at(url, &dial::root_cause(&error)))?;
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let (closing, url) = (context.closing.clone(), url.to_owned());
    context.tasks.spawn(async move {
        tokio::select! {
            () = closing.cancelled() => {
                // Lest the events that were not told look as if there were none.
                sender.try_send(Err(Fault::runner("the job has ended"))).ok();
            }
            () = sender.closed() => {}
            result = hand_on(channel, &url, output_ids, &sender) => if let Err(fault) = result {
                sender.send(Err(fault)).await.ok();
            },
        }
    });
    Ok(receiver)
}

async fn hand_on(
    channel: Channel,
    url: &str,
    output_ids: Vec<String>,
    sender: &mpsc::Sender<Result<Event, Fault>>,
) -> Result<(), Fault> {
    // Events hold elements, which may be as large as they like.
    let mut client = TestStreamServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let broken = |status: tonic::Status| match status.code() {
        Code::Unavailable => unreachable_at(url, &dial::root_cause(&status)),
        code => fault(url, &format!("failed with {code:?}: {}", status.message())),
    };
    let mut events = client.events(EventsRequest { output_ids }).await.map_err(broken)?.into_inner();
    while let Some(event) = events.message().await.map_err(broken)? {
        if sender.send(Ok(event)).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn unreachable_at(url: &str, cause: &str) -> Fault {
    let what_to_do = "It must run as long as the job does, on a machine that this address means the same on";
    fault(url, &format!("cannot be reached: {cause}. {what_to_do}"))
}

/// The service is the pipeline author's. Its events cannot be told twice, so nothing is tried again.
fn fault(url: &str, what: &str) -> Fault {
    Fault::user(format!("the TestStreamService at {url:?} {what}")).fatal()
}
