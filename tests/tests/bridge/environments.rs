//! Environments other than EXTERNAL.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use beam_model::pipeline::{AnyOfEnvironmentPayload, Environment, ProcessPayload};
use beam_model::urns::standard_environments::environments;
use beamline_tests::scripted_harness::{Script, ScriptedHarness};
use prost::Message;
use runner_core::fault::{Blame, Fault, Retry};

use crate::support::{AT_ONCE, Bridge, eventually};

/// A command that runs these lines of shell.
fn process(directory: &Path, lines: &str) -> Environment {
    let command = directory.join("boot");
    std::fs::write(&command, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).unwrap();
    let env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    let command = command.to_str().unwrap().to_owned();
    environment(environments::PROCESS, ProcessPayload { command, env, ..Default::default() }.encode_to_vec())
}

fn environment(urn: &str, payload: Vec<u8>) -> Environment {
    Environment { urn: urn.to_owned(), payload: payload.into(), ..Default::default() }
}

async fn run_in(environment: &Environment) -> Result<Vec<String>, Fault> {
    let bridge = Bridge::start().await;
    let job = bridge.job("job", environment, 1);
    let ran = job.stage("test:dofn:identity").run("a", &["one"]).await.map(|ran| ran.values);
    job.bundles.close().await;
    ran
}

#[tokio::test]
async fn a_process_that_exits_is_named_with_its_status_and_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let environment = process(directory.path(), "echo \"$GREETING $1\" >&2\necho \"$2 $#\"\nexit 3");
    let fault = run_in(&environment).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry), (Blame::Environment, Retry::Worker));
    let command = directory.path().join("boot");
    for expected in ["job-0-1", command.to_str().unwrap(), "exited with status 3", "hello --id=job-0-1"] {
        assert!(fault.message.contains(expected), "{expected:?} was to be in: {fault}");
    }
    assert!(fault.message.contains("--provision_endpoint=127.0.0.1:"), "{fault}");
    assert!(fault.message.contains(" 5\n") || fault.message.ends_with(" 5"), "five arguments: {fault}");
}

#[tokio::test]
async fn a_process_is_ended_with_its_children_when_its_job_is() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    // Neither heeds SIGTERM.
    let lines =
        format!("trap '' TERM\nsleep 300 &\necho $$ $! > {0}.new\nmv {0}.new {0}\nwait", pids.display());
    let environment = process(directory.path(), &lines);
    let bridge = Bridge::start().await;
    let job = bridge.job("job", &environment, 1);
    let stage = job.stage("test:dofn:identity");
    let running = tokio::spawn(async move { stage.run("a", &["one"]).await.map(|ran| ran.values) });
    eventually("the start of the process", || pids.exists()).await;
    let closing = Instant::now();
    job.bundles.close().await;
    assert!(closing.elapsed() < AT_ONCE, "{:?}", closing.elapsed());
    assert!(running.await.unwrap().is_err());
    let pids = std::fs::read_to_string(pids).unwrap();
    for pid in pids.split_whitespace() {
        eventually("the end of the process and its child", || !is_running(pid)).await;
    }
}

/// Whether the process is there and not a zombie that only waits to be reaped.
fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(status.rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z'))
}

#[tokio::test]
async fn a_command_that_is_not_there_is_not_tried_again() {
    let payload = ProcessPayload { command: "/no/such/boot".to_owned(), ..Default::default() };
    let fault = run_in(&environment(environments::PROCESS, payload.encode_to_vec())).await.err().unwrap();
    assert_eq!(fault.retry, Retry::Never);
    assert!(fault.message.contains("/no/such/boot"), "{fault}");
}

#[tokio::test]
async fn of_several_environments_an_external_one_is_taken() {
    let harness = ScriptedHarness::start(Script::new()).await;
    let directory = tempfile::tempdir().unwrap();
    let choices = vec![
        environment(environments::DOCKER, Vec::new()),
        process(directory.path(), "exit 3"),
        harness.environment(),
    ];
    let any_of = AnyOfEnvironmentPayload { environments: choices };
    let any_of = environment(environments::ANYOF, any_of.encode_to_vec());
    assert_eq!(run_in(&any_of).await.unwrap(), ["one"]);
}

#[tokio::test]
async fn an_environment_that_cannot_be_is_refused_with_what_to_do() {
    let any_of =
        AnyOfEnvironmentPayload { environments: vec![environment(environments::DOCKER, Vec::new())] };
    let cases = [
        (environments::DOCKER, Vec::new(), "names no container image"),
        (environments::DEFAULT, Vec::new(), "use LOOPBACK"),
        ("beam:env:moon:v1", Vec::new(), "not known here"),
        (environments::EXTERNAL, Vec::new(), "names no endpoint"),
        (environments::EXTERNAL, vec![0xff], "malformed payload"),
        (environments::PROCESS, Vec::new(), "names no command"),
        (environments::ANYOF, any_of.encode_to_vec(), "beam:env:docker:v1"),
    ];
    for (urn, payload, expected) in cases {
        let fault = run_in(&environment(urn, payload)).await.err().unwrap();
        assert_eq!((fault.blame, fault.retry), (Blame::Environment, Retry::Never), "{urn}: {fault}");
        assert!(fault.message.contains(expected) && fault.message.contains(urn), "{urn}: {fault}");
    }
}
