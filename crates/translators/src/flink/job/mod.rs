//! One job on a cluster, from its jar to its end.

mod note;
mod resumption;
mod slots;
mod stop;
mod submission;
mod watching;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use beam_model::pipeline::Pipeline;
use runner_core::backend::{
    Importance, JobInvocation, JobListener, MetricResults, Outcome, PipelineResult, ResumedJob,
};
use runner_core::fault::Fault;
use runner_core::graph::QueryablePipeline;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use note::Note;
use watching::Past;

use super::options::FlinkSettings;
use super::rest::FlinkRest;
use super::{FlinkConfig, Patience, supported};

/// What is wished of a job. Later ones go before earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    Drain,
    Cancel,
}

struct FlinkJob {
    metrics: Arc<Mutex<MetricResults>>,
    wish: watch::Sender<Wish>,
    outcome: watch::Receiver<Option<Outcome>>,
    /// Whether Flink has the job.
    submitted: watch::Receiver<bool>,
    can_drain: bool,
}

#[async_trait]
impl PipelineResult for FlinkJob {
    fn cancel(&self) {
        self.wish.send_replace(Wish::Cancel);
    }

    fn drain(&self) -> Result<(), Fault> {
        if !self.can_drain {
            let text = "Flink can drain streaming jobs alone; this one ends by itself when its input does";
            return Err(Fault::user(text).fatal());
        }
        // A wish to cancel is not taken back.
        self.wish.send_modify(|wish| *wish = (*wish).max(Wish::Drain));
        Ok(())
    }

    fn metrics(&self) -> MetricResults {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn handed_over(&self) -> bool {
        // A job that is over before has nobody left who could say so.
        self.submitted.clone().wait_for(|submitted| *submitted).await.is_ok()
    }

    async fn finished(&self) -> Outcome {
        crate::outcome_of(self.outcome.clone()).await
    }
}

/// What all steps of a job need.
struct Context {
    rest: FlinkRest,
    settings: FlinkSettings,
    patience: Patience,
    listener: Arc<dyn JobListener>,
    /// What the job is called in the cluster.
    flink_job_id: String,
    /// Transform id → the user's name.
    transform_names: BTreeMap<String, String>,
    traces: Mutex<Traces>,
    metrics: Arc<Mutex<MetricResults>>,
    submitted: watch::Sender<bool>,
}

/// What the submission may have left in the cluster.
#[derive(Debug, Default)]
struct Traces {
    jar_id: Option<String>,
    /// Flink was asked to start the job.
    start_asked: bool,
}

impl Context {
    /// What the uploaded jar is called.
    fn jar_name(&self) -> String {
        format!("beamline-{}.jar", self.flink_job_id)
    }

    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the job in a task of its own.
pub(super) fn start(config: Arc<FlinkConfig>, invocation: JobInvocation) -> Arc<dyn PipelineResult> {
    let JobInvocation { job_id, pipeline, options, listener, .. } = &invocation;
    let settings = FlinkSettings::read(options, &config);
    let beginning = Beginning::new(job_id, pipeline, settings, listener, &config);
    beginning.spawn(|context, wished| async move { run(&context, &config, invocation, wished).await })
}

/// Goes on with a job that another process has started, or was about to.
pub(super) fn resume(config: &FlinkConfig, job: ResumedJob) -> Arc<dyn PipelineResult> {
    let ResumedJob { job_id, pipeline, options, note, listener, .. } = job;
    let note = note.as_deref().map(Note::read);
    // The server's own cluster may be another one by now.
    let master = note.as_ref().and_then(|note| note.as_ref().ok()).map(|note| note.master.clone());
    let noted = FlinkConfig { master: master.or_else(|| config.master.clone()), ..config.clone() };
    let settings = FlinkSettings::read(&options, &noted);
    // What is shown to the server's own cluster is not for that of the note.
    let beginning = Beginning::new(&job_id, &pipeline, settings, &listener, config);
    beginning.spawn(|context, wished| async move { resumption::resume(&context, note, wished).await })
}

/// A job for which nothing has been done yet.
struct Beginning {
    job: FlinkJob,
    context: Result<Context, String>,
    wished: watch::Receiver<Wish>,
    ended: watch::Sender<Option<Outcome>>,
}

impl Beginning {
    fn new(
        job_id: &str,
        pipeline: &Pipeline,
        settings: Result<FlinkSettings, String>,
        listener: &Arc<dyn JobListener>,
        config: &FlinkConfig,
    ) -> Self {
        let metrics = Arc::<Mutex<MetricResults>>::default();
        let (wish, wished) = watch::channel(Wish::GoOn);
        let (ended, outcome) = watch::channel(None);
        let (submitting, submitted) = watch::channel(false);
        let own = config.own_master().map_err(|error| error.to_string());
        let can_drain = settings.as_ref().is_ok_and(|settings| {
            QueryablePipeline::new(pipeline)
                .is_ok_and(|pipeline| supported::is_streaming(&pipeline, settings))
        });
        let context = settings.and_then(|settings| Ok((settings, own?))).map(|(settings, own)| Context {
            rest: FlinkRest::new(settings.master.clone(), &config.access, own.as_ref()),
            settings,
            patience: config.patience.clone(),
            listener: Arc::clone(listener),
            flink_job_id: flink_job_id(job_id),
            metrics: Arc::clone(&metrics),
            transform_names: transform_names(pipeline),
            traces: Mutex::default(),
            submitted: submitting,
        });
        let job = FlinkJob { metrics, wish, outcome, submitted, can_drain };
        Self { job, context, wished, ended }
    }

