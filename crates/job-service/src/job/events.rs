//! What happens to a job, in order: states and messages, for those who watch now and those who come later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use beam_model::job_management::{JobMessage, JobStateEvent, MetricResults, job_message};
use prost_types::Timestamp;
use runner_core::backend::Importance;
use tokio::sync::watch;

use super::JobState;
use super::journal::Journal;

/// Messages that a job keeps for streams that are opened later or read slowly.
const MOST_MESSAGES: usize = 10_000;
/// Bytes of text in those messages.
const MOST_TEXT: usize = 16 << 20;
/// Bytes of one message: well below the 4 MiB that gRPC clients take by default.
const LONGEST_MESSAGE: usize = 1 << 20;
/// Events that a stream takes out at once.
const BATCH: usize = 256;

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    State(JobStateEvent),
    Message(JobMessage),
}

/// All events of one job.
#[derive(Debug)]
pub(crate) struct JobEvents {
    inner: Mutex<Inner>,
    /// The number of the next event; its change wakes the streams.
    next: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    state: JobState,
    next: u64,
    /// By number. A number that is missing was a message and has been dropped.
    events: BTreeMap<u64, Event>,
    /// The messages that may be dropped, oldest first.
    droppable: VecDeque<u64>,
    text: usize,
    /// The last error, which is never dropped: the Python client shows it as the job's exception.
    last_error: Option<u64>,
    ended: Option<SystemTime>,
    /// Where all of this is written down too, if the job outlives the server. Written to under the lock, so that it has
    /// the order of the events: jobs that have one run elsewhere and tell little.
    journal: Option<Journal>,
}

impl JobEvents {
    /// Of a job that has not been started yet.
    pub(crate) fn new(journal: Option<Journal>) -> Self {
        let mut inner = Inner::empty();
        inner.journal = journal;
        inner.push_state(JobState::Stopped);
        Self { next: watch::Sender::new(inner.next), inner: Mutex::new(inner) }
    }

    /// Of a job that has been written down.
    pub(crate) fn restore(events: Vec<Event>, journal: Journal) -> Self {
        let mut inner = Inner::empty();
        for event in events {
            inner.restore(event);
        }
        inner.journal = Some(journal);
        Self { next: watch::Sender::new(inner.next), inner: Mutex::new(inner) }
    }

    /// Whether they are written down.
    pub(crate) fn are_written_down(&self) -> bool {
        self.lock().journal.is_some()
    }

    /// What the backend wants to be told when it resumes the job.
    pub(crate) fn note(&self, note: String) {
        if let Some(journal) = &mut self.lock().journal {
            journal.note(note);
        }
    }

    /// Writes down the final metrics.
    pub(crate) fn metrics(&self, metrics: MetricResults) {
        if let Some(journal) = &mut self.lock().journal {
            journal.metrics(metrics);
        }
    }

    /// What was written down is not needed any more.
    pub(crate) fn forget(&self) {
        let journal = self.lock().journal.take();
        if let Some(mut journal) = journal {
            journal.remove();
        }
    }

    pub(crate) fn state(&self) -> JobStateEvent {
        let inner = self.lock();
        let states = inner.events.values().rev();
        let last = states.into_iter().find_map(|event| match event {
            Event::State(state) => Some(*state),
            Event::Message(_) => None,
        });
        last.unwrap_or(JobStateEvent { state: inner.state.to_proto().into(), timestamp: None })
    }

    pub(crate) fn job_state(&self) -> JobState {
        self.lock().state
    }

    pub(crate) fn ended(&self) -> Option<SystemTime> {
        self.lock().ended
    }

    /// Moves the job to `next` if that is a legal move; tells the state it is in afterwards.
    pub(crate) fn move_to(&self, next: JobState) -> JobState {
        let mut inner = self.lock();
        if !inner.state.may_become(next) {
            return inner.state;
        }
        inner.push_state(next);
        self.publish(inner);
        next
    }

    /// Adds a message, unless the job has ended.
    pub(crate) fn message(&self, importance: Importance, text: String) {
        let mut inner = self.lock();
        if inner.ended.is_none() {
            inner.push_message(importance, text);
            inner.shorten_journal();
            self.publish(inner);
        }
    }

    /// The last events: what is still to say, then the terminal state. Nothing comes after it. In one
    /// step, so that no late log line of a worker can take the place of the last error.
    pub(crate) fn end(&self, terminal: JobState, last_message: Option<(Importance, String)>) {
        let mut inner = self.lock();
        if inner.ended.is_some() {
            return;
        }
        if let Some((importance, text)) = last_message {
            inner.push_message(importance, text);
        }
        if let Some(before) = terminal.on_the_way_to()
            && !inner.state.may_become(terminal)
            && inner.state.may_become(before)
        {
            inner.push_state(before);
        }
        inner.push_state(terminal);
        inner.ended = Some(SystemTime::now());
        self.publish(inner);
    }

    /// Waits until the job has ended.
    pub(crate) async fn wait_for_end(&self) {
        let mut next = self.next.subscribe();
        // The sender lives as long as `self`, so that this can only end by the job's end.
        let _ = next.wait_for(|_| self.ended().is_some()).await;
    }

    /// A reader of all events from the first on.
    pub(crate) fn cursor(self: &Arc<Self>) -> EventCursor {
        EventCursor { news: self.next.subscribe(), events: Arc::clone(self), next: 0, batch: VecDeque::new() }
    }

