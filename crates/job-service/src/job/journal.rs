//! Jobs that outlive the server, written down so that the next one finds them again: a file for each.
//!
//! A file is a sequence of length-delimited messages, first the job's [`Description`], then what has happened, as it
//! happens. It is there from before the backend hears of the job until the job is forgotten.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use beam_model::job_management::{JobMessage, JobStateEvent, MetricResults};
use beam_model::pipeline::Pipeline;
use prost::Message;
use prost_types::{Struct, Timestamp};
use tempfile::NamedTempFile;

use super::Event;

const LOCK: &str = "lock";
const SUFFIX: &str = "journal";
/// Files that are not in place yet, or will never be.
const INCOMING: &str = "incoming-";
/// Bytes of a file beyond which what the job itself does not know any more is left out. Well over what a job keeps.
const LONGEST: u64 = 64 << 20;

/// What a job is (`Run`), as far as it does not change.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Description {
    #[prost(string, tag = "1")]
    pub(crate) job_id: String,
    #[prost(string, tag = "2")]
    pub(crate) preparation_id: String,
    #[prost(string, tag = "3")]
    pub(crate) job_name: String,
    /// The backend that goes on with it.
    #[prost(string, tag = "4")]
    pub(crate) backend: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) options: Option<Struct>,
    #[prost(message, optional, tag = "6")]
    pub(crate) pipeline: Option<Pipeline>,
    #[prost(message, optional, tag = "7")]
    pub(crate) started: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5")]
    entry: Option<Entry>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and not for long")]
enum Entry {
    #[prost(message, tag = "1")]
    Description(Description),
    #[prost(message, tag = "2")]
    State(JobStateEvent),
    #[prost(message, tag = "3")]
    Message(JobMessage),
    /// The backend's.
    #[prost(string, tag = "4")]
    Note(String),
    /// The final ones.
    #[prost(message, tag = "5")]
    Metrics(MetricResults),
}

impl Entry {
    fn of(event: &Event) -> Self {
        match event {
            Event::State(state) => Entry::State(*state),
            Event::Message(message) => Entry::Message(message.clone()),
        }
    }
}

/// The folder of a server's journals. No two servers have one at the same time.
#[derive(Debug)]
pub(crate) struct Journals {
    folder: PathBuf,
    _lock: File,
}

/// A job as its journal tells it.
#[derive(Debug)]
pub(crate) struct WrittenDown {
    pub(crate) description: Description,
    pub(crate) events: Vec<Event>,
    pub(crate) note: Option<String>,
    pub(crate) metrics: Option<MetricResults>,
    pub(crate) journal: Journal,
}

impl Journals {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another server has it.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK))?;
        try_lock(&lock)?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// Writes down a job, on disk before this returns.
    pub(crate) fn begin(&self, description: &Description) -> io::Result<Journal> {
        let mut file = tempfile::Builder::new().prefix(INCOMING).tempfile_in(&self.folder)?;
        let head = append(file.as_file_mut(), Entry::Description(description.clone()))?;
        file.as_file().sync_all()?;
        let path = self.folder.join(format!("{}.{SUFFIX}", description.job_id));
        let file = persist(file, &path)?;
        Ok(Journal { path, file: Some(file), head, length: head, note: None })
    }

    /// All jobs that are written down. Files that cannot be read are told of and stay.
    pub(crate) fn read_all(&self) -> io::Result<Vec<WrittenDown>> {
        let mut jobs = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                match read(&path) {
                    Ok(job) => jobs.push(job),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), "a job that was written down cannot be read: {error}")
                    }
                }
            } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(INCOMING)) {
                // Of a server that was killed over it. If it cannot be removed, nothing is lost but its space.
                std::fs::remove_file(&path).ok();
            }
        }
        Ok(jobs)
    }
}

#[cfg(unix)]
fn try_lock(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
}

