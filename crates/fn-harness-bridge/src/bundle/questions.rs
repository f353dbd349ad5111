//! What a bundle is asked while it runs: `ProcessBundleSplit` and `ProcessBundleProgress`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::instruction_response::Response;
use beam_model::fn_execution::process_bundle_split_request::DesiredSplit;
use beam_model::fn_execution::{
    InstructionRequest, InstructionResponse, ProcessBundleProgressRequest, ProcessBundleProgressResponse,
    ProcessBundleSplitRequest,
};
use beam_model::pipeline::MonitoringInfo;
use runner_core::fault::Fault;
use runner_core::ports::{
    BundleRequest, BundleRequests, BundleSplit, ElementCount, OutputReceiver, SplitTaken,
};
use tokio::sync::oneshot;

use super::{ActiveBundle, response};
use crate::control;
use crate::server::BridgeConfig;
use crate::worker::WorkerSession;

/// The questions to one bundle; a worker is asked one at a time.
pub(super) struct Questions<'a> {
    worker: &'a WorkerSession,
    /// The instruction that processes the bundle.
    bundle: &'a str,
    active: &'a ActiveBundle,
    /// How many elements each data source gets.
    elements: BTreeMap<String, ElementCount>,
    outputs: Arc<dyn OutputReceiver>,
    requests: BundleRequests,
    config: &'a BridgeConfig,
    asked: Option<Asked>,
    /// Those that were not taken at once.
    splits: Vec<BundleSplit>,
}

/// A question that the worker has to answer.
struct Asked {
    instruction: String,
    /// Whether the worker gets to see it: it may still be on its way when the bundle ends.
    sent: bool,
    answer: oneshot::Receiver<InstructionResponse>,
    reply: Reply,
}

/// Who waits for the answer. That they may have given up changes nothing.
enum Reply {
    Split(oneshot::Sender<Option<BundleSplit>>),
    Progress(oneshot::Sender<Option<Vec<MonitoringInfo>>>),
}

/// Why there is no answer.
enum Unanswered {
    WorkerGone,
    /// How the worker broke the protocol, to follow "worker X …".
    Broken(String),
    /// The bundle was split, and that was not accepted.
    Refused(Fault),
}

impl<'a> Questions<'a> {
    pub(super) fn new(
        worker: &'a WorkerSession,
        bundle: &'a str,
        active: &'a ActiveBundle,
        elements: BTreeMap<String, ElementCount>,
        outputs: Arc<dyn OutputReceiver>,
        mut requests: BundleRequests,
        config: &'a BridgeConfig,
    ) -> Self {
        // They were asked of a bundle that had no worker yet: split now, it would give back everything.
        requests.begin();
        Self { worker, bundle, active, elements, outputs, requests, config, asked: None, splits: Vec::new() }
    }

    /// Asks whatever is to be asked for as long as it is let. Returns only with a fault: an answer that
    /// breaks the protocol, so that nobody knows what the bundle gave back. May be dropped at any time.
    pub(super) async fn ask(&mut self) -> Result<Infallible, Fault> {
        loop {
            if self.asked.is_none() {
                match self.requests.next().await {
                    Some(request) => self.send(request).await,
                    None => return std::future::pending().await,
                }
            }
            match self.answered().await {
                Ok(()) => {}
                Err(Unanswered::Broken(how)) => return Err(self.worker.describe(&how)),
                Err(Unanswered::Refused(fault)) => return Err(fault),
                // The bundle ends by that too, and says so.
                Err(Unanswered::WorkerGone) => return std::future::pending().await,
            }
        }
    }

    /// To be called when the worker has answered the bundle: all splits of it that were not taken at once. Its answer to the
    /// last one may be on its way yet, since a harness need not send answers in the order in which they
    /// came to be; that answer is waited for, as there may be work in it that nobody else does.
    pub(super) async fn finish(mut self) -> Result<Vec<BundleSplit>, Fault> {
        let limit = self.config.split_timeout;
        self.requests = BundleRequests::none();
        let splits = |asked: &Asked| asked.sent && matches!(asked.reply, Reply::Split(_));
        if self.asked.as_ref().is_some_and(splits) {
            let worker = self.worker;
            match tokio::time::timeout(limit, self.answered()).await {
                Ok(Ok(())) => {}
                Ok(Err(Unanswered::Broken(how))) => return Err(worker.describe(&how)),
                Ok(Err(Unanswered::Refused(fault))) => return Err(fault),
                Ok(Err(Unanswered::WorkerGone)) => return Err(worker.fault().await),
                Err(_) => {
                    return Err(worker.describe(&format!(
                        "answered a bundle but then, for {} s, not whether it had split it",
                        limit.as_secs()
                    )));
                }
            }
        }
        Ok(std::mem::take(&mut self.splits))
    }

