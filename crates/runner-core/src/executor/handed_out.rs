//! How much of what a GroupByKey has may wait for workers at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::engine::Block;
use crate::ports::StoredBlock;

/// What waits for workers is to be no more than this part of the memory that there is: groups that have been read from disk
/// would only go there again.
const PARTS_OF_MEMORY: u64 = 8;
/// Permits are for so many bytes.
const UNIT: u64 = 1 << 10;
/// No more permits than this, which are 1 TiB.
const MOST: u32 = 1 << 30;
/// How long to wait for workers when none of them gets on, at first and at most. They may wait for what is still to be handed out.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What has been handed out and not been worked off.
pub(super) struct HandedOut {
    room: Arc<Semaphore>,
    size: u32,
    patience: Duration,
}

impl HandedOut {
    /// `memory`: bytes, of all jobs.
    pub(super) fn new(memory: u64) -> Self {
        let size = u32::try_from(memory / PARTS_OF_MEMORY / UNIT).unwrap_or(MOST).clamp(1, MOST);
        Self { room: Arc::new(Semaphore::new(size as usize)), size, patience: PATIENCE.0 }
    }

    /// Waits until there is room for some more, or for so long that it seems to take more room to get on; then there
    /// is twice as much from now on.
    pub(super) async fn wait(&mut self) {
        while self.room.available_permits() == 0 && self.size < MOST {
            let freed = tokio::time::timeout(self.patience, self.room.acquire()).await;
            if freed.is_err() {
                self.room.add_permits(self.size as usize);
                self.size = self.size.saturating_mul(2);
                self.patience = (self.patience * 2).min(PATIENCE.1);
            }
        }
    }

    /// Counts blocks as handed out for as long as anybody has them.
    pub(super) fn count(&self, blocks: &mut [Block<StoredBlock>]) {
        let units = blocks.iter().map(|block| block.bytes.div_ceil(UNIT)).sum::<u64>();
        // The last ones take what room is left, and nothing after them gets any.
        let units = usize::try_from(units).unwrap_or(usize::MAX).min(self.room.available_permits());
        let permits =
            u32::try_from(units).ok().and_then(|units| self.room.clone().try_acquire_many_owned(units).ok());
        let Some(permits) = permits.map(Arc::new) else { return };
        for block in blocks {
            block.data = block.data.clone().guarded(permits.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::runner_transforms::elements;

    fn blocks(sizes: &[usize]) -> Vec<Block<StoredBlock>> {
        let stored = |size: &usize| StoredBlock::in_memory(Bytes::from(vec![0; *size]));
        sizes.iter().map(|size| elements::block(stored(size))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_again_when_blocks_are_dropped() {
        let mut handed_out = HandedOut::new(80 << 10);
        let mut first = blocks(&[4 << 10, 6 << 10]);
        handed_out.wait().await;
        handed_out.count(&mut first);
        assert_eq!(handed_out.room.available_permits(), 0);
        let waiting = tokio::spawn(async move {
            handed_out.wait().await;
            handed_out
        });
        tokio::time::sleep(PATIENCE.0 / 2).await;
        assert!(!waiting.is_finished());
        drop(first);
        let handed_out = waiting.await.unwrap();
        assert_eq!((handed_out.size, handed_out.patience), (10, PATIENCE.0), "nobody lost patience");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_get_nowhere_get_more() {
        let mut handed_out = HandedOut::new(8 << 10);
        let mut all = Vec::new();
        for _ in 0..100 {
            handed_out.wait().await;
            let mut more = blocks(&[10 << 10]);
            handed_out.count(&mut more);
            all.extend(more);
        }
        assert!(handed_out.size >= 1000, "{}", handed_out.size);
        drop(all);
        assert_eq!(handed_out.room.available_permits(), handed_out.size as usize, "all is given back");
    }
}
