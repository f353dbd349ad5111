//! What streaming by gRPC over the loopback interface costs by itself: the same messages as on the data plane, and
//! nobody who looks at them.

use std::error::Error;
use std::pin::Pin;
use std::time::{Duration, Instant};

use beam_model::fn_execution::beam_fn_data_client::BeamFnDataClient;
use beam_model::fn_execution::beam_fn_data_server::{BeamFnData, BeamFnDataServer};
use beam_model::fn_execution::{Elements, elements};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// As wide as Beamline's own.
pub(crate) const STREAM_WINDOW: u32 = 8 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 64 << 20;
/// The largest HTTP/2 frames that Beamline takes, and those that are usual.
pub const LARGE_FRAMES: u32 = 224 << 10;
pub const USUAL_FRAMES: u32 = 16 << 10;
/// As large as the data plane's own messages.
const FRAME_BYTES: u64 = 1 << 20;

type Failed = Box<dyn Error + Send + Sync>;

/// A server and one connection to it.
pub struct Loopback {
    client: BeamFnDataClient<Channel>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Loopback {
    /// `http2_frame`: the most bytes of an HTTP/2 frame.
    ///
    /// Errors: there is no port, or no connection.
    pub async fn start(http2_frame: u32) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let service = BeamFnDataServer::new(Replies).max_decoding_message_size(usize::MAX);
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(http2_frame)
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = tokio::spawn(serving);
        let channel = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(http2_frame)
            .connect()
            .await?;
        let client = BeamFnDataClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(Self { client, server })
    }

    /// How long it takes to stream so many bytes there and so many back, both at once.
    ///
    /// Errors: the stream broke, or not all came back.
    pub async fn stream(&self, there: u64, back: u64) -> Result<Duration, Failed> {
        let started = Instant::now();
        let mut request = Request::new(frames(there));
        request.metadata_mut().insert(BACK, back.into());
        let mut answers = self.client.clone().data(request).await?.into_inner();
        let mut received = 0;
        while let Some(frame) = answers.message().await? {
            received += size(&frame);
        }
        match received == back {
            true => Ok(started.elapsed()),
            false => Err(format!("{received} of {back} bytes came back").into()),
        }
    }
}

/// How many bytes the client wants back.
const BACK: &str = "back";

struct Replies;

#[tonic::async_trait]
impl BeamFnData for Replies {
    type DataStream = Pin<Box<dyn Stream<Item = Result<Elements, Status>> + Send>>;

    async fn data(
        &self,
        request: Request<Streaming<Elements>>,
    ) -> Result<Response<Self::DataStream>, Status> {
        let back = request.metadata().get(BACK).and_then(|back| back.to_str().ok()?.parse().ok());
        let back = back.ok_or_else(|| Status::invalid_argument("how much back?"))?;
        let mut coming = request.into_inner();
        let all_there = tokio::spawn(async move {
            while let Ok(Some(frame)) = coming.message().await {
                std::hint::black_box(size(&frame));
            }
        });
        // The answer ends when both directions have.
        let end = stream::once(all_there).filter_map(|_| std::future::ready(None));
        Ok(Response::new(Box::pin(frames(back).map(Ok).chain(end))))
    }
}

fn frames(bytes: u64) -> impl Stream<Item = Elements> + Send + 'static {
    let full = Bytes::from(vec![b'x'; FRAME_BYTES as usize]);
    let count = bytes.div_ceil(FRAME_BYTES);
    stream::iter((0..count).map(move |index| {
        let left = (bytes - index * FRAME_BYTES).min(FRAME_BYTES);
        let data = full.slice(..left as usize);
        let data = elements::Data { instruction_id: "1".to_owned(), data, ..Default::default() };
        Elements { data: vec![data], timers: Vec::new() }
    }))
}

fn size(frame: &Elements) -> u64 {
    frame.data.iter().map(|data| data.data.len() as u64).sum()
}
