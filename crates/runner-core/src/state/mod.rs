//! User state: what stateful ParDos remember, by key and window.
//!
//! A [`StateStore`] holds what is committed of one stage's state. Each attempt of a bundle has a
//! [`BundleState`] of its own: it sees what is committed with its own writes on top, and nobody else sees those
//! until [`BundleState::commit`] applies them all at once. Dropped, they are gone.
//!
//! The engine never gives a key to two bundles at a time, so there is nothing to reconcile.
//!
//! Where windows merge, the store knows which windows each key has ([`active_windows`]), and a bundle's windows
//! are merged before it runs ([`BundleState::merge_windows`]).
//!
//! What does not fit in memory is in the storage: pages of large values ([`values`]), and shares of the keys that nobody has
//! asked for lately ([`partition`], [`codec`]).
//!
//! Values are stored as the SDK encoded them. What an SDK appends in one request holds whole elements; where
//! one of them ends is known to the SDK alone, so pages are cut between appends only.

mod active_windows;
mod bag;
mod bundle;
mod cache;
mod cells;
mod codec;
mod map;
mod merge;
mod merged_cells;
mod ordered_list;
mod paging;
mod partition;
mod store;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;

use beam_model::coders::Coder;

pub use active_windows::WindowMerge;
pub use bundle::BundleState;
pub use cache::{CacheUse, UserStateCaches};
pub use store::StateStore;

/// A state that a ParDo of the stage declares: a `StateSpec`.
#[derive(Clone, Debug)]
pub struct UserState {
    pub transform_id: String,
    /// Its key in `ParDoPayload.state_specs`.
    pub state_id: String,
    pub kind: UserStateKind,
}

/// How an SDK asks for a state: the protocol of its `StateSpec`.
#[derive(Clone, Debug)]
pub enum UserStateKind {
    /// `beam:user_state:bag:v1`
    Bag,
    /// The same with at most one value: a `ReadModifyWriteStateSpec`.
    Value,
    /// `beam:user_state:multimap:v1`
    Multimap(MapValues),
    /// `beam:user_state:ordered_list:v1`
    OrderedList,
}

/// How many values there are for a key of a map.
#[derive(Clone, Debug)]
pub enum MapValues {
    /// One: the state is a map or a set.
    One,
    /// As many as were put there: the state is a multimap, with values of this coder. It is needed to count
    /// them when all entries are read at once.
    Many(Arc<Coder>),
}
