//! For people at a terminal: a line on what runs.

use std::io::Write;
use std::time::Duration;

use job_service::{JobService, JobSnapshot};

/// Fast enough to see that something moves.
const PERIOD: Duration = Duration::from_secs(1);
/// Wider terminals show no more, narrower ones wrap.
const WIDTH: usize = 100;
const CLEAR_LINE: &str = "\r\x1b[2K";

/// Writes the line over and over, for as long as jobs run. Ends with the program.
pub(super) async fn show(jobs: JobService) {
    let mut shown = false;
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let running: Vec<_> = jobs.jobs().into_iter().filter(|job| !job.state.is_terminal()).collect();
        if running.is_empty() && !shown {
            continue;
        }
        let mut stderr = std::io::stderr().lock();
        // A terminal that is gone is no reason to end.
        let _ = write!(stderr, "{CLEAR_LINE}{}", line(&running));
        let _ = stderr.flush();
        shown = !running.is_empty();
    }
}

fn line(jobs: &[JobSnapshot]) -> String {
    let text = jobs.iter().map(describe).collect::<Vec<_>>().join(" | ");
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn describe(job: &JobSnapshot) -> String {
    let seconds = job.elapsed().as_secs();
    let bundles = job.bundles_committed.map(|count| format!(", {count} bundles")).unwrap_or_default();
    format!("{} {} {}:{:02}{bundles}", job.name, job.state, seconds / 60, seconds % 60)
}
