use beam_model::time::ProcessingTime;

use super::repeat::Repeat;
use super::{Machine, State, When};
use crate::plan::Trigger;

/// `AfterEndOfWindow`: ready when the watermark has passed the end of the window.
///
/// Before that it is ready as often as its early firings are, after that as often as its late firings
/// are; without late firings it is then finished.
#[derive(Clone, Debug)]
pub(in super::super) struct AfterEndOfWindow {
    early: Option<Repeat>,
    late: Option<Repeat>,
    /// It has fired at the end of the window.
    ended: bool,
}

impl AfterEndOfWindow {
    pub(super) fn new(early: Option<&Trigger>, late: Option<&Trigger>) -> Self {
        let repeat = |trigger: &Trigger| Repeat::new(Machine::new(trigger));
        Self { early: early.map(repeat), late: late.map(repeat), ended: false }
    }

    /// If the end has not come for all of the windows, it has not for their union: elements wait for it.
    pub(super) fn absorb(&mut self, other: &Self) {
        if let (Some(early), Some(other)) = (&mut self.early, &other.early) {
            early.absorb(other);
        }
        if let (Some(late), Some(other)) = (&mut self.late, &other.late) {
            late.absorb(other);
        }
        if self.ended && !other.ended {
            self.begin_again();
        }
        self.ended &= other.ended;
    }

    fn begin_again(&mut self) {
        self.ended = false;
        self.late.iter_mut().for_each(State::reset);
    }

    fn current(&self) -> Option<&Repeat> {
        if self.ended { self.late.as_ref() } else { self.early.as_ref() }
    }

    fn current_mut(&mut self) -> Option<&mut Repeat> {
        if self.ended { self.late.as_mut() } else { self.early.as_mut() }
    }
}

impl State for AfterEndOfWindow {
    fn add(&mut self, count: u32, when: &When) {
        if let Some(part) = self.current_mut() {
            part.add(count, when);
        }
    }
    fn should_fire(&self, when: &When) -> bool {
        let at_end = !self.ended && when.is_past_end_of_window();
        at_end || self.current().is_some_and(|part| part.should_fire(when))
    }
    fn fire(&mut self, when: &When) {
        if self.ended || !when.is_past_end_of_window() {
            if let Some(part) = self.current_mut() {
                part.fire(when);
            }
        } else {
            self.ended = true;
            self.early.iter_mut().for_each(State::reset);
            self.late.iter_mut().for_each(State::reset);
        }
    }
    fn is_finished(&self) -> bool {
        self.ended && self.late.is_none()
    }
    fn clear(&mut self) {
        self.early.iter_mut().for_each(State::clear);
        self.late.iter_mut().for_each(State::clear);
    }
    fn reset(&mut self) {
        self.early.iter_mut().for_each(State::reset);
        self.begin_again();
    }
    /// A window that has grown past the watermark has its end before it again.
    fn window_changed(&mut self, when: &When) {
        self.early.iter_mut().for_each(|part| part.window_changed(when));
        self.late.iter_mut().for_each(|part| part.window_changed(when));
        if self.ended && !when.is_past_end_of_window() {
            self.begin_again();
        }
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.current().and_then(|part| part.wake(after))
    }
}
