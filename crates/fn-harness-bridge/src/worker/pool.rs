//! The workers of one environment of one job: started when a bundle needs one, and lent to bundles. How many
//! bundles run at once is for others to say; here they are spread over the workers that there are.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use beam_model::urns::standard_protocols::{
    HARNESS_MONITORING_INFOS, MULTI_CORE_BUNDLE_PROCESSING, NAMED_DATA_STREAMS,
};
use runner_core::fault::{Fault, Retry};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Standby, WorkerSession};
use crate::bundle::JobContext;
use crate::control::register;
use crate::environment::{EnvironmentSpec, Running};
use crate::server::Shared;

/// However many bundles a worker may run at once, it is not given more.
const MOST_BUNDLES_WORTHWHILE: usize = 64;
/// How long a worker may go on logging after it was stopped.
const LAST_LOGS_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct EnvironmentWorkers {
    shared: Arc<Shared>,
    pub(crate) job: Arc<JobContext>,
    pub(crate) environment: Arc<EnvironmentSpec>,
    /// `{job id}-{environment index}`, the beginning of worker ids.
    id_prefix: String,
    most: Most,
    lent: Mutex<Lent>,
    /// A worker has become free, has started, or could not.
    changed: Notify,
    started: AtomicUsize,
    start_failures: AtomicU32,
}

/// How many workers may run, and how many bundles on each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Most {
    workers: usize,
    bundles: NonZeroUsize,
}

impl Most {
    /// `workers`: how many bundles are to run at once, if each worker has one.
    fn of(environment: &EnvironmentSpec, workers: usize) -> Self {
        if let Some(bundles) = environment.most_bundles {
            return Self { workers, bundles };
        }
        match NonZeroUsize::new(workers) {
            // One worker has all cores at work. More of them in one process disturb each other: as soon as one of the
            // Java SDK's ends, none of that process can start or go on.
            Some(bundles) if environment.can(MULTI_CORE_BUNDLE_PROCESSING) => Self { workers: 1, bundles },
            Some(_) | None => Self { workers, bundles: NonZeroUsize::MIN },
        }
    }

    fn parallelism(self) -> usize {
        self.workers.saturating_mul(self.bundles.get().min(MOST_BUNDLES_WORTHWHILE))
    }
}

/// How many bundles could run at once in an environment with so many workers.
pub(crate) fn parallelism(environment: &EnvironmentSpec, workers: usize) -> usize {
    Most::of(environment, workers).parallelism()
}

#[derive(Default)]
struct Lent {
    /// Each with the bundles that it runs. The one used last is used next: it has descriptors and caches at
    /// hand.
    workers: Vec<(Arc<WorkerSession>, Places)>,
    starting: usize,
    /// So many were there at once.
    most_at_once: usize,
    /// One of them had asked for something before it was given work.
    asks_first: bool,
}

/// The bundles on a worker, each by a number that no other has meanwhile.
#[derive(Debug, Default)]
struct Places(BTreeSet<usize>);

impl Places {
    /// Takes the first that is free.
    fn take(&mut self) -> usize {
        let free = self.0.iter().enumerate().find(|(index, place)| index != *place);
        let place = free.map_or(self.0.len(), |(index, _)| index);
        self.0.insert(place);
        place
    }
}

/// Where the next bundle runs.
enum Choice {
    Worker(Arc<WorkerSession>, usize),
    New,
    /// On one that is starting, or has too much to do now.
    Later,
}

impl Lent {
    /// A worker that was starting has started, or could not.
    fn has_started(&mut self, worker: Option<&Arc<WorkerSession>>, places: Places) {
        self.starting -= 1;
        if let Some(worker) = worker {
            self.workers.retain(|(worker, _)| !worker.is_gone());
            self.workers.push((worker.clone(), places));
            self.most_at_once = self.most_at_once.max(self.workers.len());
            self.asks_first |= worker.asks_first();
        }
    }

