//! Bags: what values, bags and combining states are for the protocol.

use bytes::Bytes;

use super::paging::{self, Part, bad_token};
use super::values::Values;
use crate::fault::Fault;
use crate::ports::{StatePage, Storage};

/// What a bundle does to a bag.
#[derive(Debug, Default)]
pub(super) struct BagWrites {
    /// What is committed does not count any more.
    pub(super) cleared: bool,
    pub(super) appended: Values,
}

impl BagWrites {
    pub(super) fn clear(&mut self) {
        *self = Self { cleared: true, appended: Values::default() };
    }

    /// Errors: the storage has no room.
    pub(super) fn commit(self, committed: &mut Values, storage: &dyn Storage) -> Result<(), Fault> {
        if self.cleared {
            *committed = self.appended;
            return Ok(());
        }
        committed.extend(self.appended, storage)
    }
}

/// What is committed and still counts, and what comes after it.
pub(super) fn current<'a>(
    committed: Option<&'a Values>,
    writes: Option<&'a BagWrites>,
) -> impl Iterator<Item = &'a Values> {
    let cleared = writes.is_some_and(|writes| writes.cleared);
    committed.filter(|_| !cleared).into_iter().chain(writes.map(|writes| &writes.appended))
}

pub(super) fn parts<'a>(
    committed: Option<&'a Values>,
    writes: Option<&'a BagWrites>,
) -> impl Iterator<Item = Part<'a>> {
    current(committed, writes).flat_map(Values::parts)
}

/// Tokens are places in bytes. A worker may keep one beyond its bundle, and a commit may put parts together; but
/// bytes are only ever added to the end of a bag.
pub(super) fn get(
    committed: Option<&Values>,
    writes: Option<&BagWrites>,
    continuation: &[u8],
) -> Result<StatePage, Fault> {
    let from = match continuation {
        [] => 0,
        token => u64::from_be_bytes(token.try_into().map_err(|_| bad_token())?),
    };
    let mut end = 0;
    let placed = parts(committed, writes).map(|part| {
        let place = end;
        end += part.len();
        (place, part)
    });
    let mut parts = placed.filter_map(|(place, part)| part.after(from, place).transpose()).peekable();
    if from > 0 && parts.peek().is_none() {
        return Err(bad_token());
    }
    paging::page(parts, |place: u64| Bytes::copy_from_slice(&place.to_be_bytes()))
}
