//! Flags for Flink clusters behind TLS, and for those that want to know who asks.

use std::path::PathBuf;

use clap::Args;
use translators::flink::{ClientIdentity, ClusterAccess};

#[derive(Args, Clone, Debug)]
pub(crate) struct FlinkAccessFlags {
    /// Certificates in PEM of the CAs by which Flink clusters behind https are trusted, in place of the system's
    #[arg(long, value_name = "FILE", env = "BEAMLINE_FLINK_CA_FILE")]
    flink_ca_file: Option<PathBuf>,
    /// Certificate in PEM, and those of CAs between, for mutual TLS with the cluster of --flink-master
    #[arg(
        long,
        value_name = "FILE",
        requires = "flink_client_key",
        env = "BEAMLINE_FLINK_CLIENT_CERTIFICATE"
    )]
    flink_client_certificate: Option<PathBuf>,
    /// Its private key in PEM, not encrypted
    #[arg(
        long,
        value_name = "FILE",
        requires = "flink_client_certificate",
        env = "BEAMLINE_FLINK_CLIENT_KEY"
    )]
    flink_client_key: Option<PathBuf>,
    /// File with a bearer token, or a whole value such as Basic …, for the header Authorization to the cluster of
    /// --flink-master; it is read for each request
    #[arg(long, value_name = "FILE", env = "BEAMLINE_FLINK_AUTHORIZATION_FILE")]
    flink_authorization_file: Option<PathBuf>,
}

impl FlinkAccessFlags {
    pub(crate) fn access(&self) -> ClusterAccess {
        let pair = self.flink_client_certificate.clone().zip(self.flink_client_key.clone());
        ClusterAccess {
            ca_file: self.flink_ca_file.clone(),
            client_identity: pair.map(|(certificate, key)| ClientIdentity { certificate, key }),
            authorization_file: self.flink_authorization_file.clone(),
        }
    }

    /// Whether there is one.
    pub(super) fn is_given(&self) -> bool {
        self.access() != ClusterAccess::default()
    }
}
