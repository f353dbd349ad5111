//! The file that says that jobs are accepted, and where.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Removed when dropped: a server that ends is not ready.
pub(super) struct ReadyFile {
    path: Option<PathBuf>,
}

impl ReadyFile {
    /// Whoever sees the file sees all of it: it is written beside and moved into place.
    pub(super) fn write(path: Option<&Path>, endpoint: &str) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self { path: None }) };
        place(path, endpoint).map_err(|source| Error::ReadyFile { path: path.to_owned(), source })?;
        Ok(Self { path: Some(path.to_owned()) })
    }
}

fn place(path: &Path, endpoint: &str) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{endpoint}")?;
    file.persist(path)?;
    Ok(())
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody else may have removed it; it is gone either way.
            let _ = std::fs::remove_file(path);
        }
    }
}
