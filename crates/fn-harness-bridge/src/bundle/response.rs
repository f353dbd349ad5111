//! `ProcessBundleResponse` in the executor's words.

use std::time::Duration;

use beam_model::fn_execution::{DelayedBundleApplication, ProcessBundleResponse};
use beam_model::time::EventTime;
use runner_core::ports::{BundleResult, Residual};

use super::finalizer::BundleFinalizer;

pub(super) fn read(answer: ProcessBundleResponse, finalizer: Option<BundleFinalizer>) -> BundleResult {
    BundleResult {
        residuals: answer.residual_roots.into_iter().filter_map(residual).collect(),
        monitoring_infos: answer.monitoring_infos,
        finalizer: finalizer.map(|finalizer| Box::new(finalizer) as _),
    }
}

fn residual(delayed: DelayedBundleApplication) -> Option<Residual> {
    let application = delayed.application?;
    // A negative delay is no delay.
    let delay = delayed.requested_time_delay.and_then(|delay| Duration::try_from(delay).ok());
    let watermarks = application.output_watermarks.into_iter();
    Some(Residual {
        transform_id: application.transform_id,
        input_id: application.input_id,
        element: application.element,
        delay: delay.unwrap_or_default(),
        output_watermarks: watermarks.map(|(output, time)| (output, event_time(&time))).collect(),
    })
}

/// Rounded down to the milliseconds of event time: a watermark may be too early, never too late.
fn event_time(time: &prost_types::Timestamp) -> EventTime {
    let millis =
        time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos).div_euclid(1_000_000));
    EventTime(millis).clamped()
}
