use beam_model::time::ProcessingTime;

use super::{Machine, State, When};

/// `OrFinally`: ready when either of its parts is; finished with the first of them that is.
///
/// What `finally` has seen lasts over the firings of `main`.
#[derive(Clone, Debug)]
pub(in super::super) struct OrFinally {
    main: Box<Machine>,
    finally: Box<Machine>,
    /// `finally` has fired, be it one that never finishes by itself.
    ended: bool,
}

impl OrFinally {
    pub(super) fn new(main: Machine, finally: Machine) -> Self {
        Self { main: Box::new(main), finally: Box::new(finally), ended: false }
    }

    pub(super) fn absorb(&mut self, other: &Self) {
        self.main.absorb(&other.main);
        self.finally.absorb(&other.finally);
        self.ended |= other.ended;
    }
}

impl State for OrFinally {
    fn add(&mut self, count: u32, when: &When) {
        self.main.add(count, when);
        self.finally.add(count, when);
    }
    fn should_fire(&self, when: &When) -> bool {
        !self.is_finished() && (self.main.should_fire(when) || self.finally.should_fire(when))
    }
    fn fire(&mut self, when: &When) {
        if self.finally.should_fire(when) {
            self.finally.fire(when);
            self.main.clear();
            self.ended = true;
        } else {
            self.main.fire(when);
        }
    }
    fn is_finished(&self) -> bool {
        self.ended || self.main.is_finished()
    }
    fn clear(&mut self) {
        self.main.clear();
        self.finally.clear();
    }
    fn reset(&mut self) {
        self.main.reset();
        self.finally.reset();
        self.ended = false;
    }
    fn window_changed(&mut self, when: &When) {
        self.main.window_changed(when);
        let was_finished = self.finally.is_finished();
        self.finally.window_changed(when);
        // A `finally` that the end of the window had ended waits for the new end.
        self.ended &= !was_finished || self.finally.is_finished();
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        [self.main.wake(after), self.finally.wake(after)].into_iter().flatten().min()
    }
}
