//! The state of windows that become one.

use super::cells::Cells;
use super::store::StateNumber;
use super::values::Values;
use super::{MapValues, UserStateKind};
use crate::fault::Fault;
use crate::ports::Storage;

impl Cells {
    /// Adds what a later window holds. What there can be but one of is the later window's.
    ///
    /// Errors: the storage has no room.
    pub(super) fn absorb<'a>(
        &mut self,
        later: &Self,
        kind: impl Fn(StateNumber) -> Option<&'a UserStateKind>,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        for (state, values) in later.bags.iter_numbered() {
            let one = matches!(kind(state), Some(UserStateKind::Value));
            self.bags.change(state, |known| absorb_values(known, values, one, storage))?;
        }
        for (state, map) in later.multimaps.iter_numbered() {
            let one = matches!(kind(state), Some(UserStateKind::Multimap(MapValues::One)));
            self.multimaps.change(state, |known| known.absorb(map, one, storage))?;
        }
        for (state, list) in later.ordered_lists.iter_numbered() {
            self.ordered_lists.change(state, |known| known.absorb(list, storage))?;
        }
        Ok(())
    }
}

/// Adds later values for a key, or puts them in place of those that are there if there can be only one.
///
/// Errors: the storage has no room.
pub(super) fn absorb_values(
    known: &mut Values,
    later: &Values,
    one: bool,
    storage: &dyn Storage,
) -> Result<(), Fault> {
    if one {
        *known = later.clone();
        return Ok(());
    }
    known.extend(later.clone(), storage)
}
