//! What of a runner jar is packed into a job's: all but what only costs a job time.
//!
//! A runner jar has the Flink in it that it was built with, a third of its bytes. A cluster that looks for Flink's classes among its
//! own first (`classloader.parent-first-patterns.default`) never loads them, but has to take them in, keep them
//! and send them to its TaskManagers with each job. So they are left out.
//!
//! So is a list of Beam's of classes of pipeline options, those of clouds among them: wherever it starts, Beam loads and
//! checks all of them, though it learns of each that it is asked for when it is asked.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use super::directory::{Directory, Entry, FileRange, OFFSET_AT};

/// Where a job's classes of Flink come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flink) enum FlinkClasses {
    OfTheJar,
    OfTheCluster,
}

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
/// Names those who know the classes of pipeline options that Beam is to load at its start.
const KNOWN_OPTIONS: &[u8] = b"META-INF/services/org.apache.beam.sdk.options.PipelineOptionsRegistrar";
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
}

impl Packed {
    /// All of the jar.
    pub(super) fn whole(file: &File, directory: &Directory) -> io::Result<Self> {
        let Directory { offset, length, entries } = *directory;
        let mut lines = Vec::new();
        FileRange { file, at: offset, end: offset + length }.read_to_end(&mut lines)?;
        Ok(Self { parts: std::iter::once(0..offset).collect(), length: offset, directory: lines, entries })
    }

    /// All but what every cluster has or no job needs; all of a jar that is laid out in another way than jars are.
    pub(super) fn trimmed(file: &File, directory: &Directory) -> io::Result<Self> {
        let (mut entries, mut lines) = (Vec::new(), Vec::new());
        directory.scan(file, |entry| {
            let kept = (!is_left_out(&entry)).then_some(lines.len());
            if kept.is_some() {
                lines.extend(&entry.line);
            }
            entries.push((entry.offset, kept));
        })?;
        match Self::of_entries(entries, lines, directory.offset) {
            Some(packed) => Ok(packed),
            None => Self::whole(file, directory),
        }
    }

    /// `entries`: where each begins, and where its line is among `lines` if it is kept. An entry ends where the next one
    /// begins, the last one at `end`.
    fn of_entries(mut entries: Vec<(u64, Option<usize>)>, lines: Vec<u8>, end: u64) -> Option<Self> {
        entries.sort_unstable();
        let ends = entries.iter().skip(1).map(|(offset, _)| *offset).chain([end]).collect::<Vec<_>>();
        let begin = entries.first()?.0;
        let parts = std::iter::once(0..begin).collect();
        let mut packed = Self { parts, length: begin, directory: lines, entries: 0 };
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

fn is_left_out(entry: &Entry) -> bool {
    let name = entry.name();
    name == RPC_SYSTEM
        || name == KNOWN_OPTIONS
        || OF_EVERY_CLUSTER.iter().any(|folder| name.starts_with(folder.as_bytes()))
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
