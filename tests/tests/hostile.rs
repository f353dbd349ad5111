//! Whatever a client sends as a pipeline is planned or refused; nothing of it may panic.
//!
//! Real pipelines with some bytes changed, or cut short: most still decode, with ids that lead nowhere,
//! payloads that are none, coders of the wrong shape. `SEED=n` runs one case of each pipeline again.
#![allow(clippy::unwrap_used, clippy::panic)] // A test may stop at the first surprise.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use beam_model::pipeline::Pipeline;
use prost::Message;
use runner_core::plan::{PlanGrain, plan_pipeline};

const CASES: u64 = 150;
const GRAINS: [PlanGrain; 4] = [PlanGrain::Element, PlanGrain::Coarse, PlanGrain::Default, PlanGrain::Key];

#[test]
fn changed_pipelines_are_planned_or_refused() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..CASES).collect(),
    };
    let (mut decoded, mut planned) = (0, 0);
    for file in pipelines() {
        let original = fs::read(&file).unwrap();
        for seed in &seeds {
            let Ok(pipeline) = Pipeline::decode(&*changed(&original, *seed)) else { continue };
            decoded += 1;
            let grain = GRAINS[*seed as usize % GRAINS.len()];
            let result = catch_unwind(|| plan_pipeline(&pipeline, grain).is_ok());
            match result {
                Ok(is_planned) => planned += u32::from(is_planned),
                Err(_) => panic!("{} with SEED={seed} made the planner panic", file.display()),
            }
        }
    }
    assert!(decoded > 0, "no changed pipeline could be decoded, so nothing was tested");
    println!("{decoded} changed pipelines: {planned} planned, the others refused");
}

fn pipelines() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut pipelines: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|end| end == "pb")).collect();
    pipelines.sort();
    pipelines
}

/// A few bytes replaced, swapped with others of the same file, or the end cut off.
fn changed(original: &[u8], seed: u64) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below.max(1) as u64) as usize
    };
    let mut bytes = original.to_vec();
    for _ in 0..1 + next(6) {
        let (at, other) = (next(bytes.len()), next(bytes.len()));
        match next(4) {
            0 => bytes[at] = next(256) as u8,
            1 => bytes.swap(at, other),
            2 => bytes[at] = bytes[other],
            // Letters and digits: ids stay text, and lead somewhere else.
            _ if bytes[at].is_ascii_alphanumeric() => bytes[at] = b'0' + next(10) as u8,
            _ => {}
        }
    }
    if seed % 10 == 9 {
        bytes.truncate(next(original.len()));
    }
    bytes
}
