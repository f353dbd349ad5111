//! Encoded elements in the order in which they were appended.

use bytes::Bytes;

use super::paging::{PAGE_BYTES, Part};

/// Small appends are copied together: they would hold on to the messages that they came in.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    full: Vec<Bytes>,
    tail: Vec<u8>,
    bytes: u64,
    appends: u64,
}

impl Values {
    pub(super) fn append(&mut self, data: Bytes) {
        self.appends = self.appends.saturating_add(1);
        self.push(data);
    }

    /// Appends all of `later`. Takes time by what is in `later`, not by what is here.
    pub(super) fn extend(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
            return;
        }
        self.appends = self.appends.saturating_add(later.appends);
        for page in later.full {
            self.push(page);
        }
        self.push(later.tail.into());
    }

    fn push(&mut self, data: Bytes) {
        self.bytes += data.len() as u64;
        if data.len() >= PAGE_BYTES {
            self.end_page();
            self.full.push(data);
        } else {
            self.tail.extend_from_slice(&data);
            if self.tail.len() >= PAGE_BYTES {
                self.end_page();
            }
        }
    }

    fn end_page(&mut self) {
        if !self.tail.is_empty() {
            self.full.push(std::mem::take(&mut self.tail).into());
        }
    }

    /// Whether nothing was ever appended. An append of no bytes is something: elements may take none.
    pub(super) fn is_empty(&self) -> bool {
        self.appends == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn appends(&self) -> u64 {
        self.appends
    }

    /// Parts of whole elements, none of them empty.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let tail = (!self.tail.is_empty()).then_some(Part::Slice(&self.tail));
        self.full.iter().map(Part::Page).chain(tail)
    }
}
