//! A bundle's input on its way to the worker, cut into frames.

use std::collections::BTreeMap;
use std::sync::Arc;

use beam_model::fn_execution::instruction_request::Request;
use beam_model::fn_execution::{Elements, InstructionRequest, ProcessBundleRequest, elements};
use beam_model::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use bytes::{Bytes, BytesMut};
use runner_core::fault::Fault;
use runner_core::ports::TimerBlock;

use crate::bundle::{FiredTimers, TimerFamily};
use crate::worker::{Outbox, WorkerSession};

/// A message ends when it holds so many bytes. Large enough that its cost does not count, small enough
/// that the worker has begun on one while the next is on its way.
const FRAME_BYTES: usize = 1 << 20;
/// A block smaller than this is copied together with its neighbours: a worker's cost for each block is
/// higher than that of the copy.
const SMALL_BLOCK_BYTES: usize = 32 << 10;

/// A bundle whose input has no more bytes than this is sent as a whole in its request, where the SDK can take it
/// so. Control messages are to stay small: a worker reads its instructions one after the other.
const EMBEDDED_BYTES: usize = 64 << 10;

/// The elements of one input, block by block.
pub(crate) type Blocks = Box<dyn Iterator<Item = Result<Bytes, Fault>> + Send>;

/// Why a bundle's input did not get to the worker as a whole.
pub(crate) enum FeedError {
    Input(Fault),
    WorkerGone,
}

/// Begins a bundle: sends its request, all its inputs, then its timers, and the mark of their end for each. `may_wait`: whether
/// reading its inputs may take long now.
pub(crate) async fn feed(
    worker: &WorkerSession,
    instruction: &str,
    request: ProcessBundleRequest,
    inputs: BTreeMap<String, Blocks>,
    timers: FiredTimers,
    may_wait: impl Fn() -> bool,
) -> Result<(), FeedError> {
    let stream = worker.data.outbox(&request.data_stream_id);
    let elements = Elements::default();
    let mut frame = Frame { instruction, stream, request: Some(request), elements, bytes: 0 };
    if !worker.environment.can(CONTROL_REQUEST_ELEMENTS_EMBEDDING) {
        frame.send(worker).await?;
    }
    for (transform_id, mut blocks) in inputs {
        // What may have to be read from somewhere is taken where waiting for that holds up nobody; the beginning, which is
        // mostly all of it, in any case from here.
        let mut pulled = pull(&mut blocks);
        loop {
            let Pulled { data, more } = pulled.map_err(FeedError::Input)?;
            data.into_iter().for_each(|data| frame.push(&transform_id, data, false));
            if !more {
                break;
            }
            frame.send(worker).await?;
            if !may_wait() {
                pulled = pull(&mut blocks);
                continue;
            }
            let pulling = tokio::task::spawn_blocking(move || {
                let pulled = pull(&mut blocks);
                (blocks, pulled)
            });
            (blocks, pulled) = pulling.await.map_err(|error| {
                FeedError::Input(Fault::runner(format!("reading a bundle's input failed: {error}")))
            })?;
        }
        frame.push(&transform_id, Bytes::new(), true);
        if frame.bytes >= FRAME_BYTES {
            frame.send(worker).await?;
        }
    }
    feed_timers(frame, worker, timers).await
}

/// The Python harness takes the timers of a message before its data, so timers that fire go in a message
/// after the data's. The ends are in the last message of all: the Go harness counts an end for each
/// transform, not for each family, and reads no further when it has enough of them.
async fn feed_timers(
    mut frame: Frame<'_>,
    worker: &WorkerSession,
    timers: FiredTimers,
) -> Result<(), FeedError> {
    let FiredTimers { blocks, families } = timers;
    let timer_bytes: usize = blocks.iter().map(|block| block.timers.len()).sum();
    let embedded = frame.request.is_some() && frame.bytes + timer_bytes <= EMBEDDED_BYTES;
    if !blocks.is_empty() && !embedded {
        frame.send(worker).await?;
    }
    for TimerBlock { transform_id, family_id, timers } in blocks {
        if frame.bytes >= FRAME_BYTES {
            frame.send(worker).await?;
        }
        frame.push_timers(TimerFamily { transform_id, family_id }, timers, false);
    }
    families.into_iter().for_each(|family| frame.push_timers(family, Bytes::new(), true));
    match embedded {
        true => frame.send_embedded(worker).await,
        false => frame.send(worker).await,
    }
}

