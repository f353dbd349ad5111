//! The last lines that a worker logged, for the message that says how it ended.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

const KEPT_LINES: usize = 10;
/// A line longer than this is cut: an error message has to stay readable.
const KEPT_BYTES: usize = 2000;

#[derive(Default)]
pub(crate) struct RecentLines {
    lines: Mutex<VecDeque<String>>,
}

impl RecentLines {
    pub(crate) fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        let end = (0..=KEPT_BYTES.min(line.len())).rev().find(|&end| line.is_char_boundary(end));
        lines.push_back(line.get(..end.unwrap_or(0)).unwrap_or_default().to_owned());
    }

    /// The lines below a heading, or a sentence that there are none.
    pub(crate) fn describe(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() {
            return "It has logged nothing.".to_owned();
        }
        lines.iter().fold("Its last log lines:".to_owned(), |text, line| text + "\n    " + line)
    }
}
