//! What the executor needs of the world, as traits that other crates implement.
//!
//! [`JobBundleFactory`] → [`StageBundleFactory`] → [`RemoteBundle`]: a job's workers, a stage on them,
//! one bundle. [`StateHandler`] and [`OutputReceiver`] are the way back: what a worker asks for and
//! what it produces while a bundle runs. [`BundleControl`] asks a bundle things meanwhile. [`ArtifactSource`] hands staged files to workers,
//! [`WorkerLogSink`] takes their log lines. [`Storage`] keeps data within a [`MemoryBudget`]; [`memory`] has one without a disk.

mod bundle;
mod bundle_request;
pub mod memory;
mod state;
mod storage;
mod workers;

pub use bundle::{
    BundleInput, BundleResult, ElementCount, Finalizer, JobBundleFactory, OutputReceiver, RemoteBundle,
    Residual, SplitTaken, StageBundleFactory, StageSpec, TestStreamEvents, TimerBlock,
};
pub use bundle_request::{BundleControl, BundleRequest, BundleRequests, BundleSplit, ChannelSplit};
pub use state::{CacheToken, StateHandler, StateKey, StatePage};
pub use storage::{MemoryBudget, Reservation, Storage, StoredBlock, StoredContent};
pub use workers::{ArtifactSource, LogSeverity, WorkerLog, WorkerLogSink};
