//! A TestStream: what it plays, listed in its `TestStreamPayload` or told by a `TestStreamService`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use beam_model::coders::{Coder, CoderError, Context, PaneInfo, varint, windowed_value};
use beam_model::pipeline;
use beam_model::pipeline::test_stream_payload::event::{self, AddElements, AdvanceWatermark};
use beam_model::pipeline::test_stream_payload::{Event, TimestampedElement};
use beam_model::time::EventTime;
use bytes::Bytes;

use super::CollectionId;
use crate::fault::Fault;

/// `beam:transform:teststream:v1`: a source that says itself when what arrives.
#[derive(Clone, Debug)]
pub struct TestStream {
    /// What the user calls it.
    pub name: String,
    /// By tag, the local name in `PTransform.outputs`.
    pub outputs: BTreeMap<String, CollectionId>,
    pub events: TestStreamSource,
    pub(super) elements: TestStreamElements,
}

/// Where the events come from.
#[derive(Clone, Debug)]
pub enum TestStreamSource {
    /// `TestStreamPayload.events`.
    Listed(Vec<TestStreamEvent>),
    /// `TestStreamPayload.endpoint`: the address of a `TestStreamService`, to be asked for the events of
    /// every output. [`TestStream::reader`] makes of them what they mean.
    Endpoint(String),
}

/// `TestStreamPayload.Event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestStreamEvent {
    Elements {
        output: CollectionId,
        /// Windowed values as they travel, one each.
        elements: Vec<Bytes>,
    },
    /// The output's watermark is this from now on. It never goes back.
    Watermark { output: CollectionId, watermark: EventTime },
    /// The clock that processing-time timers and triggers go by moves on.
    ProcessingTime { advance: Duration },
}

impl TestStream {
    /// Reads events from the first of the stream on.
    pub fn reader(&self) -> TestStreamReader {
        // The Python SDK, which alone has such services, writes the times of its payloads in milliseconds, as
        // the protocol says, but reads and writes those of its services in microseconds.
        let unit = TimeUnit::Micros;
        TestStreamReader { unit, ..TestStreamReader::new(self.outputs.clone(), self.elements.clone()) }
    }
}

/// What the numbers of an event count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeUnit {
    Millis,
    Micros,
}

impl TimeUnit {
    fn millis(self, number: i64) -> i64 {
        match self {
            Self::Millis => number,
            Self::Micros => number.div_euclid(1000),
        }
    }
}

/// Makes of events, in their order, what they mean.
#[derive(Clone, Debug)]
pub struct TestStreamReader {
    outputs: BTreeMap<String, CollectionId>,
    elements: TestStreamElements,
    watermarks: BTreeMap<CollectionId, EventTime>,
    unit: TimeUnit,
}

impl TestStreamReader {
    pub(crate) fn new(outputs: BTreeMap<String, CollectionId>, elements: TestStreamElements) -> Self {
        Self { outputs, elements, watermarks: BTreeMap::new(), unit: TimeUnit::Millis }
    }

    /// The next event. Times beyond the ends of time are the ends of time.
    ///
    /// # Errors
    /// What of the event makes no sense. It then has changed nothing.
    pub fn read(&mut self, event: &Event) -> Result<TestStreamEvent, BadTestStreamEvent> {
        match &event.event {
            Some(event::Event::ElementEvent(AddElements { elements, tag })) => {
                let output = self.output(tag)?;
                let encoded = elements.iter().enumerate().map(|(index, element)| {
                    self.elements
                        .windowed_value(element, self.unit)
                        .map_err(|reason| BadTestStreamEvent::Element { index, reason })
                });
                Ok(TestStreamEvent::Elements { output, elements: encoded.collect::<Result<_, _>>()? })
            }
            Some(event::Event::WatermarkEvent(AdvanceWatermark { new_watermark, tag })) => {
                let output = self.output(tag)?;
                let watermark = EventTime(self.unit.millis(*new_watermark)).clamped();
                let last = self.watermarks.entry(output).or_insert(EventTime::MIN);
                if watermark < *last {
                    let tag = tag.clone();
                    return Err(BadTestStreamEvent::WatermarkGoesBack { tag, from: *last, to: watermark });
                }
                *last = watermark;
                Ok(TestStreamEvent::Watermark { output, watermark })
            }
            Some(event::Event::ProcessingTimeEvent(advance)) => {
                let millis = u64::try_from(self.unit.millis(advance.advance_duration))
                    .map_err(|_| BadTestStreamEvent::ClockGoesBack(advance.advance_duration))?;
                Ok(TestStreamEvent::ProcessingTime { advance: Duration::from_millis(millis) })
            }
            None => Err(BadTestStreamEvent::Nothing),
        }
    }

