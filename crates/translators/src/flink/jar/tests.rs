//! What is packed is read by another program's reader of ZIP archives.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use beam_model::pipeline::{
    ArtifactFilePayload, ArtifactInformation, Components, Environment, PTransform, Pipeline,
};
use beam_model::urns::standard_artifacts::types;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use runner_core::fault::Fault;
use runner_core::ports::ArtifactSource;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::*;
use crate::flink::error::FlinkError;

const RUNNER: &str = "org/apache/beam/runners/flink/FlinkPipelineRunner.class";

fn jar_of(folder: &Path, files: &[(&str, &[u8])], classes: usize) -> PathBuf {
    let path = folder.join("runner.jar");
    let mut writer = ZipWriter::new(std::fs::File::create(&path).unwrap());
    let packed = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, content) in files {
        writer.start_file(*name, packed).unwrap();
        writer.write_all(content).unwrap();
    }
    for number in 0..classes {
        let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        writer.start_file(format!("c{number}.class"), plain).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// Has every artifact, with its hash as its content.
struct Hashes;

impl ArtifactSource for Hashes {
    fn open(&self, artifact: &ArtifactInformation) -> Result<Box<dyn Read + Send>, Fault> {
        let payload = ArtifactFilePayload::decode(artifact.type_payload.clone()).unwrap();
        assert_eq!(payload.path, format!("job/{}", payload.sha256));
        Ok(Box::new(Cursor::new(payload.sha256.into_bytes())))
    }
}

fn file(sha256: &str) -> ArtifactInformation {
    let payload = ArtifactFilePayload { path: format!("job/{sha256}"), sha256: sha256.to_owned() };
    ArtifactInformation {
        type_urn: types::FILE.to_owned(),
        type_payload: payload.encode_to_vec().into(),
        ..Default::default()
    }
}

fn pipeline(dependencies: Vec<ArtifactInformation>) -> Pipeline {
    let environment = Environment { dependencies, ..Default::default() };
    let transform = PTransform { unique_name: "Impulse".to_owned(), ..Default::default() };
    let components = Components {
        environments: BTreeMap::from([("python".to_owned(), environment)]),
        transforms: BTreeMap::from([("t".to_owned(), transform)]),
        ..Default::default()
    };
    Pipeline { components: Some(components), ..Default::default() }
}

fn pack(
    runner: RunnerJar,
    dependencies: Vec<ArtifactInformation>,
    folder: &Path,
) -> Result<PortableJar, FlinkError> {
    let parallelism = Value { kind: Some(Kind::StringValue("3".to_owned())) };
    let options = Struct { fields: BTreeMap::from([("beam:option:parallelism:v1".to_owned(), parallelism)]) };
    PortableJar::pack(Arc::new(runner), FlinkClasses::OfTheJar, job(dependencies, &options), folder)
}

fn job(dependencies: Vec<ArtifactInformation>, options: &Struct) -> JobContents<'_> {
    JobContents { pipeline: pipeline(dependencies), options, artifacts: &Hashes, mark: "0a" }
}

fn whole(jar: &PortableJar) -> Vec<u8> {
    let mut bytes = Vec::new();
    jar.reader().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, jar.length());
    bytes
}

