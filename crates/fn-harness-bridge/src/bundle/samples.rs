//! Elements that workers have sampled of what each transform makes (`beam:protocol:data_sampling:v1`), as messages
//! of the job at its end. Python samples with the experiment `enable_data_sampling`, in workers that get pipeline
//! options.

use std::sync::Arc;
use std::time::Duration;

use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::instruction_response::Response;
use beam_model::fn_execution::{SampleDataRequest, SampleDataResponse};
use beam_model::urns::standard_protocols::DATA_SAMPLING;
use bytes::Bytes;
use runner_core::ports::{LogSeverity, StageSpec, WorkerLog};

use super::failing_element::text_of;
use super::stage::StageBundles;
use crate::control::ask;
use crate::server::Shared;
use crate::worker::{EnvironmentWorkers, WorkerSession};

/// However many there are, the end of the job does not wait longer for them.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// So many elements of a PCollection are shown of each worker.
const SHOWN: usize = 5;

/// Asks all workers of an environment for what they have.
pub(super) async fn report(shared: &Arc<Shared>, workers: &Arc<EnvironmentWorkers>) {
    if !workers.environment.can(DATA_SAMPLING) {
        return;
    }
    let stages = workers.job.stages_of(&workers.environment.id);
    for worker in workers.running() {
        for stage in &stages {
            let stage = StageBundles::new(shared.clone(), workers.clone(), stage.clone());
            of_stage(&stage, &worker).await;
        }
    }
}

async fn of_stage(stage: &StageBundles, worker: &WorkerSession) {
    for (transform_id, pcollection) in made(&stage.spec) {
        let Some(planned) = stage.spec.descriptor.pcollections.get(pcollection) else { continue };
        let mut texts = Vec::new();
        for element in samples(worker, pcollection).await.into_iter().take(SHOWN) {
            texts.push(text_of(stage, &planned.coder_id, &element).await);
        }
        if !texts.is_empty() {
            tell(worker, transform_id, format!("some of what it made: {}", texts.join(", ")));
        }
    }
}

/// The PCollections that the transforms of a stage make; not those that it is given.
fn made(spec: &StageSpec) -> impl Iterator<Item = (&String, &String)> {
    let sdk = spec.descriptor.transforms.iter().filter(|(_, transform)| !transform.inputs.is_empty());
    sdk.flat_map(|(id, transform)| transform.outputs.values().map(move |pcollection| (id, pcollection)))
}

/// Those that nothing failed at, which is told with the failure.
async fn samples(worker: &WorkerSession, pcollection: &str) -> Vec<Bytes> {
    let request = Request::SampleData(SampleDataRequest { pcollection_ids: vec![pcollection.to_owned()] });
    let Ok(answer) = ask(worker, "sample", request, ANSWER_TIMEOUT).await else { return Vec::new() };
    let Some(Response::SampleData(SampleDataResponse { element_samples })) = answer.response else {
        return Vec::new();
    };
    let all = element_samples.into_values().flat_map(|samples| samples.elements);
    all.filter(|sample| sample.exception.is_none()).map(|sample| sample.element).collect()
}

fn tell(worker: &WorkerSession, transform_id: &str, message: String) {
    worker.job.logs.log(WorkerLog {
        transform_id: transform_id.to_owned(),
        ..WorkerLog::new(&worker.id, LogSeverity::Info, message)
    });
}
