//! The Flink backend against a REST server that says what the test wants it to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

mod authorization;
mod certificates;
mod downloads;
mod refusals;
mod resuming;
mod scripted_flink;
mod submitting;
mod support;
mod tls;
mod watching;
