//! A jar from a Maven repository, checked, and gone on with where it was broken off.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Client, Response, StatusCode, Url};
use runner_core::backend::{Importance, JobListener};
use sha1::Sha1;
use sha2::{Digest, Sha512};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::known;
use crate::flink::error::chain;

const GROUP: &str = "org/apache/beam";
const CONNECT: Duration = Duration::from_secs(15);
/// A repository that sends nothing for so long is given up, and asked again.
const STALL: Duration = Duration::from_secs(30);
/// In a row, without a byte.
const MOST_TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_secs(2);
/// With a line of a megabit a second a jar of 200 MB takes half of that.
const WHOLE: Duration = Duration::from_secs(3600);
const BETWEEN_MESSAGES: Duration = Duration::from_secs(5);
/// A checksum and, at times, a file name.
const LONGEST_CHECKSUM: usize = 4096;
const MIB: u64 = 1 << 20;

/// Why there is no jar.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("{given:?} is no version of Beam's; give one like 2.62.0 (see --flink-runner-version)")]
    Version { given: String },
    #[error("{given:?} is no base URL of a Maven repository: {reason} (see --maven-repository)")]
    Repository { given: String, reason: String },
    #[error(
        "no runner of Beam's for Flink {flink} is known here, only for {known}: give its Beam version with \
         --flink-runner-version, or the jar with --flink-runner-jar"
    )]
    NotKnown { flink: String, known: String },
    #[error(
        "{artifact}-{version}.jar is not in {folder}, and downloads are off (--maven-repository is empty): put it there, or give \
         it with --flink-runner-jar"
    )]
    NotInFolder { artifact: String, version: String, folder: PathBuf },
    #[error(
        "{url} is not there: Beam {version} has no such jar, or the repository has not got it. Runners are known for Flink \
         {known}; another version of Beam is chosen with --flink-runner-version, another repository with --maven-repository, \
         and a jar of one's own is given with --flink-runner-jar"
    )]
    NoSuchJar { url: String, version: String, known: String },
    #[error("{url} has no checksum beside it (.sha512 or .sha1), so that it cannot be trusted")]
    NoChecksum { url: String },
    #[error(
        "{url} cannot be had: {reason}. Without a network, give the jar with --flink-runner-jar or put it into {folder}; another \
         repository is named with --maven-repository"
    )]
    Unreachable { url: String, reason: String, folder: PathBuf },
    #[error("{url} is damaged: its checksum is {actual}, and should be {expected}")]
    WrongChecksum { url: String, actual: String, expected: String },
    #[error("the runner jar cannot be kept in {folder}: {source} (see --flink-jar-dir)")]
    Folder { folder: PathBuf, source: io::Error },
}

/// What to download.
pub(super) struct Jar<'a> {
    pub(super) repository: &'a str,
    pub(super) artifact: &'a str,
    pub(super) version: &'a str,
}

impl Jar<'_> {
    fn name(&self) -> String {
        format!("{}-{}.jar", self.artifact, self.version)
    }

    fn url(&self) -> String {
        let Self { repository, artifact, version } = self;
        format!("{}/{GROUP}/{artifact}/{version}/{}", repository.trim_end_matches('/'), self.name())
    }
}

pub(super) fn check_repository(given: &str) -> Result<(), DownloadError> {
    let bad = |reason: String| DownloadError::Repository { given: given.to_owned(), reason };
    let url = Url::parse(given).map_err(|error| bad(error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(()),
        other => Err(bad(format!("{other} is neither http nor https"))),
    }
}

/// The jar's path in the folder, once it is there. Whoever downloads it at the same time is waited for.
pub(super) async fn download(
    jar: &Jar<'_>,
    folder: &Path,
    listener: &dyn JobListener,
) -> Result<PathBuf, DownloadError> {
    let client = Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(STALL)
        .user_agent(concat!("beamline/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = client.map_err(|error| DownloadError::Unreachable {
        url: jar.url(),
        reason: chain(&error),
        folder: folder.to_owned(),
    })?;
    let download = Download { client, url: jar.url(), jar, folder, listener };
    match tokio::time::timeout(WHOLE, download.whole()).await {
        Ok(done) => done,
        Err(_) => Err(download.unreachable(format!("it took more than {} s", WHOLE.as_secs()))),
    }
}

struct Download<'a> {
    client: Client,
    url: String,
    jar: &'a Jar<'a>,
    folder: &'a Path,
    listener: &'a dyn JobListener,
}

/// What an answer to a request for the rest of a file is.
enum Rest {
    /// From where it was asked for.
    Here(Response),
    /// From the beginning.
    All(Response),
    /// There is none.
    Nothing,
}

