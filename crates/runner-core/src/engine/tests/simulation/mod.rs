//! Random plans under random schedules: whatever order bundles end in, however they are cut, split,
//! repeated or answered late, what arrives is what a plain computation gives.
//!
//! `SEEDS=n` runs the first n cases of each, `SEED=n` one case again.

mod bounded;
mod streaming;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(mix(seed, 0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ b.rotate_left(31);
    x = (x ^ (x >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 32)
}

fn seeds(cases: u64) -> Range<u64> {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number but {value:?}")))
    };
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(seeds)) => 0..seeds,
        (None, None) => 0..cases,
    }
}

/// Runs each case, of which there are so many if nobody says otherwise. Tells which one fails.
fn run<T>(cases: u64, simulate: impl Fn(u64) -> T) -> Vec<T> {
    let case = |seed| {
        catch_unwind(AssertUnwindSafe(|| simulate(seed))).unwrap_or_else(|panic| {
            eprintln!("SEED={seed}");
            resume_unwind(panic)
        })
    };
    seeds(cases).map(case).collect()
}
