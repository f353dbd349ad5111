//! Certificates, and a port behind them.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::serve::Listener;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version,
};
use tokio_rustls::server::TlsStream;

use super::scripted_flink::ScriptedFlink;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Both in PEM.
pub struct Certified {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The CA's own certificate, as a server would show it.
    pub fn itself(&self) -> Certified {
        Certified { certificate: self.pem(), key: self.issuer.key().serialize_pem() }
    }

    pub fn server(&self, host: &str) -> Certified {
        self.sign(host, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])
    }

    pub fn expired(&self, host: &str) -> Certified {
        self.sign(host, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    pub fn client(&self) -> Certified {
        self.sign("beamline", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn sign(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certified { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A file with this text.
pub fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    replace(&path, text);
    path
}

/// At once, as whoever renews certificates does.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// How a port behaves.
pub struct Tls<'a> {
    pub shows: Certified,
    /// By whom clients' certificates are to be signed; `None`: none are wanted.
    pub clients: Option<&'a Authority>,
    pub version: &'static SupportedProtocolVersion,
    /// `None`: all.
    pub cipher_suites: Option<Vec<SupportedCipherSuite>>,
}

impl Tls<'_> {
    pub fn showing(shows: Certified) -> Self {
        Self { shows, clients: None, version: &version::TLS13, cipher_suites: None }
    }

    /// A cluster on such a port of `localhost`, behind a path.
    pub async fn flink(self, prefix: &'static str) -> ScriptedFlink {
        let certificates =
            CertificateDer::pem_slice_iter(self.shows.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.shows.key.as_bytes()).unwrap();
        let mut provider = ring::default_provider();
        if let Some(cipher_suites) = self.cipher_suites {
            provider.cipher_suites = cipher_suites;
        }
        let builder = ServerConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[self.version]).unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap(),
                )
            }
        };
        let config = builder.with_single_cert(certificates, key).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let listener = TlsListener { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
        ScriptedFlink::start_on(listener, format!("https://localhost:{port}{prefix}"), prefix)
    }
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // What becomes of one that fails is the client's to say.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
