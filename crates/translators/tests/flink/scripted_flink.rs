//! A Flink REST endpoint that obeys a script.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, LOCATION};
use axum::response::Response;
use axum::serve::Listener;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::support::PATIENCE;

/// What is answered to one request.
#[derive(Clone)]
pub enum Answer {
    Json(u16, Value),
    /// To [`RUN`]: started under the id that was asked for.
    Started,
    /// Asks to go there.
    Elsewhere(String),
    /// Does what was asked for, so to say, and never answers.
    Silence,
}

pub fn ok(value: Value) -> Answer {
    Answer::Json(200, value)
}

pub fn refused(status: u16, reason: &str) -> Answer {
    Answer::Json(status, json!({ "errors": [reason] }))
}

/// A request that came.
#[derive(Clone)]
pub struct Seen {
    /// METHOD PATH, ids replaced by `:id`.
    pub what: String,
    /// With the ids.
    pub path: String,
    pub body: Vec<u8>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Script {
    /// The last answer of each stays.
    answers: HashMap<String, VecDeque<Answer>>,
    /// Where the job's story is.
    now: Option<Answer>,
    seen: Vec<Seen>,
}

#[derive(Clone)]
pub struct ScriptedFlink {
    pub address: String,
    /// What stands before the paths of the API.
    prefix: &'static str,
    script: Arc<Mutex<Script>>,
    news: Arc<Notify>,
}

pub const CONFIG: &str = "GET /config";
pub const OVERVIEW: &str = "GET /overview";
pub const UPLOAD: &str = "POST /jars/upload";
pub const JARS: &str = "GET /jars";
pub const RUN: &str = "POST /jars/:id/run";
pub const DELETE: &str = "DELETE /jars/:id";
pub const SETTINGS: &str = "GET /jobmanager/config";
/// Its answers are the job's story, each with all of the job at that moment. All that is shown of the job follows from
/// the one that was given last.
pub const JOB: &str = "GET /jobs/:id/status";
pub const JOBS: &str = "GET /jobs/overview";
/// With answers of its own it shows what was once.
pub const DETAILS: &str = "GET /jobs/:id";
pub const EXCEPTIONS: &str = "GET /jobs/:id/exceptions?maxExceptions=8";
pub const ACCUMULATORS: &str = "GET /jobs/:id/accumulators";
pub const CANCEL: &str = "PATCH /jobs/:id?mode=cancel";
pub const STOP: &str = "POST /jobs/:id/stop";
pub const SAVEPOINT: &str = "GET /jobs/:id/savepoints/:id";

/// A job in this state, with two tasks of one step in `tasks`.
pub fn job(state: &str, tasks: &str) -> Answer {
    ok(json!({
        "jid": "ignored", "name": "ignored", "state": state, "timestamps": { "RESTARTING": 0, "CREATED": 5 },
        "vertices": [{ "id": "v", "name": "Step", "parallelism": 2, "status": tasks, "tasks": { tasks: 2 } }],
    }))
}

impl ScriptedFlink {
    /// One on which all goes well, at once.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self::start_on(listener, address, "")
    }

