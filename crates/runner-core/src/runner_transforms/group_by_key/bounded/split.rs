//! Dividing a log, so that each part can be grouped by itself.

use beam_model::coders::CoderError;

use super::super::room::Room;
use super::Kept;
use super::log::{AllLogs, Log};
use super::record::{Record, Records};
use crate::fault::Fault;

/// Into how many logs one is divided by the hashes of its records.
const PARTS: usize = 128;
const BITS: u32 = PARTS.trailing_zeros();
/// How often logs are divided by hashes; then no bits are left.
const LEVELS: u32 = u64::BITS / BITS;

/// Whether a division by hashes makes parts that are smaller.
pub(super) fn is_divisible(log: &Log) -> bool {
    !log.is_of_one_hash() && log.level < LEVELS
}

/// Divides a log by the hashes of its records. The last part has those of the hash that may be half of all, so that one large
/// key does not make others be read time and again.
///
/// `others`: all other logs, which may have to make room.
pub(super) fn by_hash(log: Log, kept: Kept, room: &mut Room, others: &mut [Log]) -> Result<Vec<Log>, Fault> {
    let level = log.level;
    let candidate = log.candidate();
    into(log, PARTS + 1, level + 1, kept, room, others, |_, hash| {
        if Some(hash) == candidate { PARTS } else { part_of(hash, level) }
    })
}

/// The part of those that a division at this level makes.
fn part_of(hash: u64, level: u32) -> usize {
    // Less than PARTS.
    ((hash << (level * BITS)) >> (u64::BITS - BITS)) as usize
}

/// The part of a record that a division by hashes makes, if it is the first and has this candidate.
pub(super) fn first_part(hash: u64, candidate: Option<u64>) -> usize {
    if Some(hash) == candidate { PARTS } else { part_of(hash, 0) }
}

/// Divides a log as `part` says, which is given each record and its hash.
pub(super) fn into(
    log: Log,
    parts: usize,
    level: u32,
    kept: Kept,
    room: &mut Room,
    others: &mut [Log],
    mut part: impl FnMut(&Record<'_>, u64) -> usize,
) -> Result<Vec<Log>, Fault> {
    let mut logs: Vec<Log> = (0..parts).map(|_| Log::new(level)).collect();
    let (mut spilled, mut reserved) = (log.spilled_bytes(), room.reserve(log.memory() as u64));
    for chunk in log.take() {
        let chunk = chunk?;
        let len = chunk.len() as u64;
        // What is on disk comes first.
        if spilled > 0 {
            spilled = spilled.saturating_sub(len)
        } else {
            reserved.shrink(len)
        }
        for record in Records::of(&chunk, kept.times) {
            let (_, record) = record.map_err(damaged)?;
            let hash = kept.hash(&record);
            if let Some(log) = logs.get_mut(part(&record, hash)) {
                log.push(&record, hash, kept.times, room.sizes.chunk);
            }
        }
        room.settle(&mut AllLogs([&mut logs, others]))?;
    }
    Ok(logs)
}

/// What was kept cannot be read again.
pub(super) fn damaged(error: CoderError) -> Fault {
    Fault::runner(format!("elements that were kept for a GroupByKey came back damaged ({error})"))
}
