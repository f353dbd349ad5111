//! The jar with Beam's Flink runner in it, as Beam releases one for each version of Flink.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{Directory, Entry};
use super::nothing_to_stage;
use super::packed::{FILE_SYSTEMS, FlinkClasses, Packed, SdkCode};
use crate::flink::error::FlinkError;

/// What Flink starts in it.
pub(in crate::flink) const ENTRY_CLASS: &str = "org.apache.beam.runners.flink.FlinkPipelineRunner";
const ENTRY_CLASS_FILE: &str = "org/apache/beam/runners/flink/FlinkPipelineRunner.class";
/// Where a job is in a jar.
pub(super) const PIPELINE_FOLDER: &str = "BEAM-PIPELINE/";
/// Flink's own note of which version it is.
const VERSION_FILE: &str = ".flink-runtime.version.properties";
const VERSION_KEY: &str = "project.version=";
/// Bytes of a note in the jar; a real one has some hundred.
const LONGEST_NOTE: usize = 1 << 16;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// An opened runner jar, looked through.
#[derive(Debug)]
pub(in crate::flink) struct RunnerJar {
    pub(super) file: File,
    directory: Directory,
    path: PathBuf,
    flink_version: Option<String>,
    /// Beam's list of who knows file systems, as it is in the jar.
    pub(super) file_systems: Option<String>,
    /// Whether it has what `nothing_to_stage` needs.
    pub(super) can_skip_staging: bool,
}

impl RunnerJar {
    /// Opens the jar and looks whether it is one. Reads its table of contents, which takes some milliseconds.
    pub(in crate::flink) fn open(path: &Path) -> Result<Self, FlinkError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                FlinkError::NotARunnerJar { path: path.to_owned(), reason: error.to_string() }
            }
            _ => FlinkError::RunnerJarUnreadable { path: path.to_owned(), source: error },
        };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let directory = Directory::find(&file, length).map_err(failed)?;
        let (mut has_entry_class, mut has_pipeline, mut can_skip_staging) = (false, false, false);
        let (mut version_entry, mut file_systems_entry) = (None, None);
        let see = |entry: Entry| {
            has_entry_class |= entry.name() == ENTRY_CLASS_FILE.as_bytes();
            can_skip_staging |= entry.name() == nothing_to_stage::NEEDED.as_bytes();
            has_pipeline |= entry.name().starts_with(PIPELINE_FOLDER.as_bytes());
            if entry.name() == VERSION_FILE.as_bytes() {
                version_entry = Some(entry);
            } else if entry.name() == FILE_SYSTEMS.as_bytes() {
                file_systems_entry = Some(entry);
            }
        };
        directory.scan(&file, see).map_err(failed)?;
        let not_a_runner = |reason: String| FlinkError::NotARunnerJar { path: path.to_owned(), reason };
        if !has_entry_class {
            return Err(not_a_runner(format!("{ENTRY_CLASS} is not in it")));
        }
        if has_pipeline {
            return Err(not_a_runner("a pipeline is in it already".to_owned()));
        }
        let read =
            |entry: Option<Entry>| entry.map_or(Ok(None), |entry| read_note(&file, &entry)).map_err(failed);
        let flink_version = read(version_entry)?.and_then(|note| version_in(&note));
        let file_systems = read(file_systems_entry)?;
        Ok(Self { file, directory, path: path.to_owned(), flink_version, file_systems, can_skip_staging })
    }

    /// What of it goes into a job's jar. Reads its table of contents again.
    pub(super) fn packed(&self, flink: FlinkClasses, sdk_code: SdkCode) -> io::Result<Packed> {
        Packed::of_job(&self.file, &self.directory, flink, sdk_code)
    }

    pub(in crate::flink) fn path(&self) -> &Path {
        &self.path
    }

    /// The version of Flink that it was made for, if it says so.
    pub(in crate::flink) fn flink_version(&self) -> Option<&str> {
        self.flink_version.as_deref()
    }

    /// Whether it runs on a cluster of this version. One that does not say is given the benefit of the doubt.
    pub(in crate::flink) fn fits(&self, cluster_version: &str) -> bool {
        self.flink_version().is_none_or(|own| minor(own) == minor(cluster_version))
    }
}

/// `1.19` of `1.19.3`.
fn minor(version: &str) -> Vec<&str> {
    version.split(['.', '-']).take(2).collect()
}

fn version_in(note: &str) -> Option<String> {
    let version = note.lines().find_map(|line| line.trim().strip_prefix(VERSION_KEY))?;
    Some(version.trim().to_owned())
}

/// A short text in the jar; `None` if it is long, or packed as nothing that Java reads is.
fn read_note(file: &File, entry: &Entry) -> io::Result<Option<String>> {
    if entry.compressed_length > LONGEST_NOTE as u64 {
        return Ok(None);
    }
    let packed = entry.compressed(file)?;
    let note = match entry.method {
        STORED => packed,
        DEFLATED => match miniz_oxide::inflate::decompress_to_vec_with_limit(&packed, LONGEST_NOTE) {
            Ok(note) => note,
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    Ok(Some(String::from_utf8_lossy(&note).into_owned()))
}