    /// `most`: how many workers there may be. `full`: with so many bundles a worker must not get another. `waits`: a
    /// worker is being started for the bundle, so that only one that has nothing to do would be better.
    fn choose(&mut self, most: usize, full: Option<NonZeroUsize>, waits: bool) -> Choice {
        self.workers.retain(|(worker, _)| !worker.is_gone());
        let least = self.workers.iter().map(|(_, bundles)| bundles.0.len()).min();
        if waits && least != Some(0) {
            return Choice::Later;
        }
        if least != Some(0) && self.workers.len() + self.starting < most {
            self.starting += 1;
            return Choice::New;
        }
        match self.workers.iter_mut().rev().find(|(_, bundles)| Some(bundles.0.len()) == least) {
            Some((_, bundles)) if full.is_some_and(|full| bundles.0.len() >= full.get()) => Choice::Later,
            Some((worker, bundles)) => Choice::Worker(worker.clone(), bundles.take()),
            None => Choice::Later,
        }
    }
}

/// A worker for the time of a bundle.
pub(crate) struct Lease {
    pub(crate) worker: Arc<WorkerSession>,
    /// No other bundle on the worker has the same.
    place: usize,
    workers: Arc<EnvironmentWorkers>,
}

impl Lease {
    /// The worker's data stream for the bundle. The one without a name is there for the first bundle, and for all if
    /// the SDK knows no others.
    pub(crate) fn data_stream(&self) -> String {
        match self.place {
            1.. if self.worker.environment.can(NAMED_DATA_STREAMS) => self.place.to_string(),
            _ => String::new(),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut lent = self.workers.lent();
        let mine = lent.workers.iter().position(|(worker, _)| Arc::ptr_eq(worker, &self.worker));
        if let Some(index) = mine {
            let (worker, mut bundles) = lent.workers.remove(index);
            bundles.0.remove(&self.place);
            lent.workers.push((worker, bundles));
        }
        drop(lent);
        self.workers.changed.notify_waiters();
    }
}

impl EnvironmentWorkers {
    pub(crate) fn new(
        shared: Arc<Shared>,
        job: Arc<JobContext>,
        environment: EnvironmentSpec,
        index: usize,
        workers: usize,
    ) -> Self {
        Self {
            id_prefix: format!("{}-{index}", job.id),
            shared,
            job,
            most: Most::of(&environment, workers),
            environment: Arc::new(environment),
            lent: Mutex::default(),
            changed: Notify::new(),
            started: AtomicUsize::new(0),
            start_failures: AtomicU32::new(0),
        }
    }

    /// A worker for one bundle: the one with the least to do, or one started anew if all have something to do, unless
    /// another has nothing to do before that is there. Waits while all are starting, or have as many bundles as they may
    /// have. A worker that is just starting is left to the next bundle if it is not needed, or the future is dropped.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Fault> {
        let mut starting = None;
        loop {
            if self.job.closing.is_cancelled() {
                return Err(self.closed());
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let waits = starting.is_some();
            let choice = self.lent().choose(self.most.workers, self.environment.most_bundles, waits);
            match choice {
                Choice::Worker(worker, place) => return Ok(Lease { worker, place, workers: self.clone() }),
                Choice::New => starting = Some(self.start_for_bundle()),
                Choice::Later => {}
            }
            tokio::select! {
                biased;
                started = of(&mut starting) => return started.unwrap_or_else(|| Err(self.closed())),
                () = self.job.closing.cancelled() => {}
                () = changed => {}
            }
        }
    }

    /// Starts a worker; gives a lease of it.
    fn start_for_bundle(self: &Arc<Self>) -> oneshot::Receiver<Result<Lease, Fault>> {
        let (sender, receiver) = oneshot::channel();
        let workers = self.clone();
        self.job.tasks.spawn(async move {
            let worker = workers.start().await;
            let mut places = Places::default();
            let place = places.take();
            workers.lent().has_started(worker.as_ref().ok(), places);
            workers.changed.notify_waiters();
            let lease = worker.map(|worker| Lease { worker, place, workers });
            match sender.send(lease) {
                Ok(()) => {}
                Err(Ok(lease)) => drop(lease), // Nobody waits any more: with that the worker is idle.
                Err(Err(fault)) => tracing::warn!("a worker that is not needed at once: {fault}"),
            }
        });
        receiver
    }

