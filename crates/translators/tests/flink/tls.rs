//! Clusters behind TLS.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runner_core::backend::Outcome;
use runner_core::fault::Blame;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring::cipher_suite;
use tokio_rustls::rustls::version;
use translators::flink::{AccessError, ClientIdentity, ClusterAccess, FlinkConfig, FlinkError, FlinkRunner};
use zip::ZipArchive;

use super::certificates::*;
use super::scripted_flink::*;
use super::support::*;

/// Longer than a job may take that fails because nothing will change by itself; a cluster that is away is waited for for 90 s.
const AT_ONCE: Duration = Duration::from_secs(20);

fn trusting(ca_file: &Path) -> ClusterAccess {
    ClusterAccess { ca_file: Some(ca_file.to_owned()), ..ClusterAccess::default() }
}

fn server(flink: &ScriptedFlink, access: ClusterAccess) -> Backend {
    Backend::with(FlinkConfig { master: Some(flink.address.clone()), access, ..FlinkConfig::default() })
}

async fn runs(backend: &Backend) {
    let outcome = backend.run(bounded(), options(&[])).await.end().await;
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
}

/// Why a job fails there.
async fn why(backend: &Backend) -> String {
    let begun = Instant::now();
    let fault = backend.run(bounded(), options(&[])).await.failure().await;
    assert_eq!(fault.blame, Blame::Environment);
    assert!(begun.elapsed() < AT_ONCE, "{fault}");
    fault.message
}

fn has(told: &str, words: &[&str]) {
    for words in words {
        assert!(told.contains(words), "no {words:?} in {told:?}");
    }
}

#[tokio::test]
async fn a_cluster_is_trusted_by_the_ca_that_is_given() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let flink = Tls::showing(authority.server("localhost")).flink("/flink/cluster-a").await;
    let ca_file = file(&folder, "ca.pem", &authority.pem());
    runs(&server(&flink, trusting(&ca_file))).await;
    let upload = flink.seen(UPLOAD).remove(0);
    let start = upload.body.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    let mut archive = ZipArchive::new(Cursor::new(upload.body[start..].to_vec())).unwrap();
    let mut pipeline = String::new();
    archive.by_name("BEAM-PIPELINE/pipeline/pipeline.json").unwrap().read_to_string(&mut pipeline).unwrap();
    assert!(pipeline.contains("Impulse"));
    assert_eq!((flink.seen(RUN).len(), flink.seen(DELETE).len()), (1, 1));

    // A job's own cluster is trusted by it too.
    let jobs_own = Backend::with(FlinkConfig { access: trusting(&ca_file), ..FlinkConfig::default() });
    let job = jobs_own.run(bounded(), options(&[("flink_master", &flink.address)])).await;
    assert!(matches!(job.end().await, Outcome::Done));
}

#[tokio::test]
async fn a_cluster_that_nobody_trusts_is_told_nothing() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let flink = Tls::showing(authority.server("localhost")).flink("").await;
    let told = why(&server(&flink, ClusterAccess::default())).await;
    has(&told, &[&flink.address, "is not trusted", "give the one that has by --flink-ca-file"]);
    let other = file(&folder, "other.pem", &Authority::new("others").pem());
    has(
        &why(&server(&flink, trusting(&other))).await,
        &["is not trusted", "other.pem", "(see --flink-ca-file)"],
    );
    assert!(flink.all_seen().is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let ca_file = file(&folder, "ca.pem", &authority.pem());
    for (shows, words) in [
        (authority.server("elsewhere.example"), ["is for another host", "elsewhere.example"]),
        (authority.expired("localhost"), ["has expired", " days ago, and is to be renewed there"]),
        (authority.itself(), ["is that of a CA", "basicConstraints=CA:FALSE"]),
    ] {
        let flink = Tls::showing(shows).flink("").await;
        has(&why(&server(&flink, trusting(&ca_file))).await, &words);
        assert!(flink.all_seen().is_empty());
    }
}

