//! What waits before a stage.

use std::collections::VecDeque;

use super::Block;

pub(super) struct StageState<B> {
    pub(super) pending: VecDeque<Block<B>>,
    pub(super) pending_bytes: u64,
    pub(super) in_flight: usize,
    /// Residuals that wait for their time.
    pub(super) delayed: usize,
    pub(super) side_inputs_missing: usize,
    /// No more input will come, residuals aside.
    pub(super) input_complete: bool,
    /// All is done, and told to the readers.
    pub(super) complete: bool,
}

impl<B> StageState<B> {
    pub(super) fn new(side_inputs: usize) -> Self {
        Self {
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: 0,
            delayed: 0,
            side_inputs_missing: side_inputs,
            input_complete: false,
            complete: false,
        }
    }

    pub(super) fn push(&mut self, blocks: impl IntoIterator<Item = Block<B>>) {
        for block in blocks {
            self.pending_bytes += block.bytes;
            self.pending.push_back(block);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        !self.complete
            && self.input_complete
            && self.pending.is_empty()
            && self.in_flight == 0
            && self.delayed == 0
    }

    /// Takes blocks off the front until `full` says that the bundle has enough of them, after
    /// (blocks, bytes). Never empty if anything waits.
    pub(super) fn take(&mut self, full: impl Fn(usize, u64) -> bool) -> Vec<Block<B>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(block) = self.pending.pop_front() {
            bytes += block.bytes;
            taken.push(block);
            if full(taken.len(), bytes) {
                break;
            }
        }
        self.pending_bytes -= bytes;
        taken
    }
}
