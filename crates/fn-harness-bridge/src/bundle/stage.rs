//! One stage: its bundles, each sent to a worker of the stage's environment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use beam_model::fn_execution::{ProcessBundleRequest, process_bundle_request};
use beam_model::urns::fn_api_transforms::runner::{DATA_SINK, DATA_SOURCE};
use runner_core::fault::Fault;
use runner_core::ports::{
    BundleInput, BundleResult, CacheToken, RemoteBundle, StageBundleFactory, StageSpec,
};
use tokio::sync::oneshot;

use super::element_counts::ElementCounts;
use super::finalizer::BundleFinalizer;
use super::job::version_of_descriptor;
use super::questions::Questions;
use super::slow;
use super::{
    ActiveBundle, Ending, FiredTimers, OutputStream, TimerFamily, failing_element, response, timers,
};
use crate::control::monitoring_infos;
use crate::data::{Blocks, FeedError, feed};
use crate::server::Shared;
use crate::worker::{EnvironmentWorkers, Lease, WorkerSession};

pub(crate) struct StageBundles {
    shared: Arc<Shared>,
    pub(super) workers: Arc<EnvironmentWorkers>,
    pub(super) spec: Arc<StageSpec>,
    /// Whether it is looked for the element that a bundle has failed at.
    explained: bool,
    sources: BTreeSet<String>,
    timer_families: BTreeSet<TimerFamily>,
    /// What a worker is to mark the end of in every bundle.
    output_streams: BTreeSet<OutputStream>,
    element_counts: ElementCounts,
}

impl StageBundles {
    pub(crate) fn new(shared: Arc<Shared>, workers: Arc<EnvironmentWorkers>, spec: Arc<StageSpec>) -> Self {
        let with_urn = |urn: &str| -> BTreeSet<String> {
            let transforms = spec.descriptor.transforms.iter();
            transforms
                .filter(|(_, transform)| transform.spec.as_ref().is_some_and(|spec| spec.urn == urn))
                .map(|(id, _)| id.clone())
                .collect()
        };
        let sources = with_urn(DATA_SOURCE);
        let timer_families = timers::families(&spec.descriptor);
        let sinks = with_urn(DATA_SINK).into_iter().map(OutputStream::Sink);
        let output_streams = sinks.chain(timer_families.iter().cloned().map(OutputStream::Timers)).collect();
        let element_counts = ElementCounts::new(&spec.descriptor);
        Self {
            shared,
            workers,
            spec,
            explained: true,
            sources,
            timer_families,
            output_streams,
            element_counts,
        }
    }

    /// Another stage of the job, in the same environment, for something that is no work of the job's.
    pub(super) fn aside(&self, spec: Arc<StageSpec>) -> Self {
        self.workers.job.add_stage(spec.clone());
        let stage = Self::new(self.shared.clone(), self.workers.clone(), spec);
        Self { explained: false, ..stage }
    }

    /// The blocks for every source; one that the bundle names no input for gets none.
    fn inputs(&self, given: Vec<BundleInput>) -> Result<BTreeMap<String, Blocks>, Fault> {
        let mut inputs: BTreeMap<String, Blocks> =
            self.sources.iter().map(|id| (id.clone(), Box::new(std::iter::empty()) as Blocks)).collect();
        for BundleInput { transform_id, blocks, elements: _ } in given {
            match inputs.get_mut(&transform_id) {
                Some(place) => *place = blocks,
                None => {
                    return Err(Fault::runner(format!(
                        "{}: a bundle has input for {transform_id:?}, which is no data source of the stage",
                        self.spec.name
                    )));
                }
            }
        }
        Ok(inputs)
    }

    /// By which descriptor the worker runs a bundle: one that no earlier bundle had whose side inputs were
    /// others, if the worker would go on using those.
    fn descriptor_id(&self, worker: &WorkerSession, side_inputs_version: Option<u64>) -> String {
        let id = &self.spec.descriptor.id;
        match side_inputs_version.filter(|_| worker.keeps_side_inputs()) {
            Some(version) => version_of_descriptor(id, version),
            None => id.clone(),
        }
    }

    /// Has the worker process the bundle, to its end.
    async fn run(
        &self,
        running: &RunningBundle,
        request: ProcessBundleRequest,
        inputs: BTreeMap<String, Blocks>,
        timers: FiredTimers,
        mut ending: oneshot::Receiver<Ending>,
    ) -> Result<Ending, Fault> {
        let RunningBundle { lease: Lease { worker, .. }, instruction, active, .. } = running;
        let work = feed(worker, instruction, request, inputs, timers, || active.state.may_wait());
        let silence = self.shared.config.end_of_output_timeout;
        let ending = tokio::select! {
            biased;
            ending = &mut ending => ending,
            fed = work => match fed {
                Ok(()) | Err(FeedError::WorkerGone) => tokio::select! {
                    ending = &mut ending => ending,
                    why = active.silent_after_answer(silence) => return Err(worker.describe(&why)),
                },
                Err(FeedError::Input(fault)) => return Err(fault),
            },
        };
        Ok(ending.unwrap_or(Ending::WorkerGone))
    }
}

