use beam_model::time::ProcessingTime;

use super::{State, When};

/// `AfterSynchronizedProcessingTime`: ready once all that came with the first element of a pane is in, and then
/// finished.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct AfterSynchronizedProcessingTime {
    /// An element has come that no pane has had.
    waits: bool,
    finished: bool,
}

impl AfterSynchronizedProcessingTime {
    /// What has fired in one of the windows has fired.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.finished |= other.finished;
        self.waits = (self.waits || other.waits) && !self.finished;
    }
}

impl State for AfterSynchronizedProcessingTime {
    fn add(&mut self, _: u32, _: &When) {
        self.waits = !self.finished;
    }
    fn should_fire(&self, when: &When) -> bool {
        self.waits && !when.more_to_come
    }
    fn fire(&mut self, _: &When) {
        self.waits = false;
        self.finished = true;
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn clear(&mut self) {
        self.waits = false;
    }
    fn reset(&mut self) {
        *self = Self::default();
    }
    fn window_changed(&mut self, _: &When) {}
    /// It is asked when all is in.
    fn wake(&self, _: ProcessingTime) -> Option<ProcessingTime> {
        None
    }
}
