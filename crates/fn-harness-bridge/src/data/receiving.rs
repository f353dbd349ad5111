//! Messages from a worker, as gRPC has them in the body of an HTTP/2 request.

use std::pin::Pin;
use std::sync::Arc;

use beam_model::fn_execution::Elements;
use bytes::{Buf, Bytes};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::Body as _;
use tonic::{Code, Status};

use super::buffers::Buffers;

/// Before each message: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// The messages of one stream.
pub(super) struct Messages {
    body: Body,
    /// What has come and not been taken.
    piece: Bytes,
    buffers: Arc<Buffers>,
}

impl Messages {
    pub(super) fn new(body: Body, buffers: Arc<Buffers>) -> Self {
        Self { body, piece: Bytes::new(), buffers }
    }

    /// The next message; `None` at the stream's end. Elements in it are slices of one buffer. Not to be dropped halfway if the
    /// stream is to be read on.
    ///
    /// Errors: the stream broke off, or what came is no such message.
    pub(super) async fn next(&mut self) -> Result<Option<Elements>, Status> {
        let mut prefix = [0; PREFIX];
        let mut have = 0;
        while have < PREFIX {
            if self.piece.is_empty() && !self.more().await? {
                return if have == 0 { Ok(None) } else { Err(broken_off()) };
            }
            let taken = self.piece.len().min(PREFIX - have);
            self.piece.copy_to_slice(&mut prefix[have..have + taken]);
            have += taken;
        }
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("it is compressed, which it was not told to be"));
        }
        let message = self.bytes(u32::from_be_bytes(length) as usize).await?;
        let message = Elements::decode(message);
        message.map(Some).map_err(|error| Status::internal(format!("a message is no Elements: {error}")))
    }

    async fn bytes(&mut self, len: usize) -> Result<Bytes, Status> {
        let mut buffer = self.buffers.take(len);
        while buffer.len() < len {
            if self.piece.is_empty() && !self.more().await? {
                return Err(broken_off());
            }
            let part = self.piece.split_to(self.piece.len().min(len - buffer.len()));
            buffer.extend_from_slice(&part);
        }
        Ok(buffer.freeze())
    }

    /// Waits for more to come. False if nothing will.
    async fn more(&mut self) -> Result<bool, Status> {
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        self.piece = data;
                        return Ok(true);
                    }
                    Err(_trailers) => return Ok(false),
                },
                // The worker's own doing: that is how it ends what it has no more use for.
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(false),
                Some(Err(status)) => return Err(status),
                None => return Ok(false),
            }
        }
    }
}

fn broken_off() -> Status {
    Status::internal("it ended in the middle of a message")
}
