//! Splitting a bundle that a scripted worker runs.

use std::sync::{Mutex, PoisonError};

use beam_model::fn_execution::process_bundle_split_request::DesiredSplit;
use beam_model::fn_execution::process_bundle_split_response::ChannelSplit;
use beam_model::fn_execution::{
    BundleApplication, DelayedBundleApplication, ProcessBundleSplitRequest, ProcessBundleSplitResponse,
};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// What a worker is asked when it is to split a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitCall {
    /// Bundles are counted from 1.
    pub bundle: usize,
    pub source: String,
    pub fraction_of_remainder: f64,
    pub estimated_input_elements: i64,
    /// The element that the bundle is at; -1 before the first.
    pub current: i64,
}

/// What a worker does when it is to split a bundle.
#[derive(Clone, Debug)]
pub enum SplitAnswer {
    /// Keeps that part of the elements not begun, and the one that it is at.
    BetweenElements,
    /// Gives back this rest of the element that it is at, and all elements after it.
    WithinElement {
        transform_id: String,
        input_id: String,
        rest: Bytes,
    },
    /// Splits nothing.
    Nothing,
    /// Answers with this error.
    Error(String),
    /// Says that it has cut there.
    Cut {
        last_primary_element: i64,
        first_residual_element: i64,
    },
    /// Answers with something that is no `ProcessBundleSplitResponse`.
    WrongAnswer,
    Never,
    /// Splits at once, but says so only when the bundle has been answered.
    AfterTheBundle(Box<SplitAnswer>),
}

/// A bundle that a worker runs.
pub(super) struct RunningBundle {
    pub(super) number: usize,
    /// Set once the worker has answered the bundle.
    pub(super) answered: CancellationToken,
    position: Mutex<Position>,
}

struct Position {
    /// The last element that was begun.
    current: i64,
    /// Elements from this one on are not processed.
    stop: i64,
}

impl RunningBundle {
    pub(super) fn new(number: usize) -> Self {
        let position = Mutex::new(Position { current: -1, stop: i64::MAX });
        Self { number, answered: CancellationToken::new(), position }
    }

    /// Whether the bundle is to process its next element.
    pub(super) fn begin_element(&self) -> bool {
        let mut position = self.position();
        let begins = position.current + 1 < position.stop;
        position.current += i64::from(begins);
        begins
    }

    /// The bundle is not split from now on. Returns how many of its elements are left to it, if it has been.
    pub(super) fn begin_all(&self) -> u64 {
        let mut position = self.position();
        position.current = i64::MAX;
        position.stop.unsigned_abs()
    }

    pub(super) fn call(&self, request: &ProcessBundleSplitRequest) -> Option<SplitCall> {
        if self.position().current == i64::MAX {
            return None;
        }
        let (source, desired) = request.desired_splits.first_key_value()?;
        let &DesiredSplit { fraction_of_remainder, estimated_input_elements, .. } = desired;
        Some(SplitCall {
            bundle: self.number,
            source: source.clone(),
            fraction_of_remainder,
            estimated_input_elements,
            current: self.position().current,
        })
    }

    /// Splits as `answer` says. `None`: that is not about a split.
    pub(super) fn split(
        &self,
        call: SplitCall,
        answer: &SplitAnswer,
    ) -> Option<Result<ProcessBundleSplitResponse, String>> {
        let mut position = self.position();
        let current = position.current;
        if current == i64::MAX {
            return Some(Ok(ProcessBundleSplitResponse::default()));
        }
        let mut response = ProcessBundleSplitResponse::default();
        let (last_primary_element, first_residual_element) = match answer {
            SplitAnswer::BetweenElements => {
                let left = call.estimated_input_elements.min(position.stop) - current - 1;
                let kept = (left as f64 * call.fraction_of_remainder).round() as i64;
                (current + kept, current + kept + 1)
            }
            SplitAnswer::WithinElement { transform_id, input_id, rest } => {
                let application = BundleApplication {
                    transform_id: transform_id.clone(),
                    input_id: input_id.clone(),
                    element: rest.clone(),
                    ..Default::default()
                };
                response.primary_roots.push(application.clone());
                response.residual_roots.push(DelayedBundleApplication {
                    application: Some(application),
                    requested_time_delay: None,
                });
                (current - 1, current + 1)
            }
            SplitAnswer::Nothing => return Some(Ok(response)),
            SplitAnswer::Error(error) => return Some(Err(error.clone())),
            &SplitAnswer::Cut { last_primary_element, first_residual_element } => {
                (last_primary_element, first_residual_element)
            }
            SplitAnswer::WrongAnswer | SplitAnswer::Never => return None,
            SplitAnswer::AfterTheBundle(answer) => {
                drop(position);
                return self.split(call, answer);
            }
        };
        if first_residual_element < position.stop {
            position.stop = first_residual_element;
            response.channel_splits.push(ChannelSplit {
                transform_id: call.source,
                last_primary_element,
                first_residual_element,
            });
        }
        Some(Ok(response))
    }

    fn position(&self) -> std::sync::MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
