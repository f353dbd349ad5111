//! Triggers: for one key and window, when its next pane fires.
//!
//! A [`Machine`] has the shape of the strategy's [`Trigger`], and what each part of it has seen.

mod after_all;
mod after_any;
mod after_each;
mod after_end_of_window;
mod after_processing_time;
mod after_synchronized_processing_time;
mod element_count;
mod or_finally;
mod repeat;
mod simple;

#[cfg(test)]
mod tests;

use beam_model::time::{EventTime, ProcessingTime};

use crate::plan::Trigger;

use after_all::AfterAll;
use after_any::AfterAny;
use after_each::AfterEach;
use after_end_of_window::AfterEndOfWindow;
use after_processing_time::AfterProcessingTime;
use after_synchronized_processing_time::AfterSynchronizedProcessingTime;
use element_count::ElementCount;
use or_finally::OrFinally;
use repeat::Repeat;
use simple::{Always, Default, Never};

/// The times that a trigger looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    /// The input's watermark.
    pub(super) watermark: EventTime,
    /// The last event time in the window.
    pub(super) end_of_window: EventTime,
    pub(super) now: ProcessingTime,
    /// Some of the elements that came together have not been added yet.
    pub(super) more_to_come: bool,
}

impl When {
    pub(super) fn is_past_end_of_window(&self) -> bool {
        self.watermark > self.end_of_window
    }
}

/// A part of a trigger.
///
/// A finished part is not asked again until it is reset, save that merging may revive it.
pub(super) trait State {
    /// Elements have come.
    fn add(&mut self, count: u32, when: &When);
    fn should_fire(&self, when: &When) -> bool;
    /// The pane fires. Called when this part is ready.
    fn fire(&mut self, when: &When);
    fn is_finished(&self) -> bool;
    /// The pane has fired on another part's account: what was counted towards it is gone.
    fn clear(&mut self);
    /// Begins anew.
    fn reset(&mut self);
    /// The window has become another one, as sessions do that grow.
    fn window_changed(&mut self, when: &When);
    /// The first processing time later than `after` at which this part may become ready.
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime>;
}

/// The state of a trigger.
#[derive(Clone, Debug)]
pub(super) enum Machine {
    Default(Default),
    Never(Never),
    Always(Always),
    AfterEndOfWindow(AfterEndOfWindow),
    ElementCount(ElementCount),
    AfterProcessingTime(AfterProcessingTime),
    AfterSynchronizedProcessingTime(AfterSynchronizedProcessingTime),
    AfterAll(AfterAll),
    AfterAny(AfterAny),
    AfterEach(AfterEach),
    Repeat(Repeat),
    OrFinally(OrFinally),
}

impl Machine {
    pub(super) fn new(trigger: &Trigger) -> Self {
        match trigger {
            Trigger::Default => Self::Default(Default),
            Trigger::Never => Self::Never(Never),
            Trigger::Always => Self::Always(Always),
            Trigger::AfterEndOfWindow { early, late } => {
                Self::AfterEndOfWindow(AfterEndOfWindow::new(early.as_deref(), late.as_deref()))
            }
            Trigger::ElementCount(count) => Self::ElementCount(ElementCount::new(*count)),
            Trigger::AfterProcessingTime(transforms) => {
                Self::AfterProcessingTime(AfterProcessingTime::new(transforms))
            }
            Trigger::AfterSynchronizedProcessingTime => {
                Self::AfterSynchronizedProcessingTime(AfterSynchronizedProcessingTime::default())
            }
            Trigger::AfterAll(parts) => Self::AfterAll(AfterAll::new(Self::all(parts))),
            Trigger::AfterAny(parts) => Self::AfterAny(AfterAny::new(Self::all(parts))),
            Trigger::AfterEach(parts) => Self::AfterEach(AfterEach::new(Self::all(parts))),
            Trigger::Repeat(part) => Self::Repeat(Repeat::new(Self::new(part))),
            Trigger::OrFinally { main, finally } => {
                Self::OrFinally(OrFinally::new(Self::new(main), Self::new(finally)))
            }
        }
    }

