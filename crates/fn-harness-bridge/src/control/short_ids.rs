//! Short ids of metrics: a worker names a `MonitoringInfo` once, and from then on sends its payload only.
//!
//! Workers are told that this runner understands them (`beam:protocol:monitoring_info_short_ids:v1` among its
//! capabilities). Some use them then; others do not, or send the whole infos as well.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beam_model::fn_execution::MonitoringInfosMetadataRequest;
use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::instruction_response::Response;
use beam_model::pipeline::MonitoringInfo;
use bytes::Bytes;
use runner_core::fault::Fault;

use super::{NoAnswer, ask, sampled};
use crate::worker::WorkerSession;

/// Ids beyond so many are asked for anew each time. A worker has as many as its stages have metrics.
const MOST_KNOWN: usize = 100_000;

/// What the short ids of one worker mean: infos without payload.
#[derive(Default)]
pub(crate) struct ShortIds(Mutex<HashMap<String, MonitoringInfo>>);

/// All infos of an answer: `infos`, or if there are none, those that `data` has by their short ids. The worker is
/// asked for the meaning of ids that it has not used before.
///
/// Errors: the worker does not tell within `limit`.
pub(crate) async fn monitoring_infos(
    worker: &WorkerSession,
    infos: Vec<MonitoringInfo>,
    data: BTreeMap<String, Bytes>,
    limit: Duration,
) -> Result<Vec<MonitoringInfo>, Fault> {
    // A worker that sends both says the same in both.
    let mut infos = match infos.is_empty() {
        true => by_short_id(worker, data, limit).await?,
        false => infos,
    };
    if worker.job.samples {
        infos.retain(|info| !info.labels.values().any(|label| sampled::is_workers_own(label)));
    }
    Ok(infos)
}

async fn by_short_id(
    worker: &WorkerSession,
    data: BTreeMap<String, Bytes>,
    limit: Duration,
) -> Result<Vec<MonitoringInfo>, Fault> {
    let unknown = worker.short_ids.unknown(&data);
    let named = match unknown.is_empty() {
        true => BTreeMap::new(),
        false => ask_meaning(worker, unknown, limit).await?,
    };
    worker.short_ids.with_payloads(data, named).map_err(|id| {
        worker.describe(&format!("sent a metric with short id {id:?} and does not tell what it means"))
    })
}

async fn ask_meaning(
    worker: &WorkerSession,
    monitoring_info_id: Vec<String>,
    limit: Duration,
) -> Result<BTreeMap<String, MonitoringInfo>, Fault> {
    let what = "what the short ids of its metrics mean";
    let request = Request::MonitoringInfos(MonitoringInfosMetadataRequest { monitoring_info_id });
    match ask(worker, "short-ids", request, limit).await {
        Ok(answer) => match answer.response {
            Some(Response::MonitoringInfos(answer)) => Ok(answer.monitoring_info),
            _ => Err(worker.describe(&format!("cannot tell {what}: {}", answer.error))),
        },
        Err(NoAnswer::WorkerGone) => Err(worker.fault().await),
        Err(NoAnswer::Late) => {
            Err(worker.describe(&format!("did not tell {what} within {} s", limit.as_secs())))
        }
    }
}

impl ShortIds {
    fn known(&self) -> MutexGuard<'_, HashMap<String, MonitoringInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unknown(&self, data: &BTreeMap<String, Bytes>) -> Vec<String> {
        let known = self.known();
        data.keys().filter(|id| !known.contains_key(*id)).cloned().collect()
    }

    /// The infos that `data` means, by what was known and what was just `named`, which is known from now on.
    ///
    /// Errors: an id that was never named.
    fn with_payloads(
        &self,
        data: BTreeMap<String, Bytes>,
        named: BTreeMap<String, MonitoringInfo>,
    ) -> Result<Vec<MonitoringInfo>, String> {
        let mut known = self.known();
        let info = |(id, payload)| match named.get(&id).or_else(|| known.get(&id)) {
            Some(info) => Ok(MonitoringInfo { payload, ..info.clone() }),
            None => Err(id),
        };
        let infos = data.into_iter().map(info).collect();
        let room = MOST_KNOWN.saturating_sub(known.len());
        known.extend(named.into_iter().take(room));
        infos
    }
}
