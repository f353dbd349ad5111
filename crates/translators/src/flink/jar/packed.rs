//! What of a runner jar is packed into a job's: all but what only costs a job time.
//!
//! A runner jar has the Flink in it that it was built with, a third of its bytes. A cluster that looks for Flink's classes among its
//! own first (`classloader.parent-first-patterns.default`) never loads them, but has to take them in, keep them
//! and send them to its TaskManagers with each job. So they are left out.
//!
//! The other third is what Beam's Java code reaches Google's cloud with, and libraries for TLS for each kind of machine. Where the SDK's
//! code runs in workers, nothing in the cluster asks for any of it: a job's files are in its jar, and the runner speaks plain
//! gRPC with workers. So that is left out too, and with it the cloud's file system in the list of those that Beam loads at its start.
//!
//! So is a list of Beam's of classes of pipeline options, those of clouds among them: wherever it starts, Beam loads and
//! checks all of them, though it learns of each that it is asked for when it is asked.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use beam_model::pipeline::Pipeline;
use beam_model::urns::standard_environments::environments;

use super::directory::{Directory, FileRange, OFFSET_AT};

/// Where a job's classes of Flink come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flink) enum FlinkClasses {
    OfTheJar,
    OfTheCluster,
}

/// Where the code of the job's SDK runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SdkCode {
    /// In processes of their own.
    InWorkers,
    /// In Flink's TaskManagers, as that of Java may. It can ask for anything.
    InCluster,
}

impl SdkCode {
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        let mut environments =
            pipeline.components.iter().flat_map(|components| components.environments.values());
        let in_workers = environments.all(|environment| OF_WORKERS.contains(&environment.urn.as_str()));
        if in_workers { Self::InWorkers } else { Self::InCluster }
    }
}

const OF_WORKERS: [&str; 3] = [environments::DOCKER, environments::PROCESS, environments::EXTERNAL];

/// Parts of Flink that no cluster can be without. Connectors and formats are not among them: those that the jar
/// has, the cluster may have not.
const OF_EVERY_CLUSTER: [&str; 13] = [
    "org/apache/flink/api/common/",
    "org/apache/flink/api/connector/",
    "org/apache/flink/api/dag/",
    "org/apache/flink/api/java/",
    "org/apache/flink/client/",
    "org/apache/flink/configuration/",
    "org/apache/flink/core/",
    "org/apache/flink/runtime/",
    "org/apache/flink/shaded/",
    "org/apache/flink/streaming/api/",
    "org/apache/flink/streaming/runtime/",
    "org/apache/flink/types/",
    "org/apache/flink/util/",
];
/// What Flink loads the classes from with which its processes talk: a jar in a jar, of 20 MB.
const RPC_SYSTEM: &[u8] = b"flink-rpc-akka.jar";
/// What only `gs://` and the metrics of Google's cloud need, and TLS. Beam's core has what it needs of gRPC under names of
/// its own, in any version. Of `com.google.api`, its metrics need some.
const OF_A_CLOUD: [&str; 11] = [
    "com/google/api/gax/",
    "com/google/api/services/storage/",
    "com/google/apps/",
    "com/google/cloud/",
    "com/google/monitoring/",
    "com/google/shopping/",
    "com/google/storage/",
    "io/grpc/",
    "META-INF/native-image/",
    "org/apache/beam/sdk/extensions/gcp/",
    "org/conscrypt/",
];
/// Native code: TLS for each kind of machine, all but that for Linux's sockets. What loads it goes on without.
const NATIVE: &str = "META-INF/native/";
const FOR_SOCKETS: &[u8] = b"_netty_transport_native_epoll_";
/// Names those who know the classes of pipeline options that Beam is to load at its start.
const KNOWN_OPTIONS: &str = "META-INF/services/org.apache.beam.sdk.options.PipelineOptionsRegistrar";
/// Names those who know the file systems that Beam is to load at its start.
pub(super) const FILE_SYSTEMS: &str = "META-INF/services/org.apache.beam.sdk.io.FileSystemRegistrar";
/// An entry that begins there or later says so elsewhere in its line.
const TOO_FAR: u64 = 0xFFFF_FFFF;

/// Parts of a jar, and the lines of its directory that are about them, as they are when the parts follow on each
/// other from the beginning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    parts: Vec<Range<u64>>,
    /// Bytes of all parts.
    pub(super) length: u64,
    pub(super) directory: Vec<u8>,
    pub(super) entries: u64,
    /// Whether entries are left out.
    pub(super) is_trimmed: bool,
}

