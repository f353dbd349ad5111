//! The values of one key and window that have not been handed on for good, and when they will be.

use beam_model::coders::{PaneInfo, Timing};
use beam_model::time::{EventTime, ProcessingTime};

use super::index::Entry;
use super::pane::{Panes, Rank, Watermarks};
use super::trigger::{Machine, State, When};
use super::values::Values;
use crate::plan::{AccumulationMode, ClosingBehavior, Firing, OnTimeBehavior, OutputTime};

/// What a cell takes besides its values: itself, its window, and its places in the index.
const CELL_OVERHEAD: usize = size_of::<Cell>() + 320;

/// One key and window.
#[derive(Debug, Default)]
pub(super) struct Cell {
    /// What the next pane will have.
    pub(super) values: Values,
    /// How many of the values no pane has had.
    new_values: u32,
    /// How many of them the trigger has not been told of.
    untold: u32,
    /// The event time of the next pane, of those elements that came before the output watermark had passed
    /// them. If there are none it is the end of the window.
    time: Option<EventTime>,
    /// One of the new values came before the output watermark had passed the end of the window, and is not
    /// to become late by waiting.
    on_time: bool,
    panes: Panes,
    /// Made with the first evaluation, so that what has only just come has no say in merging.
    trigger: Option<Machine>,
    /// Its place in the index is to be looked at again, at the end of the block at the latest.
    pub(super) touched: bool,
    /// Where the index has this cell.
    pub(super) entry: Entry,
}

/// An element's value and event time.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) value: &'a [u8],
    pub(super) timestamp: EventTime,
}

/// A strategy, and the trigger's state before anything has happened.
pub(super) struct Rules {
    pub(super) firing: Firing,
    pub(super) trigger: Machine,
    /// The trigger fires at the end of a window even if the pane is empty.
    pub(super) fires_empty_on_time: bool,
}

impl Rules {
    pub(super) fn new(firing: &Firing) -> Self {
        let always = firing.on_time_behavior == OnTimeBehavior::FireAlways;
        Self {
            trigger: Machine::new(&firing.trigger),
            fires_empty_on_time: always && firing.trigger.has_on_time_pane(),
            firing: firing.clone(),
        }
    }
}

