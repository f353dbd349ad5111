//! All preparations and jobs of a server.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use beam_model::pipeline::Pipeline;
use prost_types::Struct;
use tokio::sync::watch;

use super::{Job, Preparation};
use crate::error::JobServiceError;

/// Preparations that wait to be run; beyond that the oldest is dropped.
const MOST_PREPARATIONS: usize = 1_000;
/// An ended job is not forgotten before that, whatever the size of the history: when many jobs end
/// together, each client still wants to fetch its metrics.
const REMEMBERED_AT_LEAST: Duration = Duration::from_secs(60);
/// Ended jobs that are remembered for that reason alone; beyond that the oldest goes.
const MOST_RECENTLY_ENDED: usize = 1_000;

/// What a job is, before it has a life.
pub(crate) struct JobDescription {
    pub(crate) id: String,
    pub(crate) preparation_id: String,
    pub(crate) name: String,
    pub(crate) options: Struct,
    pub(crate) pipeline: Arc<Pipeline>,
}

/// What is going on, for whoever waits for nothing to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Activity {
    pub(crate) running: usize,
    /// Grows with each request that makes or runs a job.
    pub(crate) requests: u64,
}

pub(crate) struct Registry {
    history_size: usize,
    preparation_lifetime: Duration,
    activity: watch::Sender<Activity>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    closing: bool,
    preparations: HashMap<String, Arc<Preparation>>,
    /// Oldest first; those that are gone from `preparations` are skipped.
    prepared: VecDeque<String>,
    jobs: HashMap<String, Arc<Job>>,
    /// Ended jobs, oldest end first.
    ended: VecDeque<(String, Instant)>,
}

impl Registry {
    pub(crate) fn new(history_size: usize, preparation_lifetime: Duration) -> Self {
        let (activity, inner) = (watch::Sender::default(), Mutex::default());
        Self { history_size, preparation_lifetime, activity, inner }
    }

    /// Keeps a preparation for its lifetime, or until it is run.
    pub(crate) fn add_preparation(
        self: &Arc<Self>,
        preparation: Arc<Preparation>,
    ) -> Result<(), JobServiceError> {
        let id = preparation.id.clone();
        {
            let mut inner = self.lock();
            if inner.closing {
                return Err(JobServiceError::ShuttingDown);
            }
            inner.prepared.push_back(id.clone());
            inner.preparations.insert(id.clone(), preparation);
            while inner.preparations.len() > MOST_PREPARATIONS {
                let Some(oldest) = inner.prepared.pop_front() else { break };
                inner.preparations.remove(&oldest);
            }
        }
        self.activity.send_modify(|activity| activity.requests += 1);
        let registry = Arc::downgrade(self);
        let lifetime = self.preparation_lifetime;
        tokio::spawn(async move {
            tokio::time::sleep(lifetime).await;
            if let Some(registry) = registry.upgrade() {
                registry.remove_preparation(&id);
            }
        });
        Ok(())
    }

    pub(crate) fn preparation(&self, id: &str) -> Result<Arc<Preparation>, JobServiceError> {
        let inner = self.lock();
        inner.preparations.get(id).cloned().ok_or_else(|| inner.no_preparation(id))
    }

    /// The preparation with this staging token.
    pub(crate) fn preparation_of(&self, staging_token: &str) -> Option<Arc<Preparation>> {
        let inner = self.lock();
        inner.preparations.values().find(|p| p.staging_token == staging_token).cloned()
    }

    /// Takes the job in, in place of its preparation. Of two that run one preparation the second fails.
    pub(crate) fn add_job(&self, job: Arc<Job>) -> Result<(), JobServiceError> {
        {
            let mut inner = self.lock();
            if inner.closing {
                return Err(JobServiceError::ShuttingDown);
            }
            if inner.preparations.remove(job.preparation_id()).is_none() {
                return Err(inner.no_preparation(job.preparation_id()));
            }
            inner.prepared.retain(|id| id != job.preparation_id());
            inner.jobs.insert(job.id().to_owned(), job);
        }
        self.activity.send_modify(|activity| {
            activity.requests += 1;
            activity.running += 1;
        });
        Ok(())
    }

    /// Takes in a job that was written down.
    pub(crate) fn restore(&self, job: Arc<Job>) {
        self.lock().jobs.insert(job.id().to_owned(), job);
        self.activity.send_modify(|activity| activity.running += 1);
    }

    pub(crate) fn job(&self, id: &str) -> Result<Arc<Job>, JobServiceError> {
        self.lock().jobs.get(id).cloned().ok_or_else(|| JobServiceError::UnknownJob(id.to_owned()))
    }

