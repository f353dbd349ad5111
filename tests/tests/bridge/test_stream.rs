//! The events of a TestStream, asked of a service.

use std::sync::Mutex;
use std::time::Instant;

use beam_model::interactive::EventsRequest;
use beam_model::interactive::test_stream_service_server::{TestStreamService, TestStreamServiceServer};
use beam_model::pipeline::Environment;
use beam_model::pipeline::test_stream_payload::{Event, event};
use runner_core::fault::{Blame, Fault, Retry};
use runner_core::ports::TestStreamEvents;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::{AT_ONCE, Bridge, Job, SOON, eventually};

/// Tells what is put into its channel, once, and remembers what it was asked.
struct Service {
    events: Mutex<Option<mpsc::Receiver<Result<Event, Status>>>>,
    asked: mpsc::Sender<Vec<String>>,
}

#[tonic::async_trait]
impl TestStreamService for Service {
    type EventsStream = ReceiverStream<Result<Event, Status>>;

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        self.asked.send(request.into_inner().output_ids).await.unwrap();
        let events = self.events.lock().unwrap().take();
        events
            .map(|events| Response::new(ReceiverStream::new(events)))
            .ok_or_else(|| Status::internal("twice"))
    }
}

struct Serving {
    url: String,
    events: mpsc::Sender<Result<Event, Status>>,
    asked: mpsc::Receiver<Vec<String>>,
}

async fn serve() -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    let (events, told) = mpsc::channel(1);
    let (asks, asked) = mpsc::channel(9);
    let service = TestStreamServiceServer::new(Service { events: Mutex::new(Some(told)), asked: asks });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)));
    Serving { url, events, asked }
}

async fn job() -> Job {
    Bridge::start().await.job("job", &Environment::default(), 1)
}

async fn events(job: &Job, url: &str) -> Result<TestStreamEvents, Fault> {
    let outputs = vec!["letters".to_owned(), "numbers".to_owned()];
    tokio::time::timeout(SOON, job.bundles.test_stream_events(url, outputs)).await.expect("the call hangs")
}

async fn next(events: &mut TestStreamEvents) -> Option<Result<Event, Fault>> {
    tokio::time::timeout(SOON, events.recv()).await.expect("the events hang")
}

fn watermark(new_watermark: i64) -> Event {
    let advance = event::AdvanceWatermark { new_watermark, tag: "letters".to_owned() };
    Event { event: Some(event::Event::WatermarkEvent(advance)) }
}

#[tokio::test]
async fn events_come_in_their_order_until_there_are_no_more() {
    let mut serving = serve().await;
    let job = job().await;
    let mut told = events(&job, &serving.url).await.unwrap();
    let teller = tokio::spawn(async move {
        // More than anything on the way holds.
        for n in 0..1_000 {
            serving.events.send(Ok(watermark(n))).await.unwrap();
        }
        serving.asked.recv().await
    });
    for n in 0..1_000 {
        assert_eq!(next(&mut told).await.unwrap().unwrap(), watermark(n));
    }
    assert!(next(&mut told).await.is_none());
    assert_eq!(teller.await.unwrap().unwrap(), ["letters", "numbers"]);
    job.bundles.close().await;
}

#[tokio::test]
async fn an_event_is_told_before_the_next_is_there() {
    let serving = serve().await;
    let job = job().await;
    let mut told = events(&job, &format!("http://{}", serving.url)).await.unwrap();
    for n in 0..3 {
        serving.events.send(Ok(watermark(n))).await.unwrap();
        assert_eq!(next(&mut told).await.unwrap().unwrap(), watermark(n));
    }
}

#[tokio::test]
async fn a_service_that_fails_is_the_last_that_is_heard() {
    let serving = serve().await;
    let job = job().await;
    let mut told = events(&job, &serving.url).await.unwrap();
    serving.events.send(Ok(watermark(1))).await.unwrap();
    serving.events.send(Err(Status::data_loss("the cache is gone"))).await.unwrap();
    next(&mut told).await.unwrap().unwrap();
    let fault = next(&mut told).await.unwrap().unwrap_err();
    assert_eq!((fault.blame, fault.retry), (Blame::User, Retry::Never));
    for words in [serving.url.as_str(), "TestStreamService", "DataLoss", "the cache is gone"] {
        assert!(fault.message.contains(words), "{words:?} was to be in: {fault}");
    }
    assert!(next(&mut told).await.is_none());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let job = job().await;
    // Nobody listens, nor can anybody meanwhile.
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = deaf.local_addr().unwrap().to_string();
    let cases = [(free.as_str(), "refused"), ("not an address", "no address"), ("", "no address")];
    for (url, words) in cases {
        let fault = events(&job, url).await.err().unwrap();
        assert_eq!((fault.blame, fault.retry), (Blame::User, Retry::Never), "{fault}");
        assert!(fault.message.contains(words) && fault.message.contains(&format!("{url:?}")), "{fault}");
    }
}

#[tokio::test]
async fn a_server_without_the_service_is_named() {
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &Environment::default(), 1);
    let mut told = events(&job, &format!("127.0.0.1:{}", bridge.port)).await.unwrap();
    let fault = next(&mut told).await.unwrap().unwrap_err();
    assert!(fault.message.contains("Unimplemented"), "{fault}");
}

/// The service sees that nobody listens any more: its own end of the channel is closed.
#[tokio::test]
async fn a_call_ends_with_its_receiver_and_with_its_job() {
    for drops_receiver in [true, false] {
        let mut serving = serve().await;
        let job = job().await;
        let mut told = events(&job, &serving.url).await.unwrap();
        serving.asked.recv().await.unwrap();
        if drops_receiver {
            drop(told);
        } else {
            let closing = Instant::now();
            job.bundles.close().await;
            assert!(closing.elapsed() < AT_ONCE, "{:?}", closing.elapsed());
            let fault = next(&mut told).await.unwrap().unwrap_err();
            assert!(fault.message.contains("the job has ended"), "{fault}");
            assert!(next(&mut told).await.is_none());
        }
        eventually("the end of the call", || serving.events.is_closed()).await;
    }
}