fn identity(folder: &TempDir, name: &str, certified: &Certified) -> ClientIdentity {
    ClientIdentity {
        certificate: file(folder, &format!("{name}.pem"), &certified.certificate),
        key: file(folder, &format!("{name}-key.pem"), &certified.key),
    }
}

#[tokio::test]
async fn clusters_may_want_a_certificate_too() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let ca_file = file(&folder, "ca.pem", &authority.pem());
    // Flink's own default is 1.2.
    for version in [&version::TLS12, &version::TLS13] {
        let tls =
            || Tls { clients: Some(&authority), version, ..Tls::showing(authority.server("localhost")) };
        let flink = tls().flink("").await;
        let showing = |identity| ClusterAccess { client_identity: identity, ..trusting(&ca_file) };
        let told = why(&server(&flink, showing(None))).await;
        has(&told, &["it wants a client certificate", "--flink-client-certificate and --flink-client-key"]);
        let strange = identity(&folder, "strange", &Authority::new("others").client());
        let told = why(&server(&flink, showing(Some(strange)))).await;
        has(&told, &["does not take the client certificate", "strange.pem"]);
        assert!(flink.all_seen().is_empty());
        let ours = identity(&folder, "ours", &authority.client());
        runs(&server(&flink, showing(Some(ours.clone())))).await;

        // It is for the server's own cluster: no job can have it shown to another.
        let other = tls().flink("").await;
        let backend = server(&flink, showing(Some(ours)));
        let job = backend.run(bounded(), options(&[("flink_master", &other.address)])).await;
        let told = job.failure().await.message;
        has(&told, &["client certificate is for its own cluster at", &flink.address, "alone"]);
        assert!(other.all_seen().is_empty());
    }
}

#[tokio::test]
async fn certificates_can_be_renewed() {
    let (folder, old, new) = (TempDir::new().unwrap(), Authority::new("old"), Authority::new("new"));
    let tls = Tls { clients: Some(&new), ..Tls::showing(new.server("localhost")) };
    let flink = tls.flink("").await;
    let ours = identity(&folder, "ours", &old.client());
    let ca_file = file(&folder, "ca.pem", &old.pem());
    let access = ClusterAccess { client_identity: Some(ours.clone()), ..trusting(&ca_file) };
    let backend = server(&flink, access);
    has(&why(&backend).await, &["is not trusted"]);
    replace(&ca_file, &new.pem());
    has(&why(&backend).await, &["does not take the client certificate"]);
    let Certified { certificate, key } = new.client();
    replace(&ours.certificate, &certificate);
    replace(&ours.key, &key);
    runs(&backend).await;
    // Nothing is remembered of one that is gone.
    std::fs::remove_file(&ca_file).unwrap();
    let job = backend.run(bounded(), options(&[])).await;
    let told = job.wait_for_message(runner_core::backend::Importance::Warning, "ca.pem cannot be read").await;
    has(&told, &["(see --flink-ca-file)", "trying again"]);
    replace(&ca_file, &new.pem());
    assert!(matches!(job.end().await, Outcome::Done));
}

#[tokio::test]
async fn a_port_that_speaks_otherwise_is_told() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let ca_file = file(&folder, "ca.pem", &authority.pem());
    let at = |master: String| {
        Backend::with(FlinkConfig {
            master: Some(master),
            access: trusting(&ca_file),
            ..FlinkConfig::default()
        })
    };
    let plain = ScriptedFlink::start().await;
    has(&why(&at(format!("https://{}", plain.address))).await, &["does not speak TLS: give http://"]);
    let tls = Tls::showing(authority.server("localhost")).flink("").await;
    has(&why(&at(tls.address.replace("https://", ""))).await, &["if the port speaks TLS, give https://"]);
    assert!(plain.all_seen().is_empty() && tls.all_seen().is_empty());
}

