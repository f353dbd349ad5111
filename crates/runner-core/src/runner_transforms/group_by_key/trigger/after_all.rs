use beam_model::time::ProcessingTime;

use super::{Machine, State, When, absorb_all};

/// `AfterAll`: ready when all its parts are; finished when all are.
#[derive(Clone, Debug)]
pub(in super::super) struct AfterAll {
    parts: Vec<Machine>,
}

impl AfterAll {
    pub(super) fn new(parts: Vec<Machine>) -> Self {
        Self { parts }
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        absorb_all(&mut self.parts, &other.parts);
    }

    fn open(&mut self) -> impl Iterator<Item = &mut Machine> {
        self.parts.iter_mut().filter(|part| !part.is_finished())
    }
}

impl State for AfterAll {
    fn add(&mut self, count: u32, when: &When) {
        self.open().for_each(|part| part.add(count, when));
    }
    fn should_fire(&self, when: &When) -> bool {
        !self.is_finished() && self.parts.iter().all(|part| part.is_finished() || part.should_fire(when))
    }
    fn fire(&mut self, when: &When) {
        self.open().for_each(|part| part.fire(when));
    }
    fn is_finished(&self) -> bool {
        self.parts.iter().all(State::is_finished)
    }
    fn clear(&mut self) {
        self.parts.iter_mut().for_each(State::clear);
    }
    fn reset(&mut self) {
        self.parts.iter_mut().for_each(State::reset);
    }
    fn window_changed(&mut self, when: &When) {
        self.parts.iter_mut().for_each(|part| part.window_changed(when));
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.parts.iter().filter_map(|part| part.wake(after)).min()
    }
}
