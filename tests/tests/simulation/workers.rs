//! Workers in this process, behind the executor's ports: everything that may go wrong with them does, by chance.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use beam_model::coders::varint;
use beam_model::fn_execution::state_key::Type;
use beam_model::fn_execution::{DelayedBundleApplication, Elements, ProcessBundleDescriptor, elements};
use beam_model::pipeline::MonitoringInfo;
use beam_model::time::EventTime;
use beam_model::urns::monitoring_info::monitoring_info_labels::TRANSFORM;
use beam_model::urns::monitoring_info_specs::DATA_CHANNEL_READ_INDEX;
use beamline_tests::scripted_harness::{BundleHost, LocalBundle, LocalSplit, Script};
use bytes::Bytes;
use runner_core::fault::Fault;
use runner_core::ports::*;

use super::random::Chance;

/// Attempts from this one on go well, so that the job does.
const LAST_ATTEMPT: u64 = 4;

/// All workers of a job.
pub struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    chance: Chance,
    /// How much goes wrong: one in so many attempts.
    faults: usize,
    parallelism: usize,
    workers: Vec<Worker>,
    committed: Arc<Mutex<BTreeSet<String>>>,
    seen: Seen,
}

/// A worker that may be lost; another then takes its place.
#[derive(Default)]
struct Worker {
    losses: AtomicU64,
    cache: Mutex<HashMap<(Bytes, Type), Vec<u8>>>,
}

