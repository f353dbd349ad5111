//! The state of windows that become one.

use super::store::{Cells, StateNumber};
use super::values::Values;
use super::{MapValues, UserStateKind};

impl Cells {
    /// Adds what a later window holds. What there can be but one of is the later window's.
    pub(super) fn absorb<'a>(
        &mut self,
        later: &Self,
        kind: impl Fn(StateNumber) -> Option<&'a UserStateKind>,
    ) {
        for (state, values) in later.bags.iter_numbered() {
            let one = matches!(kind(state), Some(UserStateKind::Value));
            self.bags.change(state, |known| absorb_values(known, values, one));
        }
        for (state, map) in later.multimaps.iter_numbered() {
            let one = matches!(kind(state), Some(UserStateKind::Multimap(MapValues::One)));
            self.multimaps.change(state, |known| known.absorb(map, one));
        }
        for (state, list) in later.ordered_lists.iter_numbered() {
            self.ordered_lists.change(state, |known| known.absorb(list));
        }
    }
}

/// Adds later values for a key, or puts them in place of those that are there if there can be only one.
pub(super) fn absorb_values(known: &mut Values, later: &Values, one: bool) {
    if one {
        *known = later.clone();
    } else {
        known.extend(later.clone());
    }
}
