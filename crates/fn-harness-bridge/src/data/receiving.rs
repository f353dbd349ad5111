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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use beam_model::fn_execution::elements::Data;
    use http_body::Frame;

    use super::*;

    /// A body that comes in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn in_pieces_of(size: usize, bytes: &[u8]) -> Messages {
        let pieces = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
        Messages::new(Body::new(Pieces(pieces)), Arc::default())
    }

    fn message(len: usize) -> Elements {
        let data = Data { transform_id: "sink".to_owned(), data: vec![b'x'; len].into(), ..Data::default() };
        Elements { data: vec![data], timers: Vec::new() }
    }

    fn encoded(message: &Elements) -> Vec<u8> {
        let message = message.encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    }

    #[tokio::test]
    async fn messages_are_put_together_however_they_come() {
        let all = [message(0), message(1000), message(3)];
        let bytes = all.iter().flat_map(encoded).collect::<Vec<_>>();
        for size in [1, 2, 3, 5, 7, 100, 999, bytes.len()] {
            let mut messages = in_pieces_of(size, &bytes);
            for message in &all {
                assert_eq!(messages.next().await.unwrap().as_ref(), Some(message), "in pieces of {size}");
            }
            assert_eq!(messages.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let whole = encoded(&message(300_000));
        let compressed = [&[1][..], &whole[1..]].concat();
        // It says that 4 GiB follow.
        let endless = [&[0, 0xff, 0xff, 0xff, 0xff][..], &whole].concat();
        let nonsense = [0, 0, 0, 0, 3, 0xff, 0xff, 0xff];
        for (bytes, code) in [
            (&whole[..3], Code::Internal),
            (&whole[..whole.len() - 1], Code::Internal),
            (&compressed, Code::Unimplemented),
            (&endless, Code::Internal),
            (&nonsense, Code::Internal),
        ] {
            let refused = in_pieces_of(1000, bytes).next().await.unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
        }
    }
}
