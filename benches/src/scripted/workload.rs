//! The jobs, and what their workers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use beam_model::coders::varint;
use beam_model::pipeline::{Environment, Pipeline};
use beamline_tests::scripted_harness::{Emitter, Script};

use super::pipeline::Builder;

/// Of a pair: key and value with their length prefixes, without the windowed value's header.
pub const ELEMENT_BYTES: usize = 100;
const KEY_BYTES: usize = 8;
const VALUE_BYTES: usize = ELEMENT_BYTES - KEY_BYTES - 2;
const KEYS: u64 = 100_000;
/// As many stages make elements, so that all workers have some of it to do and not all elements are there at once.
const MAKERS: u64 = 16;

const MAKE: &str = "bench:dofn:make";
const PASS: &str = "bench:dofn:pass";
const COUNT: &str = "bench:dofn:count";
const COUNT_GROUPS: &str = "bench:dofn:count_groups";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Pairs are made, pass through a stage of their own, and are counted by a third.
    PassThrough,
    /// Pairs are made, grouped by key, and counted group by group.
    GroupByKey,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::PassThrough => "pass-through stage",
            Self::GroupByKey => "GroupByKey",
        }
    }

    /// The job, on workers of this environment.
    pub fn pipeline(self, environment: Environment) -> Pipeline {
        let mut builder = Builder::new(environment);
        let made: Vec<_> = (0..MAKERS)
            .map(|maker| {
                let impulse = builder.impulse(&format!("impulse {maker}"));
                builder.par_do(&format!("make {maker}"), MAKE, &impulse, Some("pair"))
            })
            .collect();
        let made: Vec<_> = made.into_iter().flatten().collect();
        let pairs = builder.flatten("flatten", &made, "pair");
        match self {
            Self::PassThrough => {
                let spread = builder.redistribute("spread", &pairs, "pair");
                if let Some(passed) = builder.par_do("pass", PASS, &spread, Some("pair")) {
                    let again = builder.redistribute("spread again", &passed, "pair");
                    builder.par_do("count", COUNT, &again, None);
                }
            }
            Self::GroupByKey => {
                let groups = builder.group_by_key("group", &pairs, "group");
                builder.par_do("count", COUNT_GROUPS, &groups, None);
            }
        }
        builder.build()
    }
}

/// What workers do in jobs of `elements` elements. `counted` grows by those that have come to the end.
pub fn script(elements: u64, counted: Arc<AtomicU64>) -> Script {
    let counted_groups = counted.clone();
    let makers = AtomicU64::new(0);
    Script::new()
        .lean_fn(MAKE, move |_, emitter| {
            // Which maker this is is of no importance, but all are to have other keys.
            let maker = makers.fetch_add(1, Ordering::Relaxed) % MAKERS;
            make(elements * maker / MAKERS..elements * (maker + 1) / MAKERS, emitter)
        })
        .lean_fn(PASS, |pair, emitter| emitter.emit(&[pair]))
        .lean_fn(COUNT, move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .lean_fn(COUNT_GROUPS, move |group, _| {
            counted_groups.fetch_add(values(group).ok_or("this is no group")?, Ordering::Relaxed);
            Ok(())
        })
}

fn make(numbers: std::ops::Range<u64>, emitter: &mut Emitter<'_>) -> Result<(), String> {
    let mut value = Vec::with_capacity(1 + VALUE_BYTES);
    varint::write_prefixed(&mut value, &[b'x'; VALUE_BYTES]);
    for number in numbers {
        let key = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS).to_be_bytes();
        emitter.emit(&[&[KEY_BYTES as u8], &key, &value])?;
    }
    Ok(())
}

/// How many values a group has; all of them are looked at.
fn values(group: &[u8]) -> Option<u64> {
    let (_, key_length) = varint::read_prefixed(group).ok()?;
    let (count, rest) = group.get(key_length..)?.split_first_chunk::<4>()?;
    let (count, mut rest) = (i32::from_be_bytes(*count), rest);
    let mut seen = 0;
    let mut left = u64::try_from(count).unwrap_or(0);
    // An iterable of unknown length comes in chunks, each after its count, and 0 ends them.
    let chunked = count < 0;
    loop {
        if left == 0 {
            if !chunked {
                return Some(seen);
            }
            let (chunk, length) = varint::read(rest).ok()?;
            rest = rest.get(length..)?;
            if chunk == 0 {
                return Some(seen);
            }
            left = chunk;
        }
        let (_, length) = varint::read_prefixed(rest).ok()?;
        rest = rest.get(length..)?;
        (seen, left) = (seen + 1, left - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_group_are_counted_however_it_is_written() {
        let mut group = vec![1, b'k', 0, 0, 0, 2];
        varint::write_prefixed(&mut group, b"one");
        varint::write_prefixed(&mut group, b"");
        assert_eq!(values(&group), Some(2));
        let chunked = [1, b'k', 0xff, 0xff, 0xff, 0xff, 1, 1, b'a', 2, 0, 0, 0];
        assert_eq!(values(&chunked), Some(3));
        assert_eq!(values(&chunked[..9]), None);
    }
}
