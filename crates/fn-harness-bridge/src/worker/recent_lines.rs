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
    /// A line that came already, by another way, is left out: a harness that logs to its runner
    /// prints the same to its standard error, with a prefix.
    pub(crate) fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() || lines.iter().any(|kept| is_repeated(kept, line)) {
            return;
        }
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

/// Whether one line is the other with a prefix. Of short lines, such as a bracket, that says nothing.
fn is_repeated(one: &str, other: &str) -> bool {
    const TELLING_BYTES: usize = 12;
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    short.len() >= TELLING_BYTES && long.ends_with(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_each_once() {
        let lines = RecentLines::default();
        assert_eq!(lines.describe(), "It has logged nothing.");
        lines.push("");
        lines.push("}");
        for number in 0..15 {
            lines.push(&format!("this is line {number:02}"));
            lines.push(&format!("INFO:this is line {number:02}"));
        }
        let expected = (5..15).map(|number| format!("\n    this is line {number:02}")).collect::<String>();
        assert_eq!(lines.describe(), format!("Its last log lines:{expected}"));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let lines = RecentLines::default();
        lines.push(&"ä".repeat(KEPT_BYTES));
        assert!(lines.describe().len() < KEPT_BYTES + 100);
    }
}
