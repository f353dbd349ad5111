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

/// `None`: nothing was split. `source`: the data source of that id that was to be split, if there is one.
///
/// Errors: the answer makes no sense; how, to follow "worker X …".
pub(super) fn split(
    answer: ProcessBundleSplitResponse,
    source: impl Fn(&str) -> Option<String>,
) -> Result<Option<BundleSplit>, String> {
    let ProcessBundleSplitResponse { primary_roots, residual_roots, channel_splits } = answer;
    let at_once =
        |application| DelayedBundleApplication { application: Some(application), requested_time_delay: None };
    let primaries = primary_roots.into_iter().map(at_once).filter_map(residual).collect();
    let residuals: Vec<_> = residual_roots.into_iter().filter_map(residual).collect();
    let channels = channel_splits.into_iter().map(|channel| channel_split(channel, &source));
    let channels = channels.collect::<Result<Vec<_>, _>>()?;
    let is_split = !residuals.is_empty() || !channels.is_empty();
    Ok(is_split.then_some(BundleSplit { residuals, primaries, channels }))
}

fn channel_split(
    channel: proto::ChannelSplit,
    source: impl Fn(&str) -> Option<String>,
) -> Result<ChannelSplit, String> {
    let proto::ChannelSplit { transform_id, last_primary_element, first_residual_element } = channel;
    match source(&transform_id) {
        Some(transform_id) if last_primary_element >= -1 && first_residual_element > last_primary_element => {
            Ok(ChannelSplit { transform_id, last_primary_element, first_residual_element })
        }
        Some(_) | None => Err(format!(
            "says that it has split the input of {transform_id:?} after element {last_primary_element} and \
             before element {first_residual_element}, which cannot be"
        )),
    }
}

/// The source of that id. Java's workers name none (`ChannelSplit.transform_id`): of several it could be any.
pub(super) fn source_named<'a>(id: &str, mut sources: impl Iterator<Item = &'a String>) -> Option<String> {
    if id.is_empty() {
        sources.next().filter(|_| sources.next().is_none())
    } else {
        sources.find(|it| *it == id)
    }
    .cloned()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn split_of(sources: &[&str], id: &str, last: i64, first: i64) -> Result<Vec<ChannelSplit>, String> {
        let sources: Vec<String> = sources.iter().map(|&it| it.to_owned()).collect();
        let channel = proto::ChannelSplit {
            transform_id: id.to_owned(),
            last_primary_element: last,
            first_residual_element: first,
        };
        let answer = ProcessBundleSplitResponse { channel_splits: vec![channel], ..Default::default() };
        let split = split(answer, |id| source_named(id, sources.iter()))?;
        Ok(split.map(|split| split.channels).unwrap_or_default())
    }

    #[test]
    fn a_source_that_is_not_named_is_the_only_one() {
        let channels = split_of(&["read"], "", -1, 1).unwrap();
        assert_eq!(channels.iter().map(|it| it.transform_id.as_str()).collect::<Vec<_>>(), ["read"]);
        assert_eq!(split_of(&["read"], "read", -1, 1).unwrap(), channels);
        for (sources, id) in [(vec!["read", "other"], ""), (vec!["read"], "other"), (vec![], "")] {
            assert!(split_of(&sources, id, -1, 1).is_err(), "{sources:?} {id:?}");
        }
    }

    #[test]
    fn a_split_that_cannot_be_is_refused() {
        for (last, first) in [(-2, 0), (3, 3), (3, 2)] {
            assert!(split_of(&["read"], "read", last, first).is_err(), "{last} {first}");
        }
    }
}
