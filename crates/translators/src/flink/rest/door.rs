//! The way into one cluster: whom it is trusted by, and what is shown to it.
//!
//! The files are read for each request. They are small, and whoever renews certificates and tokens replaces them while jobs
//! run that last for months.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Identity, redirect};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Master;
use crate::flink::error::chain;

const CA_FILE: &str = "--flink-ca-file";
const CLIENT_CERTIFICATE: &str = "--flink-client-certificate";
const CLIENT_KEY: &str = "--flink-client-key";
const AUTHORIZATION_FILE: &str = "--flink-authorization-file";
/// Bytes. All the CAs of a system are a quarter of that.
const LARGEST_FILE: u64 = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that idled longer may have been given up by whatever is in between.
const IDLE: Duration = Duration::from_secs(30);

/// What clusters are told that do not let everybody in, and how those with a CA of their own are known.
///
/// The client certificate and the authorization are for the server's own cluster, [`FlinkConfig::master`], alone: no job can
/// have them sent to a cluster that it names.
///
/// [`FlinkConfig::master`]: crate::flink::FlinkConfig::master
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterAccess {
    /// Certificates in PEM. If they are given, clusters behind https are trusted by them, and not by the system's.
    pub ca_file: Option<PathBuf>,
    pub client_identity: Option<ClientIdentity>,
    /// A file with the value of the header `Authorization`, or with a bearer token alone.
    pub authorization_file: Option<PathBuf>,
}

