use beam_model::time::ProcessingTime;

use super::{Machine, State, When};

/// `Repeat`: ready when its part is, which begins anew whenever it has finished.
#[derive(Clone, Debug)]
pub(in super::super) struct Repeat {
    part: Box<Machine>,
}

impl Repeat {
    pub(super) fn new(part: Machine) -> Self {
        Self { part: Box::new(part) }
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        self.part.absorb(&other.part);
        self.begin_anew_if_finished();
    }

    fn begin_anew_if_finished(&mut self) {
        if self.part.is_finished() {
            self.part.reset();
        }
    }
}

impl State for Repeat {
    fn add(&mut self, count: u32, when: &When) {
        self.part.add(count, when);
    }
    fn should_fire(&self, when: &When) -> bool {
        self.part.should_fire(when)
    }
    fn fire(&mut self, when: &When) {
        self.part.fire(when);
        self.begin_anew_if_finished();
    }
    fn is_finished(&self) -> bool {
        false
    }
    fn clear(&mut self) {
        self.part.clear();
    }
    fn reset(&mut self) {
        self.part.reset();
    }
    fn window_changed(&mut self, when: &When) {
        self.part.window_changed(when);
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.part.wake(after)
    }
}
