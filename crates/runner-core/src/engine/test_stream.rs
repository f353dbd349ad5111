//! A TestStream: a script of elements, watermarks and times, each of which is taken up only when all that the
//! one before it has led to is done.

use beam_model::time::EventTime;

use super::{Block, Engine};
use crate::plan::CollectionId;

/// What a TestStream does next.
#[derive(Clone, Debug)]
pub enum TestStreamStep<B> {
    Elements {
        output: CollectionId,
        blocks: Vec<Block<B>>,
    },
    Watermark {
        output: CollectionId,
        watermark: EventTime,
    },
    /// Processing time goes on by so many milliseconds.
    ProcessingTime {
        millis: i64,
    },
    /// Nothing more: all outputs are complete, and no time is waited for any more.
    End,
}

pub(super) struct TestStreamState {
    pub(super) outputs: Vec<CollectionId>,
    /// Whether the next event has been asked for and has not come.
    pub(super) asked: bool,
    pub(super) over: bool,
}

impl TestStreamState {
    pub(super) fn new(outputs: Vec<CollectionId>) -> Self {
        Self { outputs, asked: false, over: false }
    }
}

impl<B: Clone> Engine<B> {
    pub(super) fn test_stream_step(&mut self, step: TestStreamStep<B>) {
        let Some(test_stream) = &mut self.test_stream else { return };
        // What nobody asked for, or what comes after the end, changes nothing.
        if !std::mem::replace(&mut test_stream.asked, false) || test_stream.over {
            return;
        }
        match step {
            TestStreamStep::Elements { output, blocks } => self.deliver(output, blocks),
            TestStreamStep::Watermark { output, watermark } => self.set_watermark(output, watermark),
            TestStreamStep::ProcessingTime { millis } => self.clock.advance_test(millis),
            TestStreamStep::End => self.end_test_stream(),
        }
    }

    pub(super) fn end_test_stream(&mut self) {
        let Some(test_stream) = &mut self.test_stream else { return };
        test_stream.over = true;
        for output in test_stream.outputs.clone() {
            self.set_watermark(output, EventTime::MAX);
        }
        self.clock.end_test();
    }
}
