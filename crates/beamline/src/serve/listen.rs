//! The ports of a server, and the name under which others reach them.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use tokio::net::TcpListener;

use crate::config::ServeConfig;
use crate::error::Error;

pub(super) struct Ports {
    /// As it stands before the colon of an endpoint: an IPv6 address has its brackets.
    host: String,
    job: (TcpListener, u16),
    artifact: Option<(TcpListener, u16)>,
    http: Option<(TcpListener, u16)>,
}

impl Ports {
    pub(super) async fn bind(config: &ServeConfig) -> Result<Self, Error> {
        let job = bind(&config.job_host, config.job_port, "--job-port").await?;
        let artifact = match config.second_port() {
            Some(port) => Some(bind(&config.job_host, port, "--artifact-port").await?),
            None => None,
        };
        let http = match config.http_port() {
            Some(port) => Some(bind(&config.job_host, port, "--http-port").await?),
            None => None,
        };
        let host = config.advertise_host.clone().unwrap_or_else(|| own_host(&config.job_host));
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        Ok(Self { host, job, artifact, http })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn job_port(&self) -> u16 {
        self.job.1
    }

    pub(super) fn job_endpoint(&self) -> String {
        format!("{}:{}", self.host, self.job.1)
    }

    pub(super) fn artifact_endpoint(&self) -> String {
        let (_, port) = self.artifact.as_ref().unwrap_or(&self.job);
        format!("{}:{port}", self.host)
    }

    /// Where `/metrics` is served, if it is.
    pub(super) fn http_endpoint(&self) -> Option<String> {
        self.http.as_ref().map(|(_, port)| format!("{}:{port}", self.host))
    }

    pub(super) fn take_http_listener(&mut self) -> Option<TcpListener> {
        self.http.take().map(|(listener, _)| listener)
    }

    /// Those of the Job API and of workers.
    pub(super) fn into_listeners(self) -> impl Iterator<Item = TcpListener> {
        std::iter::once(self.job).chain(self.artifact).map(|(listener, _)| listener)
    }
}

async fn bind(host: &str, port: u16, flag: &'static str) -> Result<(TcpListener, u16), Error> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let bound = match TcpListener::bind((bare, port)).await {
        Ok(listener) => listener.local_addr().map(|address| (listener, address.port())),
        Err(error) => Err(error),
    };
    bound.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => Error::PortInUse { host: host.to_owned(), port, flag },
        _ => Error::Listen { host: host.to_owned(), port, flag, source },
    })
}

/// What to tell others if nothing is configured: the host that is listened on, or if that is "all", the
/// address from which this machine reaches others.
fn own_host(job_host: &str) -> String {
    match job_host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => match outward_address() {
            Ok(outward) => outward.to_string(),
            Err(error) => {
                tracing::warn!(
                    "this machine's address is not found ({error}); workers elsewhere need --advertise-host"
                );
                "localhost".to_owned()
            }
        },
        Ok(_) | Err(_) => job_host.to_owned(),
    }
}

/// Which address the routing table would send from. Nothing is sent: connecting a datagram socket only
/// chooses the route (the target is a documentation address).
fn outward_address() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}