impl Packed {
    /// All of the jar.
    fn whole(file: &File, directory: &Directory) -> io::Result<Self> {
        let Directory { offset, length, entries } = *directory;
        let mut lines = Vec::new();
        FileRange { file, at: offset, end: offset + length }.read_to_end(&mut lines)?;
        let parts = std::iter::once(0..offset).collect();
        Ok(Self { parts, length: offset, directory: lines, entries, is_trimmed: false })
    }

    /// All but what the cluster has or the job does not need.
    pub(super) fn of_job(
        file: &File,
        directory: &Directory,
        flink: FlinkClasses,
        sdk_code: SdkCode,
    ) -> io::Result<Self> {
        let (has_flink, is_small) = (flink == FlinkClasses::OfTheCluster, sdk_code == SdkCode::InWorkers);
        let mut packed = None;
        if has_flink || is_small {
            let left_out = |name: &[u8]| (has_flink && is_of_flink(name)) || (is_small && is_of_sdk(name));
            packed = Self::without(file, directory, left_out)?;
        }
        packed.map_or_else(|| Self::whole(file, directory), Ok)
    }

    /// All but some entries; `None` of a jar that is laid out in another way than jars are.
    fn without(
        file: &File,
        directory: &Directory,
        is_left_out: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Self>> {
        let (mut entries, mut lines) = (Vec::new(), Vec::new());
        directory.scan(file, |entry| {
            let kept = (!is_left_out(entry.name())).then_some(lines.len());
            if kept.is_some() {
                lines.extend(&entry.line);
            }
            entries.push((entry.offset, kept));
        })?;
        Ok(Self::of_entries(entries, lines, directory.offset))
    }

    /// `entries`: where each begins, and where its line is among `lines` if it is kept. An entry ends where the next one
    /// begins, the last one at `end`.
    fn of_entries(mut entries: Vec<(u64, Option<usize>)>, lines: Vec<u8>, end: u64) -> Option<Self> {
        entries.sort_unstable();
        let ends = entries.iter().skip(1).map(|(offset, _)| *offset).chain([end]).collect::<Vec<_>>();
        let begin = entries.first()?.0;
        let parts = std::iter::once(0..begin).collect();
        let mut packed = Self { parts, length: begin, directory: lines, entries: 0, is_trimmed: true };
        for ((offset, line), end) in entries.into_iter().zip(ends) {
            // Two lines about one entry are no mistake, but rare.
            if offset >= end || offset >= TOO_FAR {
                return None;
            }
            let Some(line) = line else { continue };
            let moved = u32::try_from(packed.length).ok()?.to_le_bytes();
            let at = line + OFFSET_AT;
            packed.directory.get_mut(at..at + moved.len())?.copy_from_slice(&moved);
            packed.entries += 1;
            packed.length += end - offset;
            match packed.parts.last_mut() {
                Some(last) if last.end == offset => last.end = end,
                _ => packed.parts.push(offset..end),
            }
        }
        Some(packed)
    }

    /// The parts of the jar, which is `file`, one after the other.
    pub(super) fn reader<'a>(&'a self, file: &'a File) -> impl Read {
        Parts { file, parts: self.parts.iter(), now: FileRange { file, at: 0, end: 0 } }
    }
}

fn is_of_flink(name: &[u8]) -> bool {
    name == RPC_SYSTEM || is_in(name, &OF_EVERY_CLUSTER)
}

/// Whether nothing asks for it but an SDK's code.
fn is_of_sdk(name: &[u8]) -> bool {
    let is_native = name.strip_prefix(NATIVE.as_bytes());
    [KNOWN_OPTIONS, FILE_SYSTEMS].iter().any(|list| name == list.as_bytes())
        || is_native.is_some_and(|file| !file.is_empty() && !contains(file, FOR_SOCKETS))
        || is_in(name, &OF_A_CLOUD)
}

/// The lines of Beam's list of file systems that are about what is packed.
pub(super) fn file_systems_packed(list: &str) -> String {
    let packed = |line: &&str| !is_in(line.trim().replace('.', "/").as_bytes(), &OF_A_CLOUD);
    list.lines().filter(packed).flat_map(|line| [line, "\n"]).collect()
}

fn is_in(name: &[u8], folders: &[&str]) -> bool {
    folders.iter().any(|folder| name.starts_with(folder.as_bytes()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

struct Parts<'a> {
    file: &'a File,
    parts: std::slice::Iter<'a, Range<u64>>,
    now: FileRange<'a>,
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.at >= self.now.end {
            let Some(part) = self.parts.next() else { return Ok(0) };
            self.now = FileRange { file: self.file, at: part.start, end: part.end };
        }
        self.now.read(buffer)
    }
}