    /// The output of a tag. SDKs whose TestStreams have one output only do not name it.
    fn output(&self, tag: &str) -> Result<CollectionId, BadTestStreamEvent> {
        let only = || match (self.outputs.len(), self.outputs.values().next()) {
            (1, Some(only)) if tag.is_empty() => Some(only),
            _ => None,
        };
        let output = self.outputs.get(tag).or_else(only);
        output.copied().ok_or_else(|| BadTestStreamEvent::UnknownOutput(tag.to_owned()))
    }
}

/// What of an event makes no sense, as the end of a sentence that begins with the event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTestStreamEvent {
    #[error("adds no elements and advances neither a watermark nor processing time")]
    Nothing,
    #[error("is for output {0:?}, which the transform does not have")]
    UnknownOutput(String),
    #[error("sets the watermark of output {tag:?} back from {from} to {to}")]
    WatermarkGoesBack { tag: String, from: EventTime, to: EventTime },
    #[error("sets processing time back, by {0} ms")]
    ClockGoesBack(i64),
    #[error("adds element {index}, which the payload's coder cannot read: {reason}")]
    Element { index: usize, reason: BadTestStreamElement },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTestStreamElement {
    #[error(transparent)]
    Coder(#[from] CoderError),
    #[error("it is {read} bytes long, but {given} were given")]
    TooLong { read: usize, given: usize },
}

/// The events are the pipeline's; playing them again would not mend them.
impl From<BadTestStreamEvent> for Fault {
    fn from(bad: BadTestStreamEvent) -> Self {
        Fault::user(format!("an event of a TestStream {bad}")).fatal()
    }
}

/// How a TestStream's elements, which the payload has one by one, are written one after another.
///
/// In the payload each is all there is, so that bytes and strings reach to its end. (Not for the Go SDK,
/// which knows only one way to write them.) What stands behind a length prefix is written likewise, so
/// that a prefix makes of any element one that tells its own end, in the words of the SDK that wrote it.
#[derive(Clone, Debug)]
pub(crate) struct TestStreamElements {
    coder: Arc<Coder>,
    travel: Travel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Travel {
    /// They tell their own end.
    AsTheyAre,
    LengthPrefixed,
}

impl TestStreamElements {
    /// Of `TestStreamPayload.coder_id`. A coder that makes no sense is the SDK's own affair, as anywhere.
    pub(crate) fn of(coder_id: &str, coders: &BTreeMap<String, pipeline::Coder>) -> Self {
        let coder = Coder::from_proto(coder_id, coders)
            .unwrap_or_else(|_| Coder::Opaque { urn: coder_id.to_owned().into() });
        let tells_end = coder.is_skippable() && is_same_in_any_context(&coder);
        let travel = if tells_end { Travel::AsTheyAre } else { Travel::LengthPrefixed };
        Self { coder: Arc::new(coder), travel }
    }

    /// Whether the coder that they travel with is the payload's with a length prefix.
    pub(crate) fn is_length_prefixed(&self) -> bool {
        self.travel == Travel::LengthPrefixed
    }

    /// Whether a PCollection of the payload's coder travels behind a length prefix anyway.
    pub(crate) fn is_opaque(&self) -> bool {
        matches!(*self.coder, Coder::Opaque { .. })
    }

    /// In the global window, as nothing has fired it yet.
    fn windowed_value(
        &self,
        element: &TimestampedElement,
        unit: TimeUnit,
    ) -> Result<Bytes, BadTestStreamElement> {
        let value = &element.encoded_element;
        if self.coder.is_skippable() {
            let read = self.coder.skip_in(Context::Outer, value)?;
            if read < value.len() {
                return Err(BadTestStreamElement::TooLong { read, given: value.len() });
            }
        }
        let mut out = Vec::with_capacity(value.len() + 24);
        let timestamp = EventTime(unit.millis(element.timestamp)).clamped();
        windowed_value::write_header(&mut out, timestamp, [&[][..]], PaneInfo::NO_FIRING_ENCODED)?;
        match self.travel {
            Travel::AsTheyAre => out.extend_from_slice(value),
            Travel::LengthPrefixed => varint::write_prefixed(&mut out, value),
        }
        Ok(out.into())
    }
}

/// Whether an element is written alike where it is all there is and where more follows.
fn is_same_in_any_context(coder: &Coder) -> bool {
    match coder {
        Coder::Bytes | Coder::StringUtf8 | Coder::Opaque { .. } => false,
        Coder::Kv(_, last)
        | Coder::CustomWindow(last)
        | Coder::WindowedValue { value: last, .. }
        | Coder::ParamWindowedValue { value: last, .. }
        | Coder::Nullable(last) => is_same_in_any_context(last),
        Coder::Bool
        | Coder::VarInt
        | Coder::Double
        | Coder::Iterable(_)
        | Coder::StateBackedIterable(_)
        | Coder::Timer { .. }
        | Coder::IntervalWindow
        | Coder::GlobalWindow
        | Coder::LengthPrefix(_)
        | Coder::Row(_)
        | Coder::ShardedKey(_) => true,
    }
}
