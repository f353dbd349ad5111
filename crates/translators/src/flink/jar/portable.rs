//! A runner jar with a job.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use beam_model::pipeline::{ArtifactFilePayload, ArtifactInformation, Pipeline};
use beam_model::urns::standard_artifacts::types;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use runner_core::fault::Fault;
use runner_core::ports::ArtifactSource;

use super::RunnerJar;
use super::directory::{Directory, FileRange, end_records};
use super::entries::{Entries, EntryWriter};
use super::nothing_to_stage;
use super::packed::{FILE_SYSTEMS, FlinkClasses, Packed, SdkCode, file_systems_packed};
use super::runner::PIPELINE_FOLDER;
use crate::flink::error::FlinkError;
use crate::flink::json;

/// The name that the runner finds the job by, which is only ever used inside of the jar.
const JOB: &str = "pipeline";
/// How the runner's Java code is told of a file on its class path.
const CLASS_PATH: &str = "classpath://";

/// What is to be packed.
pub(in crate::flink) struct JobContents<'a> {
    /// Its dependencies are rewritten to where they are in the jar.
    pub(in crate::flink) pipeline: Pipeline,
    pub(in crate::flink) options: &'a Struct,
    pub(in crate::flink) artifacts: &'a dyn ArtifactSource,
    /// Unique among jobs.
    pub(in crate::flink) mark: &'a str,
}

/// The jar of one job: parts of files, read one after the other.
pub(in crate::flink) struct PortableJar {
    runner: Arc<RunnerJar>,
    /// What of it.
    packed: Packed,
    entries: File,
    entries_length: u64,
    /// The job's part of the table of contents, and the records after it.
    end: Vec<u8>,
    mark: String,
}

impl PortableJar {
    /// Writes the job's files into a nameless one in `folder`. Waits for disks.
    pub(in crate::flink) fn pack(
        runner: Arc<RunnerJar>,
        flink: FlinkClasses,
        contents: JobContents<'_>,
        folder: &Path,
    ) -> Result<Self, FlinkError> {
        let JobContents { mut pipeline, options, artifacts, mark } = contents;
        let sdk_code = SdkCode::of(&pipeline);
        let packed = runner.packed(flink, sdk_code)?;
        let mut writer = EntryWriter::new(tempfile::tempfile_in(folder)?, packed.length);
        if packed.is_trimmed
            && sdk_code == SdkCode::InWorkers
            && let Some(list) = &runner.file_systems
        {
            writer.add(FILE_SYSTEMS, |out| out.write_all(file_systems_packed(list).as_bytes()))?;
        }
        pack_artifacts(&mut pipeline, artifacts, &mut writer)?;
        name_the_nameless(&mut pipeline);
        writer.add(&format!("{PIPELINE_FOLDER}{JOB}/pipeline.json"), |out| {
            json::write_pipeline(&pipeline, out)
        })?;
        let mut options = options.clone();
        if runner.can_skip_staging {
            writer.add(nothing_to_stage::FILE, |out| out.write_all(&nothing_to_stage::class_file()))?;
            let name = Value { kind: Some(Kind::StringValue(nothing_to_stage::NAME.to_owned())) };
            options.fields.insert(format!("beam:option:{}:v1", nothing_to_stage::OPTION), name);
        }
        writer.add(&format!("{PIPELINE_FOLDER}{JOB}/pipeline-options.json"), |out| {
            json::write_struct(&options, out)
        })?;
        writer.add(&format!("{PIPELINE_FOLDER}pipeline-manifest.json"), |out| {
            write!(out, "{{\"defaultJobName\": \"{JOB}\"}}").map_err(FlinkError::from)
        })?;
        let written = writer.finish()?;
        let both = Directory {
            offset: packed.length + written.length,
            length: (packed.directory.len() + written.directory.len()) as u64,
            entries: packed.entries + written.entries,
        };
        let Entries { file: entries, length: entries_length, directory: mut end, .. } = written;
        end.extend(end_records(&both));
        Ok(Self { runner, packed, entries, entries_length, end, mark: mark.to_owned() })
    }

    /// What the jar is of: unique among jobs, of letters and digits.
    pub(in crate::flink) fn mark(&self) -> &str {
        &self.mark
    }

    /// Bytes.
    pub(in crate::flink) fn length(&self) -> u64 {
        self.packed.length + self.entries_length + (self.packed.directory.len() + self.end.len()) as u64
    }

    /// The jar from its beginning. Reads files.
    pub(in crate::flink) fn reader(&self) -> impl Read {
        let entries = FileRange { file: &self.entries, at: 0, end: self.entries_length };
        let directory = Cursor::new(&self.packed.directory).chain(Cursor::new(&self.end));
        self.packed.reader(&self.runner.file).chain(entries).chain(directory)
    }
}

/// Packs each staged file once, and makes the dependencies point into the jar.
fn pack_artifacts(
    pipeline: &mut Pipeline,
    artifacts: &dyn ArtifactSource,
    writer: &mut EntryWriter,
) -> Result<(), FlinkError> {
    let mut packed = BTreeSet::new();
    let environments = pipeline.components.iter_mut().flat_map(|c| c.environments.values_mut());
    for artifact in environments.flat_map(|environment| environment.dependencies.iter_mut()) {
        // Others are had from a registry by whoever runs the worker.
        if artifact.type_urn != types::FILE {
            continue;
        }
        let mut payload = file_payload(artifact)?;
        let path = format!("{PIPELINE_FOLDER}{JOB}/artifacts/{}", payload.sha256);
        if packed.insert(payload.sha256.clone()) {
            let mut file = artifacts.open(artifact).map_err(FlinkError::Artifact)?;
            writer.add(&path, |mut out| io::copy(&mut file, &mut out).map(drop).map_err(FlinkError::from))?;
        }
        payload.path = format!("{CLASS_PATH}{path}");
        artifact.type_payload = payload.encode_to_vec().into();
    }
    Ok(())
}

/// Beam's Java code wants unlike names of all transforms. Python's combiner packing leaves those that it makes without one.
fn name_the_nameless(pipeline: &mut Pipeline) {
    let transforms = pipeline.components.iter_mut().flat_map(|components| &mut components.transforms);
    for (id, transform) in transforms.filter(|(_, transform)| transform.unique_name.is_empty()) {
        transform.unique_name.clone_from(id);
    }
}

fn file_payload(artifact: &ArtifactInformation) -> Result<ArtifactFilePayload, FlinkError> {
    let wrong = |reason: String| {
        FlinkError::Artifact(Fault::runner(format!("a staged artifact cannot be packed: {reason}")).fatal())
    };
    let payload = ArtifactFilePayload::decode(artifact.type_payload.clone())
        .map_err(|error| wrong(error.to_string()))?;
    let is_hash = !payload.sha256.is_empty() && payload.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash { Ok(payload) } else { Err(wrong(format!("its hash is {:?}", payload.sha256))) }
}
