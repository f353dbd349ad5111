//! From an invocation to a job that Flink has.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use runner_core::backend::{Importance, JobInvocation};
use runner_core::fault::Fault;
use tokio::time::{Instant, sleep};

use super::Context;
use super::note::Note;
use crate::flink::FlinkConfig;
use crate::flink::error::FlinkError;
use crate::flink::jar::{ENTRY_CLASS, FlinkClasses, JobContents, PortableJar};
use crate::flink::options::for_runner;
use crate::flink::rest::{RunRequest, prefers_own_flink};
use crate::flink::runner_jars;

const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// To take back what is half done; the job ends whether it works or not.
const WITHDRAW: Duration = Duration::from_secs(10);

/// Packs, uploads and starts the job.
pub(super) async fn submit(
    context: &Context,
    config: &FlinkConfig,
    invocation: JobInvocation,
) -> Result<(), Fault> {
    submit_jar(context, config, invocation).await.map_err(FlinkError::into_fault)
}

async fn submit_jar(
    context: &Context,
    config: &FlinkConfig,
    invocation: JobInvocation,
) -> Result<(), FlinkError> {
    let rest = &context.rest;
    let cluster = patiently(context, || rest.config()).await?;
    let job_name = invocation.job_name.clone();
    let jar = Arc::new(pack(context, config, invocation, &cluster.flink_version).await?);
    let text = format!(
        "submitting to Flink {} at {}: a jar of {} MiB",
        cluster.flink_version,
        rest.master(),
        jar.length() >> 20
    );
    context.listener.message(Importance::Detailed, text);
    let file_name = context.jar_name();
    let jar_id = patiently(context, || rest.upload_jar(&jar, &file_name)).await?;
    drop(jar);
    context.traces().jar_id = Some(jar_id.clone());
    let started = start(context, &jar_id).await;
    // Flink has copied what the job needs of it, or will never need it.
    delete_jar(context).await;
    started?;
    Note::started(context).write(context);
    context.submitted.send_replace(true);
    let text = format!("{job_name} is Flink job {} at {}", context.flink_job_id, rest.master());
    tracing::info!(job = job_name, flink_job = context.flink_job_id, "submitted to Flink");
    context.listener.message(Importance::Basic, text);
    Ok(())
}

/// Takes back a submission that was broken off: the job may have started all the same.
pub(super) async fn withdraw(context: &Context) {
    let start_asked = context.traces().start_asked;
    let withdrawing = async {
        // Flink may be about to start the job, for which it still needs the jar.
        while start_asked && let Err(error) = context.rest.cancel(&context.flink_job_id).await {
            if !error.is_not_found() {
                return tracing::warn!("a Flink job that was cancelled while it was submitted: {error}");
            }
            sleep(BETWEEN_TRIES).await;
        }
    };
    if tokio::time::timeout(WITHDRAW, withdrawing).await.is_err() {
        tracing::warn!(
            flink_job = context.flink_job_id,
            "a job was cancelled while Flink was asked to start it"
        );
    }
    delete_jar(context).await;
}

/// The jar of the job, for the cluster's version of Flink.
async fn pack(
    context: &Context,
    config: &FlinkConfig,
    invocation: JobInvocation,
    cluster_version: &str,
) -> Result<PortableJar, FlinkError> {
    let master = context.rest.master();
    let runner = runner_jars::find(config, master, cluster_version, context.listener.as_ref()).await?;
    let (folder, mark) = (config.temp_dir.clone(), context.flink_job_id.clone());
    let flink = match context.rest.settings().await {
        Ok(settings) if prefers_own_flink(&settings) => FlinkClasses::OfTheCluster,
        // What is too much does no harm.
        Ok(_) | Err(_) => FlinkClasses::OfTheJar,
    };
    let packing = tokio::task::spawn_blocking(move || {
        let options = for_runner(&invocation.options, &invocation.job_name);
        let contents = JobContents {
            pipeline: invocation.pipeline,
            options: &options,
            artifacts: invocation.artifacts.as_ref(),
            mark: &mark,
        };
        PortableJar::pack(runner, flink, contents, &folder)
    });
    packing.await?
}

/// Starts the job. If the answer is lost, the job's id tells whether it was started.
async fn start(context: &Context, jar_id: &str) -> Result<(), FlinkError> {
    let settings = &context.settings;
    let request = RunRequest {
        entry_class: ENTRY_CLASS,
        job_id: context.flink_job_id.clone(),
        savepoint_path: settings.savepoint_path.clone(),
        allow_non_restored_state: settings.savepoint_path.as_ref().map(|_| settings.allow_non_restored_state),
    };
    context.traces().start_asked = true;
    Note::start_asked(context).write(context);
    let mut tried = false;
    patiently(context, || {
        let again = std::mem::replace(&mut tried, true);
        let request = &request;
        async move {
            if again && context.rest.job_state(&context.flink_job_id).await.is_ok() {
                return Ok(());
            }
            let started = context.rest.run_jar(jar_id, request).await.map_err(FlinkError::explained)?;
            if started == context.flink_job_id {
                return Ok(());
            }
            // Nobody would watch it.
            context.rest.cancel(&started).await?;
            Err(FlinkError::OtherJob { master: context.rest.master().to_owned(), started })
        }
    })
    .await
}

/// Removes what an earlier process has uploaded for the job.
pub(super) async fn sweep(context: &Context) {
    let name = context.jar_name();
    match context.rest.jars().await {
        Ok(jars) => {
            for jar in jars.files.into_iter().filter(|jar| jar.name == name) {
                context.traces().jar_id = Some(jar.id);
                delete_jar(context).await;
            }
        }
        Err(error) => tracing::warn!("a jar that was uploaded before may stay in the cluster: {error}"),
    }
}

/// Removes the jar from the cluster, if it is there.
async fn delete_jar(context: &Context) {
    let Some(jar_id) = context.traces().jar_id.take() else { return };
    if let Err(error) = context.rest.delete_jar(&jar_id).await {
        tracing::warn!("the uploaded jar {jar_id} stays in the cluster: {error}");
    }
}

/// Asks again while the cluster is away, for a time.
async fn patiently<T, F>(context: &Context, mut ask: impl FnMut() -> F) -> Result<T, FlinkError>
where
    F: Future<Output = Result<T, FlinkError>>,
{
    let begun = Instant::now();
    let mut told = false;
    loop {
        match ask().await {
            Err(error) if error.is_passing() && begun.elapsed() < context.patience.submitting => {
                if !std::mem::replace(&mut told, true) {
                    let text =
                        format!("{error}; trying again for {} s", context.patience.submitting.as_secs());
                    context.listener.message(Importance::Warning, text);
                }
                sleep(BETWEEN_TRIES).await;
            }
            answer => return answer,
        }
    }
}
