//! A Reshuffle has all workers work on what comes after it, even on a few elements: each may stand for much work. So a
//! little that a bundle has written into one is cut into several blocks, which the engine hands out to all of them.

use std::collections::BTreeSet;
use std::ops::Range;

use super::collectors::size;
use super::outputs::ByCollection;
use crate::engine::{Block, SMALL};
use crate::fault::Fault;
use crate::plan::{Collection, CollectionId, ExecutionPlan};
use crate::ports::{Storage, StoredBlock};
use crate::runner_transforms::elements::{self, Cutter};

/// So many blocks are enough for as many workers as one machine has.
const PIECES: usize = 64;

/// What bundles write, a little for a Reshuffle in pieces.
#[derive(Debug)]
pub(super) struct Spread(BTreeSet<CollectionId>);

impl Spread {
    pub(super) fn new(plan: &ExecutionPlan) -> Self {
        // Nothing waits there for a bundle to be full.
        Self(if plan.streaming { BTreeSet::new() } else { plan.redistributed() })
    }

    /// Errors: a block is not what the coders say, or the storage has no room.
    pub(super) fn cut(
        &self,
        plan: &ExecutionPlan,
        mut written: ByCollection,
        storage: &dyn Storage,
    ) -> Result<ByCollection, Fault> {
        for (id, blocks) in &mut written {
            let collection = &plan.collections[id.0];
            // What is cut by key or by element is cut already.
            let few = blocks.len() < PIECES && size(blocks) <= SMALL && !Cutter::parses(collection);
            if self.0.contains(id) && few {
                *blocks = pieces(collection, blocks, storage)?;
            }
        }
        Ok(written)
    }
}

fn pieces(
    collection: &Collection,
    blocks: &[Block<StoredBlock>],
    storage: &dyn Storage,
) -> Result<Vec<Block<StoredBlock>>, Fault> {
    let counts = elements::counts(collection, blocks)?;
    let each = counts.iter().sum::<usize>().div_ceil(PIECES).max(1);
    let mut pieces = Vec::new();
    for (block, count) in blocks.iter().zip(counts) {
        for first in (0..count).step_by(each) {
            let range: Range<usize> = first..count.min(first + each);
            pieces.push(elements::part(collection, block, range, storage)?);
        }
    }
    Ok(pieces)
}
