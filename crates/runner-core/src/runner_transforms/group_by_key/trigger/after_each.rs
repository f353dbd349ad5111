use beam_model::time::ProcessingTime;

use super::{Machine, State, When, absorb_all};

/// `AfterEach`: ready when the first unfinished part is; finished when all are.
#[derive(Clone, Debug)]
pub(in super::super) struct AfterEach {
    parts: Vec<Machine>,
}

impl AfterEach {
    pub(super) fn new(parts: Vec<Machine>) -> Self {
        Self { parts }
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        absorb_all(&mut self.parts, &other.parts);
        self.begin_those_to_come();
    }

    fn current(&mut self) -> Option<&mut Machine> {
        self.parts.iter_mut().find(|part| !part.is_finished())
    }

    /// If merging has revived a part, those after it have not begun.
    fn begin_those_to_come(&mut self) {
        self.parts.iter_mut().skip_while(|part| part.is_finished()).skip(1).for_each(State::reset);
    }
}

impl State for AfterEach {
    fn add(&mut self, count: u32, when: &When) {
        if let Some(part) = self.current() {
            part.add(count, when);
        }
    }
    fn should_fire(&self, when: &When) -> bool {
        self.parts.iter().find(|part| !part.is_finished()).is_some_and(|part| part.should_fire(when))
    }
    fn fire(&mut self, when: &When) {
        if let Some(part) = self.current() {
            part.fire(when);
        }
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
        self.begin_those_to_come();
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.parts.iter().find(|part| !part.is_finished()).and_then(|part| part.wake(after))
    }
}