impl Cell {
    /// The trigger has finished: no pane will follow, and what comes is dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.trigger.as_ref().is_some_and(State::is_finished)
    }

    pub(super) fn add(
        &mut self,
        arrival: Arrival<'_>,
        output_watermark: EventTime,
        end: WindowEnd,
        combine: OutputTime,
    ) {
        self.values.push(arrival.value);
        self.new_values = self.new_values.saturating_add(1);
        self.untold = self.untold.saturating_add(1);
        self.on_time |= end.time() >= output_watermark;
        if arrival.timestamp >= output_watermark {
            self.time = combine.of_both(self.time, Some(arrival.timestamp));
        }
    }

    /// Whether the trigger wants a pane now.
    pub(super) fn is_ready(&mut self, rules: &Rules, when: &When) -> bool {
        self.informed_trigger(rules, when).should_fire(when)
    }

    /// The trigger, which has been told of all elements.
    fn informed_trigger(&mut self, rules: &Rules, when: &When) -> &mut Machine {
        let trigger = self.trigger.get_or_insert_with(|| rules.trigger.clone());
        if self.untold > 0 {
            trigger.add(std::mem::take(&mut self.untold), when);
        }
        trigger
    }

    /// Decides whether a pane fires now. `expires`: this is the last chance.
    pub(super) fn fire(
        &mut self,
        rules: &Rules,
        when: &When,
        watermarks: Watermarks,
        expires: Expiry,
    ) -> Option<PaneInfo> {
        if self.is_closed() {
            return None;
        }
        let trigger = self.informed_trigger(rules, when);
        let ready = trigger.should_fire(when);
        if ready {
            trigger.fire(when);
        }
        let last = trigger.is_finished() || expires == Expiry::Now;
        if !ready && !last {
            return None;
        }
        let rank = if last { Rank::Last } else { Rank::NotLast };
        let pane = self.panes.next(when.end_of_window, watermarks, rank);
        let on_time = ready && pane.timing == Timing::OnTime && rules.fires_empty_on_time;
        let closing = last && rules.firing.closing_behavior == ClosingBehavior::EmitAlways;
        (self.new_values > 0 || on_time || closing).then_some(pane)
    }

    /// About how many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        CELL_OVERHEAD + self.values.memory()
    }

    /// The pane is handed on, with these values.
    pub(super) fn fired(&mut self, pane: PaneInfo, mode: AccumulationMode) -> Values {
        self.panes.fired(pane);
        self.new_values = 0;
        self.time = None;
        self.on_time = false;
        if pane.is_last || mode == AccumulationMode::Discarding {
            return std::mem::take(&mut self.values);
        }
        self.values.clone()
    }

    /// The event time of the next pane.
    pub(super) fn time(&self, end: WindowEnd, combine: OutputTime) -> EventTime {
        match (combine, end) {
            (OutputTime::EndOfWindow, WindowEnd::Known(end)) => end,
            (OutputTime::Earliest | OutputTime::Latest, _)
            | (OutputTime::EndOfWindow, WindowEnd::Unknown) => self.time.unwrap_or(end.time()),
        }
    }

    /// The output watermark must not pass this, as long as the cell is as it is.
    pub(super) fn hold(
        &self,
        rules: &Rules,
        when: &When,
        end: WindowEnd,
        combine: OutputTime,
    ) -> Option<EventTime> {
        if self.is_closed() {
            return None;
        }
        if self.new_values > 0 {
            return Some(if self.on_time { self.time(end, combine) } else { end.expiry(&rules.firing) });
        }
        if rules.fires_empty_on_time && !when.is_past_end_of_window() {
            return Some(end.time());
        }
        let closing = rules.firing.closing_behavior == ClosingBehavior::EmitAlways;
        closing.then(|| end.expiry(&rules.firing))
    }

    /// The first processing time later than that of `when` at which a pane may fire.
    pub(super) fn wake(&self, when: &When) -> Option<ProcessingTime> {
        if self.is_closed() { None } else { self.trigger.as_ref()?.wake(when.now) }
    }

    /// Takes in a cell whose window is merged into this one's. Pane numbers stay this cell's.
    pub(super) fn absorb(&mut self, other: Self, combine: OutputTime) {
        self.values.append(other.values);
        self.new_values = self.new_values.saturating_add(other.new_values);
        self.untold = self.untold.saturating_add(other.untold);
        self.time = combine.of_both(self.time, other.time);
        self.on_time |= other.on_time;
        self.touched |= other.touched;
        match (&mut self.trigger, other.trigger) {
            (Some(trigger), Some(other)) => trigger.absorb(&other),
            (trigger @ None, Some(other)) => *trigger = Some(other),
            (Some(_) | None, None) => {}
        }
    }

    /// The window is another one now. Returns how many elements are lost with it, because what it was
    /// merged with has had its last pane.
    pub(super) fn window_changed(&mut self, when: &When) -> u32 {
        if let Some(trigger) = &mut self.trigger {
            trigger.window_changed(when);
        }
        if !self.is_closed() {
            return 0;
        }
        self.values = Values::default();
        self.time = None;
        self.on_time = false;
        self.untold = 0;
        std::mem::take(&mut self.new_values)
    }

    /// A new window has panes of its own.
    pub(super) fn forget_panes(&mut self) {
        self.panes = Panes::default();
    }
}

/// Whether the watermark has passed the end of a window and its allowed lateness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    Now,
    Later,
}

/// The last event time in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowEnd {
    Known(EventTime),
    /// Only the SDK can read the window. It is taken to last to the end of time.
    Unknown,
}

impl WindowEnd {
    /// The watermark passes it, at the latest as it reaches [`EventTime::MAX`].
    pub(super) fn time(self) -> EventTime {
        match self {
            Self::Known(end) => end.min(EventTime(EventTime::MAX.0 - 1)),
            Self::Unknown => EventTime::GLOBAL_WINDOW_MAX,
        }
    }

    /// Once the watermark has passed this, nothing of the window is left. No window outlasts the global one.
    pub(super) fn expiry(self, firing: &Firing) -> EventTime {
        let end = self.time();
        end.saturating_add(firing.allowed_lateness).min(EventTime::GLOBAL_WINDOW_MAX).max(end)
    }
}