fn text_of(archive: &mut ZipArchive<Cursor<Vec<u8>>>, name: &str) -> String {
    let mut text = String::new();
    archive.by_name(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_jar_has_the_runner_and_the_job() {
    let folder = tempfile::tempdir().unwrap();
    // One with the common end record, one with the one for more than 65,535 entries.
    for classes in [3, 66_000] {
        let path = jar_of(folder.path(), &[(RUNNER, b"code"), ("a/b.txt", b"of the runner")], classes);
        let runner = RunnerJar::open(&path).unwrap();
        let elsewhere = ArtifactInformation { type_urn: types::PYPI.to_owned(), ..Default::default() };
        let packed =
            pack(runner, vec![file("ab12"), elsewhere.clone(), file("ab12"), file("cd")], folder.path());
        let mut archive = ZipArchive::new(Cursor::new(whole(&packed.unwrap()))).unwrap();

        assert_eq!(archive.len(), classes + 2 + 2 + 3);
        assert_eq!(text_of(&mut archive, "a/b.txt"), "of the runner");
        assert_eq!(text_of(&mut archive, "BEAM-PIPELINE/pipeline/artifacts/ab12"), "ab12");
        assert_eq!(text_of(&mut archive, "BEAM-PIPELINE/pipeline/artifacts/cd"), "cd");
        let manifest = text_of(&mut archive, "BEAM-PIPELINE/pipeline-manifest.json");
        assert_eq!(manifest, r#"{"defaultJobName": "pipeline"}"#);
        let options = text_of(&mut archive, "BEAM-PIPELINE/pipeline/pipeline-options.json");
        assert_eq!(options, r#"{"beam:option:parallelism:v1":"3"}"#);
        let json = text_of(&mut archive, "BEAM-PIPELINE/pipeline/pipeline.json");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["components"]["transforms"]["t"]["uniqueName"], "Impulse");
        let dependencies = &json["components"]["environments"]["python"]["dependencies"];
        assert_eq!(dependencies[1]["typeUrn"], types::PYPI);
        // `classpath://BEAM-PIPELINE/pipeline/artifacts/cd` and `cd`, as a message, in base 64.
        assert_eq!(
            dependencies[3]["typePayload"],
            "Ci9jbGFzc3BhdGg6Ly9CRUFNLVBJUEVMSU5FL3BpcGVsaW5lL2FydGlmYWN0cy9jZBICY2Q="
        );
    }
}

#[test]
fn a_runner_that_can_be_told_looks_for_nothing_to_stage() {
    let folder = tempfile::tempdir().unwrap();
    for told in [true, false] {
        let other = if told { nothing_to_stage::NEEDED } else { "a.class" };
        let files: [(&str, &[u8]); 2] = [(RUNNER, b""), (other, b"")];
        let runner = RunnerJar::open(&jar_of(folder.path(), &files, 0)).unwrap();
        let mut archive =
            ZipArchive::new(Cursor::new(whole(&pack(runner, vec![], folder.path()).unwrap()))).unwrap();
        let options = text_of(&mut archive, "BEAM-PIPELINE/pipeline/pipeline-options.json");
        assert_eq!(
            options.contains("detector_factory_class:v1\":\"beamline.NothingToStage\""),
            told,
            "{options}"
        );
        assert_eq!(archive.by_name(nothing_to_stage::FILE).is_ok(), told);
    }
}

#[test]
fn flink_is_left_out_where_the_cluster_has_it_and_what_no_job_needs() {
    const LEFT_OUT: [&str; 5] = [
        "META-INF/services/org.apache.beam.sdk.options.PipelineOptionsRegistrar",
        "org/apache/flink/runtime/A.class",
        "org/apache/flink/shaded/netty4/B.class",
        "flink-rpc-akka.jar",
        "org/apache/flink/api/java/C.class",
    ];
    const PACKED: [&str; 5] = [
        "a/b.txt",
        RUNNER,
        "org/apache/flink/connector/kafka/D.class",
        "org/apache/flink/",
        "META-INF/services/org.apache.flink.core.execution.PipelineExecutorFactory",
    ];
    let folder = tempfile::tempdir().unwrap();
    let contents = BTreeMap::from_iter(LEFT_OUT.into_iter().chain(PACKED).map(|name| (name, name.repeat(9))));
    // The order in the jar decides what is cut out where.
    let orders = [
        [LEFT_OUT.as_slice(), &PACKED].concat(),
        [PACKED.as_slice(), &LEFT_OUT].concat(),
        PACKED.into_iter().zip(LEFT_OUT).flat_map(|(packed, out)| [packed, out]).collect(),
    ];
    for order in orders {
        let files = order.iter().map(|name| (*name, contents[name].as_bytes())).collect::<Vec<_>>();
        let runner = RunnerJar::open(&jar_of(folder.path(), &files, 3)).unwrap();
        let options = Struct::default();
        let job = job(Vec::new(), &options);
        let packed =
            PortableJar::pack(Arc::new(runner), FlinkClasses::OfTheCluster, job, folder.path()).unwrap();
        let mut archive = ZipArchive::new(Cursor::new(whole(&packed))).unwrap();
        assert_eq!(archive.len(), PACKED.len() + 3 + 3, "{order:?}");
        for name in PACKED {
            assert_eq!(text_of(&mut archive, name), contents[name]);
        }
        assert_eq!(
            text_of(&mut archive, "BEAM-PIPELINE/pipeline-manifest.json"),
            r#"{"defaultJobName": "pipeline"}"#
        );
        assert!(archive.by_name("c2.class").is_ok());
    }
}

#[test]
fn an_artifact_without_a_hash_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    for hash in ["", "../x"] {
        let runner = RunnerJar::open(&jar_of(folder.path(), &[(RUNNER, b"")], 0)).unwrap();
        let error = pack(runner, vec![file(hash)], folder.path()).err().unwrap();
        assert!(error.to_string().contains("artifact"), "{error}");
    }
}

#[test]
fn a_runner_jar_says_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let note = b"# Flink\nproject.version=1.19.0\nscala.binary.version=2.12\n";
    let path = jar_of(folder.path(), &[(RUNNER, b""), (".flink-runtime.version.properties", note)], 0);
    let jar = RunnerJar::open(&path).unwrap();
    assert_eq!(jar.flink_version(), Some("1.19.0"));
    for (cluster, fits) in [("1.19.3", true), ("1.19-SNAPSHOT", true), ("1.20.0", false), ("2.0.0", false)] {
        assert_eq!(jar.fits(cluster), fits, "{cluster}");
    }
    let silent = RunnerJar::open(&jar_of(folder.path(), &[(RUNNER, b"")], 0)).unwrap();
    assert!(silent.flink_version().is_none() && silent.fits("1.18.1"));
}

#[test]
fn other_files_are_no_runner_jars() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path, words: &str| {
        let error = RunnerJar::open(path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("--flink-runner-jar"), "{error}");
    };
    refused(&jar_of(folder.path(), &[("x", b"")], 0), "FlinkPipelineRunner is not in it");
    let taken = &[(RUNNER, b"".as_slice()), ("BEAM-PIPELINE/pipeline-manifest.json", b"{}")];
    refused(&jar_of(folder.path(), taken, 0), "a pipeline is in it already");
    refused(&folder.path().join("none.jar"), "cannot be read");
    let good = std::fs::read(jar_of(folder.path(), &[(RUNNER, b"code")], 20)).unwrap();
    let path = folder.path().join("damaged.jar");
    for content in [&b""[..], b"text", &good[..good.len() - 30], &good[40..]] {
        std::fs::write(&path, content).unwrap();
        refused(&path, "is no Flink runner jar");
    }
}

/// No damage, wherever it is, does more than an error.
#[test]
fn damage_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let note = b"project.version=1.19.0\n";
    let good = jar_of(folder.path(), &[(RUNNER, b"code"), (".flink-runtime.version.properties", note)], 2);
    let good = std::fs::read(good).unwrap();
    let path = folder.path().join("damaged.jar");
    for at in 0..good.len() {
        for value in [0, 0xFF] {
            let mut damaged = good.clone();
            damaged[at] = value;
            std::fs::write(&path, damaged).unwrap();
            for flink in [FlinkClasses::OfTheJar, FlinkClasses::OfTheCluster] {
                let packed = RunnerJar::open(&path).and_then(|runner| {
                    PortableJar::pack(
                        Arc::new(runner),
                        flink,
                        job(Vec::new(), &Struct::default()),
                        folder.path(),
                    )
                });
                let _ = packed.map(|jar| jar.reader().read_to_end(&mut Vec::new()));
            }
        }
    }
}
