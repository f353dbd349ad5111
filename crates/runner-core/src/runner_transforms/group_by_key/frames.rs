//! Values of many keys and windows together, on disk.
//!
//! Those of one may be few, and a place on disk is worth it for some 10 kB only. So values of keys and windows that are likely
//! wanted one after another are put into a frame together, and frames from which more is wanted stay in memory for a while.

use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

use super::room::{Room, Sizes};
use super::values::{LARGEST_PIECE, Part, Values};
use crate::fault::Fault;
use crate::ports::{Reservation, Storage, StoredBlock};

/// However little memory there is, so many frames are kept that are being read.
const LEAST_FRAMES: u64 = 4;

/// From what size on values are to be given to the storage, the largest first, so that it gets so many bytes; and some more,
/// not to be asked again soon.
pub(super) fn least<'a>(all: impl Iterator<Item = &'a Values>, bytes: u64, sizes: &Sizes) -> usize {
    let lens = all.map(|values| values.in_memory().len());
    let mut lens: Vec<usize> = lens.filter(|len| *len >= sizes.part).collect();
    lens.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
    let goal = bytes.max(sizes.share);
    let mut sum = 0;
    let enough = lens.into_iter().find(|len| {
        sum += *len as u64;
        sum >= goal
    });
    enough.unwrap_or(sizes.part)
}

/// Gives to the storage what of these is in memory. Those that come one after another share frames.
///
/// Errors: the disk is full or broken. Some have then been given away, and none is lost.
pub(super) fn write(all: &mut [&mut Values], sizes: &Sizes, storage: &dyn Storage) -> Result<(), Fault> {
    let mut shared: Vec<&mut Values> = Vec::new();
    let mut frame = Vec::new();
    for values in all {
        let len = values.in_memory().len();
        if len >= sizes.frame {
            write_alone(values, storage)?;
            continue;
        }
        if frame.len() + len > sizes.frame {
            write_together(&mut shared, &mut frame, storage)?;
        }
        frame.extend_from_slice(values.in_memory());
        shared.push(values);
    }
    write_together(&mut shared, &mut frame, storage)
}

fn write_alone(values: &mut Values, storage: &dyn Storage) -> Result<(), Fault> {
    let mut parts = Vec::new();
    for bytes in values.in_memory().chunks(LARGEST_PIECE) {
        let frame = Arc::new(storage.write(bytes)?);
        // No longer than the largest piece.
        parts.push(Part { frame, start: 0, len: bytes.len() as u32 });
    }
    values.moved(parts.into_iter());
    Ok(())
}

/// `frame`: what these have in memory, which is less than the largest piece together.
fn write_together(
    shared: &mut Vec<&mut Values>,
    frame: &mut Vec<u8>,
    storage: &dyn Storage,
) -> Result<(), Fault> {
    if frame.is_empty() {
        shared.clear();
        return Ok(());
    }
    let written = Arc::new(storage.write(frame)?);
    let mut start = 0;
    for values in shared.drain(..) {
        let len = values.in_memory().len() as u32;
        values.moved([Part { frame: written.clone(), start, len }].into_iter());
        start += len;
    }
    frame.clear();
    Ok(())
}

/// Frames that are being read.
pub(super) struct Frames {
    /// By address.
    known: IndexMap<usize, Read>,
    /// How many have had to go.
    gone: usize,
    reserved: Reservation,
    /// Bytes that they may be together, unless one alone is more.
    most: u64,
}

struct Read {
    frame: Arc<StoredBlock>,
    bytes: Bytes,
}

impl Frames {
    pub(super) fn new(room: &Room) -> Self {
        let most = room.sizes.load.max(LEAST_FRAMES * room.sizes.frame as u64);
        Self { known: IndexMap::new(), gone: 0, reserved: room.reserve(0), most }
    }

    /// Hands `to` the bytes of a part, and lets go of it.
    ///
    /// Errors: they cannot be read back.
    pub(super) fn read(
        &mut self,
        part: Part,
        to: impl FnOnce(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Part { frame, start, len } = part;
        if u64::from(len) == frame.len() {
            return to(&frame.read()?);
        }
        let address = Arc::as_ptr(&frame) as usize;
        let bytes = match self.known.get(&address) {
            Some(read) => read.bytes.clone(),
            None => self.keep(address, &frame)?,
        };
        let (start, len) = (start as usize, len as usize);
        let short = || Fault::runner("values that were kept for a GroupByKey came back too short");
        to(bytes.get(start..start + len).ok_or_else(short)?)?;
        // One is here and one is known.
        if Arc::strong_count(&frame) == 2 {
            self.known.swap_remove(&address);
            self.reserved.shrink(frame.len());
        }
        Ok(())
    }

    fn keep(&mut self, address: usize, frame: &Arc<StoredBlock>) -> Result<Bytes, Fault> {
        let bytes = frame.read()?;
        while self.reserved.bytes() + frame.len() > self.most && !self.known.is_empty() {
            // Any of them: of more frames than there is room for, wanted in turn, each would go before its turn if the oldest did.
            self.gone = self.gone.wrapping_add(1);
            let any = self.gone.wrapping_mul(0x9E37_79B9).rotate_right(16) % self.known.len();
            if let Some((_, read)) = self.known.swap_remove_index(any) {
                self.reserved.shrink(read.frame.len());
            }
        }
        self.reserved.grow(frame.len());
        self.known.insert(address, Read { frame: frame.clone(), bytes: bytes.clone() });
        Ok(bytes)
    }
}