impl Download<'_> {
    async fn whole(&self) -> Result<PathBuf, DownloadError> {
        let path = self.folder.join(self.jar.name());
        let part = self.folder.join(format!("{}.part", self.jar.name()));
        let opened = self.open(part.clone()).await?;
        let mut file = self.lock(opened).await?;
        if path.exists() {
            // Somebody else has had it downloaded meanwhile.
            return Ok(path);
        }
        let checksum = self.checksum().await?;
        let resumed = file.metadata().await.map_err(|error| self.folder_error(error))?.len() > 0;
        self.fetch(&mut file).await?;
        let mut actual = self.hash(&part, &checksum).await?;
        if actual != checksum.text && resumed {
            // The part was of something else.
            self.restart(&mut file).await?;
            self.fetch(&mut file).await?;
            actual = self.hash(&part, &checksum).await?;
        }
        if actual != checksum.text {
            // The next try is not to go on with it.
            self.restart(&mut file).await?;
            return Err(DownloadError::WrongChecksum {
                url: self.url.clone(),
                actual,
                expected: checksum.text,
            });
        }
        file.sync_all().await.map_err(|error| self.folder_error(error))?;
        tokio::fs::rename(&part, &path).await.map_err(|error| self.folder_error(error))?;
        let text = format!("the Flink runner is in {}", path.display());
        tracing::info!(path = %path.display(), "Flink runner jar downloaded");
        self.listener.message(Importance::Detailed, text);
        Ok(path)
    }

    async fn open(&self, part: PathBuf) -> Result<tokio::fs::File, DownloadError> {
        let failed = |error| self.folder_error(error);
        tokio::fs::create_dir_all(self.folder).await.map_err(failed)?;
        let mut options = tokio::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(part).await.map_err(failed)
    }

    /// Waits for its turn: nobody else writes to the file as long as this is open.
    async fn lock(&self, file: tokio::fs::File) -> Result<tokio::fs::File, DownloadError> {
        let mut told = false;
        loop {
            match try_lock(&file) {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !std::mem::replace(&mut told, true) {
                        let text =
                            format!("waiting for {}, which is being downloaded already", self.jar.name());
                        self.listener.message(Importance::Basic, text);
                    }
                    sleep(BETWEEN_TRIES / 4).await;
                }
                Err(error) => return Err(self.folder_error(error)),
            }
        }
    }

    /// Fetches what is missing of the file, however often that takes.
    async fn fetch(&self, file: &mut tokio::fs::File) -> Result<(), DownloadError> {
        let failed = |error| self.folder_error(error);
        let mut tries = 0;
        loop {
            let before = file.seek(io::SeekFrom::End(0)).await.map_err(failed)?;
            let broken = match self.fetch_once(file, before).await? {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            };
            let after = file.seek(io::SeekFrom::End(0)).await.map_err(failed)?;
            tries = if after > before { 0 } else { tries + 1 };
            if tries >= MOST_TRIES {
                return Err(self.unreachable(broken));
            }
            let text = format!(
                "the download of {} was broken off at {} MiB, and goes on: {broken}",
                self.jar.name(),
                after / MIB
            );
            self.listener.message(Importance::Warning, text);
            sleep(BETWEEN_TRIES).await;
        }
    }

    /// The inner error is one after which it may be tried again.
    async fn fetch_once(
        &self,
        file: &mut tokio::fs::File,
        have: u64,
    ) -> Result<Result<(), String>, DownloadError> {
        let mut request = self.client.get(&self.url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(chain(&error))),
        };
        let (mut answer, mut at) = match self.judge(answer, have)? {
            Ok(Rest::Here(answer)) => (answer, have),
            Ok(Rest::All(answer)) => {
                self.restart(file).await?;
                (answer, 0)
            }
            Ok(Rest::Nothing) => return Ok(Ok(())),
            Err(reason) => return Ok(Err(reason)),
        };
        let total = answer.content_length().map(|rest| at + rest);
        let of = total.map(|total| format!(" of {}", total / MIB)).unwrap_or_default();
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                let text = format!("downloading {}: {}{of} MiB", self.url, at / MIB);
                self.listener.message(Importance::Basic, text);
                due = Instant::now() + BETWEEN_MESSAGES;
            }
            match answer.chunk().await {
                Ok(Some(chunk)) => {
                    file.write_all(&chunk).await.map_err(|error| self.folder_error(error))?;
                    at += chunk.len() as u64;
                }
                ended => {
                    file.flush().await.map_err(|error| self.folder_error(error))?;
                    return Ok(ended.map(drop).map_err(|error| chain(&error)));
                }
            }
        }
    }

    fn judge(&self, answer: Response, have: u64) -> Result<Result<Rest, String>, DownloadError> {
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if first_byte(answer.headers()) == Some(have) => {
                Ok(Ok(Rest::Here(answer)))
            }
            StatusCode::OK => Ok(Ok(Rest::All(answer))),
            // All of it is here, or more, which the checksum tells.
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => Ok(Ok(Rest::Nothing)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(self.no_such_jar()),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Ok(Err(format!("the repository answers {status}")))
            }
            status => Err(self.unreachable(format!("the repository answers {status}"))),
        }
    }

    async fn restart(&self, file: &mut tokio::fs::File) -> Result<(), DownloadError> {
        let failed = |error| self.folder_error(error);
        file.set_len(0).await.map_err(failed)?;
        file.seek(io::SeekFrom::Start(0)).await.map(drop).map_err(failed)
    }

    /// What stands beside the jar: Maven repositories have SHA-1 of everything, and SHA-512 of what is newer.
    async fn checksum(&self) -> Result<Checksum, DownloadError> {
        for kind in [Kind::Sha512, Kind::Sha1] {
            if let Some(text) = self.small_file(&format!("{}.{}", self.url, kind.suffix())).await? {
                let text = text.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
                if text.len() == kind.length() && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Ok(Checksum { kind, text });
                }
            }
        }
        match self.client.head(&self.url).send().await {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => Err(self.no_such_jar()),
            Ok(_) => Err(DownloadError::NoChecksum { url: self.url.clone() }),
            Err(error) => Err(self.unreachable(chain(&error))),
        }
    }

    /// `None`: there is none.
    async fn small_file(&self, url: &str) -> Result<Option<String>, DownloadError> {
        let mut last = String::new();
        for try_number in 0..MOST_TRIES {
            if try_number > 0 {
                sleep(BETWEEN_TRIES).await;
            }
            let mut answer = match self.client.get(url).send().await {
                Ok(answer) => answer,
                Err(error) => {
                    last = chain(&error);
                    continue;
                }
            };
            if answer.status().is_server_error() {
                last = format!("the repository answers {}", answer.status());
                continue;
            }
            if !answer.status().is_success() {
                return Ok(None);
            }
            let mut text = Vec::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                text.extend_from_slice(&chunk);
                if text.len() > LONGEST_CHECKSUM {
                    return Ok(None);
                }
            }
            return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
        }
        Err(self.unreachable(last))
    }

    async fn hash(&self, part: &Path, checksum: &Checksum) -> Result<String, DownloadError> {
        let (part, kind) = (part.to_owned(), checksum.kind);
        let hashing = tokio::task::spawn_blocking(move || kind.hash(File::open(part)?)).await;
        let hashed = hashing.map_err(io::Error::other).and_then(|hashed| hashed);
        hashed.map_err(|error| self.folder_error(error))
    }

    fn folder_error(&self, source: io::Error) -> DownloadError {
        DownloadError::Folder { folder: self.folder.to_owned(), source }
    }

    fn unreachable(&self, reason: String) -> DownloadError {
        DownloadError::Unreachable { url: self.url.clone(), reason, folder: self.folder.to_owned() }
    }

    fn no_such_jar(&self) -> DownloadError {
        DownloadError::NoSuchJar {
            url: self.url.clone(),
            version: self.jar.version.to_owned(),
            known: known::list(),
        }
    }
}

struct Checksum {
    kind: Kind,
    /// In lower-case hexadecimal.
    text: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Sha512,
    Sha1,
}

impl Kind {
    fn suffix(self) -> &'static str {
        match self {
            Kind::Sha512 => "sha512",
            Kind::Sha1 => "sha1",
        }
    }

    /// Digits.
    fn length(self) -> usize {
        match self {
            Kind::Sha512 => 128,
            Kind::Sha1 => 40,
        }
    }

    fn hash(self, file: File) -> io::Result<String> {
        match self {
            Kind::Sha512 => hash::<Sha512>(file).map(|digest| format!("{digest:x}")),
            Kind::Sha1 => hash::<Sha1>(file).map(|digest| format!("{digest:x}")),
        }
    }
}

fn hash<D: Digest>(mut file: impl Read) -> io::Result<sha2::digest::Output<D>> {
    let mut hasher = D::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// The first number of `Content-Range: bytes 5-9/10`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes")?;
    range.trim().split('-').next()?.parse().ok()
}

#[cfg(unix)]
fn try_lock(file: &tokio::fs::File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
}

#[cfg(not(unix))]
fn try_lock(_: &tokio::fs::File) -> io::Result<()> {
    Ok(())
}
