//! Clusters that want to know who asks.

use runner_core::backend::{Importance, Outcome};
use tempfile::TempDir;
use translators::flink::{ClusterAccess, FlinkConfig, FlinkError, FlinkRunner};

use super::certificates::{Authority, Tls, file, replace};
use super::scripted_flink::*;
use super::support::*;

const TOKEN: &str = "eyJhbGciOi.c2VjcmV0";

/// A server whose own cluster that is, with this in the file for authorization.
fn server(folder: &TempDir, flink: &ScriptedFlink, text: &str) -> Backend {
    let access =
        ClusterAccess { authorization_file: Some(file(folder, "token", text)), ..ClusterAccess::default() };
    Backend::with(FlinkConfig { master: Some(flink.address.clone()), access, ..FlinkConfig::default() })
}

fn shown(flink: &ScriptedFlink) -> Vec<Option<String>> {
    let mut all: Vec<_> = flink.all_seen().into_iter().map(|seen| seen.authorization).collect();
    all.dedup();
    all
}

#[tokio::test]
async fn the_servers_own_cluster_is_told_who_asks() {
    let folder = TempDir::new().unwrap();
    for (text, value) in [
        (format!("{TOKEN}\n"), format!("Bearer {TOKEN}")),
        (format!("Bearer {TOKEN}"), format!("Bearer {TOKEN}")),
        ("Basic bWU6c2VjcmV0\n".to_owned(), "Basic bWU6c2VjcmV0".to_owned()),
    ] {
        let flink = ScriptedFlink::start().await;
        let backend = server(&folder, &flink, &text);
        let job = backend.run(bounded(), options(&[])).await;
        let outcome = job.end().await;
        assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
        assert!(flink.seen(UPLOAD).len() == 1 && shown(&flink) == [Some(value)], "{:?}", shown(&flink));
    }
}

#[tokio::test]
async fn no_other_cluster_is_told_who_asks() {
    let folder = TempDir::new().unwrap();
    let (own, other) = (ScriptedFlink::start().await, ScriptedFlink::start().await);
    let backend = server(&folder, &own, TOKEN);
    let at_other = options(&[("flink_master", &other.address)]);
    let job = backend.run(bounded(), at_other.clone()).await;
    assert!(matches!(job.end().await, Outcome::Done));
    // Nor if it is written down that the job is there.
    let note = job.listener.notes.lock().unwrap().last().cloned();
    for given in [at_other.clone(), options(&[])] {
        let resumed = backend.resume(bounded(), given, note.clone()).await;
        assert!(matches!(resumed.end().await, Outcome::Done));
    }
    assert!(other.all_seen().len() > 5 && shown(&other) == [None]);
    // Nor behind another path of the same host.
    let elsewhere = options(&[("flink_master", &format!("{}/v1", own.address))]);
    own.answer("GET /v1/config", [refused(401, "who are you?")]);
    let told = backend.run(bounded(), elsewhere).await.failure().await.message;
    let words = format!("authorization is for its own cluster at {} alone", own.address);
    assert!(told.contains("who are you?") && told.contains(&words), "{told}");
    assert_eq!(shown(&own), [None]);
    // Another word for the same place is the same.
    let same = options(&[("flink_master", &format!("http://{}/", own.address))]);
    assert!(matches!(backend.run(bounded(), same).await.end().await, Outcome::Done));
    assert_eq!(own.all_seen().last().unwrap().authorization, Some(format!("Bearer {TOKEN}")));
}

