//! Writes entries of a ZIP archive into a file of their own, to be put behind others.
//!
//! They are stored as they are: what is large in a job is packed already.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

/// Version 2.0 of the format is all that is needed to read the entries.
const VERSION: u16 = 20;
/// 1 January 1980: the archive tells nobody when it was made.
const DATE: u16 = 0x21;
/// Past this, records have other forms, which no job has needed yet.
const LIMIT: u64 = 0xFFFF_FFFE;

pub(super) struct EntryWriter {
    file: BufWriter<File>,
    /// What is before the first entry in the archive that they go to.
    base: u64,
    length: u64,
    entries: u64,
    directory: Vec<u8>,
}

/// Entries that are written.
pub(super) struct Entries {
    pub(super) file: File,
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) entries: u64,
    /// Their part of the central directory.
    pub(super) directory: Vec<u8>,
}

impl EntryWriter {
    /// `file` is empty.
    pub(super) fn new(file: File, base: u64) -> Self {
        Self {
            file: BufWriter::with_capacity(1 << 18, file),
            base,
            length: 0,
            entries: 0,
            directory: Vec::new(),
        }
    }

    /// Adds an entry with what `content` writes.
    pub(super) fn add<E: From<io::Error>>(
        &mut self,
        name: &str,
        content: impl FnOnce(&mut dyn Write) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.length;
        self.file.write_all(&local_header(name, 0, 0))?;
        let mut counted = Counted { out: &mut self.file, length: 0, hash: crc32fast::Hasher::new() };
        content(&mut counted)?;
        let Counted { length, hash, .. } = counted;
        let checksum = hash.finalize();
        let header = local_header(name, checksum, length);
        self.length += header.len() as u64 + length;
        if length > LIMIT || self.base + self.length > LIMIT {
            return Err(
                io::Error::other(format!("the job's jar would be larger than 4 GiB with {name}")).into()
            );
        }
        // Only now is it known how long the entry is.
        self.file.seek(SeekFrom::Start(start))?;
        self.file.write_all(&header)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.directory.extend(directory_entry(name, checksum, length, self.base + start));
        self.entries += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<Entries> {
        let Self { file, length, entries, directory, .. } = self;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Entries { file, length, entries, directory })
    }
}

struct Counted<'a> {
    out: &'a mut BufWriter<File>,
    length: u64,
    hash: crc32fast::Hasher,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn local_header(name: &str, checksum: u32, length: u64) -> Vec<u8> {
    let mut out = b"PK\x03\x04".to_vec();
    common(&mut out, name, checksum, length);
    out.extend(name.as_bytes());
    out
}

fn directory_entry(name: &str, checksum: u32, length: u64, offset: u64) -> Vec<u8> {
    let mut out = b"PK\x01\x02".to_vec();
    out.extend(VERSION.to_le_bytes());
    common(&mut out, name, checksum, length);
    // No comment, on the first disk, no attributes.
    out.extend([0; 2 + 2 + 2 + 4]);
    out.extend((offset as u32).to_le_bytes());
    out.extend(name.as_bytes());
    out
}

/// What both headers have: version, flags, method 0 (stored), time, date, checksum, lengths, lengths of name and extra.
fn common(out: &mut Vec<u8>, name: &str, checksum: u32, length: u64) {
    out.extend(VERSION.to_le_bytes());
    out.extend([0; 2 + 2 + 2]);
    out.extend(DATE.to_le_bytes());
    out.extend(checksum.to_le_bytes());
    out.extend((length as u32).to_le_bytes());
    out.extend((length as u32).to_le_bytes());
    out.extend((name.len() as u16).to_le_bytes());
    out.extend([0; 2]);
}