    fn publish(&self, inner: MutexGuard<'_, Inner>) {
        let next = inner.next;
        drop(inner);
        // Two that publish at once may come here in either order.
        self.next.send_modify(|published| *published = next.max(*published));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn empty() -> Self {
        Self {
            state: JobState::Stopped,
            next: 0,
            events: BTreeMap::new(),
            droppable: VecDeque::new(),
            text: 0,
            last_error: None,
            ended: None,
            journal: None,
        }
    }

    fn push_state(&mut self, state: JobState) {
        let timestamp = Some(Timestamp::from(SystemTime::now()));
        let event = Event::State(JobStateEvent { state: state.to_proto().into(), timestamp });
        self.write_down(&event);
        self.state = state;
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Takes in what happened when the server was another process.
    fn restore(&mut self, event: Event) {
        match event {
            Event::State(event) => {
                let Some(state) = JobState::from_proto(event.state()) else { return };
                self.state = state;
                if state.is_terminal() {
                    let time = event.timestamp.and_then(|time| SystemTime::try_from(time).ok());
                    self.ended = Some(time.unwrap_or_else(SystemTime::now));
                }
                self.events.insert(self.next, Event::State(event));
                self.next += 1;
            }
            Event::Message(message) => {
                // With the number that clients may have seen. Those before it were dropped.
                let number = message.message_id.parse().unwrap_or(self.next).max(self.next);
                let is_error = message.importance() == job_message::MessageImportance::JobMessageError;
                self.next = number + 1;
                self.take_in(number, is_error, Event::Message(message));
            }
        }
    }

    fn write_down(&mut self, event: &Event) {
        if let Some(journal) = &mut self.journal {
            journal.event(event);
        }
    }

    fn shorten_journal(&mut self) {
        if let Some(journal) = &mut self.journal
            && journal.is_long()
        {
            journal.shorten(self.events.values());
        }
    }

    fn push_message(&mut self, importance: Importance, text: String) {
        let number = self.next;
        let event = Event::Message(job_message(number, importance, shorten(text)));
        self.write_down(&event);
        self.next += 1;
        self.take_in(number, importance == Importance::Error, event);
    }

    fn take_in(&mut self, number: u64, is_error: bool, event: Event) {
        if let Event::Message(message) = &event {
            self.text += message.message_text.len();
        }
        self.events.insert(number, event);
        if is_error {
            // The one that was the last may be dropped now, as the oldest if it is.
            if let Some(before) = self.last_error.replace(number) {
                let at = self.droppable.partition_point(|&other| other < before);
                self.droppable.insert(at, before);
            }
        } else {
            self.droppable.push_back(number);
        }
        while self.droppable.len() > MOST_MESSAGES || self.text > MOST_TEXT {
            let Some(oldest) = self.droppable.pop_front() else { return };
            if let Some(Event::Message(message)) = self.events.remove(&oldest) {
                self.text -= message.message_text.len();
            }
        }
    }

    /// Some events from number `from` on, notes in place of dropped ones, and the number to go on from.
    fn read(&self, from: u64) -> (VecDeque<Event>, u64) {
        let mut batch = VecDeque::new();
        let mut next = from;
        for (&number, event) in self.events.range(from..).take(BATCH) {
            if number > next {
                batch.push_back(Event::Message(dropped(next, number - next)));
            }
            batch.push_back(event.clone());
            next = number + 1;
        }
        (batch, next)
    }
}

/// Where in a job's events a stream is.
pub(crate) struct EventCursor {
    events: Arc<JobEvents>,
    news: watch::Receiver<u64>,
    next: u64,
    batch: VecDeque<Event>,
}

impl EventCursor {
    /// The next event, waiting for it if need be; `None` right after the terminal state.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.batch.pop_front() {
                return Some(event);
            }
            self.news.borrow_and_update();
            let ended = {
                let inner = self.events.lock();
                (self.batch, self.next) = inner.read(self.next);
                inner.ended.is_some()
            };
            if !self.batch.is_empty() {
                continue;
            }
            if ended || self.news.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn job_message(number: u64, importance: Importance, message_text: String) -> JobMessage {
    let importance = match importance {
        Importance::Debug => job_message::MessageImportance::JobMessageDebug,
        Importance::Detailed => job_message::MessageImportance::JobMessageDetailed,
        Importance::Basic => job_message::MessageImportance::JobMessageBasic,
        Importance::Warning => job_message::MessageImportance::JobMessageWarning,
        Importance::Error => job_message::MessageImportance::JobMessageError,
    };
    JobMessage {
        message_id: number.to_string(),
        time: Timestamp::from(SystemTime::now()).to_string(),
        importance: importance.into(),
        message_text,
    }
}

fn dropped(number: u64, count: u64) -> JobMessage {
    let text = format!(
        "{count} messages are missing here: a job keeps its last {MOST_MESSAGES} or {} MiB of them",
        MOST_TEXT >> 20
    );
    job_message(number, Importance::Warning, text)
}

/// The text, or its beginning and its end: the last lines of a stack trace tell most.
fn shorten(text: String) -> String {
    if text.len() <= LONGEST_MESSAGE {
        return text;
    }
    let boundary = |at: usize| (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let head = boundary(LONGEST_MESSAGE / 2);
    let tail = boundary(text.len() - LONGEST_MESSAGE / 2);
    let (Some(start), Some(end)) = (text.get(..head), text.get(tail..)) else { return text };
    format!("{start}\n[… {} bytes left out …]\n{end}", tail - head)
}

#[cfg(test)]
mod tests;
