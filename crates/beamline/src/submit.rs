//! `beamline submit`: a command whose pipelines run on a server of its own, for as long as they take.

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use job_service::{JobService, JobState};
use tokio::process::{Child, Command};
use translators::flink::{JobsOnFlink, flink_job_id};

use crate::config::{Backend, ServeConfig, SubmitConfig};
use crate::error::Error;
use crate::logging;
use crate::serve::{Running, allocator, signals};

const ENDPOINT: &str = "{endpoint}";
/// The command has been told to end; some have things to put in order.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// As shells report a program that a signal has ended.
#[cfg(unix)]
const SIGNALLED: i32 = 128;

/// The command's exit status; that of a failure if a job of it has failed and it says nothing.
pub(crate) fn submit(config: &SubmitConfig) -> Result<ExitCode, Error> {
    let server = config.server();
    if config.detached && server.backend != Backend::Flink {
        return Err(Error::NothingToDetachFrom);
    }
    allocator::set_up();
    logging::start(server.log_format, &server.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(run(config, &server))
}

async fn run(config: &SubmitConfig, server_config: &ServeConfig) -> Result<ExitCode, Error> {
    let stop = signals::listen()?;
    let on_flink = if config.detached { JobsOnFlink::Detached } else { JobsOnFlink::Attached };
    let server = Running::start(server_config, on_flink).await?;
    let ended = match start(&config.command, &server.endpoint) {
        Ok(mut child) => {
            tokio::select! {
                ended = see_through(&mut child, &server.jobs) => ended,
                signal = stop.first() => {
                    tracing::info!("{signal}: ending the command, and its jobs");
                    end(&mut child).await
                }
            }
        }
        Err(error) => Err(error),
    };
    if config.detached {
        tell_of_detached(&server.jobs);
    }
    let jobs = server.jobs.clone();
    server.end().await;
    Ok(exit_code(ended?, &jobs))
}

fn start(command: &[OsString], endpoint: &str) -> Result<Child, Error> {
    let (program, arguments) = with_endpoint(command, endpoint);
    let mut command = Command::new(&program);
    command.args(arguments).env("BEAMLINE_ENDPOINT", endpoint).kill_on_drop(true);
    for name in allocator::not_for_workers() {
        command.env_remove(name);
    }
    command.spawn().map_err(|source| Error::Command { program, source })
}

/// The command with the endpoint where it wants it, or as the Python and Java SDKs take it.
fn with_endpoint(command: &[OsString], endpoint: &str) -> (OsString, Vec<OsString>) {
    let has_place = |argument: &OsString| argument.to_str().is_some_and(|text| text.contains(ENDPOINT));
    let put = |argument: &OsString| match argument.to_str() {
        Some(text) => text.replace(ENDPOINT, endpoint).into(),
        None => argument.clone(),
    };
    let program = command.first().cloned().unwrap_or_default();
    let mut arguments: Vec<OsString> = command.iter().skip(1).map(put).collect();
    if !command.iter().any(has_place) {
        arguments.push("--runner=PortableRunner".into());
        arguments.push(format!("--job_endpoint={endpoint}").into());
    }
    (program, arguments)
}

/// Waits for the command, and for jobs that it has left.
async fn see_through(child: &mut Child, jobs: &JobService) -> Result<ExitStatus, Error> {
    let status = child.wait().await.map_err(Error::Runtime)?;
    // One that failed has no use for its jobs any more.
    if status.success() {
        jobs.idle_for(Duration::ZERO).await;
    }
    Ok(status)
}

async fn end(child: &mut Child) -> Result<ExitStatus, Error> {
    #[cfg(unix)]
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok())
        && let Some(id) = rustix::process::Pid::from_raw(id)
    {
        // It fails if the command has just ended.
        rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
    }
    if let Ok(ended) = tokio::time::timeout(LAST_WORDS, child.wait()).await {
        return ended.map_err(Error::Runtime);
    }
    child.kill().await.map_err(Error::Runtime)?;
    child.wait().await.map_err(Error::Runtime)
}

/// On standard output, for scripts: the job's id in the cluster and its name.
fn tell_of_detached(jobs: &JobService) {
    for job in jobs.jobs().iter().filter(|job| job.state == JobState::Done) {
        println!("{} {}", flink_job_id(&job.id), job.name);
    }
}

fn exit_code(status: ExitStatus, jobs: &JobService) -> ExitCode {
    let jobs = jobs.jobs();
    if jobs.is_empty() {
        tracing::warn!(
            "the command has run no job here; does it take --runner and --job_endpoint? See {ENDPOINT}"
        );
    }
    let failed = |state: JobState| match state {
        JobState::Done | JobState::Drained => false,
        JobState::Failed
        | JobState::Cancelled
        | JobState::Cancelling
        | JobState::Draining
        | JobState::Running
        | JobState::Starting
        | JobState::Stopped => true,
    };
    if !status.success() {
        return ExitCode::from(u8::try_from(code(status)).unwrap_or(1));
    }
    match jobs.iter().find(|job| failed(job.state)) {
        None => ExitCode::SUCCESS,
        Some(job) => {
            eprintln!("beamline: job {} is {}", job.id, job.state);
            ExitCode::FAILURE
        }
    }
}

/// Of a command that did not succeed.
#[cfg(unix)]
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| Some(SIGNALLED + status.signal()?)).unwrap_or(1)
}

#[cfg(not(unix))]
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(command: &[&str]) -> Vec<String> {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        let (program, arguments) = with_endpoint(&command, "h:1");
        let all = std::iter::once(program).chain(arguments);
        all.map(|argument: OsString| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn the_endpoint_goes_where_it_is_wanted() {
        assert_eq!(
            arguments(&["python", "x.py", "--a"]),
            ["python", "x.py", "--a", "--runner=PortableRunner", "--job_endpoint=h:1"]
        );
        assert_eq!(
            arguments(&["./job", "--runner=universal", "--endpoint={endpoint}"]),
            ["./job", "--runner=universal", "--endpoint=h:1"]
        );
    }
}