/// What has come about.
#[derive(Default)]
pub struct Seen(Mutex<BTreeMap<&'static str, u64>>);

impl Seen {
    fn count(&self, what: &'static str) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }
}

impl Workers {
    pub fn new(script: Script, chance: Chance) -> Self {
        let parallelism = 1 + chance.below(4);
        let faults = [3, 6, 20, usize::MAX][chance.below(4)];
        let workers = (0..1 + chance.below(3)).map(|_| Worker::default()).collect();
        let committed = Arc::default();
        let seen = Seen::default();
        Self { shared: Arc::new(Shared { script, chance, faults, parallelism, workers, committed, seen }) }
    }

    /// The instructions of all bundles that have been told of their commit.
    pub fn committed(&self) -> BTreeSet<String> {
        self.shared.committed.lock().unwrap().clone()
    }

    /// What has come about, and how often.
    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        self.shared.seen.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl JobBundleFactory for Workers {
    fn parallelism(&self, _: &str) -> usize {
        self.shared.parallelism
    }

    fn stage(&self, spec: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        let descriptor = LocalBundle::with_endpoints(spec.descriptor.clone());
        Arc::new(Stage { shared: self.shared.clone(), descriptor })
    }

    async fn close(&self) {}
}

struct Stage {
    shared: Arc<Shared>,
    descriptor: ProcessBundleDescriptor,
}

/// How an attempt goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The user's function fails, after so many elements.
    After(usize),
    /// When all has been done.
    AtTheEnd,
    /// The worker is lost after so many elements, with all that it has.
    Lost(usize),
}

#[async_trait]
impl StageBundleFactory for Stage {
    async fn process(&self, bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let shared = &self.shared;
        let attempt: u64 = bundle.instruction.rsplit('-').next().and_then(|it| it.parse().ok()).unwrap();
        let worker = &shared.workers[shared.chance.below(shared.workers.len())];
        shared.seen.count("bundle");
        self.pause(30).await;
        let failure = (attempt < LAST_ATTEMPT && shared.chance.one_in(shared.faults)).then(|| {
            let after = shared.chance.below(4);
            [Failure::After(after), Failure::AtTheEnd, Failure::Lost(after)][shared.chance.below(3)]
        });
        let losses = worker.losses.load(Ordering::Relaxed);
        let is_lost = || attempt < LAST_ATTEMPT && worker.losses.load(Ordering::Relaxed) != losses;
        let mut run = Run { stage: self, failure, splits: Vec::new(), is_lost: &is_lost };
        let instruction = bundle.instruction.clone();
        let result = run.process(bundle, worker).await;
        if failure.is_some() && result.is_err() {
            shared.seen.count("failed attempt");
        }
        if let (Some(Failure::Lost(_)), Err(_)) = (failure, &result) {
            worker.losses.fetch_add(1, Ordering::Relaxed);
            worker.cache.lock().unwrap().clear();
            shared.seen.count("lost worker");
        }
        self.pause(30).await;
        if is_lost() && result.is_ok() {
            shared.seen.count("bundle lost with its worker");
            return Err(Fault::environment(format!("the worker of {instruction} was lost")));
        }
        result
    }
}

impl Stage {
    /// Lets others go on meanwhile.
    async fn pause(&self, most: usize) {
        match self.shared.chance.below(3) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => {
                let millis = self.shared.chance.below(most) as u64;
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
        }
    }
}

struct Run<'a> {
    stage: &'a Stage,
    failure: Option<Failure>,
    splits: Vec<BundleSplit>,
    is_lost: &'a (dyn Fn() -> bool + Sync),
}

impl Run<'_> {
    async fn process(&mut self, mut bundle: RemoteBundle, worker: &Worker) -> Result<BundleResult, Fault> {
        let shared = &self.stage.shared;
        bundle.requests.begin();
        let [input] = &mut bundle.inputs[..] else {
            return Err(Fault::runner("a stage has one data source"));
        };
        let blocks = input.blocks.by_ref().collect::<Result<Vec<_>, _>>()?;
        let name = format!("worker{}", worker.losses.load(Ordering::Relaxed));
        let index = shared.workers.iter().position(|other| std::ptr::eq(other, worker)).unwrap();
        let host = Arc::new(Host {
            tokens: tokens(bundle.state.cache_tokens(&format!("{index}-{name}"))),
            bundle: (bundle.state.clone(), bundle.outputs.clone()),
            shared: shared.clone(),
            worker: index,
        });
        let descriptor = &self.stage.descriptor;
        let source = input.transform_id.clone();
        let local = LocalBundle::new(descriptor, &shared.script, &bundle.instruction, host, &source, &blocks);
        let mut local = local.map_err(Fault::user)?;
        loop {
            // Sometimes so long that it is asked to split.
            self.stage.pause(if shared.chance.one_in(8) { 500 } else { 5 }).await;
            self.answer(&mut bundle, &mut local)?;
            self.fail_at(local.progress().1)?;
            if !local.process_next().map_err(Fault::user)? {
                break;
            }
        }
        for timers in &bundle.timers {
            self.stage.pause(5).await;
            let timers = elements::Timers {
                instruction_id: bundle.instruction.clone(),
                transform_id: timers.transform_id.clone(),
                timer_family_id: timers.family_id.clone(),
                timers: timers.timers.clone(),
                is_last: false,
            };
            local.fire(&timers).map_err(Fault::user)?;
        }
        let response = local.finish().map_err(Fault::user)?;
        if self.failure == Some(Failure::AtTheEnd) {
            return Err(Fault::user("it fails at the end"));
        }
        let finalizer = response.requires_finalization.then(|| {
            let committed = shared.committed.clone();
            Box::new(Told { instruction: bundle.instruction, committed }) as Box<dyn Finalizer>
        });
        Ok(BundleResult {
            residuals: response.residual_roots.into_iter().map(residual).collect(),
            splits: std::mem::take(&mut self.splits),
            monitoring_infos: response.monitoring_infos,
            finalizer,
        })
    }

    fn fail_at(&self, done: usize) -> Result<(), Fault> {
        match self.failure {
            Some(Failure::After(after)) if done >= after => Err(Fault::user("it fails on the way")),
            Some(Failure::Lost(after)) if done >= after => Err(Fault::environment("the worker is lost")),
            _ if (self.is_lost)() => Err(Fault::environment("the worker was lost")),
            _ => Ok(()),
        }
    }

    /// Answers what the bundle has been asked so far.
    fn answer(&mut self, bundle: &mut RemoteBundle, local: &mut LocalBundle<'_>) -> Result<(), Fault> {
        let shared = &self.stage.shared;
        while let Some(request) = futures::FutureExt::now_or_never(bundle.requests.next()).flatten() {
            match request {
                BundleRequest::Progress { reply } => {
                    let source = &bundle.inputs[0].transform_id;
                    let infos = (!shared.chance.one_in(4)).then(|| read_index(source, local.progress().1));
                    drop(reply.send(Some(infos.into_iter().collect())));
                }
                BundleRequest::Split { fraction_of_remainder, reply } => {
                    let (all, begun) = local.progress();
                    let kept = ((all - begun) as f64 * fraction_of_remainder).round() as usize;
                    let split = match shared.chance.below(4) {
                        0 => None,
                        1 | 2 if begun < all => local.split_within().map_err(Fault::user)?,
                        _ => local.split_after(kept),
                    };
                    let split = split.map(bundle_split);
                    if let Some(split) = &split {
                        match bundle.outputs.receive_split(split)? {
                            SplitTaken::AtOnce => shared.seen.count("split at once"),
                            SplitTaken::WithTheBundle => {
                                shared.seen.count("split with its bundle");
                                self.splits.push(split.clone());
                            }
                        }
                    }
                    drop(reply.send(split));
                }
            }
        }
        Ok(())
    }
}