/// One message being put together.
struct Frame<'a> {
    instruction: &'a str,
    /// How it goes to the worker.
    stream: Arc<Outbox<Elements>>,
    /// The bundle's request, if it has not been sent yet.
    request: Option<ProcessBundleRequest>,
    elements: Elements,
    bytes: usize,
}

impl Frame<'_> {
    /// The end is a message of its own: the Python harness ignores data that comes with `is_last`.
    fn push(&mut self, transform_id: &str, data: Bytes, is_last: bool) {
        self.bytes += data.len();
        self.elements.data.push(elements::Data {
            instruction_id: self.instruction.to_owned(),
            transform_id: transform_id.to_owned(),
            data,
            is_last,
        });
    }

    /// The end is a message of its own here too.
    fn push_timers(&mut self, family: TimerFamily, timers: Bytes, is_last: bool) {
        self.bytes += timers.len();
        self.elements.timers.push(elements::Timers {
            instruction_id: self.instruction.to_owned(),
            transform_id: family.transform_id,
            timer_family_id: family.family_id,
            timers,
            is_last,
        });
    }

    /// Sends what there is. The bundle's request goes first, without elements.
    async fn send(&mut self, worker: &WorkerSession) -> Result<(), FeedError> {
        worker.job.meters.to_workers.bytes.add(std::mem::take(&mut self.bytes) as u64);
        self.send_request(worker).await?;
        let elements = std::mem::take(&mut self.elements);
        if elements.data.is_empty() && elements.timers.is_empty() {
            return Ok(());
        }
        self.stream.send(elements).await.map_err(|_| FeedError::WorkerGone)
    }

    /// Sends the bundle's request with all that the bundle gets.
    async fn send_embedded(&mut self, worker: &WorkerSession) -> Result<(), FeedError> {
        worker.job.meters.to_workers.bytes.add(std::mem::take(&mut self.bytes) as u64);
        let elements = std::mem::take(&mut self.elements);
        if let Some(request) = &mut self.request {
            request.elements = Some(elements);
        }
        self.send_request(worker).await
    }

    async fn send_request(&mut self, worker: &WorkerSession) -> Result<(), FeedError> {
        let Some(request) = self.request.take() else { return Ok(()) };
        let instruction_id = self.instruction.to_owned();
        let request = InstructionRequest { instruction_id, request: Some(Request::ProcessBundle(request)) };
        worker.control.send(request).await.map_err(|_| FeedError::WorkerGone)
    }
}

struct Pulled {
    data: Vec<Bytes>,
    /// Whether there may be more.
    more: bool,
}

/// About a frame's worth of blocks, small ones copied together.
fn pull(blocks: &mut Blocks) -> Result<Pulled, Fault> {
    let mut data = Vec::new();
    let mut small = BytesMut::new();
    let mut bytes = 0;
    let mut more = true;
    while bytes < FRAME_BYTES {
        let Some(block) = blocks.next().transpose()? else {
            more = false;
            break;
        };
        bytes += block.len();
        if block.len() >= SMALL_BLOCK_BYTES {
            if !small.is_empty() {
                data.push(small.split().freeze());
            }
            data.push(block);
        } else {
            small.extend_from_slice(&block);
        }
    }
    if !small.is_empty() {
        data.push(small.freeze());
    }
    Ok(Pulled { data, more })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(sizes: &[usize]) -> Blocks {
        let blocks: Vec<_> = sizes.iter().map(|&size| Ok(Bytes::from(vec![b'x'; size]))).collect();
        Box::new(blocks.into_iter())
    }

    #[test]
    fn small_blocks_are_sent_together_and_large_ones_alone() {
        let cases: &[(&[usize], &[usize], bool)] = &[
            (&[], &[], false),
            (&[0, 0], &[], false),
            (&[10, 20, 30], &[60], false),
            (&[10, 40_000, 20, 30], &[10, 40_000, 50], false),
            (&[2_000_000, 5], &[2_000_000], true),
        ];
        for (given, expected, more) in cases {
            let pulled = pull(&mut blocks(given)).unwrap();
            let sizes: Vec<_> = pulled.data.iter().map(Bytes::len).collect();
            assert_eq!((&*sizes, pulled.more), (*expected, *more), "blocks of {given:?} bytes");
        }
    }

    #[test]
    fn a_large_block_is_not_copied() {
        let block = Bytes::from(vec![7; 100_000]);
        let start = block.as_ptr();
        let mut blocks: Blocks = Box::new(std::iter::once(Ok(block)));
        assert_eq!(pull(&mut blocks).unwrap().data[0].as_ptr(), start);
    }
}
