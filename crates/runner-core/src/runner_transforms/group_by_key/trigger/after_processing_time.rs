use beam_model::time::ProcessingTime;

use super::{State, When};
use crate::plan::TimestampTransform;

/// `AfterProcessingTime`: ready so long after the first element of a pane, and then finished.
#[derive(Clone, Debug)]
pub(in super::super) struct AfterProcessingTime {
    transforms: Vec<TimestampTransform>,
    /// Unknown as long as there is no element.
    due: Option<ProcessingTime>,
    finished: bool,
}

impl AfterProcessingTime {
    pub(super) fn new(transforms: &[TimestampTransform]) -> Self {
        Self { transforms: transforms.to_vec(), due: None, finished: false }
    }

    /// The first element of all the windows counts; what has fired in one of them has fired.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.finished |= other.finished;
        self.due = if self.finished { None } else { [self.due, other.due].into_iter().flatten().min() };
    }
}

fn transformed(time: ProcessingTime, transform: &TimestampTransform) -> ProcessingTime {
    match transform {
        TimestampTransform::Delay(delay) => time.saturating_add(*delay),
        TimestampTransform::AlignTo { period, offset } => {
            // In 128 bits, where no difference of two times overflows.
            let past =
                (i128::from(time.millis()) - i128::from(*offset)).rem_euclid(i128::from(*period).max(1));
            let left = if past == 0 { 0 } else { i128::from(*period) - past };
            ProcessingTime::from_millis(time.millis()).saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
        }
    }
}

impl State for AfterProcessingTime {
    fn add(&mut self, _: u32, when: &When) {
        if self.due.is_none() && !self.finished {
            self.due = Some(self.transforms.iter().fold(when.now, transformed));
        }
    }
    fn should_fire(&self, when: &When) -> bool {
        self.due.is_some_and(|due| when.now >= due)
    }
    fn fire(&mut self, _: &When) {
        self.due = None;
        self.finished = true;
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn clear(&mut self) {
        self.due = None;
    }
    fn reset(&mut self) {
        self.due = None;
        self.finished = false;
    }
    fn window_changed(&mut self, _: &When) {}
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.due.filter(|due| *due > after)
    }
}
