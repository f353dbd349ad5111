//! How far a running bundle is, by what its worker reports of it.

use beam_model::pipeline::MonitoringInfo;
use beam_model::urns::monitoring_info::monitoring_info_labels::TRANSFORM;
use beam_model::urns::monitoring_info_specs::{DATA_CHANNEL_READ_INDEX, WORK_COMPLETED, WORK_REMAINING};

use super::payload::Reader;

/// How many elements of the data source `source` are done, the one that is worked on for the part of it that its
/// transform says is done. `None` if the worker does not report it.
pub fn elements_done(infos: &[MonitoringInfo], source: &str) -> Option<f64> {
    let of_source = |info: &&MonitoringInfo| {
        info.urn == DATA_CHANNEL_READ_INDEX && info.labels.get(TRANSFORM).is_some_and(|it| it == source)
    };
    // Counted from 0; less if none has been begun.
    let index = Reader::new(&infos.iter().find(of_source)?.payload).int()?;
    if index < 0 {
        return Some(0.0);
    }
    let (done, left) = (work(infos, WORK_COMPLETED), work(infos, WORK_REMAINING));
    // Who does not say how much of an element is done may have done any part of it.
    let part = if done + left > 0.0 { (done / (done + left)).clamp(0.0, 1.0) } else { 0.5 };
    Some(index as f64 + part)
}

/// In whatever unit the transform counts.
fn work(infos: &[MonitoringInfo], urn: &str) -> f64 {
    let of_urn = infos.iter().filter(|info| info.urn == urn);
    let each = of_urn.filter_map(|info| Reader::new(&info.payload).iterable(Reader::double));
    each.flatten().filter(|work| work.is_finite()).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn info(urn: &str, transform: &str, payload: &[u8]) -> MonitoringInfo {
        MonitoringInfo {
            urn: urn.to_owned(),
            labels: BTreeMap::from([(TRANSFORM.to_owned(), transform.to_owned())]),
            payload: payload.to_vec().into(),
            ..Default::default()
        }
    }

    fn progress(work: f64) -> Vec<u8> {
        [&1_u32.to_be_bytes()[..], &work.to_be_bytes()].concat()
    }

    #[test]
    fn what_is_done_is_counted_in_elements() {
        let none = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        let half = [
            info(WORK_COMPLETED, "read", &progress(3.0)),
            info(WORK_REMAINING, "read", &progress(3.0)),
            info(DATA_CHANNEL_READ_INDEX, "source", &[2]),
        ];
        assert_eq!(elements_done(&half, "source"), Some(2.5));
        assert_eq!(elements_done(&half[1..], "source"), Some(2.0));
        assert_eq!(elements_done(&half[2..], "source"), Some(2.5));
        assert_eq!(elements_done(&half, "another"), None);
        assert_eq!(elements_done(&[info(DATA_CHANNEL_READ_INDEX, "source", &none)], "source"), Some(0.0));
        assert_eq!(elements_done(&[info(DATA_CHANNEL_READ_INDEX, "source", b"")], "source"), None);
        let odd = [info(WORK_COMPLETED, "read", b"odd"), info(DATA_CHANNEL_READ_INDEX, "source", &[2])];
        assert_eq!(elements_done(&odd, "source"), Some(2.5));
    }
}
