//! Blocks in memory while there is room, and on disk when there is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use runner_core::fault::Fault;
use runner_core::ports::{MemoryBudget, Reservation, Storage, StoredBlock, StoredContent};

use crate::Error;
use crate::frame::{Decoded, Frame};
use crate::spill_files::SpillFiles;

/// Small blocks are written together, about so many bytes at a time; fewer if that is more than a small part of the budget.
const FRAME_BYTES: u64 = 1 << 20;
const SMALLEST_FRAME_BYTES: u64 = 4 << 10;
const FRAMES_IN_BUDGET: u64 = 64;
/// What a block takes besides its bytes: itself, its place among the others, and its buffer's own head.
const BLOCK_OVERHEAD: u64 = 256;
/// A block that is a smaller part of its frame than this is copied out of it, so as not to keep all of the frame in memory.
const COPIED_PART: usize = 4;

/// A [`Storage`] with a disk.
pub struct DiskStorage {
    shared: Arc<Shared>,
}

struct Shared {
    budget: Arc<MemoryBudget>,
    residents: Mutex<Residents>,
    /// Held by whoever makes room. Others who want room wait, which they have to anyway.
    making_room: Mutex<()>,
    files: SpillFiles,
    decoded: Decoded,
    frame_bytes: usize,
}

/// The blocks in memory, in the order in which they were put in.
#[derive(Default)]
struct Residents {
    blocks: BTreeMap<u64, Weak<Block>>,
    /// The number of the next one.
    next: u64,
}

struct Block {
    shared: Arc<Shared>,
    /// Its key among the [`Residents`], if it is one of them.
    number: Option<u64>,
    len: usize,
    content: Mutex<Content>,
    _overhead: Reservation,
}

enum Content {
    Resident {
        data: Bytes,
        _reserved: Reservation,
    },
    /// All that is in a frame.
    Alone(Arc<Frame>),
    /// A part of a frame, from this byte on.
    Part(Arc<Frame>, usize),
}

impl DiskStorage {
    /// Keeps what does not fit in `budget` in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// No files can be made in the folder.
    pub fn new(budget: Arc<MemoryBudget>, folder: &Path) -> Result<Self, Error> {
        let files = SpillFiles::new(folder, budget.clone())?;
        let decoded = Decoded::new(budget.clone());
        let frame_bytes =
            (budget.limit() / FRAMES_IN_BUDGET).clamp(SMALLEST_FRAME_BYTES, FRAME_BYTES) as usize;
        let (residents, making_room) = (Mutex::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { budget, residents, making_room, files, decoded, frame_bytes }) })
    }

    /// Where it writes.
    pub fn folder(&self) -> &Path {
        self.shared.files.folder()
    }
}

impl Storage for DiskStorage {
    fn budget(&self) -> &Arc<MemoryBudget> {
        &self.shared.budget
    }

    fn put(&self, data: Bytes) -> Result<StoredBlock, Fault> {
        let block = self.shared.keep(data);
        self.shared.make_room()?;
        Ok(StoredBlock::new(block))
    }

    fn write(&self, data: &[u8]) -> Result<StoredBlock, Fault> {
        let frame = Frame::write(&self.shared.files, data)?;
        self.shared.budget.count_spilled(data.len() as u64);
        let content = Content::Alone(Arc::new(frame));
        Ok(StoredBlock::new(Arc::new(self.shared.block(None, data.len(), content))))
    }

    fn make_room(&self) -> Result<(), Fault> {
        Ok(self.shared.make_room()?)
    }
}

impl Shared {
    fn residents(&self) -> MutexGuard<'_, Residents> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, data: Bytes) -> Arc<Block> {
        let len = data.len();
        let content = Content::Resident { data, _reserved: self.budget.reserve(len as u64) };
        let mut residents = self.residents();
        let number = residents.next;
        residents.next += 1;
        let block = Arc::new(self.block(Some(number), len, content));
        residents.blocks.insert(number, Arc::downgrade(&block));
        block
    }

    fn block(self: &Arc<Self>, number: Option<u64>, len: usize, content: Content) -> Block {
        let overhead = self.budget.reserve(BLOCK_OVERHEAD);
        Block { shared: self.clone(), number, len, content: Mutex::new(content), _overhead: overhead }
    }

    fn make_room(&self) -> Result<(), Error> {
        if !self.budget.is_over() {
            return Ok(());
        }
        let _alone = self.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        while self.budget.is_over() {
            let blocks = self.last_put_in();
            if blocks.is_empty() {
                break;
            }
            if let Err(error) = self.write_out(&blocks) {
                self.put_back(&blocks);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Blocks worth a frame, which are residents no more.
    fn last_put_in(&self) -> Vec<Arc<Block>> {
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        let mut gone = Vec::new();
        let mut residents = self.residents();
        while bytes < self.frame_bytes
            && let Some((_, block)) = residents.blocks.pop_last()
        {
            match block.upgrade() {
                Some(block) if bytes > 0 && bytes + block.len > self.frame_bytes * 2 => {
                    // A large one after small ones has a frame of its own.
                    if let Some(number) = block.number {
                        residents.blocks.insert(number, Arc::downgrade(&block));
                    }
                    gone.push(block);
                    break;
                }
                Some(block) => {
                    bytes += block.len;
                    blocks.push(block);
                }
                None => {}
            }
        }
        // The last handle of a block may be one of these, and what drops it asks for the residents.
        drop(residents);
        drop(gone);
        blocks
    }

    fn put_back(&self, blocks: &[Arc<Block>]) {
        let mut residents = self.residents();
        for block in blocks {
            if let Some(number) = block.number {
                residents.blocks.insert(number, Arc::downgrade(block));
            }
        }
    }

    fn write_out(&self, blocks: &[Arc<Block>]) -> Result<(), Error> {
        let contents: Vec<Bytes> = blocks.iter().filter_map(|block| block.resident()).collect();
        let bytes: usize = contents.iter().map(Bytes::len).sum();
        let frame = match contents.as_slice() {
            [only] => Frame::write(&self.files, only)?,
            several => Frame::write(&self.files, &several.concat())?,
        };
        self.budget.count_spilled(bytes as u64);
        let (frame, mut start) = (Arc::new(frame), 0);
        for block in blocks {
            let content = if blocks.len() == 1 {
                Content::Alone(frame.clone())
            } else {
                Content::Part(frame.clone(), start)
            };
            start += block.len;
            *block.content() = content;
        }
        Ok(())
    }
}

impl Block {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resident(&self) -> Option<Bytes> {
        match &*self.content() {
            Content::Resident { data, .. } => Some(data.clone()),
            Content::Alone(_) | Content::Part(..) => None,
        }
    }
}

impl StoredContent for Block {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn read(&self) -> Result<Bytes, Fault> {
        let (frame, start) = match &*self.content() {
            Content::Resident { data, .. } => return Ok(data.clone()),
            Content::Alone(frame) => (frame.clone(), None),
            Content::Part(frame, start) => (frame.clone(), Some(*start)),
        };
        let Some(start) = start else { return Ok(frame.read()?) };
        let all = self.shared.decoded.read(&frame)?;
        let part = all.slice(start..start + self.len);
        let small = part.len() < all.len() / COPIED_PART;
        Ok(if small { Bytes::copy_from_slice(&part) } else { part })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.residents().blocks.remove(&number);
        }
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Content::Part(frame, _) = content {
            self.shared.decoded.dropping(frame);
        }
    }
}
