//! The ports in memory: for small jobs and tests, and what other implementations are compared with.

#[cfg(test)]
mod spilling;
mod storage;

#[cfg(test)]
pub(crate) use spilling::SpillingStorage;
pub use storage::MemoryStorage;
