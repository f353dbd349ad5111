//! The generated code in `src/gen` is exactly what the files in `proto/` say.
//!
//! `UPDATE=1 cargo test -p beam-model --test generated` writes it anew.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may stop at the first surprise, too"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor, Value};

const URN_OPTION: &str = "org.apache.beam.model.pipeline.v1.beam_urn";
const CONSTANT_OPTION: &str = "org.apache.beam.model.pipeline.v1.beam_constant";
const METRIC_SPEC_OPTION: &str = "org.apache.beam.model.pipeline.v1.monitoring_info_spec";
const METRIC_LABEL_OPTION: &str = "org.apache.beam.model.pipeline.v1.label_props";

#[test]
fn generated_code_is_what_the_protos_say() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto_root = manifest.join("../../proto");
    let checked_in = manifest.join("src/gen");
    let fresh_folder = tempfile::tempdir().expect("a temporary folder");

    generate(&proto_root, fresh_folder.path());
    let fresh = read_folder(fresh_folder.path());
    if std::env::var_os("UPDATE").is_some() {
        write_folder(&checked_in, &fresh);
        return;
    }
    let found = read_folder(&checked_in);
    let names = |folder: &BTreeMap<String, Vec<u8>>| folder.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&fresh), "other files; run with UPDATE=1");
    for (name, content) in &fresh {
        assert!(found[name] == *content, "src/gen/{name} differs; run with UPDATE=1");
    }
}

fn generate(proto_root: &Path, out: &Path) {
    let mut files = Vec::new();
    collect_protos(proto_root, &mut files);
    files.sort();
    let mut compiler = protox::Compiler::new([proto_root]).expect("proto folder");
    compiler.include_imports(true).include_source_info(false);
    compiler.open_files(&files).expect("the protos compile");

    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure()
        .out_dir(out)
        .include_file("mod.rs")
        .emit_rerun_if_changed(false)
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)
        .expect("code is generated");

    let descriptors = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(descriptors.as_slice()).expect("descriptors with options");
    fs::write(out.join("descriptors.bin"), descriptors).expect("descriptors.bin");
    fs::write(out.join("urns.rs"), urns(&pool)).expect("urns.rs");
}

fn collect_protos(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("folder entry").path();
        if path.is_dir() {
            collect_protos(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "proto") {
            found.push(path);
        }
    }
}

/// A module for each message that only groups enums, a module for each enum, a constant for each
/// value that carries a URN or a constant.
fn urns(pool: &DescriptorPool) -> String {
    let mut text =
        String::from("// Written by tests/generated.rs from the options of the enum values; do not edit.\n");
    for message in pool.all_messages().filter(|m| m.parent_message().is_none()) {
        let mut inner = String::new();
        message_urns(&message, 1, &mut inner);
        if !inner.is_empty() {
            let _ = write!(text, "\npub mod {} {{\n{inner}}}\n", snake(message.name()));
        }
    }
    text
}

fn message_urns(message: &MessageDescriptor, depth: usize, text: &mut String) {
    for item in message.child_enums() {
        enum_urns(&item, depth, text);
    }
}

fn enum_urns(item: &EnumDescriptor, depth: usize, text: &mut String) {
    let indent = "    ".repeat(depth);
    let mut constants = String::new();
    for value in item.values() {
        if let Some(urn) = value_text(&value.options()) {
            let _ = writeln!(constants, "{indent}    pub const {}: &str = {urn:?};", value.name());
        }
    }
    if constants.is_empty() {
    } else if item.name() == "Enum" {
        // The protocol's habit for one enum in a message of its own: the message's name says it all.
        text.push_str(&constants.replace("\n    ", "\n").replacen("    ", "", 1));
    } else {
        let _ = write!(text, "{indent}pub mod {} {{\n{constants}{indent}}}\n", snake(item.name()));
    }
}

fn value_text(options: &prost_reflect::DynamicMessage) -> Option<String> {
    for (field, value) in options.extensions() {
        match (field.full_name(), value) {
            (URN_OPTION | CONSTANT_OPTION, Value::String(text)) => return Some(text.clone()),
            (METRIC_SPEC_OPTION, Value::Message(spec)) => {
                return spec.get_field_by_name("urn").and_then(|v| v.as_str().map(String::from));
            }
            (METRIC_LABEL_OPTION, Value::Message(props)) => {
                return props.get_field_by_name("name").and_then(|v| v.as_str().map(String::from));
            }
            _ => {}
        }
    }
    None
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (i, c) in letters.iter().enumerate() {
        let starts_word = c.is_uppercase()
            && i > 0
            && (letters[i - 1].is_lowercase() || letters.get(i + 1).is_some_and(|n| n.is_lowercase()));
        if starts_word {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn read_folder(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(folder)
        .expect("readable folder")
        .map(|entry| entry.expect("folder entry"))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, fs::read(entry.path()).expect("a readable file"))
        })
        .collect()
}

fn write_folder(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).expect("src/gen");
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("a generated file");
    }
}
