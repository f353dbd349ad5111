//! HTTP to one cluster.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::messages::Errors;
use crate::flink::error::{FlinkError, chain};

pub(super) type HttpBody = UnsyncBoxBody<Bytes, std::io::Error>;

const CONNECT: Duration = Duration::from_secs(10);
/// A connection that idled longer may have been given up by whatever is in between.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of an answer. Accumulators and stack traces are the large ones.
const LARGEST_ANSWER: usize = 64 << 20;
/// Bytes of an error that are shown.
const LONGEST_REASON: usize = 16 << 10;

/// Where a cluster's REST endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flink) struct Master {
    /// HOST:PORT
    authority: String,
    /// Of whatever stands before the endpoint; empty or with a leading slash, and without one at its end.
    prefix: String,
}

impl Master {
    /// Reads `HOST:PORT`, `http://HOST:PORT` or one with a path behind which the REST API is served.
    pub(in crate::flink) fn parse(given: &str) -> Result<Self, FlinkError> {
        let bad = |more| FlinkError::Address { given: given.to_owned(), more };
        let text = given.trim();
        if text.starts_with("https://") {
            return Err(bad("; TLS is not supported yet: reach it through a proxy beside the server"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| bad(""))?;
        let authority = uri.authority().ok_or_else(|| bad(""))?;
        if authority.port_u16().is_none() || authority.host().is_empty() || uri.query().is_some() {
            return Err(bad(""));
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority: authority.to_string(), prefix })
    }

    /// As [`Self::parse`] reads it.
    pub(in crate::flink) fn address(&self) -> String {
        format!("{}{}", self.authority, self.prefix)
    }
}

pub(super) enum Body {
    Empty,
    Json(Bytes),
    /// A body of `length` bytes that comes bit by bit.
    Stream {
        content_type: String,
        length: u64,
        body: HttpBody,
    },
}

pub(super) struct Transport {
    master: Master,
    client: Client<HttpConnector, HttpBody>,
}

impl Transport {
    pub(super) fn new(master: Master) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { master, client }
    }

    pub(super) fn master(&self) -> &str {
        &self.master.authority
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
        let unreachable = |reason: String| FlinkError::Unreachable {
            master: self.master().to_owned(),
            request: named.clone(),
            reason,
        };
        let request = self.request(method, path, body).map_err(|error| unreachable(error.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| unreachable(chain(&error)))?;
            let status = answer.status();
            let whole = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
            let whole = whole.map_err(|error| unreachable(chain(error.as_ref())))?;
            Ok::<_, FlinkError>((status, whole.to_bytes()))
        };
        let (status, answer) = tokio::time::timeout(bound, exchange)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", bound.as_secs())))??;
        if status.is_success() {
            return Ok(answer);
        }
        Err(FlinkError::Refused {
            master: self.master().to_owned(),
            request: named,
            status: status.as_u16(),
            reason: reason(status, &answer),
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Request<HttpBody>, hyper::http::Error> {
        let Master { authority, prefix } = &self.master;
        let builder = Request::builder().method(method).uri(format!("http://{authority}{prefix}/v1{path}"));
        match body {
            Body::Empty => builder.body(Empty::new().map_err(|never| match never {}).boxed_unsync()),
            Body::Json(text) => builder
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(Full::new(text).map_err(|never| match never {}).boxed_unsync()),
            Body::Stream { content_type, length, body } => {
                builder.header(CONTENT_TYPE, content_type).header(CONTENT_LENGTH, length).body(body)
            }
        }
    }
}

/// Flink's own words, or what there is in their place.
fn reason(status: StatusCode, answer: &[u8]) -> String {
    let text = match serde_json::from_slice::<Errors>(answer) {
        Ok(Errors { errors }) if !errors.is_empty() => errors.join("\n"),
        _ => String::from_utf8_lossy(answer).trim().to_owned(),
    };
    if text.is_empty() {
        return status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    let end = (0..=LONGEST_REASON.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let plain = Master { authority: "flink:8081".to_owned(), prefix: String::new() };
        for given in ["flink:8081", "http://flink:8081", " http://flink:8081/ "] {
            assert_eq!(Master::parse(given).unwrap(), plain, "{given}");
        }
        let behind = Master::parse("gateway:80/flink/").unwrap();
        assert_eq!((behind.authority.as_str(), behind.prefix.as_str()), ("gateway:80", "/flink"));
        assert_eq!(Master::parse(&behind.address()).unwrap(), behind);
        assert_eq!(Master::parse("[::1]:8081").unwrap().authority, "[::1]:8081");
        for bad in ["", "flink", "[auto]", "flink:8081?x=1", "a b:1", ":8081", "https://flink:8081"] {
            assert!(matches!(Master::parse(bad), Err(FlinkError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn what_flink_says_is_shown() {
        let refused = br#"{"errors":["Job could not be found.","more"]}"#;
        assert_eq!(reason(StatusCode::NOT_FOUND, refused), "Job could not be found.\nmore");
        assert_eq!(reason(StatusCode::BAD_GATEWAY, b" <html/> "), "<html/>");
        assert_eq!(reason(StatusCode::NOT_FOUND, b""), "Not Found");
        assert_eq!(
            reason(StatusCode::NOT_FOUND, "é".repeat(LONGEST_REASON).as_bytes()).len(),
            LONGEST_REASON
        );
    }
}
