//! How many metrics fit in the answer to `GetJobMetrics`: clients take messages of 4 MiB, gRPC's default, and fail
//! with their job done if one is larger.

use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::monitoring_info_specs as specs;
use prost::Message;
use prost::encoding::encoded_len_varint;
use runner_core::backend::MetricResults;

/// Leaves room for what gRPC adds.
const MOST_BYTES: usize = (4 << 20) - (64 << 10);

/// What can best be done without comes first; within each, what was attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Sizes,
    Times,
    Counts,
    /// The SDK's other metrics.
    Others,
    Users,
}

impl Class {
    /// In the order in which they are left out. All of a class are, so that nobody takes a part for the whole.
    const OF_SDK: [Self; 4] = [Self::Sizes, Self::Times, Self::Counts, Self::Others];

    fn of(info: &MonitoringInfo) -> Self {
        match info.urn.as_str() {
            specs::SAMPLED_BYTE_SIZE => Self::Sizes,
            specs::START_BUNDLE_MSECS
            | specs::PROCESS_BUNDLE_MSECS
            | specs::FINISH_BUNDLE_MSECS
            | specs::TOTAL_MSECS => Self::Times,
            specs::ELEMENT_COUNT => Self::Counts,
            urn if urn.starts_with("beam:metric:user:") => Self::Users,
            _ => Self::Others,
        }
    }
}

/// Metrics that fit in one answer.
pub(super) struct Fitting {
    pub(super) metrics: MetricResults,
    /// What does not, in words; `None` if all do.
    pub(super) left_out: Option<String>,
}

/// Leaves out what is needed least until the rest fits.
pub(super) fn fit(metrics: MetricResults) -> Fitting {
    fit_in(MOST_BYTES, metrics)
}

fn fit_in(most: usize, mut metrics: MetricResults) -> Fitting {
    let all = metrics.attempted.len() + metrics.committed.len();
    let whole = encoded_len(&metrics);
    let mut bytes = whole;
    for class in Class::OF_SDK {
        for infos in [&mut metrics.attempted, &mut metrics.committed] {
            if bytes > most {
                infos.retain(|info| {
                    let stays = Class::of(info) != class;
                    bytes -= if stays { 0 } else { len(info) };
                    stays
                });
            }
        }
    }
    for infos in [&mut metrics.attempted, &mut metrics.committed] {
        while bytes > most
            && let Some(info) = infos.pop()
        {
            bytes -= len(&info);
        }
    }
    let left = all - metrics.attempted.len() - metrics.committed.len();
    let left_out = (left > 0).then(|| {
        format!(
            "GetJobMetrics leaves out {left} of the job's {all} metrics: with all of them its answer would have \
             {whole} bytes, more than clients take. Left out are first sampled sizes, then times, then counts of \
             elements, and the user's own last"
        )
    });
    Fitting { metrics, left_out }
}

/// Of the whole answer, but for a few bytes.
fn encoded_len(metrics: &MetricResults) -> usize {
    let infos = metrics.attempted.iter().chain(&metrics.committed);
    infos.map(len).sum()
}

/// In a repeated field.
fn len(info: &MonitoringInfo) -> usize {
    let len = info.encoded_len();
    1 + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use beam_model::job_management::{GetJobMetricsResponse, MetricResults as Answer};

    use super::*;

    fn infos(urns: &[&str]) -> Vec<MonitoringInfo> {
        urns.iter().map(|urn| MonitoringInfo { urn: (*urn).to_owned(), ..Default::default() }).collect()
    }

    fn both(urns: &[&str]) -> MetricResults {
        MetricResults { attempted: infos(urns), committed: infos(urns) }
    }

    const USER: &str = "beam:metric:user:sum_int64:v1";

    #[test]
    fn the_length_is_that_of_the_answer() {
        let metrics = both(&[USER, specs::TOTAL_MSECS]);
        let MetricResults { attempted, committed } = metrics.clone();
        let answer = GetJobMetricsResponse { metrics: Some(Answer { attempted, committed }) };
        assert!(answer.encoded_len() - encoded_len(&metrics) < 20);
    }

    #[test]
    fn what_fits_stays() {
        let metrics = both(&[USER, specs::SAMPLED_BYTE_SIZE]);
        let fitting = fit_in(encoded_len(&metrics), metrics.clone());
        assert_eq!(
            (fitting.metrics.attempted, fitting.metrics.committed),
            (metrics.attempted, metrics.committed)
        );
        assert_eq!(fitting.left_out, None);
    }

    #[test]
    fn what_is_needed_least_goes_first() {
        let order = [specs::SAMPLED_BYTE_SIZE, specs::TOTAL_MSECS, specs::ELEMENT_COUNT, "other", USER];
        let metrics = both(&order);
        for left_out in 0..=2 * order.len() {
            let attempted = infos(&order[left_out.div_ceil(2)..]);
            let committed = infos(&order[left_out / 2..]);
            let expected = MetricResults { attempted, committed };
            let fitting = fit_in(encoded_len(&expected), metrics.clone());
            let found = fitting.metrics;
            assert_eq!((found.attempted, found.committed), (expected.attempted, expected.committed));
            let said = fitting.left_out.unwrap_or_default();
            assert_eq!(
                said.contains(&format!("leaves out {left_out} of the job's 10")),
                left_out > 0,
                "{said}"
            );
        }
    }
}
