//! Cutting blocks between elements.

use beam_model::coders::Coder;
use beam_model::coders::windowed_value::read_header;
use bytes::Bytes;

use super::malformed;
use crate::fault::Fault;
use crate::plan::{Collection, Grain};

/// The blocks of one collection as the plan wants them: as they are, or an element each.
pub fn cut(collection: &Collection, blocks: Vec<Bytes>) -> Result<Vec<Bytes>, Fault> {
    match collection.grain {
        Grain::Block => Ok(blocks),
        Grain::Element => {
            let mut elements = Vec::new();
            for block in blocks {
                for element in Elements::new(collection, block) {
                    elements.push(element?);
                }
            }
            Ok(elements)
        }
    }
}

/// The elements of a block, each a slice of it.
pub struct Elements<'a> {
    id: &'a str,
    element: &'a Coder,
    window: &'a Coder,
    rest: Bytes,
}

impl<'a> Elements<'a> {
    pub fn new(collection: &'a Collection, block: Bytes) -> Self {
        Self {
            id: &collection.id,
            element: &collection.element_coder,
            window: &collection.window_coder,
            rest: block,
        }
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<Bytes, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = read_header(self.window, &self.rest)
            .and_then(|header| Ok(header.header_len + self.element.skip(&self.rest[header.header_len..])?));
        Some(match len {
            Ok(len) => Ok(self.rest.split_to(len)),
            Err(error) => {
                self.rest.clear();
                Err(malformed(self.id, error))
            }
        })
    }
}