    /// All jobs that are known, oldest first.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = self.lock().jobs.values().cloned().collect();
        jobs.sort_by_key(|job| job.started());
        jobs
    }

    /// Puts the job into the history, and forgets what is too old for it.
    pub(crate) fn job_ended(self: &Arc<Self>, job: &Job) {
        let forgotten = {
            let mut inner = self.lock();
            inner.ended.push_back((job.id().to_owned(), Instant::now()));
            inner.forget(self.history_size)
        };
        forgotten.iter().for_each(|job| job.forget());
        self.activity.send_modify(|activity| activity.running = activity.running.saturating_sub(1));
        let registry = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(REMEMBERED_AT_LEAST).await;
            if let Some(registry) = registry.upgrade() {
                let forgotten = registry.lock().forget(registry.history_size);
                forgotten.iter().for_each(|job| job.forget());
            }
        });
    }

    pub(crate) fn activity(&self) -> watch::Receiver<Activity> {
        self.activity.subscribe()
    }

    /// Takes no more jobs, drops all preparations, and hands back the jobs that still run.
    pub(crate) fn close(&self) -> Vec<Arc<Job>> {
        let mut inner = self.lock();
        inner.closing = true;
        inner.preparations.clear();
        inner.prepared.clear();
        inner.jobs.values().filter(|job| !job.state().is_terminal()).cloned().collect()
    }

    fn remove_preparation(&self, id: &str) {
        let mut inner = self.lock();
        inner.preparations.remove(id);
        inner.prepared.retain(|other| other != id);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Why there is no such preparation.
    fn no_preparation(&self, id: &str) -> JobServiceError {
        match self.jobs.values().find(|job| job.preparation_id() == id) {
            Some(job) => {
                JobServiceError::AlreadyRun { preparation_id: id.to_owned(), job_id: job.id().to_owned() }
            }
            None => JobServiceError::UnknownPreparation(id.to_owned()),
        }
    }

    /// The jobs that are too old to be remembered.
    #[must_use]
    fn forget(&mut self, history_size: usize) -> Vec<Arc<Job>> {
        let mut forgotten = Vec::new();
        while self.ended.len() > history_size {
            let too_many = self.ended.len() > history_size + MOST_RECENTLY_ENDED;
            match self.ended.front() {
                Some((_, end)) if too_many || end.elapsed() >= REMEMBERED_AT_LEAST => {}
                _ => break,
            }
            if let Some((id, _)) = self.ended.pop_front() {
                forgotten.extend(self.jobs.remove(&id));
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runner_core::backend::{MetricResults, Outcome};

    fn preparation(id: &str) -> Arc<Preparation> {
        Arc::new(Preparation::new(
            id.into(),
            format!("token of {id}"),
            "job".into(),
            Pipeline::default(),
            Default::default(),
        ))
    }

    fn job(id: &str) -> Arc<Job> {
        Arc::new(Job::new(
            JobDescription {
                id: id.into(),
                preparation_id: format!("prepared {id}"),
                name: "job".into(),
                options: Struct::default(),
                pipeline: Arc::default(),
            },
            None,
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn a_preparation_is_dropped_after_its_lifetime() {
        let registry = Arc::new(Registry::new(1, Duration::from_secs(3600)));
        registry.add_preparation(preparation("p")).unwrap();
        tokio::time::sleep(Duration::from_secs(3599)).await;
        assert!(registry.preparation("p").is_ok());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(registry.preparation("p").is_err());
        assert!(registry.lock().prepared.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_preparations_goes() {
        let registry = Arc::new(Registry::new(1, Duration::from_secs(3600)));
        for number in 0..=MOST_PREPARATIONS {
            registry.add_preparation(preparation(&number.to_string())).unwrap();
        }
        assert!(registry.preparation("0").is_err());
        assert!(registry.preparation_of("token of 1").is_some());
    }

    #[tokio::test]
    async fn the_history_is_bounded_and_recent_ends_are_kept() {
        let registry = Arc::new(Registry::new(2, Duration::from_secs(3600)));
        for number in 0..2 + MOST_RECENTLY_ENDED + 3 {
            let job = job(&number.to_string());
            registry.add_preparation(preparation(job.preparation_id())).unwrap();
            registry.add_job(Arc::clone(&job)).unwrap();
            job.has_ended(Outcome::Done, MetricResults::default());
            registry.job_ended(&job);
        }
        assert!(registry.job("2").is_err());
        assert!(registry.job("3").is_ok());
        for (_, end) in &mut registry.lock().ended {
            *end -= REMEMBERED_AT_LEAST;
        }
        assert!(!registry.lock().forget(2).is_empty());
        assert_eq!(registry.jobs().len(), 2);
    }
}