/// For mutual TLS. Both in PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientIdentity {
    /// The certificate, and those of CAs between it and the one that the cluster trusts.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is wrong with what was given for access to clusters.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{path} cannot be read: {source} (see {flag})")]
    Unreadable { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is of no use: {reason} (see {flag})")]
    Useless { flag: &'static str, path: PathBuf, reason: String },
    #[error("{flag} is for the server's own cluster, and --flink-master names none")]
    NoMaster { flag: &'static str },
    #[error("{flag} is for clusters behind https, and --flink-master is {master}: give https://…")]
    NotHttps { flag: &'static str, master: String },
}

impl ClusterAccess {
    /// # Errors
    /// A file that is of no use, or one for nobody.
    pub(in crate::flink) fn check(&self, own: Option<&Master>) -> Result<(), AccessError> {
        let Some(own) = own else {
            let given = [
                self.client_identity.as_ref().map(|_| CLIENT_CERTIFICATE),
                self.authorization_file.as_ref().map(|_| AUTHORIZATION_FILE),
            ];
            if let Some(flag) = given.into_iter().flatten().next() {
                return Err(AccessError::NoMaster { flag });
            }
            return self.ca_file.as_deref().map_or(Ok(()), |path| certificates(CA_FILE, path).map(drop));
        };
        if self.client_identity.is_some() && !own.is_https() {
            return Err(AccessError::NotHttps { flag: CLIENT_CERTIFICATE, master: own.address() });
        }
        if self.authorization_file.is_some() && !own.is_https() {
            tracing::warn!("the authorization for Flink at {} is sent as it is, without TLS", own.address());
        }
        if let Some(path) = &self.ca_file {
            certificates(CA_FILE, path)?;
        }
        Door::new(own, self, Some(own)).open().map(drop)
    }
}

/// The way into one cluster.
pub(super) struct Door {
    is_https: bool,
    /// As far as it is for this cluster.
    access: ClusterAccess,
    /// The server's own cluster, if this is another and what is for that one is not shown here.
    withheld: Option<String>,
    built: Mutex<Option<(Pems, Client)>>,
}

/// What a client was made of.
#[derive(PartialEq)]
struct Pems {
    cas: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
}

/// For one request.
pub(super) struct Opened {
    pub(super) client: Client,
    /// The value of the header `Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

impl Door {
    /// `own`: the server's own cluster.
    pub(super) fn new(master: &Master, given: &ClusterAccess, own: Option<&Master>) -> Self {
        let is_own = own == Some(master);
        let has_secrets = given.client_identity.is_some() || given.authorization_file.is_some();
        let access = ClusterAccess {
            ca_file: given.ca_file.clone(),
            client_identity: given.client_identity.clone().filter(|_| is_own),
            authorization_file: given.authorization_file.clone().filter(|_| is_own),
        };
        let withheld = own.filter(|_| has_secrets && !is_own).map(Master::address);
        Self { is_https: master.is_https(), access, withheld, built: Mutex::new(None) }
    }

    /// Reads the files, and makes a client if there is none for what is in them. Blocks.
    pub(super) fn open(&self) -> Result<Opened, AccessError> {
        let authorization = self.access.authorization_file.as_deref().map(authorization).transpose()?;
        let pems = if self.is_https { self.pems()? } else { Pems { cas: None, identity: None } };
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match built.take() {
            Some((of, client)) if of == pems => client,
            _ => self.build(&pems)?,
        };
        *built = Some((pems, client.clone()));
        Ok(Opened { client, authorization })
    }

    fn pems(&self) -> Result<Pems, AccessError> {
        let cas = self.access.ca_file.as_deref().map(|path| certificates(CA_FILE, path)).transpose()?;
        let identity = self.access.client_identity.as_ref().map(identity).transpose()?;
        Ok(Pems { cas, identity })
    }

    fn build(&self, pems: &Pems) -> Result<Client, AccessError> {
        let mut builder = Client::builder()
            .user_agent(concat!("beamline/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            // The way to a cluster is named by its address alone.
            .no_proxy()
            // What is shown to this cluster is not for others.
            .redirect(redirect::Policy::none())
            // Those of the system take a while to read.
            .tls_built_in_root_certs(self.is_https && pems.cas.is_none());
        if let (Some(pem), Some(path)) = (&pems.cas, &self.access.ca_file) {
            let cas = Certificate::from_pem_bundle(pem);
            for ca in cas.map_err(|error| useless(CA_FILE, path, chain(&error)))? {
                builder = builder.add_root_certificate(ca);
            }
        }
        if let (Some(pem), Some(given)) = (&pems.identity, &self.access.client_identity) {
            let identity = Identity::from_pem(pem);
            builder = builder.identity(
                identity.map_err(|error| useless(CLIENT_CERTIFICATE, &given.certificate, chain(&error)))?,
            );
        }
        builder.build().map_err(|error| self.not_built(&error))
    }

    /// Certificates that are PEM, but no certificates, and keys that are not theirs.
    fn not_built(&self, error: &reqwest::Error) -> AccessError {
        let reason = chain(error);
        match (&self.access.client_identity, &self.access.ca_file) {
            (Some(ClientIdentity { certificate, key }), _) => {
                let reason = format!("it cannot be used with the key {}: {reason}", key.display());
                useless(CLIENT_CERTIFICATE, certificate, reason)
            }
            (None, Some(path)) => useless(CA_FILE, path, reason),
            (None, None) => {
                useless(CA_FILE, Path::new("the system's store of CAs"), format!("{reason}; give one's own"))
            }
        }
    }

    /// What to do about a certificate of the cluster that nobody trusts.
    pub(super) fn whom_it_trusts(&self) -> String {
        match &self.access.ca_file {
            Some(path) => format!("none of the CAs in {} has signed it (see {CA_FILE})", path.display()),
            None => format!("no CA that this system knows has signed it: give the one that has by {CA_FILE}"),
        }
    }

    /// What to do about a cluster that wants to see a client certificate, or another one.
    pub(super) fn what_certificate_it_shows(&self) -> String {
        match (&self.access.client_identity, &self.withheld) {
            (Some(given), _) => {
                let path = given.certificate.display();
                format!("it does not take the client certificate {path} (see {CLIENT_CERTIFICATE})")
            }
            (None, Some(own)) => only_for(own, "client certificate"),
            (None, None) => {
                format!("it wants a client certificate: give one by {CLIENT_CERTIFICATE} and {CLIENT_KEY}")
            }
        }
    }

    /// What to do about a cluster that wants to know who asks, or does not like it.
    pub(super) fn what_authorization_it_shows(&self) -> String {
        match (&self.access.authorization_file, &self.withheld) {
            (Some(path), _) => {
                format!("it was shown the authorization in {} (see {AUTHORIZATION_FILE})", path.display())
            }
            (None, Some(own)) => only_for(own, "authorization"),
            (None, None) => format!("it was shown no authorization: give one by {AUTHORIZATION_FILE}"),
        }
    }

    pub(super) fn shows_certificate(&self) -> bool {
        self.access.client_identity.is_some()
    }
}

fn only_for(own: &str, what: &str) -> String {
    format!("the server's {what} is for its own cluster at {own} alone (see --flink-master)")
}

fn useless(flag: &'static str, path: &Path, reason: impl Into<String>) -> AccessError {
    AccessError::Useless { flag, path: path.to_owned(), reason: reason.into() }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text));
    match read {
        Ok(_) if text.len() as u64 > LARGEST_FILE => Err(useless(flag, path, "it has more than a megabyte")),
        Ok(_) => Ok(text),
        Err(source) => Err(AccessError::Unreadable { flag, path: path.to_owned(), source }),
    }
}

/// The file, if it has certificates.
fn certificates(flag: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    let text = read(flag, path)?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        certificate.map_err(|error| useless(flag, path, format!("it is no PEM: {error}")))?;
        found += 1;
    }
    if found == 0 {
        let reason = "it has no certificate in PEM (-----BEGIN CERTIFICATE-----); one is had of a Java keystore by keytool \
                      -exportcert -rfc, and of DER by openssl x509 -inform der";
        return Err(useless(flag, path, reason));
    }
    Ok(text)
}

/// Certificate and key behind each other.
fn identity(given: &ClientIdentity) -> Result<Vec<u8>, AccessError> {
    let ClientIdentity { certificate, key } = given;
    let mut both = certificates(CLIENT_CERTIFICATE, certificate)?;
    let key_text = read(CLIENT_KEY, key)?;
    if PrivateKeyDer::from_pem_slice(&key_text).is_err() {
        let is_encrypted = key_text.windows(b"ENCRYPTED".len()).any(|part| part == b"ENCRYPTED");
        let reason = if is_encrypted {
            "its private key is encrypted; openssl pkey writes one that is not"
        } else {
            "it has no private key in PEM (-----BEGIN PRIVATE KEY-----)"
        };
        return Err(useless(CLIENT_KEY, key, reason));
    }
    if certificate != key {
        both.push(b'\n');
        both.extend(key_text);
    }
    Ok(both)
}

/// The header's value: what stands in the file, or the token that does.
fn authorization(path: &Path) -> Result<HeaderValue, AccessError> {
    let bad = |reason: &str| useless(AUTHORIZATION_FILE, path, reason);
    let text = String::from_utf8(read(AUTHORIZATION_FILE, path)?).map_err(|_| bad("it is no text"))?;
    let text = text.trim();
    let value = match text.split_whitespace().count() {
        0 => return Err(bad("it is empty")),
        // No token has one.
        1 if text.contains(':') => {
            return Err(bad(
                "a name and password are written as Basic and their Base64: printf 'Basic %s' \"$(printf \
                            NAME:PASSWORD | base64 -w0)\"",
            ));
        }
        1 => format!("Bearer {text}"),
        _ => text.to_owned(),
    };
    let mut value = HeaderValue::from_str(&value)
        .map_err(|_| bad("it is to be one line: a bearer token, or a whole value like Basic …"))?;
    value.set_sensitive(true);
    Ok(value)
}