fn bundle_split(split: LocalSplit) -> BundleSplit {
    let LocalSplit { primary_roots, residual_roots, channel } = split;
    let channel = ChannelSplit {
        transform_id: channel.transform_id,
        last_primary_element: channel.last_primary_element,
        first_residual_element: channel.first_residual_element,
    };
    let undelayed =
        |application| DelayedBundleApplication { application: Some(application), requested_time_delay: None };
    BundleSplit {
        primaries: primary_roots.into_iter().map(undelayed).map(residual).collect(),
        residuals: residual_roots.into_iter().map(residual).collect(),
        channels: vec![channel],
    }
}

/// Which element a bundle is at, of which so many were begun.
fn read_index(source: &str, begun: usize) -> MonitoringInfo {
    let mut payload = Vec::new();
    varint::write_signed(&mut payload, i64::try_from(begun).unwrap() - 1);
    MonitoringInfo {
        urn: DATA_CHANNEL_READ_INDEX.to_owned(),
        payload: payload.into(),
        labels: BTreeMap::from([(TRANSFORM.to_owned(), source.to_owned())]),
        ..Default::default()
    }
}

fn residual(delayed: DelayedBundleApplication) -> Residual {
    let application = delayed.application.unwrap();
    let delay = delayed.requested_time_delay.and_then(|delay| Duration::try_from(delay).ok());
    let millis =
        |time: prost_types::Timestamp| EventTime(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000);
    let watermarks = application.output_watermarks.into_iter();
    Residual {
        transform_id: application.transform_id,
        input_id: application.input_id,
        element: application.element,
        delay: delay.unwrap_or_default(),
        output_watermarks: watermarks.map(|(tag, time)| (tag, millis(time))).collect(),
    }
}

struct Told {
    instruction: String,
    committed: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Finalizer for Told {
    async fn finalize(self: Box<Self>) -> Result<(), Fault> {
        self.committed.lock().unwrap().insert(self.instruction);
        Ok(())
    }
}

/// What a worker may keep: of user state, and of side inputs by transform and id.
#[derive(Default)]
struct Tokens {
    user_state: Option<Bytes>,
    side_inputs: HashMap<(String, String), Bytes>,
}

fn tokens(given: Vec<CacheToken>) -> Tokens {
    let mut tokens = Tokens::default();
    for token in given {
        match token {
            CacheToken::UserState { token } => tokens.user_state = Some(token),
            CacheToken::SideInput { transform_id, side_input_id, token } => {
                tokens.side_inputs.insert((transform_id, side_input_id), token);
            }
        }
    }
    tokens
}

/// What a bundle asks, its worker remembers for as long as it may.
struct Host {
    bundle: (Arc<dyn StateHandler>, Arc<dyn OutputReceiver>),
    shared: Arc<Shared>,
    worker: usize,
    tokens: Tokens,
}

impl Host {
    fn token(&self, key: &Type) -> Option<Bytes> {
        let side = |transform: &str, id: &str| {
            self.tokens.side_inputs.get(&(transform.to_owned(), id.to_owned())).cloned()
        };
        match key {
            Type::BagUserState(_) => self.tokens.user_state.clone(),
            Type::IterableSideInput(it) => side(&it.transform_id, &it.side_input_id),
            Type::MultimapSideInput(it) => side(&it.transform_id, &it.side_input_id),
            _ => None,
        }
    }

