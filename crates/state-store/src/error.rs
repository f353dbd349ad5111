//! What goes wrong with a disk.

use std::io;
use std::path::PathBuf;

use runner_core::fault::Fault;

/// Errors of the folder that takes what does not fit in memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot make files in {folder}, which is to take what does not fit in memory: {source} (choose another folder \
         with --spill-dir)"
    )]
    Folder { folder: PathBuf, source: io::Error },
    #[error(
        "the disk is full: {bytes} bytes that do not fit in memory cannot be written to {folder}, where {free} bytes are \
         free; free some, choose another folder with --spill-dir, or allow more memory with --memory-limit"
    )]
    Full { folder: PathBuf, bytes: usize, free: u64 },
    #[error(
        "{bytes} bytes that do not fit in memory cannot be written to {folder}: {source} (choose another folder with \
         --spill-dir)"
    )]
    Write { folder: PathBuf, bytes: usize, source: io::Error },
    #[error("{bytes} bytes that were written to {folder} cannot be read back: {source} (see --spill-dir)")]
    Read { folder: PathBuf, bytes: usize, source: io::Error },
    #[error("{bytes} bytes that were written to {folder} came back damaged: {reason} (see --spill-dir)")]
    Damaged { folder: PathBuf, bytes: usize, reason: String },
}

impl From<Error> for Fault {
    /// The machine's fault, and not mended by running a bundle again.
    fn from(error: Error) -> Self {
        Self::runner(error.to_string())
    }
}
