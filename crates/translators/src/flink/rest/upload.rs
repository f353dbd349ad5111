//! A jar as a form upload, read from disk as the cluster takes it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::transport::Body;
use crate::flink::jar::PortableJar;

/// What is read at once.
const CHUNK: usize = 256 << 10;
/// So many chunks wait for the cluster, which is all of the jar that is in memory.
const CHUNKS_AHEAD: usize = 4;
/// A cluster that takes nothing for so long is gone, however much it has taken.
const STALL: Duration = Duration::from_secs(60);

pub(super) struct Upload {
    pub(super) body: Body,
    /// Bytes in all.
    pub(super) length: u64,
}

/// The form with one field, `jarfile`.
pub(super) fn multipart(jar: Arc<PortableJar>, file_name: &str) -> Upload {
    // Longer than anything in a jar would be by chance, and of a hash that is not in it.
    let boundary = format!("beamline-{}", jar.mark());
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"jarfile\"; filename=\"{file_name}\"\r\n\
         Content-Type: application/x-java-archive\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let length = head.len() as u64 + jar.length() + tail.len() as u64;
    let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let form = head.as_bytes().chain(jar.reader()).chain(tail.as_bytes());
        feed(form, &sender, &runtime);
    });
    let body = reqwest::Body::wrap(StreamBody::new(ReceiverStream::new(chunks)));
    let content_type = format!("multipart/form-data; boundary={boundary}");
    Upload { body: Body::Stream { content_type, length, body }, length }
}

type Chunk = io::Result<Frame<Bytes>>;

/// Sends the form in chunks until its end, an error, or until nobody takes any.
fn feed(mut form: impl Read, chunks: &mpsc::Sender<Chunk>, runtime: &tokio::runtime::Handle) {
    loop {
        let mut chunk = BytesMut::zeroed(CHUNK);
        let read = match form.read(&mut chunk) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(read) => {
                chunk.truncate(read);
                Ok(Frame::data(chunk.freeze()))
            }
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        let sent = runtime.block_on(chunks.send_timeout(read, STALL));
        if failed || sent.is_err() {
            return;
        }
    }
}