    fn all(triggers: &[Trigger]) -> Vec<Self> {
        triggers.iter().map(Self::new).collect()
    }

    fn state(&self) -> &dyn State {
        match self {
            Self::Default(state) => state,
            Self::Never(state) => state,
            Self::Always(state) => state,
            Self::AfterEndOfWindow(state) => state,
            Self::ElementCount(state) => state,
            Self::AfterProcessingTime(state) => state,
            Self::AfterSynchronizedProcessingTime(state) => state,
            Self::AfterAll(state) => state,
            Self::AfterAny(state) => state,
            Self::AfterEach(state) => state,
            Self::Repeat(state) => state,
            Self::OrFinally(state) => state,
        }
    }

    fn state_mut(&mut self) -> &mut dyn State {
        match self {
            Self::Default(state) => state,
            Self::Never(state) => state,
            Self::Always(state) => state,
            Self::AfterEndOfWindow(state) => state,
            Self::ElementCount(state) => state,
            Self::AfterProcessingTime(state) => state,
            Self::AfterSynchronizedProcessingTime(state) => state,
            Self::AfterAll(state) => state,
            Self::AfterAny(state) => state,
            Self::AfterEach(state) => state,
            Self::Repeat(state) => state,
            Self::OrFinally(state) => state,
        }
    }

    /// Takes in what the same trigger has seen in a window that is merged into this one.
    pub(super) fn absorb(&mut self, other: &Self) {
        match (self, other) {
            (Self::AfterEndOfWindow(state), Self::AfterEndOfWindow(other)) => state.absorb(other),
            (Self::ElementCount(state), Self::ElementCount(other)) => state.absorb(other),
            (Self::AfterProcessingTime(state), Self::AfterProcessingTime(other)) => state.absorb(other),
            (Self::AfterSynchronizedProcessingTime(state), Self::AfterSynchronizedProcessingTime(other)) => {
                state.absorb(other);
            }
            (Self::AfterAll(state), Self::AfterAll(other)) => state.absorb(other),
            (Self::AfterAny(state), Self::AfterAny(other)) => state.absorb(other),
            (Self::AfterEach(state), Self::AfterEach(other)) => state.absorb(other),
            (Self::Repeat(state), Self::Repeat(other)) => state.absorb(other),
            (Self::OrFinally(state), Self::OrFinally(other)) => state.absorb(other),
            // Those that have no state, and those of another shape, of which there are none.
            (
                Self::Default(_)
                | Self::Never(_)
                | Self::Always(_)
                | Self::AfterEndOfWindow(_)
                | Self::ElementCount(_)
                | Self::AfterProcessingTime(_)
                | Self::AfterSynchronizedProcessingTime(_)
                | Self::AfterAll(_)
                | Self::AfterAny(_)
                | Self::AfterEach(_)
                | Self::Repeat(_)
                | Self::OrFinally(_),
                _,
            ) => {}
        }
    }
}

fn absorb_all(parts: &mut [Machine], others: &[Machine]) {
    for (part, other) in parts.iter_mut().zip(others) {
        part.absorb(other);
    }
}

impl State for Machine {
    fn add(&mut self, count: u32, when: &When) {
        self.state_mut().add(count, when);
    }
    fn should_fire(&self, when: &When) -> bool {
        self.state().should_fire(when)
    }
    fn fire(&mut self, when: &When) {
        self.state_mut().fire(when);
    }
    fn is_finished(&self) -> bool {
        self.state().is_finished()
    }
    fn clear(&mut self) {
        self.state_mut().clear();
    }
    fn reset(&mut self) {
        self.state_mut().reset();
    }
    fn window_changed(&mut self, when: &When) {
        self.state_mut().window_changed(when);
    }
    fn wake(&self, after: ProcessingTime) -> Option<ProcessingTime> {
        self.state().wake(after)
    }
}
