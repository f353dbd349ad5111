//! Files by content: one file for each SHA-256, for as long as someone holds it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

/// What happens to a file when nobody holds it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenUnused {
    Remove,
    /// Stays in the folder, also after the server's end.
    Keep,
}

/// The staged files of a server, in a folder of its own that no other user can read.
pub(crate) struct ArtifactStore {
    /// `None` once the store is closed.
    folder: Mutex<Option<TempDir>>,
    path: PathBuf,
    when_unused: WhenUnused,
    files: Mutex<HashMap<String, Weak<StoredArtifact>>>,
    /// Tells files of one content apart, when one is just being removed and the other comes.
    numbers: AtomicU64,
}

/// A file in the store. Removed with the last one who holds it.
#[derive(Debug)]
pub(crate) struct StoredArtifact {
    path: PathBuf,
    sha256: String,
    when_unused: WhenUnused,
}

impl ArtifactStore {
    /// Makes a folder for this store in `parent`, which is made if need be.
    pub(crate) fn create(parent: &Path, when_unused: WhenUnused) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let folder = tempfile::Builder::new()
            .prefix("beamline-artifacts-")
            .disable_cleanup(when_unused == WhenUnused::Keep)
            .tempdir_in(parent)?;
        Ok(Self {
            path: folder.path().to_owned(),
            folder: Mutex::new(Some(folder)),
            when_unused,
            files: Mutex::default(),
            numbers: AtomicU64::new(0),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a file. It is in the store only once it is finished, and gone if it is dropped before.
    pub(crate) fn begin(&self) -> io::Result<ArtifactWriter> {
        let file = tempfile::Builder::new().prefix("incoming-").tempfile_in(&self.path)?;
        Ok(ArtifactWriter { file, hasher: Sha256::new() })
    }

    /// Stores these bytes.
    pub(crate) fn put(&self, data: &[u8]) -> io::Result<Arc<StoredArtifact>> {
        let mut writer = self.begin()?;
        writer.write(data)?;
        self.finish(writer)
    }

    /// Takes the file in, under the hash of what was written.
    pub(crate) fn finish(&self, mut writer: ArtifactWriter) -> io::Result<Arc<StoredArtifact>> {
        writer.file.flush()?;
        let sha256 = format!("{:x}", writer.hasher.finalize());
        let mut files = self.files();
        if let Some(known) = files.get(&sha256).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{sha256}-{number}"));
        writer.file.persist(&path).map_err(|error| error.error)?;
        let stored = Arc::new(StoredArtifact { path, sha256, when_unused: self.when_unused });
        files.retain(|_, file| file.strong_count() > 0);
        files.insert(stored.sha256.clone(), Arc::downgrade(&stored));
        Ok(stored)
    }

    /// Removes the folder and all that is in it, unless files are to be kept.
    pub(crate) fn close(&self) -> io::Result<()> {
        match self.folder.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(folder) if self.when_unused == WhenUnused::Remove => folder.close(),
            _ => Ok(()),
        }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<String, Weak<StoredArtifact>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file on its way into the store.
pub(crate) struct ArtifactWriter {
    file: NamedTempFile,
    hasher: Sha256,
}

impl ArtifactWriter {
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.hasher.update(data);
        self.file.write_all(data)
    }
}

impl StoredArtifact {
    /// In lower-case hexadecimal.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl Drop for StoredArtifact {
    fn drop(&mut self) {
        if self.when_unused == WhenUnused::Remove
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            // Gone with its folder already when the server ends.
            tracing::debug!(path = %self.path.display(), "a staged artifact was not removed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files_in(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn equal_contents_are_one_file_that_goes_with_its_last_holder() {
        let parent = TempDir::new().unwrap();
        let store = ArtifactStore::create(parent.path(), WhenUnused::Remove).unwrap();
        let (one, two) = (store.put(b"same").unwrap(), store.put(b"same").unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(one.sha256(), "0967115f2813a3541eaef77de9d9d5773f1c0c04314b0bbfe4ff3b3b1c55b5d5");
        drop(one);
        assert_eq!(files_in(store.path()), 1);
        drop(two);
        assert_eq!(files_in(store.path()), 0);
        assert!(store.put(b"same").unwrap().open().is_ok());
    }

    #[test]
    fn an_unfinished_file_leaves_nothing_and_a_closed_store_no_folder() {
        let parent = TempDir::new().unwrap();
        let store = ArtifactStore::create(parent.path(), WhenUnused::Remove).unwrap();
        let mut writer = store.begin().unwrap();
        writer.write(b"half").unwrap();
        drop(writer);
        assert_eq!(files_in(store.path()), 0);
        store.close().unwrap();
        assert_eq!(files_in(parent.path()), 0);
    }

    #[test]
    fn files_that_are_to_be_kept_outlive_the_store() {
        let parent = TempDir::new().unwrap();
        let store = ArtifactStore::create(parent.path(), WhenUnused::Keep).unwrap();
        drop(store.put(b"kept").unwrap());
        store.close().unwrap();
        assert_eq!(files_in(store.path()), 1);
    }
}
