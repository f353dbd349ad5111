//! `floor`: a job server to measure what a job takes without a runner; see `beamline_benches::floor`.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use tokio::net::TcpListener;

/// Replays the first job that a Beamline server ran
#[derive(Parser)]
struct Arguments {
    /// host:port of the server to record the first job from; without it jobs have no bundles at all
    #[arg(long)]
    upstream: Option<String>,
    /// Gets our host:port as soon as jobs are accepted
    #[arg(long)]
    ready_file: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    std::fs::write(&arguments.ready_file, listener.local_addr()?.to_string())?;
    beamline_benches::floor::serve(listener, arguments.upstream.as_deref()).await
}