#[async_trait]
impl StageBundleFactory for StageBundles {
    fn has_idle_worker(&self) -> bool {
        self.workers.has_idle()
    }

    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let RemoteBundle { instruction, inputs, timers, state, outputs, requests, side_inputs_version } =
            bundle;
        let elements =
            inputs.iter().map(|input| (input.transform_id.clone(), input.elements.clone())).collect();
        let inputs = self.inputs(inputs)?;
        let timers = FiredTimers::new(&self.spec.name, &self.timer_families, timers)?;
        let lease = self.workers.lease().await?;
        let worker = lease.worker.clone();
        let meters = &worker.job.meters;
        let descriptor_id = self.descriptor_id(&worker, side_inputs_version);
        let instruction = worker.next_instruction(&instruction);
        let request = process_bundle(descriptor_id, lease.data_stream(), state.cache_tokens(&worker.id));
        let (active, ending) =
            ActiveBundle::new(self.output_streams.clone(), state, outputs.clone(), meters.clone());
        if !worker.add_bundle(&instruction, active.clone()) {
            return Err(worker.fault().await);
        }
        let asked = active.clone();
        let mut running = RunningBundle { lease, instruction: instruction.clone(), active, over: false };

        let turn = worker.turns.begin(&worker.job.work, meters);
        let config = &self.shared.config;
        let mut questions =
            Questions::new(&worker, &instruction, &asked, elements, outputs, requests, config);
        let ending = tokio::select! {
            // The bundle's request goes out before any that is about it.
            biased;
            ending = self.run(&running, request, inputs, timers, ending) => ending?,
            Err(fault) = questions.ask() => return Err(fault),
            never = slow::report(config, &running, &self.spec.name) => match never {},
        };
        drop(turn);
        match ending {
            Ending::Done { response: mut answer, finishing } => {
                let splits = questions.finish().await?;
                running.over = true;
                let infos = std::mem::take(&mut answer.monitoring_infos);
                let data = std::mem::take(&mut answer.monitoring_data);
                let limit = self.shared.config.short_ids_timeout;
                let infos = monitoring_infos(&worker, infos, data, limit).await?;
                self.element_counts.count(&infos, meters);
                let finalizer = answer.requires_finalization.then(|| {
                    let timeout = self.shared.config.finalization_timeout;
                    BundleFinalizer::new(worker.clone(), instruction.clone(), timeout)
                });
                Ok(response::read(answer, infos, splits, finalizer, finishing))
            }
            Ending::Failed(message) => {
                running.over = true;
                // The worker may have to be free for it.
                drop(running);
                let element = match self.explained {
                    true => failing_element::describe(self, &worker, &instruction).await,
                    false => None,
                };
                Err(Fault::user(match element {
                    Some(element) => format!("{}\n\n{element}", message.trim_end()),
                    None => message,
                }))
            }
            Ending::Refused(fault) => Err(fault),
            Ending::WorkerGone => Err(worker.fault().await),
        }
    }
}

fn process_bundle(
    descriptor_id: String,
    data_stream_id: String,
    cache_tokens: Vec<CacheToken>,
) -> ProcessBundleRequest {
    ProcessBundleRequest {
        process_bundle_descriptor_id: descriptor_id,
        data_stream_id,
        // For an SDK that caches nothing they mean nothing. Python caches without having the capability
        // `beam:protocol:state_caching:v1`, so nothing is made of that.
        cache_tokens: cache_tokens.into_iter().map(cache_token).collect(),
        ..Default::default()
    }
}

fn cache_token(token: CacheToken) -> process_bundle_request::CacheToken {
    use process_bundle_request::cache_token::{SideInput, Type, UserState};
    let (of, token) = match token {
        CacheToken::UserState { token } => (Type::UserState(UserState {}), token),
        CacheToken::SideInput { transform_id, side_input_id, token } => {
            (Type::SideInput(SideInput { transform_id, side_input_id }), token)
        }
    };
    process_bundle_request::CacheToken { token, r#type: Some(of) }
}

/// A bundle on its worker. The Fn API has no way to call one off, so a worker whose bundle is given up
/// before its end (dropped, or its output refused) goes with it.
pub(super) struct RunningBundle {
    pub(super) lease: Lease,
    pub(super) instruction: String,
    pub(super) active: Arc<ActiveBundle>,
    over: bool,
}

impl Drop for RunningBundle {
    fn drop(&mut self) {
        let worker = &self.lease.worker;
        worker.remove_bundle(&self.instruction);
        if !self.over {
            worker.end(format!("was stopped because its bundle {} was given up", self.instruction));
        }
    }
}