    /// Has `work` done in a task of its own.
    fn spawn<W>(self, work: impl FnOnce(Context, watch::Receiver<Wish>) -> W) -> Arc<dyn PipelineResult>
    where
        W: Future<Output = Outcome> + Send + 'static,
    {
        let Self { job, context, wished, ended } = self;
        match context {
            Ok(context) => {
                let work = work(context, wished);
                tokio::spawn(async move { ended.send_replace(Some(work.await)) });
            }
            // Prepare has read them; they are the same.
            Err(reason) => {
                ended.send_replace(Some(Outcome::Failed(Fault::user(reason))));
            }
        }
        Arc::new(job)
    }
}

fn transform_names(pipeline: &Pipeline) -> BTreeMap<String, String> {
    let transforms = pipeline.components.iter().flat_map(|components| &components.transforms);
    let named = transforms.filter(|(_, transform)| !transform.unique_name.is_empty());
    named.map(|(id, transform)| (id.clone(), transform.unique_name.clone())).collect()
}

async fn run(
    context: &Context,
    config: &FlinkConfig,
    invocation: JobInvocation,
    mut wished: watch::Receiver<Wish>,
) -> Outcome {
    if let Ok(pipeline) = QueryablePipeline::new(&invocation.pipeline) {
        for warning in supported::warnings(&pipeline, &context.settings) {
            context.listener.message(Importance::Warning, warning);
        }
    }
    let submitted = tokio::select! {
        submitted = submission::submit(context, config, invocation) => submitted,
        () = cancelled(wished.clone()) => {
            submission::withdraw(context).await;
            return Outcome::Cancelled;
        }
    };
    match submitted {
        Ok(()) => watching::watch(context, &mut wished, Past::None).await,
        Err(fault) => Outcome::Failed(fault),
    }
}

/// Waits until the job is to be cancelled.
async fn cancelled(mut wished: watch::Receiver<Wish>) {
    if wished.wait_for(|wish| *wish == Wish::Cancel).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a job is called in the cluster. Flink names jobs by 32 hexadecimal digits; those are made of our name for the
/// job, so that it leads to the other.
pub fn flink_job_id(job_id: &str) -> String {
    const BYTES: usize = 16;
    Sha256::digest(job_id).iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}
