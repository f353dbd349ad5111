//! HTTP to one cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, Response};

use super::Master;
use super::door::{ClusterAccess, Door, Opened};
use super::wrong::{Refusal, no_answer};
use crate::flink::error::FlinkError;

/// Bytes of an answer. Accumulators and stack traces are the large ones.
const LARGEST_ANSWER: usize = 64 << 20;

pub(super) enum Body {
    Empty,
    Json(Bytes),
    /// A body of `length` bytes that comes bit by bit.
    Stream {
        content_type: String,
        length: u64,
        body: reqwest::Body,
    },
}

pub(super) struct Transport {
    master: Master,
    address: String,
    door: Arc<Door>,
}

impl Transport {
    /// `own`: the server's own cluster.
    pub(super) fn new(master: Master, access: &ClusterAccess, own: Option<&Master>) -> Self {
        let door = Arc::new(Door::new(&master, access, own));
        Self { address: master.address(), master, door }
    }

    /// The cluster's address, for messages.
    pub(super) fn master(&self) -> &str {
        &self.address
    }

    /// Sends one request and reads the whole answer, both within `bound`.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        bound: Duration,
    ) -> Result<Bytes, FlinkError> {
        let named = format!("{method} {path}");
        let exchange = self.exchange(method, path, &named, body);
        tokio::time::timeout(bound, exchange).await.unwrap_or_else(|_| {
            Err(self.unreachable(&named, format!("no answer within {} s", bound.as_secs())))
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        named: &str,
        body: Body,
    ) -> Result<Bytes, FlinkError> {
        let door = Arc::clone(&self.door);
        let opening = tokio::task::spawn_blocking(move || door.open());
        let Opened { client, authorization } = opening.await??;
        let url = self.master.url_of(path);
        let mut request = client.request(method, url.clone());
        if let Some(value) = &authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        let request = match body {
            Body::Empty => request,
            Body::Json(text) => {
                request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(text)
            }
            Body::Stream { content_type, length, body } => {
                request.header(CONTENT_TYPE, content_type).header(CONTENT_LENGTH, length).body(body)
            }
        };
        let failed = |error| no_answer(&self.master, &self.door, named, error);
        let mut answer = request.send().await.map_err(failed)?;
        let (status, location) = (answer.status(), answer.headers().get(LOCATION).cloned());
        let whole = self.whole(&mut answer, named).await?;
        if status.is_success() {
            return Ok(whole);
        }
        // Not the scheme before it, which stands in many an error.
        let secret = authorization.as_ref().and_then(|value| value.to_str().ok()?.rsplit(' ').next());
        let refusal = Refusal {
            status,
            answer: &whole,
            location: location.as_ref().and_then(|location| location.to_str().ok()),
            url: &url,
            secret,
        };
        Err(FlinkError::Refused {
            master: self.address.clone(),
            request: named.to_owned(),
            status: status.as_u16(),
            reason: refusal.reason(&self.master, &self.door),
        })
    }

    async fn whole(&self, answer: &mut Response, named: &str) -> Result<Bytes, FlinkError> {
        let mut whole = BytesMut::new();
        let failed = |error| no_answer(&self.master, &self.door, named, error);
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if whole.len() + chunk.len() > LARGEST_ANSWER {
                return Err(
                    self.unreachable(named, format!("the answer is larger than {LARGEST_ANSWER} bytes"))
                );
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    fn unreachable(&self, named: &str, reason: String) -> FlinkError {
        FlinkError::Unreachable { master: self.address.clone(), request: named.to_owned(), reason }
    }
}