    fn ask(&self, key: &Type) -> Result<Vec<u8>, String> {
        let (state_key, mut continuation) = (state_key(key)?, Bytes::new());
        let mut value = Vec::new();
        loop {
            let page = self.bundle.0.get(&state_key, &continuation).map_err(|fault| fault.message)?;
            value.extend_from_slice(&page.data);
            if page.continuation.is_empty() {
                return Ok(value);
            }
            continuation = page.continuation;
        }
    }

    /// Changes what the worker remembers, if it does.
    fn remember(&self, key: &Type, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(token) = self.token(key) {
            let mut cache = self.shared.workers[self.worker].cache.lock().unwrap();
            if let Some(known) = cache.get_mut(&(token, key.clone())) {
                change(known);
            }
        }
    }
}

impl BundleHost for Host {
    fn get(&self, key: &Type) -> Result<Vec<u8>, String> {
        let Some(token) = self.token(key) else { return self.ask(key) };
        let place = (token, key.clone());
        let cache = &self.shared.workers[self.worker].cache;
        if let Some(known) = cache.lock().unwrap().get(&place) {
            self.shared.seen.count("state from a cache");
            return Ok(known.clone());
        }
        let value = self.ask(key)?;
        cache.lock().unwrap().insert(place, value.clone());
        Ok(value)
    }

    fn append(&self, key: &Type, data: &[u8]) -> Result<(), String> {
        self.remember(key, |known| known.extend_from_slice(data));
        self.bundle.0.append(&state_key(key)?, Bytes::copy_from_slice(data)).map_err(|fault| fault.message)
    }

    fn clear(&self, key: &Type) -> Result<(), String> {
        self.remember(key, Vec::clear);
        self.bundle.0.clear(&state_key(key)?).map_err(|fault| fault.message)
    }

    fn output(&self, frame: Elements) -> Result<(), String> {
        let outputs = &self.bundle.1;
        for data in frame.data.into_iter().filter(|data| !data.data.is_empty()) {
            outputs.receive(&data.transform_id, data.data).map_err(|fault| fault.message)?;
        }
        for timers in frame.timers.into_iter().filter(|timers| !timers.timers.is_empty()) {
            let elements::Timers { transform_id, timer_family_id: family_id, timers, .. } = timers;
            let block = TimerBlock { transform_id, family_id, timers };
            outputs.receive_timers(block).map_err(|fault| fault.message)?;
        }
        Ok(())
    }
}

fn state_key(key: &Type) -> Result<StateKey, String> {
    Ok(match key.clone() {
        Type::BagUserState(it) => StateKey::BagUserState {
            transform_id: it.transform_id,
            state_id: it.user_state_id,
            window: it.window,
            key: it.key,
        },
        Type::IterableSideInput(it) => StateKey::IterableSideInput {
            transform_id: it.transform_id,
            side_input_id: it.side_input_id,
            window: it.window,
        },
        Type::MultimapSideInput(it) => StateKey::MultimapSideInput {
            transform_id: it.transform_id,
            side_input_id: it.side_input_id,
            window: it.window,
            key: it.key,
        },
        other => return Err(format!("no function asks for {other:?}")),
    })
}
