//! Numbering and timing of the panes of one key and window.

use beam_model::coders::{PaneInfo, Timing};
use beam_model::time::EventTime;

/// What is known of the panes that have fired.
#[derive(Clone, Debug, Default)]
pub(super) struct Panes {
    previous: Option<PaneInfo>,
}

/// The watermarks as a pane fires.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watermarks {
    pub(super) input: EventTime,
    pub(super) output: EventTime,
}

/// Whether a window has no pane after this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Last,
    NotLast,
}

impl Panes {
    /// What the next pane would be.
    ///
    /// There is one pane on time at most: the first one that fires after the watermark has passed the end
    /// of the window, unless by then nothing downstream can take it for on time.
    pub(super) fn next(&self, end_of_window: EventTime, watermarks: Watermarks, rank: Rank) -> PaneInfo {
        let only_early = self.previous.is_none_or(|pane| pane.timing == Timing::Early);
        let timing = if !only_early || end_of_window < watermarks.output {
            Timing::Late
        } else if watermarks.input <= end_of_window {
            Timing::Early
        } else {
            Timing::OnTime
        };
        let (index, not_early) = match self.previous {
            None => (0, 0),
            Some(pane) => (pane.index + 1, pane.nonspeculative_index + 1),
        };
        PaneInfo {
            is_first: self.previous.is_none(),
            is_last: rank == Rank::Last,
            timing,
            index,
            nonspeculative_index: if timing == Timing::Early { -1 } else { not_early },
        }
    }

    /// The pane has been handed on.
    pub(super) fn fired(&mut self, pane: PaneInfo) {
        self.previous = Some(pane);
    }
}
