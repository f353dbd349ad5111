//! Dependencies point down only: the crates' manifests agree with the table in ARCHITECTURE.md.

#![allow(clippy::unwrap_used)] // A test may stop at the first surprise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each crate with the crates of ours that it may depend on.
const LAYERS: [(&str, &[&str]); 7] = [
    ("beam-model", &[]),
    ("runner-core", &["beam-model"]),
    ("state-store", &["runner-core"]),
    ("fn-harness-bridge", &["beam-model", "runner-core"]),
    ("job-service", &["beam-model", "runner-core"]),
    ("translators", &["beam-model", "runner-core", "fn-harness-bridge", "state-store"]),
    (
        "beamline",
        &["beam-model", "runner-core", "state-store", "fn-harness-bridge", "job-service", "translators"],
    ),
];

#[test]
fn crates_depend_only_on_those_below() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let found: BTreeSet<String> = fs::read_dir(&crates)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    let known: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known, "crates/ and the layers differ");
    for (name, allowed) in LAYERS {
        for dependency in dependencies(&crates.join(name).join("Cargo.toml")) {
            let ours = known.contains(&dependency);
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_core_knows_no_wire() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/runner-core/Cargo.toml");
    let all = dependencies(&manifest);
    for wire in ["tonic", "tonic-prost", "hyper", "h2", "prost-build"] {
        assert!(!all.contains(wire), "runner-core must not depend on {wire}");
    }
    let text = fs::read_to_string(manifest).unwrap();
    assert!(!text.contains("grpc"), "runner-core must not ask for gRPC stubs");
}

/// The names in the `[dependencies]` table, with or without `.workspace`.
fn dependencies(manifest: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).unwrap();
    text.lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['=', '.']).next())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}
