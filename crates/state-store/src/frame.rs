//! What goes to disk at a time: one block, or several one after another, compressed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use runner_core::ports::{MemoryBudget, Reservation};

use crate::Error;
use crate::spill_files::{Place, SpillFiles};

/// How many frames of several blocks are kept as they were before they were compressed. They were put in one after another, and
/// are likely read so.
const DECODED_FRAMES: usize = 2;

/// Something on disk.
pub(crate) struct Frame {
    place: Place,
    /// Bytes before they were compressed.
    len: usize,
    compression: Compression,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Lz4,
}

impl Frame {
    /// Errors: the disk is full or broken.
    pub(crate) fn write(files: &SpillFiles, data: &[u8]) -> Result<Self, Error> {
        let compressed = lz4_flex::block::compress(data);
        let len = data.len();
        if compressed.len() < len {
            return Ok(Self { place: files.write(&compressed)?, len, compression: Compression::Lz4 });
        }
        Ok(Self { place: files.write(data)?, len, compression: Compression::None })
    }

    /// Errors: the disk is broken.
    pub(crate) fn read(&self) -> Result<Bytes, Error> {
        let stored = self.place.read()?;
        self.place.budget().count_read(self.len as u64);
        match self.compression {
            Compression::None => Ok(stored.into()),
            Compression::Lz4 => {
                let decoded = lz4_flex::block::decompress(&stored, self.len);
                let decoded = decoded.map_err(|error| self.damaged(stored.len(), error.to_string()))?;
                if decoded.len() != self.len {
                    return Err(self.damaged(stored.len(), format!("it has {} bytes now", decoded.len())));
                }
                Ok(decoded.into())
            }
        }
    }

    fn damaged(&self, bytes: usize, reason: String) -> Error {
        Error::Damaged { folder: self.place.folder().to_owned(), bytes, reason }
    }
}

/// The frames of several blocks that were read last.
pub(crate) struct Decoded {
    budget: Arc<MemoryBudget>,
    frames: Mutex<VecDeque<(Arc<Frame>, Bytes, Reservation)>>,
}

impl Decoded {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { budget, frames: Mutex::default() }
    }

    /// All of a frame, which has more than one block.
    pub(crate) fn read(&self, frame: &Arc<Frame>) -> Result<Bytes, Error> {
        let known = |frames: &VecDeque<(Arc<Frame>, Bytes, Reservation)>| {
            frames.iter().find(|(known, ..)| Arc::ptr_eq(known, frame)).map(|(_, data, _)| data.clone())
        };
        if let Some(data) = known(&self.frames.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(data);
        }
        let data = frame.read()?;
        let reserved = self.budget.reserve(data.len() as u64);
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        // Frames that nobody else has are not read any more.
        frames.retain(|(known, ..)| Arc::strong_count(known) > 1 && !Arc::ptr_eq(known, frame));
        frames.push_back((frame.clone(), data.clone(), reserved));
        while frames.len() > DECODED_FRAMES {
            frames.pop_front();
        }
        Ok(data)
    }

    /// To be told when a block of a frame is dropped: nobody reads the frame any more when all have been.
    pub(crate) fn dropping(&self, frame: &Arc<Frame>) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        // One handle is the caller's, one is here.
        frames.retain(|(known, ..)| !Arc::ptr_eq(known, frame) || Arc::strong_count(known) > 2);
    }
}