    async fn send(&mut self, request: BundleRequest) {
        let (name, request, reply) = match request {
            // Cutting an input needs its length; the reply is dropped, which says that it is not cut. And who
            // has given up may not want a split any more.
            BundleRequest::Split { reply, .. } if self.counted().is_empty() || reply.is_closed() => return,
            BundleRequest::Split { fraction_of_remainder, reply } => {
                ("split", self.split_request(fraction_of_remainder), Reply::Split(reply))
            }
            BundleRequest::Progress { reply } => {
                let request = ProcessBundleProgressRequest { instruction_id: self.bundle.to_owned() };
                ("progress", Request::ProcessBundleProgress(request), Reply::Progress(reply))
            }
        };
        let instruction = self.worker.next_instruction(name);
        let answer = self.worker.expect_answer(&instruction);
        let asked = self.asked.insert(Asked { instruction: instruction.clone(), sent: false, answer, reply });
        let request = InstructionRequest { instruction_id: instruction, request: Some(request) };
        // If it cannot be sent, the worker is gone, and `answer` says so.
        self.worker.control.send(request).await.ok();
        asked.sent = true;
    }

    /// The data sources whose elements were counted, and how many there are.
    fn counted(&self) -> BTreeMap<String, i64> {
        let counted = self.elements.iter().filter_map(|(source, elements)| Some((source, elements.get()?)));
        let counted = counted.map(|(source, elements)| (source, i64::try_from(elements)));
        counted.map(|(source, elements)| (source.clone(), elements.unwrap_or(i64::MAX))).collect()
    }

    fn split_request(&self, fraction_of_remainder: f64) -> Request {
        let desired = |estimated_input_elements| DesiredSplit {
            fraction_of_remainder,
            estimated_input_elements,
            // Anywhere.
            allowed_split_points: Vec::new(),
        };
        let sources = self.counted().into_iter();
        Request::ProcessBundleSplit(ProcessBundleSplitRequest {
            instruction_id: self.bundle.to_owned(),
            desired_splits: sources.map(|(source, elements)| (source, desired(elements))).collect(),
        })
    }

    /// Waits for the worker's answer to what it was asked, and hands it on.
    async fn answered(&mut self) -> Result<(), Unanswered> {
        let Some(asked) = &mut self.asked else { return Ok(()) };
        let answer = (&mut asked.answer).await;
        let Some(Asked { instruction, reply, .. }) = self.asked.take() else { return Ok(()) };
        let answer = answer.map_err(|_| Unanswered::WorkerGone)?;
        if !answer.error.is_empty() {
            // A harness that has not begun on the bundle, or is done with it, may not know it.
            tracing::debug!(worker = %self.worker.id, %instruction, error = answer.error, "refused");
            return Ok(());
        }
        match (reply, answer.response) {
            (Reply::Split(reply), Some(Response::ProcessBundleSplit(answer))) => {
                let source = |id: &str| response::source_named(id, self.elements.keys());
                let split = response::split(answer, source).map_err(Unanswered::Broken)?;
                if let Some(split) = &split {
                    match self.outputs.receive_split(split).map_err(Unanswered::Refused)? {
                        SplitTaken::AtOnce => {}
                        SplitTaken::WithTheBundle => self.splits.push(split.clone()),
                    }
                }
                reply.send(split).ok();
            }
            (Reply::Progress(reply), Some(Response::ProcessBundleProgress(answer))) => {
                let ProcessBundleProgressResponse {
                    monitoring_infos,
                    monitoring_data,
                    consuming_received_data,
                } = answer;
                self.active.set_consuming(consuming_received_data);
                let limit = self.config.short_ids_timeout;
                match control::monitoring_infos(self.worker, monitoring_infos, monitoring_data, limit).await {
                    Ok(infos) => drop(reply.send(Some(infos))),
                    // The bundle's end will have the same ids.
                    Err(fault) => tracing::debug!(worker = %self.worker.id, "{fault}"),
                }
            }
            (Reply::Split(_) | Reply::Progress(_), _) => {
                return Err(Unanswered::Broken(format!(
                    "answered instruction {instruction} with something else"
                )));
            }
        }
        Ok(())
    }
}

impl Drop for Questions<'_> {
    fn drop(&mut self) {
        if let Some(asked) = &self.asked {
            self.worker.take_answer(&asked.instruction);
        }
    }
}