    /// One that is reached under this address.
    pub fn start_on(
        listener: impl Listener<Addr: std::fmt::Debug>,
        address: String,
        prefix: &'static str,
    ) -> Self {
        let flink = Self { address, prefix, script: Arc::default(), news: Arc::default() };
        let uploaded = "/tmp/flink-web/flink-web-upload/0123-4567-89ab_beamline.jar";
        flink.answer(CONFIG, [ok(json!({ "flink-version": "1.19.3", "features": {} }))]);
        flink.answer(SETTINGS, [ok(json!([{ "key": "jobmanager.rpc.port", "value": "6123" }]))]);
        flink.answer(UPLOAD, [ok(json!({ "filename": uploaded, "status": "success" }))]);
        flink.answer(RUN, [Answer::Started]);
        flink.answer(DELETE, [ok(json!({}))]);
        flink.answer(
            JOB,
            [job("CREATED", "SCHEDULED"), job("RUNNING", "RUNNING"), job("FINISHED", "FINISHED")],
        );
        flink.answer(ACCUMULATORS, [ok(json!({ "user-task-accumulators": [] }))]);
        flink.answer(
            EXCEPTIONS,
            [ok(json!({ "root-exception": null, "exceptionHistory": { "entries": [] } }))],
        );
        flink.answer(CANCEL, [Answer::Json(202, json!({}))]);
        let app = Router::new().fallback(serve).with_state(flink.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        flink
    }

    /// Answers so from now on, one after the other; the last one for ever.
    pub fn answer(&self, what: &str, answers: impl IntoIterator<Item = Answer>) {
        let answers: VecDeque<_> = answers.into_iter().collect();
        self.script.lock().unwrap().answers.insert(what.to_owned(), answers);
    }

    pub fn all_seen(&self) -> Vec<Seen> {
        self.script.lock().unwrap().seen.clone()
    }

    pub fn seen(&self, what: &str) -> Vec<Seen> {
        self.script.lock().unwrap().seen.iter().filter(|seen| seen.what == what).cloned().collect()
    }

    /// Waits until such a request has come.
    pub async fn wait_for(&self, what: &str) -> Seen {
        let waiting = async {
            loop {
                let news = self.news.notified();
                if let Some(seen) = self.seen(what).pop() {
                    return seen;
                }
                news.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("no such request came")
    }
}

impl Script {
    fn answer(&mut self, what: &str) -> Option<Answer> {
        match what {
            JOB => {
                self.now = self.next(JOB);
                Some(seen_as(self.now.clone()?, |job| json!({ "status": job["state"] })))
            }
            JOBS => {
                let asked = self.seen.iter().rfind(|seen| seen.what == JOB)?;
                let id = asked.path.split('/').nth(2)?.to_owned();
                Some(seen_as(self.now.clone()?, |job| json!({ "jobs": [overview_of(&id, job)] })))
            }
            DETAILS => self.next(DETAILS).or_else(|| self.now.clone()),
            _ => self.next(what),
        }
    }

    fn next(&mut self, what: &str) -> Option<Answer> {
        let answers = self.answers.get_mut(what)?;
        if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
    }
}

/// The same error, or this of the job.
fn seen_as(answer: Answer, part: impl FnOnce(&Value) -> Value) -> Answer {
    match answer {
        Answer::Json(200, job) => ok(part(&job)),
        other => other,
    }
}

fn overview_of(id: &str, job: &Value) -> Value {
    let mut tasks = serde_json::Map::new();
    for vertex in job["vertices"].as_array().into_iter().flatten() {
        for (state, number) in vertex["tasks"].as_object().into_iter().flatten() {
            tasks.insert(state.to_lowercase(), number.clone());
        }
    }
    json!({ "jid": id, "state": job["state"], "tasks": tasks })
}

async fn serve(State(flink): State<ScriptedFlink>, request: Request) -> Response {
    let path = request.uri().to_string();
    let path = path
        .strip_prefix(flink.prefix)
        .and_then(|path| path.strip_prefix("/v1"))
        .expect("a version in the path")
        .to_owned();
    let what = format!("{} {}", request.method(), nameless(&path));
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default().to_vec();
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let answer = {
        let mut script = flink.script.lock().unwrap();
        script.seen.push(Seen { what: what.clone(), path, body, authorization });
        script.answer(&what)
    };
    flink.news.notify_waiters();
    match answer.unwrap_or_else(|| refused(404, &format!("no answer to {what}"))) {
        Answer::Json(status, value) => {
            Response::builder().status(status).body(Body::from(value.to_string())).unwrap()
        }
        Answer::Elsewhere(to) => {
            Response::builder().status(302).header(LOCATION, to).body(Body::empty()).unwrap()
        }
        Answer::Started => Response::new(Body::from(json!({ "jobid": asked["jobId"] }).to_string())),
        Answer::Silence => std::future::pending().await,
    }
}

/// The path with `:id` for what is after a collection's name.
fn nameless(path: &str) -> String {
    let mut parts = Vec::new();
    let mut id_next = false;
    for part in path.split('/') {
        let (name, query) = part.split_once('?').map_or((part, None), |(name, query)| (name, Some(query)));
        let shown = if id_next && !matches!(name, "upload" | "overview") { ":id" } else { name };
        id_next = matches!(name, "jobs" | "jars" | "savepoints") && !id_next;
        parts.push(query.map_or(shown.to_owned(), |query| format!("{shown}?{query}")));
    }
    parts.join("/")
}
