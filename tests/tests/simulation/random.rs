//! Chance that a seed decides.

use std::sync::{Arc, Mutex};

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed, 0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    pub fn time(&mut self, bound: i64) -> i64 {
        i64::try_from(self.below(usize::try_from(bound).unwrap())).unwrap()
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

pub fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ b.rotate_left(31);
    x = (x ^ (x >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 32)
}

/// FNV-1a, spread.
pub fn hash(salt: u64, text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    mix(text.as_bytes().iter().fold(0xCBF2_9CE4_8422_2325, step), salt)
}

/// One source of chance for all that goes on in a case.
#[derive(Clone)]
pub struct Chance(Arc<Mutex<Random>>);

impl Chance {
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(random)))
    }

    pub fn below(&self, bound: usize) -> usize {
        self.0.lock().unwrap().below(bound)
    }

    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }
}
