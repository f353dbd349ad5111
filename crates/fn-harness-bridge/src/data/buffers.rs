//! Memory for messages that come in, used again.
//!
//! A message of a megabyte is more than the system's allocator keeps when it is freed: each one would be pages that the
//! kernel has to clear, which takes longer than filling them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// So many bytes of buffers that nobody uses are kept, and no more.
const MOST_IDLE: usize = 32 << 20;
/// Less than this the allocator keeps by itself.
const SMALLEST: usize = 128 << 10;
/// Sizes are multiples of this, so that messages of about the same size can have each other's buffers.
const STEP: usize = 64 << 10;
/// A buffer is not used for a message that fills less than one of so many parts of it.
const PARTS: usize = 2;
/// What a message says of its own size is believed up to here; then its bytes have to come.
const BELIEVED: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Buffers {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// A buffer being filled. What was filled is [frozen](Self::freeze), and the buffer comes back when that is dropped.
pub(super) struct Buffer {
    data: Vec<u8>,
    from: Arc<Buffers>,
}

impl Buffers {
    /// An empty buffer for a message that is said to have so many bytes.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let len = len.min(BELIEVED);
        let data = if len < SMALLEST { None } else { self.reused(len) };
        let data = data.unwrap_or_else(|| match len < SMALLEST {
            true => Vec::with_capacity(len),
            false => Vec::with_capacity(len.next_multiple_of(STEP)),
        });
        Buffer { data, from: self.clone() }
    }

    fn reused(&self, len: usize) -> Option<Vec<u8>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<u8>| (len..=len * PARTS).contains(&buffer.capacity());
        // What came back last is in the processor's cache yet.
        let index = idle.buffers.iter().rposition(fits)?;
        let buffer = idle.buffers.swap_remove(index);
        idle.bytes -= buffer.capacity();
        Some(buffer)
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = idle.bytes + buffer.capacity();
        if bytes <= MOST_IDLE {
            buffer.clear();
            idle.bytes = bytes;
            idle.buffers.push(buffer);
        }
    }
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    pub(super) fn extend_from_slice(&mut self, data: &[u8]) {
        self.data.extend_from_slice(data);
    }

    pub(super) fn freeze(mut self) -> Bytes {
        match self.data.capacity() < SMALLEST {
            true => std::mem::take(&mut self.data).into(),
            false => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.capacity() >= SMALLEST {
            self.from.give_back(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Arc<Buffers>, len: usize) -> Bytes {
        let mut buffer = buffers.take(len);
        buffer.extend_from_slice(&vec![7; len]);
        buffer.freeze()
    }

    #[test]
    fn a_buffer_is_used_again_once_nothing_of_it_is_left() {
        let buffers = Arc::new(Buffers::default());
        let first = filled(&buffers, 1 << 20);
        let (place, part) = (first.as_ptr(), first.slice(10..20));
        drop(first);
        assert_ne!(filled(&buffers, 1 << 20).as_ptr(), place, "a part of it is in use");
        drop(part);
        let again = filled(&buffers, (1 << 20) - 1000);
        assert_eq!((again.as_ptr(), again.len()), (place, (1 << 20) - 1000));
        assert_eq!(buffers.idle.lock().unwrap().bytes, 1 << 20);
    }

    #[test]
    fn small_messages_get_no_large_buffers_and_large_ones_no_small_ones() {
        let buffers = Arc::new(Buffers::default());
        drop(filled(&buffers, 1 << 20));
        for (len, capacity) in [(0, 0), (10, 10), (SMALLEST, SMALLEST), ((1 << 20) + 1, (1 << 20) + STEP)] {
            // None of these comes back while the first waits to be used.
            let mut buffer = buffers.take(len);
            assert_eq!(std::mem::take(&mut buffer.data).capacity(), capacity, "{len} bytes");
        }
        assert_eq!(buffers.take(1 << 19).data.capacity(), 1 << 20);
    }

    #[test]
    fn only_so_much_is_kept() {
        let buffers = Arc::new(Buffers::default());
        let all: Vec<_> = (0..100).map(|_| filled(&buffers, 1 << 20)).collect();
        drop(all);
        let idle = buffers.idle.lock().unwrap();
        assert_eq!((idle.bytes, idle.buffers.len()), (MOST_IDLE, MOST_IDLE >> 20));
    }

    #[test]
    fn a_message_may_say_that_it_is_larger_than_it_is() {
        let buffers = Arc::new(Buffers::default());
        assert!(buffers.take(u32::MAX as usize).data.capacity() <= BELIEVED);
    }
}
