//! Encoded values, one after another, in memory or not, and the event time that they get together.

use std::sync::Arc;

use beam_model::coders::CoderError;
use beam_model::time::EventTime;

use super::frames::Frames;
use crate::fault::Fault;
use crate::plan::OutputTime;
use crate::ports::StoredBlock;

/// Values are handed on in pieces of so many bytes at most.
pub(super) const LARGEST_PIECE: usize = 1 << 20;

/// Buffers double in size until they have so many bytes. Then they grow by a part: several that double at once may be all the
/// memory that there is.
const LARGE_BUFFER: usize = 64 << 10;
const GROWTH: usize = 8;

/// The values of one key and window.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    /// Those that the storage has.
    stored: Vec<Part>,
    /// The others.
    encoded: Vec<u8>,
    count: u32,
    /// Bytes of those that the storage has.
    stored_len: u64,
}

/// Something that is in a frame with others, or alone in it. Values may begin in one part and end in the next.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) frame: Arc<StoredBlock>,
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Values {
    pub(super) fn push(&mut self, value: &[u8]) {
        let capacity = self.encoded.capacity();
        if capacity >= LARGE_BUFFER && capacity - self.encoded.len() < value.len() {
            self.encoded.reserve_exact(value.len().max(capacity / GROWTH));
        }
        self.encoded.extend_from_slice(value);
        self.count = self.count.saturating_add(1);
    }

    /// In no particular order: what is in memory stays behind what is not.
    pub(super) fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.stored.extend(other.stored);
        self.stored_len += other.stored_len;
        self.encoded.extend_from_slice(&other.encoded);
        self.count = self.count.saturating_add(other.count);
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all values.
    pub(super) fn len(&self) -> u64 {
        self.stored_len + self.encoded.len() as u64
    }

    /// Bytes of memory that they take, besides this.
    pub(super) fn memory(&self) -> usize {
        self.encoded.capacity() + self.stored.capacity() * size_of::<Part>()
    }

    /// What of them is in memory.
    pub(super) fn in_memory(&self) -> &[u8] {
        &self.encoded
    }

    /// What was in memory is in these parts now.
    pub(super) fn moved(&mut self, parts: impl ExactSizeIterator<Item = Part>) {
        self.stored_len += self.encoded.len() as u64;
        self.encoded = Vec::new();
        // Most have few.
        if self.stored.len() < 4 {
            self.stored.reserve_exact(parts.len());
        }
        self.stored.extend(parts);
    }

    /// How many there are, as `Iterable<V>` has it.
    ///
    /// Errors: more than it can say.
    pub(super) fn count(&self) -> Result<i32, CoderError> {
        i32::try_from(self.count).map_err(|_| CoderError::Malformed {
            what: "iterable",
            reason: "one key has more than 2^31 - 1 values",
        })
    }

    /// Hands `to` all values, piece by piece. A value may begin in one piece and end in the next.
    ///
    /// Errors: they cannot be read back, or those of `to`.
    pub(super) fn read(
        self,
        frames: &mut Frames,
        mut to: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for part in self.stored {
            frames.read(part, &mut to)?;
        }
        self.encoded.chunks(LARGEST_PIECE).try_for_each(to)
    }
}

impl OutputTime {
    /// Of two elements' times, the one to keep. For the end of the window neither counts, but the
    /// later one stands in where only the SDK knows the window's end.
    pub(super) fn of(self, a: EventTime, b: EventTime) -> EventTime {
        match self {
            Self::Earliest => a.min(b),
            Self::Latest | Self::EndOfWindow => a.max(b),
        }
    }

    pub(super) fn of_both(self, a: Option<EventTime>, b: Option<EventTime>) -> Option<EventTime> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.of(a, b)),
            (one, None) | (None, one) => one,
        }
    }
}
