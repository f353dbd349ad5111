//! `ProcessBundleResponse` and `ProcessBundleSplitResponse` in the executor's words.

use std::time::Duration;

use beam_model::fn_execution::{
    DelayedBundleApplication, ProcessBundleResponse, ProcessBundleSplitResponse,
    process_bundle_split_response as proto,
};
use beam_model::pipeline::MonitoringInfo;
use beam_model::time::EventTime;
use runner_core::ports::{BundleResult, BundleSplit, ChannelSplit, Residual};
use tokio::time::Instant;

use super::finalizer::BundleFinalizer;

/// `finishing`: when the worker had processed all it was going to. It counts `requested_time_delay` from before that, and
/// what it does afterwards, such as writing down its metrics, takes milliseconds.
pub(super) fn read(
    answer: ProcessBundleResponse,
    monitoring_infos: Vec<MonitoringInfo>,
    splits: Vec<BundleSplit>,
    finalizer: Option<BundleFinalizer>,
    finishing: Instant,
) -> BundleResult {
    let gone_by = finishing.elapsed();
    let residuals = answer.residual_roots.into_iter().filter_map(residual);
    BundleResult {
        splits,
        residuals: residuals
            .map(|residual| Residual { delay: residual.delay.saturating_sub(gone_by), ..residual })
            .collect(),
        monitoring_infos,
        finalizer: finalizer.map(|finalizer| Box::new(finalizer) as _),
    }
}

/// `None`: nothing was split. `is_source`: whether a transform is a data source that was to be split.
///
/// Errors: the answer makes no sense; how, to follow "worker X …".
pub(super) fn split(
    answer: ProcessBundleSplitResponse,
    is_source: impl Fn(&str) -> bool,
) -> Result<Option<BundleSplit>, String> {
    let ProcessBundleSplitResponse { primary_roots, residual_roots, channel_splits } = answer;
    let at_once =
        |application| DelayedBundleApplication { application: Some(application), requested_time_delay: None };
    let primaries = primary_roots.into_iter().map(at_once).filter_map(residual).collect();
    let residuals: Vec<_> = residual_roots.into_iter().filter_map(residual).collect();
    let channels = channel_splits.into_iter().map(|channel| channel_split(channel, &is_source));
    let channels = channels.collect::<Result<Vec<_>, _>>()?;
    let is_split = !residuals.is_empty() || !channels.is_empty();
    Ok(is_split.then_some(BundleSplit { residuals, primaries, channels }))
}

fn channel_split(
    channel: proto::ChannelSplit,
    is_source: impl Fn(&str) -> bool,
) -> Result<ChannelSplit, String> {
    let proto::ChannelSplit { transform_id, last_primary_element, first_residual_element } = channel;
    if !is_source(&transform_id)
        || last_primary_element < -1
        || first_residual_element <= last_primary_element
    {
        return Err(format!(
            "says that it has split the input of {transform_id:?} after element {last_primary_element} and \
             before element {first_residual_element}, which cannot be"
        ));
    }
    Ok(ChannelSplit { transform_id, last_primary_element, first_residual_element })
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
