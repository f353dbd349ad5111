//! Data of jobs past memory: [`runner_core::ports::Storage`] on a disk.
//!
//! [`DiskStorage`] knows every block that is in memory, and takes those put in last out of it when the budget of the server is
//! over its limit. [`frame`] is what goes to disk at a time: one large block or many small ones, compressed. [`spill_files`] is
//! where: files without a name in the folder that the user chose, so that nothing is left of them however the server ends.
//!
//! What is kept here does not outlive the server. It knows nothing of keys, windows or elements.

mod error;
mod frame;
mod spill_files;
mod storage;

pub use error::Error;
pub use storage::DiskStorage;
