//! Every worker and job that the services may be asked about.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tonic::metadata::MetadataMap;

use super::{Standby, Standbys, WorkerSession};
use crate::bundle::JobContext;
use crate::error::BridgeError;

/// The metadata key by which a worker says who it is.
pub(crate) const WORKER_ID: &str = "worker_id";

#[derive(Default)]
pub(crate) struct Registry {
    workers: RwLock<HashMap<String, Arc<WorkerSession>>>,
    jobs: RwLock<HashMap<String, Arc<JobContext>>>,
    pub(crate) standbys: Standbys,
}

impl Registry {
    pub(crate) fn add_worker(&self, worker: Arc<WorkerSession>) {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        workers.insert(worker.id.clone(), worker);
    }

    pub(crate) fn remove_worker(&self, id: &str) {
        self.workers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn connected_workers(&self) -> usize {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.values().filter(|worker| worker.connected.is_cancelled() && !worker.is_gone()).count()
    }

    /// The worker that makes a call. One that stands by has nothing to ask: there are no more of its pool.
    pub(crate) fn worker(&self, metadata: &MetadataMap) -> Result<Arc<WorkerSession>, BridgeError> {
        let id = worker_id(metadata).ok_or(BridgeError::NoWorkerId)?;
        if let Some(standby) = self.standbys.get(id) {
            self.standbys.exclude(&standby.pool);
            return Err(BridgeError::StandsBy(id.to_owned()));
        }
        self.worker_by_id(id)
    }

    /// The worker that makes a call, if it has no job yet.
    pub(crate) fn standby(&self, metadata: &MetadataMap) -> Option<Arc<Standby>> {
        self.standbys.get(worker_id(metadata)?)
    }

    pub(crate) fn worker_by_id(&self, id: &str) -> Result<Arc<WorkerSession>, BridgeError> {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.get(id).cloned().ok_or_else(|| BridgeError::UnknownWorker(id.to_owned()))
    }

    pub(crate) fn add_job(&self, job: Arc<JobContext>) {
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).insert(job.id.clone(), job);
    }

    pub(crate) fn remove_job(&self, id: &str) {
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    pub(crate) fn job(&self, id: &str) -> Option<Arc<JobContext>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn jobs(&self) -> Vec<Arc<JobContext>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

pub(crate) fn worker_id(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(WORKER_ID)?.to_str().ok()
}
