use beam_model::time::ProcessingTime;

use super::{State, When};

/// `ElementCount`: ready once so many elements have come, and then finished.
///
/// Elements come by bundles, so that a pane may have more than were asked for.
#[derive(Clone, Debug)]
pub(in super::super) struct ElementCount {
    wanted: u32,
    seen: u32,
    finished: bool,
}

impl ElementCount {
    pub(super) fn new(wanted: u32) -> Self {
        Self { wanted, seen: 0, finished: false }
    }

    /// Counts add up; what has fired in one of the windows has fired.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.finished |= other.finished;
        self.seen = if self.finished { 0 } else { self.seen.saturating_add(other.seen) };
    }
}

impl State for ElementCount {
    fn add(&mut self, count: u32, _: &When) {
        if !self.finished {
            self.seen = self.seen.saturating_add(count);
        }
    }
    fn should_fire(&self, _: &When) -> bool {
        !self.finished && self.seen >= self.wanted
    }
    fn fire(&mut self, _: &When) {
        self.seen = 0;
        self.finished = true;
    }
    fn is_finished(&self) -> bool {
        self.finished
    }
    fn clear(&mut self) {
        self.seen = 0;
    }
    fn reset(&mut self) {
        self.seen = 0;
        self.finished = false;
    }
    fn window_changed(&mut self, _: &When) {}
    fn wake(&self, _: ProcessingTime) -> Option<ProcessingTime> {
        None
    }
}