#[cfg(not(unix))]
fn try_lock(_: &File) -> io::Result<()> {
    Ok(())
}

/// The file of one job, open for what is to come.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// `None` after a write has failed: what would follow could not be read any more.
    file: Option<File>,
    /// Bytes of the description.
    head: u64,
    /// Bytes in all.
    length: u64,
    note: Option<String>,
}

impl Journal {
    pub(super) fn event(&mut self, event: &Event) {
        self.write(Entry::of(event));
    }

    pub(super) fn note(&mut self, note: String) {
        self.note = Some(note.clone());
        self.write(Entry::Note(note));
    }

    pub(super) fn metrics(&mut self, metrics: MetricResults) {
        self.write(Entry::Metrics(metrics));
    }

    /// Whether it is time to [shorten](Self::shorten) it.
    pub(super) fn is_long(&self) -> bool {
        self.file.is_some() && self.length > LONGEST
    }

    /// Leaves out all events but these.
    pub(super) fn shorten<'a>(&mut self, events: impl Iterator<Item = &'a Event>) {
        match self.rewrite(events) {
            Ok(()) => {}
            Err(error) => self.broken(&error),
        }
    }

    /// The job is forgotten.
    pub(super) fn remove(&mut self) {
        self.file = None;
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "a forgotten job stays written down: {error}");
        }
    }

    fn write(&mut self, entry: Entry) {
        let Some(file) = &mut self.file else { return };
        match append(file, entry) {
            Ok(bytes) => self.length += bytes,
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&mut self, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), "what becomes of a job cannot be written down any more: {error}");
        self.file = None;
    }

    fn rewrite<'a>(&mut self, events: impl Iterator<Item = &'a Event>) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(INCOMING).tempfile_in(folder)?;
        let mut length = io::copy(&mut File::open(&self.path)?.take(self.head), new.as_file_mut())?;
        if let Some(note) = &self.note {
            length += append(new.as_file_mut(), Entry::Note(note.clone()))?;
        }
        for event in events {
            length += append(new.as_file_mut(), Entry::of(event))?;
        }
        self.file = Some(persist(new, &self.path)?);
        self.length = length;
        Ok(())
    }
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<File> {
    file.persist(path).map_err(|error| error.error)
}

/// Bytes that were written, in one go: a server that is killed leaves whole records, but for the last one at most.
fn append(file: &mut File, entry: Entry) -> io::Result<u64> {
    let record = Record { entry: Some(entry) }.encode_length_delimited_to_vec();
    file.write_all(&record)?;
    Ok(record.len() as u64)
}

fn read(path: &Path) -> io::Result<WrittenDown> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let all = bytes.len();
    let mut rest = bytes::Bytes::from(bytes);
    let mut next = || {
        let before = rest.clone();
        let record = Record::decode_length_delimited(&mut rest).ok();
        if record.is_none() {
            // A record that was cut short. The next one begins where it does.
            rest = before;
        }
        Some((record?, (all - rest.len()) as u64))
    };
    let Some((Record { entry: Some(Entry::Description(description)) }, head)) = next() else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with a job's description"));
    };
    let (mut events, mut note, mut metrics, mut length) = (Vec::new(), None, None, head);
    while let Some((record, end)) = next() {
        length = end;
        match record.entry {
            Some(Entry::State(state)) => events.push(Event::State(state)),
            Some(Entry::Message(message)) => events.push(Event::Message(message)),
            Some(Entry::Note(text)) => note = Some(text),
            Some(Entry::Metrics(last)) => metrics = Some(last),
            // The first of a second description counts; other kinds are those of a later version.
            Some(Entry::Description(_)) | None => {}
        }
    }
    file.set_len(length)?;
    file.seek(SeekFrom::End(0))?;
    let journal = Journal { path: path.to_owned(), file: Some(file), head, length, note: note.clone() };
    Ok(WrittenDown { description, events, note, metrics, journal })
}

#[cfg(test)]
mod tests;
