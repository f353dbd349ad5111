//! What went wrong on the way to a cluster, in words with which something can be done about it.

use std::error::Error;
use std::io;

use reqwest::{StatusCode, Url};
use rustls::{AlertDescription, CertificateError};

use super::Master;
use super::door::Door;
use super::messages::Errors;
use crate::flink::error::{FlinkError, chain};

/// Bytes of an error that are shown.
const LONGEST_REASON: usize = 16 << 10;
/// What Flink's documentation recommends in place of its default, `TLS_RSA_WITH_AES_128_CBC_SHA`.
const CIPHERS: &str =
    "security.ssl.algorithms: TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

/// Why there was no answer.
pub(super) fn no_answer(master: &Master, door: &Door, request: &str, error: reqwest::Error) -> FlinkError {
    let error = error.without_url();
    let not_reached = |reason| FlinkError::NotReached { master: master.address(), reason };
    if let Some(tls) = cause(&error) {
        return not_reached(tls_error(door, tls));
    }
    if !master.is_https() && cause::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) {
        let reason =
            "what it answers is no HTTP; if the port speaks TLS, give https://… (see --flink-master)";
        return not_reached(reason.to_owned());
    }
    let mut reason = chain(&error);
    if master.is_https() && cause::<io::Error>(&error).is_some_and(was_broken_off) {
        let or = if door.shows_certificate() { "" } else { ", or wants a client certificate" };
        reason = format!("{reason}; perhaps the port does not speak TLS{or} (see --flink-master)");
    }
    FlinkError::Unreachable { master: master.address(), request: request.to_owned(), reason }
}

fn was_broken_off(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// The first of that kind among what caused the error.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // The source of an I/O error is that of the error in it.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = within.map(|within| within as _).or_else(|| error.source());
    }
    None
}

fn tls_error(door: &Door, error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => certificate_error(door, why),
        // Java calls a certificate that it was not shown a bad one.
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => format!("{} ({error})", door.what_certificate_it_shows()),
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity
            | AlertDescription::ProtocolVersion,
        ) => format!(
            "no cipher suite that both sides know; what Flink speaks by default has no forward secrecy, and is not spoken here: set {CIPHERS} \
             in its configuration. Or {} ({error})",
            door.what_certificate_it_shows()
        ),
        rustls::Error::InvalidMessage(_) => {
            format!("the port does not speak TLS: give http://… (see --flink-master; {error})")
        }
        other => format!("TLS: {other}"),
    }
}

fn certificate_error(door: &Door, why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("its certificate is not trusted: {}", door.whom_it_trusts())
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / SECONDS_PER_DAY;
            format!("its certificate has expired {days} days ago, and is to be renewed there")
        }
        CertificateError::Expired => "its certificate has expired, and is to be renewed there".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet, or the clock is wrong here ({why})")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "its certificate is for another host: give a name that is among its subject alternative names (see --flink-master; {why})"
        ),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of a CA, which is none of a server: have one made with basicConstraints=CA:FALSE".to_owned()
        }
        other => format!("its certificate cannot be trusted: {other}"),
    }
}

/// What an answer is worth that is an error.
pub(super) struct Refusal<'a> {
    pub(super) status: StatusCode,
    pub(super) answer: &'a [u8],
    /// Where else to ask, by what was answered.
    pub(super) location: Option<&'a str>,
    /// What was asked for.
    pub(super) url: &'a Url,
    /// What is not to be shown, if an answer has it.
    pub(super) secret: Option<&'a str>,
}

impl Refusal<'_> {
    /// The other side's words, and what is to be done.
    pub(super) fn reason(&self, master: &Master, door: &Door) -> String {
        let words = words(self.status, self.answer, self.secret);
        match self.hint(master, door, &words) {
            Some(hint) => format!("{words}; {hint}"),
            None => words,
        }
    }

    fn hint(&self, master: &Master, door: &Door, words: &str) -> Option<String> {
        match self.status {
            StatusCode::UNAUTHORIZED => Some(door.what_authorization_it_shows()),
            StatusCode::FORBIDDEN => {
                Some(format!("whoever asks is not allowed to; {}", door.what_authorization_it_shows()))
            }
            StatusCode::PAYLOAD_TOO_LARGE => Some(
                "a proxy before the cluster, or Flink itself, does not take jars of this size; with an ingress of nginx that is its \
                 proxy-body-size, with Flink rest.server.max-content-length"
                    .to_owned(),
            ),
            status if status.is_redirection() => Some(self.elsewhere()),
            // As nginx and Go's servers say it.
            StatusCode::BAD_REQUEST
                if !master.is_https() && words.contains("HTTP request") && words.contains("HTTPS") =>
            {
                Some("the port speaks TLS: give https://… (see --flink-master)".to_owned())
            }
            StatusCode::BAD_REQUEST if master.is_https() && words.contains("SSL certificate") => {
                Some(door.what_certificate_it_shows())
            }
            _ => None,
        }
    }

    /// Nothing goes there by itself: it may be nobody's of this cluster.
    fn elsewhere(&self) -> String {
        let to = self.location.and_then(|location| self.url.join(location).ok()).map(|mut url| {
            url.set_query(None);
            url.set_fragment(None);
            // For URLs with hosts these cannot fail.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            let path = self.url.path().split_at(self.url.path().rfind("/v1/").unwrap_or(0)).1.to_owned();
            let text = url.to_string();
            text.strip_suffix(&path).unwrap_or(&text).to_owned()
        });
        let to = to.unwrap_or_else(|| "nowhere".to_owned());
        format!(
            "it leads to {to}, where nothing is sent to: give the address that answers itself (see --flink-master), and if that is a \
             page to log in at, an authorization (see --flink-authorization-file)"
        )
    }
}

/// Flink's own words, or what there is in their place.
fn words(status: StatusCode, answer: &[u8], secret: Option<&str>) -> String {
    let text = match serde_json::from_slice::<Errors>(answer) {
        Ok(Errors { errors }) if !errors.is_empty() => errors.join("\n"),
        _ => String::from_utf8_lossy(answer).trim().to_owned(),
    };
    if text.is_empty() {
        return status.canonical_reason().unwrap_or("no reason given").to_owned();
    }
    let text =
        secret.filter(|secret| !secret.is_empty()).map_or(text.clone(), |secret| text.replace(secret, "…"));
    let end = (0..=LONGEST_REASON.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flink_says_is_shown() {
        let refused = br#"{"errors":["Job could not be found.","more"]}"#;
        assert_eq!(words(StatusCode::NOT_FOUND, refused, None), "Job could not be found.\nmore");
        assert_eq!(words(StatusCode::BAD_GATEWAY, b" <html/> ", None), "<html/>");
        assert_eq!(words(StatusCode::NOT_FOUND, b"", None), "Not Found");
        assert_eq!(words(StatusCode::UNAUTHORIZED, b"not abc!", Some("abc")), "not …!");
        assert_eq!(
            words(StatusCode::NOT_FOUND, "é".repeat(LONGEST_REASON).as_bytes(), None).len(),
            LONGEST_REASON
        );
    }
}
