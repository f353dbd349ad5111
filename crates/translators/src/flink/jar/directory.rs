//! The end of a ZIP archive: where its table of contents (the *central directory*) is, and what it lists.
//!
//! Field offsets are those of the ZIP specification (APPNOTE, 4.3).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const END_64: &[u8] = b"PK\x06\x06";
const END_64_LENGTH: usize = 56;
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64_LOCATOR_LENGTH: usize = 20;
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_LENGTH: usize = 46;
/// Where a line of the directory says where its entry begins, in 4 bytes.
pub(super) const OFFSET_AT: usize = 42;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LENGTH: usize = 30;
/// The longest comment that may follow the end record.
const LONGEST_COMMENT: usize = 0xFFFF;

/// Where the central directory of an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) entries: u64,
}

/// One line of it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The line as it is, name and all.
    pub(super) line: Vec<u8>,
    name_length: usize,
    pub(super) method: u16,
    pub(super) compressed_length: u64,
    /// Of its local header.
    pub(super) offset: u64,
}

impl Directory {
    /// Finds the directory of an archive of `length` bytes.
    pub(super) fn find(file: &File, length: u64) -> io::Result<Self> {
        let reach = length.min((END_LENGTH + LONGEST_COMMENT) as u64);
        let from = length - reach;
        let tail = read_at(file, from, reach as usize)?;
        let at = (0..=tail.len().saturating_sub(END_LENGTH))
            .rev()
            .find(|at| tail.get(*at..).is_some_and(|rest| rest.starts_with(END)))
            .ok_or_else(|| malformed("it has no end record, so it is no ZIP archive or is cut off"))?;
        let end = tail.get(at..).unwrap_or_default();
        let mut directory =
            Self { entries: number(end, 10, 2)?, length: number(end, 12, 4)?, offset: number(end, 16, 4)? };
        let end_offset = from + at as u64;
        let wide =
            directory.entries == 0xFFFF || directory.length == 0xFFFF_FFFF || directory.offset == 0xFFFF_FFFF;
        if wide && let Some(wider) = find_64(file, end_offset)? {
            directory = wider;
        }
        if directory.offset.checked_add(directory.length).is_none_or(|end| end > end_offset) {
            return Err(malformed("its table of contents is not where its end record says"));
        }
        Ok(directory)
    }

    /// Calls `see` with each entry.
    pub(super) fn scan(&self, file: &File, mut see: impl FnMut(Entry)) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(
            1 << 16,
            FileRange { file, at: self.offset, end: self.offset + self.length },
        );
        for _ in 0..self.entries {
            let mut line = vec![0; ENTRY_LENGTH];
            reader.read_exact(&mut line)?;
            if !line.starts_with(ENTRY) {
                return Err(malformed("its table of contents is damaged"));
            }
            let name_length = number(&line, 28, 2)?;
            let more = name_length + number(&line, 30, 2)? + number(&line, 32, 2)?;
            if reader.by_ref().take(more).read_to_end(&mut line)? as u64 != more {
                return Err(malformed("its table of contents is cut off"));
            }
            see(Entry {
                name_length: name_length as usize,
                method: number(&line, 10, 2)? as u16,
                compressed_length: number(&line, 20, 4)?,
                offset: number(&line, OFFSET_AT, 4)?,
                line,
            });
        }
        Ok(())
    }
}

impl Entry {
    pub(super) fn name(&self) -> &[u8] {
        self.line.get(ENTRY_LENGTH..ENTRY_LENGTH + self.name_length).unwrap_or_default()
    }

    /// Its bytes as they are in the archive.
    pub(super) fn compressed(&self, file: &File) -> io::Result<Vec<u8>> {
        let local = read_at(file, self.offset, LOCAL_LENGTH)?;
        if !local.starts_with(LOCAL) {
            return Err(malformed("its table of contents points to nothing"));
        }
        let start = self.offset + LOCAL_LENGTH as u64 + number(&local, 26, 2)? + number(&local, 28, 2)?;
        read_at(file, start, self.compressed_length as usize)
    }
}

/// The larger end record of an archive with more than 65,535 entries, if there is one.
fn find_64(file: &File, end_offset: u64) -> io::Result<Option<Directory>> {
    let Some(locator_offset) = end_offset.checked_sub(END_64_LOCATOR_LENGTH as u64) else { return Ok(None) };
    let locator = read_at(file, locator_offset, END_64_LOCATOR_LENGTH)?;
    if !locator.starts_with(END_64_LOCATOR) {
        return Ok(None);
    }
    let end = read_at(file, number(&locator, 8, 8)?, END_64_LENGTH)?;
    if !end.starts_with(END_64) {
        return Err(malformed("its end record is damaged"));
    }
    let (entries, length, offset) = (number(&end, 32, 8)?, number(&end, 40, 8)?, number(&end, 48, 8)?);
    Ok(Some(Directory { offset, length, entries }))
}

/// What an archive's end record is to be, once `directory` is written at `directory.offset`.
pub(super) fn end_records(directory: &Directory) -> Vec<u8> {
    let mut out = Vec::with_capacity(END_64_LENGTH + END_64_LOCATOR_LENGTH + END_LENGTH);
    let few = directory.entries < 0xFFFF;
    if !few {
        out.extend(END_64);
        out.extend((END_64_LENGTH as u64 - 12).to_le_bytes());
        out.extend([45, 0, 45, 0]);
        out.extend([0; 8]);
        for number in [directory.entries, directory.entries, directory.length, directory.offset] {
            out.extend(number.to_le_bytes());
        }
        out.extend(END_64_LOCATOR);
        out.extend([0; 4]);
        out.extend((directory.offset + directory.length).to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    }
    let entries = u16::try_from(directory.entries).unwrap_or(u16::MAX).to_le_bytes();
    out.extend(END);
    out.extend([0; 4]);
    out.extend(entries);
    out.extend(entries);
    out.extend(u32::try_from(directory.length).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(u32::try_from(directory.offset).unwrap_or(u32::MAX).to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A part of a file, read without moving anybody's place in it.
pub(super) struct FileRange<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
    pub(super) end: u64,
}

impl Read for FileRange<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = self.file.read_at(buffer, self.at)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
        }
        self.at += read as u64;
        Ok(read)
    }
}

fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    FileRange { file, at: offset, end: offset.saturating_add(length as u64) }.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The little-endian number of `length` bytes at `at`.
fn number(record: &[u8], at: usize, length: usize) -> io::Result<u64> {
    let bytes = record.get(at..at + length).ok_or_else(|| malformed("it is cut off"))?;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

pub(super) fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
