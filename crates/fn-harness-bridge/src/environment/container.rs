//! `beam:env:docker:v1`: a container of an image for each worker, run by the machine's `docker` command or by one that
//! takes the same arguments, as `podman` does.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use beam_model::pipeline::DockerPayload;
use runner_core::ports::{LogSeverity, WorkerLog};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::Launcher;
use super::process::{RunningProcess, boot_arguments};
use crate::server::Shared;
use crate::worker::WorkerSession;

/// How long the command may take to say whether it has an image.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How containers of workers are run.
#[derive(Clone, Debug)]
pub struct Containers {
    /// `docker`, or what takes the same arguments: a path, or a name to look up in `PATH`.
    pub command: String,
    /// Options of `docker run` that each container gets, such as `--volume=/data:/data:ro`.
    pub run_options: Vec<String>,
    pub pull: Pull,
    /// How long an image may take to be pulled.
    pub pull_timeout: Duration,
}

/// When images are pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// If the machine has none of that name.
    Missing,
    /// Once for each job.
    Always,
    Never,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            command: "docker".to_owned(),
            run_options: Vec::new(),
            pull: Pull::Missing,
            pull_timeout: Duration::from_secs(600),
        }
    }
}

impl Containers {
    /// Errors: why no container can be run, to follow "environment …".
    pub(super) fn check(&self) -> Result<(), String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there = if self.command.contains('/') {
            Path::new(&self.command).is_file()
        } else {
            std::env::split_paths(&path).any(|folder| folder.join(&self.command).is_file())
        };
        if is_there {
            return Ok(());
        }
        Err(format!(
            "needs the command {:?} to run containers, which is not on the machine where the runner runs; install it \
             there, or use --environment_type=LOOPBACK, EXTERNAL (with a worker pool) or PROCESS, or a server that is \
             started with --environment-override",
            self.command
        ))
    }
}

/// Of the workers of one environment of a job.
pub(super) struct ContainerImage {
    image: String,
    provided: OnceCell<()>,
}

impl ContainerImage {
    pub(super) fn launcher(payload: DockerPayload) -> Launcher {
        if payload.container_image.is_empty() || payload.container_image.starts_with('-') {
            return Launcher::Unsupported(format!(
                "names no container image ({:?})",
                payload.container_image
            ));
        }
        Launcher::Container(Self { image: payload.container_image, provided: OnceCell::new() })
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// Sees to it that the machine has the image, which workers of one job wait for together.
    ///
    /// Errors: why it has not, to follow "environment …".
    pub(super) async fn provide(&self, worker: &WorkerSession, shared: &Shared) -> Result<(), String> {
        let containers = &shared.config.containers;
        let provide = async || match containers.pull {
            Pull::Never => Ok(()),
            Pull::Always => self.pull(worker, containers).await,
            Pull::Missing => {
                let inspect =
                    self.command(containers, &["image", "inspect", "--format={{.Id}}"], INSPECT_TIMEOUT);
                match inspect.await? {
                    Ok(()) => Ok(()),
                    Err(_) => self.pull(worker, containers).await,
                }
            }
        };
        self.provided.get_or_try_init(provide).await?;
        Ok(())
    }

    async fn pull(&self, worker: &WorkerSession, containers: &Containers) -> Result<(), String> {
        let message = format!("pulling the container image {}", self.image);
        worker.job.logs.log(WorkerLog::new(&worker.id, LogSeverity::Info, message));
        let pulled = self.command(containers, &["pull", "--quiet"], containers.pull_timeout).await?;
        pulled.map_err(|said| {
            format!(
                "needs the container image {}, which could not be pulled: {said}. Build it or pull it on the \
                 machine where the runner runs, or name another",
                self.image
            )
        })
    }

    /// Runs `docker ARGUMENTS IMAGE`. The inner error is what it wrote when it failed.
    async fn command(
        &self,
        containers: &Containers,
        arguments: &[&str],
        timeout: Duration,
    ) -> Result<Result<(), String>, String> {
        let mut command = Command::new(&containers.command);
        command.args(arguments).arg(&self.image).stdin(Stdio::null()).kill_on_drop(true);
        let verb = format!("{} {}", containers.command, arguments.first().unwrap_or(&""));
        let output = tokio::time::timeout(timeout, command.output()).await;
        let output = output.map_err(|_| {
            format!("had no container: `{verb} … {}` took more than {} s", self.image, timeout.as_secs())
        })?;
        let output =
            output.map_err(|error| format!("had no container: `{verb}` could not be run: {error}"))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Ok(Err(said.trim().lines().last().unwrap_or("it did not say why").trim_end_matches('.').to_owned()))
    }

    /// Errors: what is wrong, to follow "worker … of environment …".
    pub(super) fn start(
        &self,
        worker: Arc<WorkerSession>,
        shared: &Shared,
    ) -> Result<RunningProcess, String> {
        let containers = &shared.config.containers;
        let name = container_name(&worker.id);
        let mut run = Command::new(&containers.command);
        // Workers are told endpoints under the name that this machine has for itself.
        run.args(["run", "--rm", "--network=host"])
            .arg(format!("--name={name}"))
            .args(&containers.run_options)
            .arg(&self.image)
            .args(boot_arguments(&worker.id, shared));
        // Who kills the command leaves the container running.
        let mut remove = Command::new(&containers.command);
        remove.args(["rm", "--force", &name]);
        RunningProcess::spawn(run, worker, shared, Some(remove)).map_err(|error| {
            format!("could not be started: `{} run` could not be run: {error}", containers.command)
        })
    }
}

/// Like no other of this machine's.
fn container_name(worker_id: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    format!("beamline-{}-{}", std::process::id(), worker_id.chars().map(allowed).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_have_only_what_docker_allows() {
        let name = container_name("job/1 (a)-ref_Environment:2");
        assert!(name.ends_with("-job-1--a--ref_Environment-2"), "{name}");
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let missing = Containers { command: "no-such-docker".to_owned(), ..Default::default() };
        assert!(missing.check().unwrap_err().contains("\"no-such-docker\""));
        let there = Containers { command: "/bin/sh".to_owned(), ..Default::default() };
        assert_eq!(there.check(), Ok(()));
    }

    #[test]
    fn what_would_be_read_as_an_option_is_no_image() {
        for image in ["", "--privileged"] {
            let payload = DockerPayload { container_image: image.to_owned() };
            assert!(matches!(ContainerImage::launcher(payload), Launcher::Unsupported(_)), "{image}");
        }
    }
}