/// As Flink does by default, whose cipher suite is unsafe.
#[tokio::test]
async fn a_port_that_speaks_no_tls_of_ours_is_told() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let ca_file = file(&folder, "ca.pem", &authority.pem());
    // Of no use to a server whose key is none of RSA.
    let cipher_suites = Some(vec![cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]);
    let tls = Tls { version: &version::TLS12, cipher_suites, ..Tls::showing(authority.server("localhost")) };
    let flink = tls.flink("").await;
    let told = why(&server(&flink, trusting(&ca_file))).await;
    has(
        &told,
        &["no cipher suite that both sides know", "security.ssl.algorithms: TLS_ECDHE_RSA_WITH_AES_128"],
    );
}

#[test]
fn files_that_are_of_no_use_are_told_at_the_start() {
    let folder = TempDir::new().unwrap();
    let (authority, nowhere) = (Authority::new("ours"), folder.path().join("nowhere.pem"));
    let no_pem = file(&folder, "no.pem", "text");
    let ours = identity(&folder, "ours", &authority.client());
    let other = identity(&folder, "other", &authority.client());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = file(&folder, "encrypted.pem", encrypted);
    let told = |access: ClusterAccess| {
        let master = Some("https://localhost:1".to_owned());
        let refused =
            FlinkRunner::new(FlinkConfig { master, access, ..FlinkConfig::default() }).err().unwrap();
        assert!(matches!(refused, FlinkError::Access(_)), "{refused}");
        refused.to_string()
    };
    has(&told(trusting(&nowhere)), &["nowhere.pem cannot be read", "(see --flink-ca-file)"]);
    has(&told(trusting(&no_pem)), &["no.pem is of no use", "keytool", "(see --flink-ca-file)"]);
    let garbage =
        file(&folder, "garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    has(&told(trusting(&garbage)), &["garbage.pem is of no use", "(see --flink-ca-file)"]);
    let showing = |certificate: &PathBuf, key: &PathBuf| {
        let client_identity = Some(ClientIdentity { certificate: certificate.clone(), key: key.clone() });
        told(ClusterAccess { client_identity, ..ClusterAccess::default() })
    };
    has(&showing(&no_pem, &ours.key), &["no.pem is of no use", "(see --flink-client-certificate)"]);
    has(&showing(&ours.certificate, &nowhere), &["nowhere.pem cannot be read", "(see --flink-client-key)"]);
    has(&showing(&ours.certificate, &no_pem), &["it has no private key", "(see --flink-client-key)"]);
    has(
        &showing(&ours.certificate, &encrypted),
        &["is encrypted", "openssl pkey", "(see --flink-client-key)"],
    );
    has(&showing(&ours.certificate, &other.key), &["ours.pem is of no use", "other-key.pem"]);
}

#[test]
fn what_would_be_for_nobody_is_told_at_the_start() {
    let folder = TempDir::new().unwrap();
    let ours = identity(&folder, "ours", &Authority::new("ours").client());
    let access = ClusterAccess { client_identity: Some(ours), ..ClusterAccess::default() };
    let refused = |master: Option<&str>, access: &ClusterAccess| {
        let master = master.map(str::to_owned);
        FlinkRunner::new(FlinkConfig { master, access: access.clone(), ..FlinkConfig::default() }).err()
    };
    assert!(matches!(refused(None, &access), Some(FlinkError::Access(AccessError::NoMaster { .. }))));
    let plain = refused(Some("flink:8081"), &access);
    assert!(matches!(plain, Some(FlinkError::Access(AccessError::NotHttps { .. }))), "{plain:?}");
    assert!(refused(Some("https://flink"), &access).is_none());
    let authorization_file = Some(file(&folder, "token", "abc"));
    let access = ClusterAccess { authorization_file, ..ClusterAccess::default() };
    assert!(matches!(refused(None, &access), Some(FlinkError::Access(AccessError::NoMaster { .. }))));
    assert!(refused(Some("flink:8081"), &access).is_none());
}
