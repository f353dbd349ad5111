//! What a worker asks of its runner while a bundle runs: the `BeamFnState` service without the wire.

use bytes::Bytes;

use crate::fault::Fault;

/// A `StateKey`: whose state or side input, of which window and key. Windows and keys are encoded, as
/// the worker sent them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKey {
    /// The runner's own: what an iterable in an element refers to.
    Runner {
        key: Bytes,
    },
    IterableSideInput {
        transform_id: String,
        side_input_id: String,
        window: Bytes,
    },
    MultimapSideInput {
        transform_id: String,
        side_input_id: String,
        window: Bytes,
        key: Bytes,
    },
    MultimapKeysSideInput {
        transform_id: String,
        side_input_id: String,
        window: Bytes,
    },
    MultimapKeysValuesSideInput {
        transform_id: String,
        side_input_id: String,
        window: Bytes,
    },
    BagUserState {
        transform_id: String,
        state_id: String,
        window: Bytes,
        key: Bytes,
    },
    MultimapUserState {
        transform_id: String,
        state_id: String,
        window: Bytes,
        key: Bytes,
        map_key: Bytes,
    },
    MultimapKeysUserState {
        transform_id: String,
        state_id: String,
        window: Bytes,
        key: Bytes,
    },
    MultimapEntriesUserState {
        transform_id: String,
        state_id: String,
        window: Bytes,
        key: Bytes,
    },
    /// `start` inclusive, `end` exclusive, in the unit of the SDK's sort keys: microseconds in Python,
    /// milliseconds in Java. All of the list from `i64::MIN` to `i64::MAX`.
    OrderedListUserState {
        transform_id: String,
        state_id: String,
        window: Bytes,
        key: Bytes,
        start: i64,
        end: i64,
    },
}

/// A part of a state's value: whole encoded elements, one after another.
#[derive(Clone, Debug, Default)]
pub struct StatePage {
    pub data: Bytes,
    /// Where the next page begins; empty when this is the last.
    pub continuation: Bytes,
}

/// What a worker may keep beyond a bundle (`ProcessBundleRequest.CacheToken`): values that it was given, or has
/// written itself, under one token are good for every bundle that comes with the same token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheToken {
    /// All user state of the stage.
    UserState {
        token: Bytes,
    },
    SideInput {
        transform_id: String,
        side_input_id: String,
        token: Bytes,
    },
}

/// Answers the state requests of one bundle. Called from many threads.
pub trait StateHandler: Send + Sync {
    /// The page of `key`'s value that `continuation` (empty: the first) names.
    fn get(&self, key: &StateKey, continuation: &Bytes) -> Result<StatePage, Fault>;
    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), Fault>;
    fn clear(&self, key: &StateKey) -> Result<(), Fault>;

    /// Whether an answer may take long now, e.g. because it is read from a disk, or the bundle's input may. That is to be done
    /// where it holds up nobody but the bundle's worker.
    fn may_wait(&self) -> bool {
        false
    }

    /// What `worker`, which is to run the bundle, may keep of it. To be asked of every attempt before it begins, also
    /// if the worker is known to keep nothing: which worker had the bundle counts for the next one.
    fn cache_tokens(&self, _worker: &str) -> Vec<CacheToken> {
        Vec::new()
    }
}
