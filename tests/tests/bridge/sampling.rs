//! The element that a bundle has failed at.

use beam_model::pipeline::Environment;
use beam_model::urns::standard_p_transforms::primitives::TO_STRING;
use beam_model::urns::standard_protocols::DATA_SAMPLING;
use beamline_tests::scripted_harness::{Script, ScriptedHarness};
use runner_core::fault::{Blame, Fault, Retry};

use crate::support::{Bridge, one_at_a_time, with_capability};

const FUSSY: &str = "test:dofn:fussy";

/// Fails at every element that ends with "bad", and keeps it.
fn fussy() -> Script {
    fails_at_bad(Script::new().samples())
}

fn fails_at_bad(script: Script) -> Script {
    script.do_fn(FUSSY, |element, call| {
        call.emit_all(element);
        match element.ends_with(b"bad") {
            true => Err("ValueError: \"bad\"\n".to_owned()),
            false => Ok(()),
        }
    })
}

/// Runs a bundle, which fails, in an environment with these capabilities; and one that goes well on the same worker.
async fn failure(script: Script, values: &[&str], capabilities: &[&str]) -> Fault {
    failure_with(script, values, capabilities, "enable_data_sampling").await
}

async fn failure_with(script: Script, values: &[&str], capabilities: &[&str], experiment: &str) -> Fault {
    let harness = ScriptedHarness::start(script).await;
    let bridge = Bridge::start().await;
    // The worker has no room for another bundle beside the one that fails.
    let environment: Environment = one_at_a_time(harness.environment());
    let environment =
        capabilities.iter().fold(environment, |all, capability| with_capability(all, capability));
    let job = bridge.job_with_experiment("job", &environment, experiment);
    let stage = job.stage(FUSSY);
    let fault = stage.run("a", values).await.err().unwrap();
    assert_eq!((fault.blame, fault.retry), (Blame::User, Retry::Bundle));
    let ran = stage.run("b", &["good"]).await.unwrap();
    assert_eq!(ran.values, ["good"]);
    // What is done to keep elements is not counted.
    let infos = ran.result.monitoring_infos.iter();
    assert!(infos.map(|info| info.labels["PCOLLECTION"].as_str()).eq(["read", "written"]));
    assert_eq!(harness.started().len(), 1);
    job.bundles.close().await;
    fault
}

/// Writes the element of a `KV<bytes, element>` in angle brackets.
fn angled(element: &[u8], call: &mut beamline_tests::scripted_harness::Call<'_>) -> Result<(), String> {
    let text = format!("<{}>", String::from_utf8_lossy(&element[2..]));
    call.emit_all(&[&[0, text.len() as u8], text.as_bytes()].concat());
    Ok(())
}

#[tokio::test]
async fn the_error_says_which_element_it_was_in_the_words_of_the_sdk() {
    let script = fussy().do_fn(TO_STRING, angled);
    let fault = failure(script, &["good", "so bad", "fine"], &[DATA_SAMPLING, TO_STRING]).await;
    assert_eq!(fault.message, "ValueError: \"bad\"\n\nThe element was: <so bad>");
}

#[tokio::test]
async fn without_the_words_of_the_sdk_a_standard_coder_is_read() {
    let fault = failure(fussy(), &["bad"], &[DATA_SAMPLING]).await;
    assert_eq!(fault.message, "ValueError: \"bad\"\n\nThe element was: b\"bad\"");
}

#[tokio::test]
async fn an_element_that_cannot_be_written_does_not_hide_the_error() {
    let script = fussy().do_fn(TO_STRING, |_, _| Err("__str__ failed".to_owned()));
    let fault = failure(script, &["bad"], &[DATA_SAMPLING, TO_STRING]).await;
    assert_eq!(fault.message, "ValueError: \"bad\"\n\nThe element was: b\"bad\"");
}

#[tokio::test]
async fn a_long_element_is_cut() {
    let script = fussy().do_fn(TO_STRING, |_, call| {
        // A length of 2000 as a varint.
        call.emit_all(&[&[0, 0xd0, 0x0f], &[b'x'; 2000][..]].concat());
        Ok(())
    });
    let fault = failure(script, &["bad"], &[DATA_SAMPLING, TO_STRING]).await;
    let expected = format!("The element was: {}… (1000 characters more)", "x".repeat(1000));
    assert!(fault.message.ends_with(&expected), "{fault}");
}

#[tokio::test]
async fn a_worker_is_asked_only_if_the_user_wants_it() {
    let script = || fussy().do_fn(TO_STRING, angled);
    let capabilities = [DATA_SAMPLING, TO_STRING];
    let wanted = failure_with(script(), &["bad"], &capabilities, "enable_always_on_exception_sampling").await;
    assert!(wanted.message.ends_with("The element was: <bad>"), "{wanted}");
    let unwanted = failure_with(script(), &["bad"], &capabilities, "something_else").await;
    assert_eq!(unwanted.message, "ValueError: \"bad\"\n");
}

#[tokio::test]
async fn a_worker_that_keeps_no_elements_or_cannot_be_asked_changes_nothing() {
    for (script, capabilities) in
        [(fussy(), &[][..]), (fails_at_bad(Script::new()), &[DATA_SAMPLING, TO_STRING])]
    {
        let fault = failure(script, &["bad"], capabilities).await;
        assert_eq!(fault.message, "ValueError: \"bad\"\n");
    }
}
