//! Flink's REST API, as far as a portable job needs it: one method a request.
//!
//! Requests have a bound each and are not repeated here: whoever asks knows how long an absent cluster may
//! be waited for.

mod door;
mod master;
mod messages;
mod transport;
mod upload;
mod wrong;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use door::{AccessError, ClientIdentity, ClusterAccess};
pub(super) use master::Master;
pub(super) use messages::{
    Accumulators, ClusterConfig, End, FlinkJobState, JobDetails, JobExceptions, Overview, RunRequest,
    StopProgress, prefers_own_flink,
};
use transport::{Body, Transport};

use super::error::FlinkError;
use super::jar::PortableJar;

/// Flink answers most requests within milliseconds; a JobManager that collects garbage within seconds.
const ANSWER: Duration = Duration::from_secs(30);
/// The entry class builds the whole job within this request, and stages what it needs.
const RUN: Duration = Duration::from_secs(300);
/// What an upload may take besides a second for each of [`UPLOAD_BYTES_PER_SECOND`].
const UPLOAD: Duration = Duration::from_secs(60);
/// A way to the cluster that is slower than this is as good as none.
const UPLOAD_BYTES_PER_SECOND: u64 = 1 << 20;
/// Of the exceptions of a job, so many are asked for.
const MOST_EXCEPTIONS: usize = 8;

/// One cluster. Cheap to clone.
#[derive(Clone)]
pub(super) struct FlinkRest {
    transport: Arc<Transport>,
}

impl FlinkRest {
    /// What is given for access to the server's own cluster, `own`, is for that one alone.
    pub(super) fn new(master: Master, access: &ClusterAccess, own: Option<&Master>) -> Self {
        Self { transport: Arc::new(Transport::new(master, access, own)) }
    }

    /// The cluster's address, for messages.
    pub(super) fn master(&self) -> &str {
        self.transport.master()
    }

    pub(super) async fn config(&self) -> Result<ClusterConfig, FlinkError> {
        self.get("/config").await
    }

    /// The settings that differ from Flink's own.
    pub(super) async fn settings(&self) -> Result<Vec<messages::Setting>, FlinkError> {
        self.get("/jobmanager/config").await
    }

    pub(super) async fn overview(&self) -> Result<Overview, FlinkError> {
        self.get("/overview").await
    }

    /// Uploads the jar without having it in memory; the answer is its id.
    pub(super) async fn upload_jar(
        &self,
        jar: &Arc<PortableJar>,
        file_name: &str,
    ) -> Result<String, FlinkError> {
        let upload = upload::multipart(Arc::clone(jar), file_name);
        let bound = UPLOAD + Duration::from_secs(upload.length / UPLOAD_BYTES_PER_SECOND);
        let answer = self.transport.send(Method::POST, "/jars/upload", upload.body, bound).await?;
        let messages::Uploaded { filename } = self.understand(&Method::POST, "/jars/upload", &answer)?;
        // A path on the JobManager; the id is its last part.
        Ok(filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned())
    }

    /// The jars that the cluster has.
    pub(super) async fn jars(&self) -> Result<messages::Jars, FlinkError> {
        self.get("/jars").await
    }

    /// Has Flink start the jar's entry class.
    pub(super) async fn run_jar(&self, jar_id: &str, request: &RunRequest) -> Result<String, FlinkError> {
        let path = format!("/jars/{jar_id}/run");
        let messages::Started { jobid } = self.exchange(Method::POST, &path, json(request)?, RUN).await?;
        Ok(jobid)
    }

    pub(super) async fn delete_jar(&self, jar_id: &str) -> Result<(), FlinkError> {
        self.command(Method::DELETE, &format!("/jars/{jar_id}"), Body::Empty).await
    }

    /// What the job is at this moment, which costs the cluster next to nothing.
    pub(super) async fn job_state(&self, job_id: &str) -> Result<FlinkJobState, FlinkError> {
        let messages::JobStatus { status } = self.get(&format!("/jobs/{job_id}/status")).await?;
        Ok(status)
    }

    /// Whether a TaskManager has a task of the job at this moment.
    pub(super) async fn is_placed(&self, job_id: &str) -> Result<bool, FlinkError> {
        let messages::JobsOverview { jobs } = self.get("/jobs/overview").await?;
        Ok(jobs.iter().any(|job| job.jid == job_id && job.is_placed()))
    }

    /// What Flink shows of the job. From then on it shows the same for a while, whatever happens.
    pub(super) async fn job(&self, job_id: &str) -> Result<JobDetails, FlinkError> {
        self.get(&format!("/jobs/{job_id}")).await
    }

    /// The newest failures of the job, those that it survived included.
    pub(super) async fn exceptions(&self, job_id: &str) -> Result<JobExceptions, FlinkError> {
        self.get(&format!("/jobs/{job_id}/exceptions?maxExceptions={MOST_EXCEPTIONS}")).await
    }

    pub(super) async fn accumulators(&self, job_id: &str) -> Result<Accumulators, FlinkError> {
        self.get(&format!("/jobs/{job_id}/accumulators")).await
    }

    /// Asks for the job's end; Flink answers before it has come.
    pub(super) async fn cancel(&self, job_id: &str) -> Result<(), FlinkError> {
        self.command(Method::PATCH, &format!("/jobs/{job_id}?mode=cancel"), Body::Empty).await
    }

    /// Asks for a savepoint and the job's end after it; the answer is the id to ask [`Self::stop_progress`] with.
    pub(super) async fn stop(
        &self,
        job_id: &str,
        request: &messages::StopRequest,
    ) -> Result<String, FlinkError> {
        let path = format!("/jobs/{job_id}/stop");
        let answer: messages::Triggered = self.exchange(Method::POST, &path, json(request)?, ANSWER).await?;
        Ok(answer.request_id)
    }

    pub(super) async fn stop_progress(
        &self,
        job_id: &str,
        request_id: &str,
    ) -> Result<StopProgress, FlinkError> {
        self.get(&format!("/jobs/{job_id}/savepoints/{request_id}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, FlinkError> {
        self.exchange(Method::GET, path, Body::Empty, ANSWER).await
    }

    /// A request whose answer says nothing but that it was heard.
    async fn command(&self, method: Method, path: &str, body: Body) -> Result<(), FlinkError> {
        self.transport.send(method, path, body, ANSWER).await.map(drop)
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
        bound: Duration,
    ) -> Result<T, FlinkError> {
        let answer = self.transport.send(method.clone(), path, body, bound).await?;
        self.understand(&method, path, &answer)
    }

    fn understand<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        answer: &[u8],
    ) -> Result<T, FlinkError> {
        serde_json::from_slice(answer).map_err(|error| FlinkError::NotUnderstood {
            master: self.master().to_owned(),
            request: format!("{method} {path}"),
            reason: error.to_string(),
        })
    }
}

pub(super) use messages::StopRequest;

fn json(request: &impl Serialize) -> Result<Body, FlinkError> {
    let text = serde_json::to_vec(request).map_err(|error| FlinkError::Json(error.to_string()))?;
    Ok(Body::Json(text.into()))
}
