//! What the user's functions make of text: the same for workers and for the plain computation.

use super::case::{Access, Rest};
use super::random::{hash, mix};

pub const KEYS: u64 = 4;
/// How often a stateful step ticks, and how long it waits in between, in milliseconds.
pub const TICKS: i64 = 3;
pub const TICK: i64 = 10;
/// Time goes on by this from record to record.
pub const RECORD_STEP: i64 = 2;

/// An element for one output: which, key, value, and how much later it is.
pub struct Mapped {
    pub output: usize,
    pub key: String,
    pub value: String,
    pub later: i64,
}

pub fn map(salt: u64, outputs: usize, shift: bool, key: &str, value: &str) -> Vec<Mapped> {
    let mut made = Vec::new();
    for output in 0..outputs {
        let chance = hash(mix(salt, output as u64), value);
        for child in 0..[0, 1, 1, 1, 1, 2][(chance % 6) as usize] {
            let new = mix(chance, child);
            let key = if new.is_multiple_of(3) { format!("k{}", new / 3 % KEYS) } else { key.to_owned() };
            let letter = char::from(b'a' + (new / 16 % 20) as u8);
            let later = if shift { 2 * (new / 512 % 4) as i64 } else { 0 };
            made.push(Mapped { output, key, value: format!("{value}{letter}{child}"), later });
        }
    }
    made
}

/// How many records an element stands for.
pub fn records(salt: u64, value: &str) -> u64 {
    hash(salt, value) % 7
}

pub fn record(value: &str, position: u64) -> String {
    format!("{value}r{position}")
}

/// What is made of values in any order.
pub fn rest(of: Rest, salt: u64, mut values: Vec<String>) -> Vec<String> {
    match of {
        Rest::Singly => values,
        Rest::Digest => {
            values.sort();
            vec![format!("d{}x{:06x}", values.len(), hash(salt, &values.join(",")) & 0xFF_FFFF)]
        }
    }
}

pub fn counted(count: usize) -> String {
    format!("n{count}")
}

pub fn tick(number: i64) -> String {
    format!("tick{number}")
}

pub fn beside(access: Access, salt: u64, value: &str, side: Vec<String>) -> String {
    let letter = match access {
        Access::Iterable => "i",
        Access::OfKey => "m",
    };
    format!("{value}{letter}{}", rest(Rest::Digest, salt, side)[0])
}

/// A value with all that was seen beside it.
pub fn with_all(value: &str, mut side: Vec<String>) -> String {
    side.sort();
    format!("{value}|{}", side.join(";"))
}

/// A value, and what was seen beside it.
pub fn without_all(value: &str) -> (String, Vec<String>) {
    let (value, side) = value.split_once('|').unwrap_or((value, ""));
    let side = side.split(';').filter(|text| !text.is_empty()).map(str::to_owned).collect();
    (value.to_owned(), side)
}
