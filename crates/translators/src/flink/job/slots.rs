//! Says so when a cluster has no room for a job. Flink itself only waits.

use std::time::Duration;

use runner_core::backend::Importance;
use tokio::time::Instant;

use super::Context;
/// Slots that are free are given out faster.
const FIRST_WORD: Duration = Duration::from_secs(3);
const BETWEEN_WORDS: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// When to say the next word, while the job waits.
    due: Option<Instant>,
}

impl Slots {
    /// `waits`: the job runs as far as Flink is concerned, but has no place anywhere.
    pub(super) async fn look(&mut self, context: &Context, waits: bool) {
        if !waits {
            self.due = None;
            return;
        }
        let due = *self.due.get_or_insert_with(|| Instant::now() + FIRST_WORD);
        if Instant::now() < due {
            return;
        }
        self.due = Some(Instant::now() + BETWEEN_WORDS);
        let Ok(overview) = context.rest.overview().await else { return };
        let Ok(details) = context.rest.job(&context.flink_job_id).await else { return };
        // Tasks of different steps share a slot.
        let wanted = details.vertices.iter().map(|vertex| vertex.parallelism).max().unwrap_or(1);
        if overview.slots_available >= wanted {
            return;
        }
        let text = format!(
            "no slots: Flink job {} waits for {wanted}, and of the {} of the cluster's {} TaskManagers {} are free. Start \
             TaskManagers, or end other jobs; Flink gives up after its slot.request.timeout (5 minutes by default)",
            context.flink_job_id, overview.slots_total, overview.taskmanagers, overview.slots_available
        );
        context.listener.message(Importance::Warning, text);
    }
}
