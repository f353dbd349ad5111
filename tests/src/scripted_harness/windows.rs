//! Assigning windows to elements, by the window functions of the model.

use beam_model::coders::IntervalWindow;
use beam_model::pipeline::{
    FixedWindowsPayload, FunctionSpec, SessionWindowsPayload, SlidingWindowsPayload, WindowIntoPayload,
};
use beam_model::time::EventTime;
use beam_model::urns::{
    fixed_windows_payload, global_windows_payload, session_windows_payload, sliding_windows_payload,
};
use bytes::Bytes;

use super::step::decode;

/// A window function, with its times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AssignWindows {
    Global,
    Sliding { size: i64, period: i64 },
    Sessions { gap: i64 },
}

impl AssignWindows {
    /// That of a `WindowIntoPayload`.
    pub(super) fn read(spec: &FunctionSpec) -> Result<Self, String> {
        let window_fn = decode::<WindowIntoPayload>(&spec.payload)?.window_fn.ok_or("no window_fn")?;
        let payload = &window_fn.payload;
        Ok(match window_fn.urn.as_str() {
            global_windows_payload::PROPERTIES => Self::Global,
            fixed_windows_payload::PROPERTIES => {
                let size = millis(decode::<FixedWindowsPayload>(payload)?.size);
                Self::Sliding { size, period: size }
            }
            sliding_windows_payload::PROPERTIES => {
                let sliding = decode::<SlidingWindowsPayload>(payload)?;
                Self::Sliding { size: millis(sliding.size), period: millis(sliding.period) }
            }
            session_windows_payload::PROPERTIES => {
                Self::Sessions { gap: millis(decode::<SessionWindowsPayload>(payload)?.gap_size) }
            }
            urn => return Err(format!("window fn {urn} is not in the script's repertoire")),
        })
    }

    /// The windows of an element at this time, encoded.
    pub(super) fn windows(self, time: EventTime) -> Vec<Bytes> {
        match self {
            Self::Global => vec![Bytes::new()],
            Self::Sessions { gap } => vec![encoded(time.0, time.0 + gap)],
            Self::Sliding { size, period } => {
                let last = time.0 - time.0.rem_euclid(period);
                let starts = std::iter::successors(Some(last), |start| Some(start - period));
                starts
                    .take_while(|start| start + size > time.0)
                    .map(|start| encoded(start, start + size))
                    .collect()
            }
        }
    }
}

fn encoded(start: i64, end: i64) -> Bytes {
    let mut window = Vec::new();
    IntervalWindow { start: EventTime(start), end: EventTime(end) }.write(&mut window);
    window.into()
}

fn millis(duration: Option<prost_types::Duration>) -> i64 {
    let duration = duration.unwrap_or_default();
    duration.seconds * 1000 + i64::from(duration.nanos) / 1_000_000
}
