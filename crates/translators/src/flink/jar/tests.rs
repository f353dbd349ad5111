//! What is packed is read by another program's reader of ZIP archives.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use beam_model::pipeline::{
    ArtifactFilePayload, ArtifactInformation, Components, Environment, PTransform, Pipeline,
};
use beam_model::urns::standard_artifacts::types;
use beam_model::urns::standard_environments::environments;
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

const OF_FLINK: [&str; 4] = [
    "org/apache/flink/runtime/A.class",
    "org/apache/flink/shaded/netty4/B.class",
    "flink-rpc-akka.jar",
    "org/apache/flink/api/java/C.class",
];
const OF_SDK_CODE: [&str; 6] = [
    "META-INF/services/org.apache.beam.sdk.options.PipelineOptionsRegistrar",
    "META-INF/native/netty_tcnative_windows_x86_64.dll",
    "META-INF/native/libconscrypt_openjdk_jni-linux-x86_64.so",
    "com/google/cloud/storage/Blob.class",
    "io/grpc/xds/XdsClient.class",
    "org/apache/beam/sdk/extensions/gcp/storage/GcsFileSystemRegistrar.class",
];
const OF_EACH_JOB: [&str; 8] = [
    "a/b.txt",
    RUNNER,
    "org/apache/flink/connector/kafka/D.class",
    "org/apache/flink/",
    "META-INF/services/org.apache.flink.core.execution.PipelineExecutorFactory",
    "META-INF/native/libx_netty_transport_native_epoll_x86_64.so",
    "com/google/api/services/dataflow/model/Base2Exponent.class",
    "org/apache/beam/vendor/grpc/v1p60p1/io/grpc/Server.class",
];

/// What is packed of a jar with these entries for a job whose SDK has this environment.
fn packed_for(order: &[&'static str], flink: FlinkClasses, environment: &str) -> ZipArchive<Cursor<Vec<u8>>> {
    let folder = tempfile::tempdir().unwrap();
    let contents = order.iter().map(|name| name.repeat(9)).collect::<Vec<_>>();
    let files = order.iter().zip(&contents).map(|(name, content)| (*name, content.as_bytes()));
    let runner = RunnerJar::open(&jar_of(folder.path(), &files.collect::<Vec<_>>(), 3)).unwrap();
    packed_in(runner, flink, environment, folder.path())
}

fn packed_in(
    runner: RunnerJar,
    flink: FlinkClasses,
    environment: &str,
    folder: &Path,
) -> ZipArchive<Cursor<Vec<u8>>> {
    let options = Struct::default();
    let mut job = job(Vec::new(), &options);
    let environments = &mut job.pipeline.components.as_mut().unwrap().environments;
    environments.values_mut().for_each(|of_job| of_job.urn = environment.to_owned());
    let packed = PortableJar::pack(Arc::new(runner), flink, job, folder).unwrap();
    ZipArchive::new(Cursor::new(whole(&packed))).unwrap()
}

#[test]
fn what_a_job_has_otherwise_or_does_not_need_is_left_out() {
    let cases = [
        (FlinkClasses::OfTheCluster, environments::EXTERNAL, [].as_slice(), [].as_slice()),
        (FlinkClasses::OfTheJar, environments::DOCKER, &OF_FLINK, &[]),
        (FlinkClasses::OfTheCluster, "beam:env:embedded:v1", &[], &OF_SDK_CODE),
        (FlinkClasses::OfTheJar, "beam:env:embedded:v1", &OF_FLINK, &OF_SDK_CODE),
    ];
    let optional = [OF_FLINK.as_slice(), &OF_SDK_CODE].concat();
    // The order in the jar decides what is cut out where.
    let orders = [
        [optional.as_slice(), &OF_EACH_JOB].concat(),
        [OF_EACH_JOB.as_slice(), &optional].concat(),
        OF_EACH_JOB
            .into_iter()
            .zip(&optional)
            .flat_map(|(packed, out)| [packed, out])
            .chain(optional[8..].iter().copied())
            .collect(),
    ];
    for (flink, environment, of_flink, of_sdk_code) in cases {
        for order in &orders {
            let mut archive = packed_for(order, flink, environment);
            let wanted = [of_flink, of_sdk_code, &OF_EACH_JOB].concat();
            assert_eq!(archive.len(), wanted.len() + 3 + 3, "{environment}: {order:?}");
            for name in wanted {
                assert_eq!(text_of(&mut archive, name), name.repeat(9), "{environment}: {order:?}");
            }
            assert_eq!(
                text_of(&mut archive, "BEAM-PIPELINE/pipeline-manifest.json"),
                r#"{"defaultJobName": "pipeline"}"#
            );
            assert!(archive.by_name("c2.class").is_ok());
        }
    }
}

/// Beam loads all that are in its list, so those that are left out must not be.
#[test]
fn file_systems_that_are_left_out_are_not_listed() {
    const LIST: &str = "META-INF/services/org.apache.beam.sdk.io.FileSystemRegistrar";
    let all = "# known\norg.apache.beam.sdk.io.LocalFileSystemRegistrar\n\
               org.apache.beam.sdk.extensions.gcp.storage.GcsFileSystemRegistrar\norg.example.Mine";
    let folder = tempfile::tempdir().unwrap();
    let path = jar_of(folder.path(), &[(RUNNER, b"code"), (LIST, all.as_bytes())], 1);
    for (environment, packed) in [
        (
            environments::PROCESS,
            "# known\norg.apache.beam.sdk.io.LocalFileSystemRegistrar\norg.example.Mine\n",
        ),
        ("beam:env:embedded:v1", all),
    ] {
        let runner = RunnerJar::open(&path).unwrap();
        let mut archive = packed_in(runner, FlinkClasses::OfTheCluster, environment, folder.path());
        assert_eq!(text_of(&mut archive, LIST), packed, "{environment}");
        assert_eq!(archive.len(), 3 + 3, "{environment}");
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
