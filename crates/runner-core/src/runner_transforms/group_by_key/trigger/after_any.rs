use beam_model::time::ProcessingTime;

use super::{Machine, State, When, absorb_all};

/// `AfterAny`: ready when one of its parts is; finished when one is.
#[derive(Clone, Debug)]
pub(in super::super) struct AfterAny {
    parts: Vec<Machine>,
}

impl AfterAny {
    pub(super) fn new(parts: Vec<Machine>) -> Self {
        Self { parts }
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        absorb_all(&mut self.parts, &other.parts);
    }
}

impl State for AfterAny {
    fn add(&mut self, count: u32, when: &When) {
        self.parts.iter_mut().for_each(|part| part.add(count, when));
    }
    fn should_fire(&self, when: &When) -> bool {
        !self.is_finished() && self.parts.iter().any(|part| part.should_fire(when))
    }
    fn fire(&mut self, when: &When) {
        for part in &mut self.parts {
            if part.should_fire(when) {
                part.fire(when);
            } else {
                part.clear();
            }
        }
    }
    fn is_finished(&self) -> bool {
        self.parts.iter().any(State::is_finished)
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