    /// The workers that are there.
    pub(crate) fn running(&self) -> Vec<Arc<WorkerSession>> {
        let lent = self.lent();
        lent.workers
            .iter()
            .filter(|(worker, _)| !worker.is_gone())
            .map(|(worker, _)| worker.clone())
            .collect()
    }

    /// How many bundles may run at once, on all workers together.
    pub(crate) fn parallelism(&self) -> usize {
        self.most.parallelism()
    }

    /// Whether a worker is there that could take a bundle at once.
    pub(crate) fn has_idle(&self) -> bool {
        let full = self.most.bundles.get();
        let lent = self.lent();
        if lent.workers.iter().any(|(worker, bundles)| !worker.is_gone() && bundles.0.len() < full) {
            return true;
        }
        let standbys = &self.shared.registry.standbys;
        let more = lent.workers.len() + lent.starting < self.most.workers;
        more && self.environment.pool().is_some_and(|pool| standbys.is_ready(pool))
    }

    /// Has as many workers as there were at once stand by for the next job on the same pool. They may be on another
    /// machine, or threads of whoever will be gone soon; then they are too, and nobody minds.
    pub(crate) fn have_others_stand_by(&self) {
        let Some(pool) = self.environment.pool().filter(|_| !self.job.one_process) else { return };
        let lent = self.lent();
        if !lent.asks_first {
            self.shared.registry.standbys.keep(pool, lent.most_at_once, &self.shared);
        }
    }

    /// The workers that can be asked for the metrics of their process.
    pub(crate) fn with_own_metrics(&self) -> Vec<Arc<WorkerSession>> {
        if !self.environment.can(HARNESS_MONITORING_INFOS) {
            return Vec::new();
        }
        let lent = self.lent();
        let workers = lent.workers.iter().map(|(worker, _)| worker);
        workers.filter(|worker| !worker.is_gone()).cloned().collect()
    }

    fn closed(&self) -> Fault {
        Fault::runner(format!("job {} is closed: no worker is started for it any more", self.job.id))
    }

    fn lent(&self) -> std::sync::MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self) -> Result<Arc<WorkerSession>, Fault> {
        let started = self.try_start().await;
        match started {
            Ok(worker) => {
                self.start_failures.store(0, Ordering::Relaxed);
                Ok(worker)
            }
            Err(fault) if fault.retry == Retry::Never => Err(fault),
            Err(fault) => {
                let failures = self.start_failures.fetch_add(1, Ordering::Relaxed) + 1;
                if failures < self.shared.config.max_start_failures {
                    return Err(fault);
                }
                Err(fault.at(format!("{failures} workers in a row could not be started")).fatal())
            }
        }
    }

    /// A worker that stood by, if there is one that lives.
    async fn try_standby(&self) -> Option<Arc<WorkerSession>> {
        let pool = self.environment.pool()?;
        let registry = &self.shared.registry;
        let lease = |standby: &Arc<Standby>| {
            let worker = standby.session(self.job.clone(), self.environment.clone());
            // Before it is no standby any more, so that it is known at all times.
            registry.add_worker(worker.clone());
            (standby.clone(), worker)
        };
        let (standby, worker) = registry.standbys.take(pool, lease)?;
        standby.begin(&worker);
        tracing::debug!(worker = %worker.id, job = %self.job.id, "a worker that stood by has a job");
        self.register(&worker).await;
        let running = Running::External(pool.clone());
        self.job.tasks.spawn(supervise(worker.clone(), running, self.shared.clone()));
        tokio::select! {
            biased;
            () = worker.gone.cancelled() => return None,
            () = worker.connected.cancelled() => return Some(worker),
            () = tokio::time::sleep_until(standby.deadline) => {}
        }
        worker.end("was to stand by, but did not connect");
        None
    }

    /// Tells the worker of the stages that are known so far.
    async fn register(&self, worker: &WorkerSession) {
        let stages = self.job.stages_of(&self.environment.id);
        if let Some(request) = register(worker, &stages, &self.shared.endpoint.descriptor()) {
            // Waits in the outbox until the worker connects.
            worker.control.send(request).await.ok();
        }
    }

