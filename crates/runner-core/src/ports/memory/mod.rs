//! The ports in memory: for small jobs and tests, and what other implementations are compared with.

mod storage;

pub use storage::MemoryStorage;
