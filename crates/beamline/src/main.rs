//! Beamline: a runner for Apache Beam pipelines. This file is the table of contents.
//!
//! [`config`] alone reads flags and environment variables; [`serve`] is the server and its wiring,
//! [`submit`] runs a command on one of its own, [`plan`] shows what a pipeline is fused into, [`jobs`] asks a running server.

mod config;
mod error;
mod jobs;
mod logging;
mod memory;
mod plan;
mod serve;
mod submit;

use std::process::ExitCode;

use config::Command;

fn main() -> ExitCode {
    let command = config::read();
    let result = match command {
        Command::Serve(config) => serve::serve(&config).map(|()| ExitCode::SUCCESS),
        Command::Submit(config) => submit::submit(&config),
        Command::Plan(config) => plan::plan(&config).map(|()| ExitCode::SUCCESS),
        Command::Jobs(config) => jobs::jobs(config).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("beamline: {error}");
            ExitCode::FAILURE
        }
    }
}