#[tokio::test]
async fn nothing_follows_where_a_cluster_leads() {
    let folder = TempDir::new().unwrap();
    let (own, other) = (ScriptedFlink::start().await, ScriptedFlink::start().await);
    own.answer(CONFIG, [Answer::Elsewhere(format!("http://x:y@{}/login?state=1", other.address))]);
    let told = server(&folder, &own, TOKEN).run(bounded(), options(&[])).await.failure().await.message;
    let to = format!("it leads to http://{}/login,", other.address);
    assert!(told.contains("status 302") && told.contains(&to) && told.contains("--flink-master"), "{told}");
    assert!(other.all_seen().is_empty());
    // As Flink's own port does to those that do not speak TLS.
    own.answer(CONFIG, [Answer::Elsewhere("https://flink:8081/v1/config".to_owned())]);
    let told = server(&folder, &own, TOKEN).run(bounded(), options(&[])).await.failure().await.message;
    assert!(told.contains("it leads to https://flink:8081, where"), "{told}");
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_what_to_do() {
    let folder = TempDir::new().unwrap();
    let flink = ScriptedFlink::start().await;
    let without =
        Backend::with(FlinkConfig { master: Some(flink.address.clone()), ..FlinkConfig::default() });
    for (status, words) in [
        (401, "shown no authorization: give one by --flink-authorization-file"),
        (403, "not allowed to; it was shown no authorization"),
        (413, "does not take jars of this size"),
    ] {
        flink.answer(CONFIG, [refused(status, "no")]);
        let told = without.run(bounded(), options(&[])).await.failure().await.message;
        assert!(told.contains(&format!("status {status}: no; ")) && told.contains(words), "{told}");
    }
    // An answer that repeats what it was shown is not handed on.
    flink.answer(CONFIG, [refused(401, &format!("{TOKEN} has expired"))]);
    let told = server(&folder, &flink, TOKEN).run(bounded(), options(&[])).await.failure().await.message;
    let path = folder.path().join("token");
    assert!(told.contains("… has expired") && told.contains(&path.display().to_string()), "{told}");
    assert!(!told.contains(TOKEN) && told.contains("(see --flink-authorization-file)"), "{told}");
}

/// Tokens of Kubernetes last for an hour, jobs for months.
#[tokio::test]
async fn a_token_can_be_renewed_while_a_job_runs() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new("ours"));
    let flink = Tls::showing(authority.server("localhost")).flink("/flink").await;
    flink.answer(JOB, [job("RUNNING", "RUNNING")]);
    let token = file(&folder, "token", "first");
    let access = ClusterAccess {
        ca_file: Some(file(&folder, "ca.pem", &authority.pem())),
        authorization_file: Some(token.clone()),
        ..ClusterAccess::default()
    };
    let master = Some(flink.address.clone());
    let backend = Backend::with(FlinkConfig { master, access, ..FlinkConfig::default() });
    let running = backend.run(bounded(), options(&[])).await;
    flink.wait_for(JOB).await;
    std::fs::remove_file(&token).unwrap();
    running.wait_for_message(Importance::Warning, "token cannot be read").await;
    replace(&token, "second");
    running.wait_for_message(Importance::Basic, "answers again").await;
    flink.answer(JOB, [job("FINISHED", "FINISHED")]);
    assert!(matches!(running.end().await, Outcome::Done));
    assert_eq!(shown(&flink), ["Bearer first", "Bearer second"].map(|value| Some(value.to_owned())));
    let messages = running.listener.messages.lock().unwrap();
    assert!(!messages.iter().any(|(_, text)| text.contains("second") || text.contains("first")));
}

#[test]
fn an_authorization_that_is_none_is_told_at_the_start() {
    let folder = TempDir::new().unwrap();
    for (text, words) in [
        ("", "it is empty"),
        ("me:secret\n", "printf 'Basic"),
        ("Bearer secret\nBearer secret", "it is to be one line"),
    ] {
        let access = ClusterAccess {
            authorization_file: Some(file(&folder, "token", text)),
            ..ClusterAccess::default()
        };
        let config =
            FlinkConfig { master: Some("https://flink".to_owned()), access, ..FlinkConfig::default() };
        let told = match FlinkRunner::new(config) {
            Err(error @ FlinkError::Access(_)) => error.to_string(),
            other => panic!("{text:?}: {:?}", other.err()),
        };
        let path = folder.path().join("token");
        assert!(told.contains(words) && told.contains(&path.display().to_string()), "{told}");
        assert!(told.contains("(see --flink-authorization-file)") && !told.contains("secret"), "{told}");
    }
}
