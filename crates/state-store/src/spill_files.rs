//! Files that take what does not fit in memory.
//!
//! They have no name: where the system allows it they never had one, else they lose it as soon as they are open. So nothing
//! is left when the server ends, however it ends. Space is given back as soon as what was in it is not needed any more: the
//! file system is told of the hole, if it knows holes, and a file is closed when nothing in it is needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runner_core::ports::MemoryBudget;

use crate::Error;

/// A file is closed to new data from this size on, so that its space is free in the end also where there are no holes.
const FILE_BYTES: u64 = 256 << 20;
/// Holes are made of whole blocks of the file system; data begins at the beginning of one.
const ALIGNMENT: u64 = 4096;

/// Somewhere to write to.
pub(crate) struct SpillFiles {
    folder: PathBuf,
    budget: Arc<MemoryBudget>,
    open: Mutex<Option<Open>>,
}

struct Open {
    file: Arc<File>,
    end: u64,
}

/// A place that holds something; free again when this is dropped.
pub(crate) struct Place {
    folder: PathBuf,
    budget: Arc<MemoryBudget>,
    file: Arc<File>,
    offset: u64,
    len: usize,
}

impl SpillFiles {
    /// Files in `folder`, which is made if it is not there.
    ///
    /// Errors: no files can be made there.
    pub(crate) fn new(folder: &Path, budget: Arc<MemoryBudget>) -> Result<Self, Error> {
        let failed = |source| Error::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // Better now than in the middle of a job.
        tempfile::tempfile_in(folder).map_err(failed)?;
        Ok(Self { folder: folder.to_owned(), budget, open: Mutex::new(None) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes `data` to a place of its own.
    pub(crate) fn write(&self, data: &[u8]) -> Result<Place, Error> {
        let (file, offset) = self.claim(data.len() as u64).map_err(|error| self.failed(data.len(), error))?;
        let (folder, budget) = (self.folder.clone(), self.budget.clone());
        budget.grow_on_disk(data.len() as u64);
        let place = Place { folder, budget, file, offset, len: data.len() };
        // If this fails the place is free again, with what was written of it.
        write_at(&place.file, data, offset).map_err(|error| self.failed(data.len(), error))?;
        Ok(place)
    }

    /// Room for so many bytes in some file.
    fn claim(&self, len: u64) -> io::Result<(Arc<File>, u64)> {
        let mut open = self.open();
        let Open { file, end } = match open.take() {
            Some(known) => known,
            None => Open { file: Arc::new(tempfile::tempfile_in(&self.folder)?), end: 0 },
        };
        let next = (end + len).next_multiple_of(ALIGNMENT);
        if next < FILE_BYTES {
            *open = Some(Open { file: file.clone(), end: next });
        }
        Ok((file, end))
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, bytes: usize, source: io::Error) -> Error {
        let folder = self.folder.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::Full { free: free_bytes(&folder), folder, bytes }
            }
            _ => Error::Write { folder, bytes, source },
        }
    }
}

impl Place {
    pub(crate) fn read(&self) -> Result<Vec<u8>, Error> {
        let mut data = vec![0; self.len];
        let read = read_at(&self.file, &mut data, self.offset);
        read.map_err(|source| Error::Read { folder: self.folder.clone(), bytes: self.len, source })?;
        Ok(data)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.shrink_on_disk(self.len as u64);
        // Who has the only handle closes the file with it.
        if Arc::strong_count(&self.file) > 1 {
            make_hole(&self.file, self.offset, self.len as u64);
        }
    }
}

#[cfg(unix)]
fn write_at(file: &File, data: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, data, offset)
}

#[cfg(unix)]
fn read_at(file: &File, data: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, data, offset)
}

#[cfg(target_os = "linux")]
fn make_hole(file: &File, offset: u64, len: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Not all file systems know holes. The space is then free with the last of the file.
    let _ = fallocate(file, hole, offset, len.next_multiple_of(ALIGNMENT));
}

#[cfg(not(target_os = "linux"))]
fn make_hole(_file: &File, _offset: u64, _len: u64) {}

/// What the file system of a folder has left for users; 0 if it does not say.
fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
