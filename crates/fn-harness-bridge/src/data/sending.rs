//! Messages to a worker, as gRPC has them in the body of an HTTP/2 response: elements go out of the memory where they are.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use beam_model::fn_execution::{Elements, elements};
use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use prost::Message;
use prost::encoding::encode_varint;
use tokio_stream::Stream;
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use super::receiving::PREFIX;
use crate::worker::OutboxStream;

/// Fewer bytes than this are copied to those around them: a piece of its own costs more.
const COPIED: usize = 4 << 10;
/// The keys of `Elements.data`, `Elements.timers`, and `Elements.Data.data`: their numbers, and that a length follows.
const DATA: u8 = (1 << 3) | 2;
const TIMERS: u8 = (2 << 3) | 2;
const BYTES: u8 = (3 << 3) | 2;

/// The body of the response.
pub(super) struct Sending {
    messages: OutboxStream<Elements>,
    /// Of messages that have been begun.
    pieces: VecDeque<Bytes>,
    ended: bool,
}

impl Sending {
    pub(super) fn new(messages: OutboxStream<Elements>) -> Self {
        Self { messages, pieces: VecDeque::new(), ended: false }
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.messages).poll_next(context)) {
                Some(Ok(message)) => match pieces(message) {
                    Ok(pieces) => self.pieces = pieces,
                    Err(status) => {
                        self.ended = true;
                        return Poll::Ready(Some(Err(status)));
                    }
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => {
                    self.ended = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(ended_well()))));
                }
            }
        }
    }
}

fn ended_well() -> HeaderMap {
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))])
}

/// A message with its prefix, put together of pieces.
///
/// Errors: it is longer than gRPC can say.
fn pieces(message: Elements) -> Result<VecDeque<Bytes>, Status> {
    let length = message.encoded_len();
    let Ok(prefix) = u32::try_from(length) else {
        return Err(Status::resource_exhausted(format!("a message of {length} bytes is too long for gRPC")));
    };
    let (mut pieces, mut head) = (VecDeque::new(), BytesMut::with_capacity(PREFIX + 128));
    head.put_u8(0);
    head.put_u32(prefix);
    for mut data in message.data {
        let elements = std::mem::take(&mut data.data);
        write_data(&mut head, &data, elements.len());
        if elements.len() < COPIED {
            head.extend_from_slice(&elements);
        } else {
            pieces.extend([head.split().freeze(), elements]);
        }
    }
    for timers in message.timers {
        head.put_u8(TIMERS);
        head.extend_from_slice(&timers.encode_length_delimited_to_vec());
    }
    if !head.is_empty() {
        pieces.push_back(head.freeze());
    }
    Ok(pieces)
}

/// A `Data`, but for the bytes of its elements, which are to follow. `rest` has none.
fn write_data(head: &mut BytesMut, rest: &elements::Data, elements: usize) {
    let mut rest = rest.encode_to_vec();
    let mut length = rest.len();
    if elements > 0 {
        rest.push(BYTES);
        encode_varint(elements as u64, &mut rest);
        length = rest.len() + elements;
    }
    head.put_u8(DATA);
    encode_varint(length as u64, head);
    head.extend_from_slice(&rest);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use beam_model::fn_execution::elements::{Data, Timers};
    use tokio_util::sync::CancellationToken;
    use tonic::body::Body;

    use super::super::buffers::Buffers;
    use super::super::receiving::Messages;
    use super::*;
    use crate::worker::Outbox;

    fn data(len: usize, is_last: bool) -> Data {
        let data = (0..len).map(|index| index as u8).collect();
        Data { instruction_id: "7-bundle".to_owned(), transform_id: "source".to_owned(), data, is_last }
    }

    fn timers() -> Timers {
        Timers { timer_family_id: "family".to_owned(), timers: vec![1; 300].into(), ..Timers::default() }
    }

    fn messages() -> Vec<Elements> {
        let of = |data: Vec<Data>, timers: Vec<Timers>| Elements { data, timers };
        vec![
            of(vec![], vec![]),
            of(vec![data(0, true)], vec![]),
            of(vec![data(1, false)], vec![timers()]),
            of(vec![data(COPIED - 1, false), data(COPIED, false), data(COPIED + 1, true)], vec![]),
            of(
                vec![data(127, false), data(128, false), data(1 << 20, false), data(0, true)],
                vec![timers(); 3],
            ),
            of(vec![], vec![timers()]),
            of(vec![data(3 << 20, false), data(200_000, false)], vec![]),
        ]
    }

    #[test]
    fn pieces_are_the_message_as_protobuf_has_it() {
        for message in messages() {
            let pieces = pieces(message.clone()).unwrap();
            let bytes = pieces.iter().flatten().copied().collect::<Vec<u8>>();
            let (prefix, encoded) = bytes.split_at(PREFIX);
            assert_eq!(prefix, [&[0][..], &(encoded.len() as u32).to_be_bytes()].concat());
            assert_eq!(Elements::decode(encoded).unwrap(), message);
        }
    }

    #[test]
    fn elements_are_not_copied() {
        let large = data(1 << 20, false);
        let place = large.data.as_ptr();
        let pieces = pieces(Elements { data: vec![large], timers: vec![] }).unwrap();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == place));
    }

    #[tokio::test]
    async fn what_is_sent_is_received() {
        let closed = CancellationToken::new();
        let outbox = Outbox::new(messages().len(), closed.clone());
        for message in messages() {
            outbox.send(message).await.unwrap();
        }
        closed.cancel();
        let body = Body::new(Sending::new(outbox.attach().unwrap()));
        let mut received = Messages::new(body, Arc::new(Buffers::default()));
        for message in messages() {
            assert_eq!(received.next().await.unwrap(), Some(message));
        }
        assert_eq!(received.next().await.unwrap(), None);
    }
}