    async fn try_start(&self) -> Result<Arc<WorkerSession>, Fault> {
        if let Some(worker) = self.try_standby().await {
            return Ok(worker);
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("{}-{number}", self.id_prefix);
        let worker = Arc::new(WorkerSession::new(id, self.job.clone(), self.environment.clone()));
        self.shared.registry.add_worker(worker.clone());
        self.register(&worker).await;
        let timeout = self.shared.config.worker_connect_timeout;
        let launch = async {
            self.environment.provide(&worker, &self.shared).await?;
            let deadline = Instant::now() + timeout;
            let running = self.environment.launch(&worker, &self.shared, deadline).await?;
            Ok((running, deadline))
        };
        let launched = tokio::select! {
            biased;
            () = self.job.closing.cancelled() => Err(self.closed()),
            launched = launch => launched,
        };
        let (running, deadline) = match launched {
            Ok(launched) => launched,
            Err(fault) => {
                worker.end("could not be started");
                self.shared.registry.remove_worker(&worker.id);
                self.job.tasks.spawn(self.environment.forget(&worker.id));
                return Err(fault);
            }
        };
        self.job.tasks.spawn(supervise(worker.clone(), running, self.shared.clone()));
        tokio::select! {
            biased;
            () = worker.connected.cancelled() => return Ok(worker),
            () = worker.gone.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {
                let endpoint = self.shared.endpoint.url();
                worker.end(format!(
                    "was started but did not connect to {endpoint} within {} s; look whether it can \
                     reach that address",
                    timeout.as_secs()
                ));
            }
        }
        Err(worker.fault().await)
    }
}

/// What comes of a worker that is being started, `None` if nothing will; waits for ever if there is none.
async fn of(starting: &mut Option<oneshot::Receiver<Result<Lease, Fault>>>) -> Option<Result<Lease, Fault>> {
    match starting {
        Some(starting) => starting.await.ok(),
        None => std::future::pending().await,
    }
}

/// Waits for the worker's end, whatever brings it, and clears up after it.
async fn supervise(worker: Arc<WorkerSession>, running: Running, shared: Arc<Shared>) {
    tokio::select! {
        () = worker.gone.cancelled() => {}
        () = worker.job.closing.cancelled() => worker.end("was stopped with its job"),
    }
    running.stop(&worker.id, shared.config.worker_stop_timeout).await;
    // Not waited for by the job's end: a harness may log on for a while, and the logging stream must
    // be the last of its streams to be closed.
    tokio::spawn(async move {
        if worker.logging.opened.is_cancelled() {
            tokio::time::timeout(LAST_LOGS_TIMEOUT, worker.logging.ended.cancelled()).await.ok();
        }
        worker.finished.cancel();
        shared.registry.remove_worker(&worker.id);
    });
}

#[cfg(test)]
mod tests {
    use beam_model::pipeline::Environment;
    use beam_model::urns::standard_resource_hints::MAX_ACTIVE_BUNDLES_PER_WORKER;
    use bytes::Bytes;

    use super::*;

    fn most(capabilities: &[&str], hint: Option<&'static str>, workers: usize) -> (usize, usize) {
        let hints = hint.map(|hint| (MAX_ACTIVE_BUNDLES_PER_WORKER.to_owned(), Bytes::from(hint)));
        let environment = Environment {
            capabilities: capabilities.iter().map(|it| (*it).to_owned()).collect(),
            resource_hints: hints.into_iter().collect(),
            ..Default::default()
        };
        let most = Most::of(&EnvironmentSpec::read("env", &environment), workers);
        (most.workers, most.bundles.get())
    }

    #[test]
    fn an_sdk_that_has_all_cores_at_work_has_one_worker() {
        assert_eq!(most(&[], None, 4), (4, 1));
        assert_eq!(most(&[MULTI_CORE_BUNDLE_PROCESSING], None, 4), (1, 4));
        assert_eq!(most(&[MULTI_CORE_BUNDLE_PROCESSING], Some("2"), 4), (4, 2));
        assert_eq!(most(&[], Some("2"), 4), (4, 2));
        assert_eq!(most(&[MULTI_CORE_BUNDLE_PROCESSING], None, 0), (0, 1));
    }
}
