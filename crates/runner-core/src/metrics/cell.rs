//! The value of one metric, and how two of them become one.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use beam_model::pipeline::HistogramValue;
use beam_model::urns::monitoring_info_type_urns as types;
use bytes::Bytes;
use prost::Message;

use super::payload::{Reader, Writer};
use super::trie::Trie;

/// The bytes of text that a string set holds at most; the SDKs stop there too.
const STRING_SET_BYTES: usize = 1_000_000;
/// Elements of a top or bottom list: far beyond what an SDK sends, so that a bad one cannot grow.
const LONGEST_EXTREMA: usize = 10_000;

/// A metric's value, by type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    SumInt64(i64),
    SumDouble(f64),
    DistributionInt64 {
        count: i64,
        sum: i64,
        min: i64,
        max: i64,
    },
    DistributionDouble {
        count: i64,
        sum: f64,
        min: f64,
        max: f64,
    },
    /// `time` is in milliseconds.
    LatestInt64 {
        time: i64,
        value: i64,
    },
    LatestDouble {
        time: i64,
        value: f64,
    },
    ExtremaInt64(Side, Vec<i64>),
    ExtremaDouble(Side, Vec<f64>),
    SetString(BTreeSet<String>),
    BoundedTrie(Trie),
    Histogram(HistogramValue),
    /// Of types that cannot be merged (`beam:metrics:progress:v1`) or are not known: the last one.
    Last(Bytes),
}

/// Which end of the values a list of extrema keeps. The list is in this order, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Top,
    Bottom,
}

impl Side {
    fn order(self, ascending: Ordering) -> Ordering {
        match self {
            Side::Top => ascending.reverse(),
            Side::Bottom => ascending,
        }
    }
}

impl Cell {
    /// `None` if the payload does not have the form that the type asks for.
    pub(super) fn decode(type_urn: &str, payload: &Bytes) -> Option<Self> {
        let mut from = Reader::new(payload);
        let cell = match type_urn {
            types::SUM_INT64_TYPE => Cell::SumInt64(from.int()?),
            types::SUM_DOUBLE_TYPE => Cell::SumDouble(from.double()?),
            types::DISTRIBUTION_INT64_TYPE => Cell::DistributionInt64 {
                count: from.int()?,
                sum: from.int()?,
                min: from.int()?,
                max: from.int()?,
            },
            types::DISTRIBUTION_DOUBLE_TYPE => Cell::DistributionDouble {
                count: from.int()?,
                sum: from.double()?,
                min: from.double()?,
                max: from.double()?,
            },
            types::LATEST_INT64_TYPE => Cell::LatestInt64 { time: from.int()?, value: from.int()? },
            types::LATEST_DOUBLE_TYPE => Cell::LatestDouble { time: from.int()?, value: from.double()? },
            types::TOP_N_INT64_TYPE => Cell::ints(Side::Top, from.iterable(Reader::int)?),
            types::BOTTOM_N_INT64_TYPE => Cell::ints(Side::Bottom, from.iterable(Reader::int)?),
            types::TOP_N_DOUBLE_TYPE => Cell::doubles(Side::Top, from.iterable(Reader::double)?),
            types::BOTTOM_N_DOUBLE_TYPE => Cell::doubles(Side::Bottom, from.iterable(Reader::double)?),
            types::SET_STRING_TYPE => Cell::SetString(from.iterable(Reader::text)?.into_iter().collect()),
            types::BOUNDED_TRIE_TYPE => return Trie::decode(payload).map(Cell::BoundedTrie),
            types::HISTOGRAM => return HistogramValue::decode(payload.clone()).ok().map(Cell::Histogram),
            _ => return Some(Cell::Last(payload.clone())),
        };
        from.end().map(|()| cell)
    }

    pub(super) fn encode(&self) -> Bytes {
        let to = Writer::default();
        match self {
            Cell::SumInt64(sum) => to.int(*sum).done(),
            Cell::SumDouble(sum) => to.double(*sum).done(),
            Cell::DistributionInt64 { count, sum, min, max } => {
                to.int(*count).int(*sum).int(*min).int(*max).done()
            }
            Cell::DistributionDouble { count, sum, min, max } => {
                to.int(*count).double(*sum).double(*min).double(*max).done()
            }
            Cell::LatestInt64 { time, value } => to.int(*time).int(*value).done(),
            Cell::LatestDouble { time, value } => to.int(*time).double(*value).done(),
            Cell::ExtremaInt64(_, values) => to.iterable(values.iter(), |to, v| to.int(*v)).done(),
            Cell::ExtremaDouble(_, values) => to.iterable(values.iter(), |to, v| to.double(*v)).done(),
            Cell::SetString(texts) => to.iterable(texts.iter(), |to, t| to.text(t)).done(),
            Cell::BoundedTrie(trie) => trie.encode(),
            Cell::Histogram(histogram) => histogram.encode_to_vec().into(),
            Cell::Last(payload) => payload.clone(),
        }
    }

    /// Takes in another value of the same metric. False if the two do not fit together; then this one
    /// is as it was.
    pub(super) fn merge(&mut self, other: Cell) -> bool {
        match (self, other) {
            (Cell::SumInt64(a), Cell::SumInt64(b)) => *a = a.wrapping_add(b),
            (Cell::SumDouble(a), Cell::SumDouble(b)) => *a += b,
            (this @ Cell::DistributionInt64 { .. }, other @ Cell::DistributionInt64 { .. }) => {
                this.merge_distribution_int64(other);
            }
            (this @ Cell::DistributionDouble { .. }, other @ Cell::DistributionDouble { .. }) => {
                this.merge_distribution_double(other);
            }
            // Of two values of one millisecond the greater is kept, so that the order of bundles does
            // not matter.
            (Cell::LatestInt64 { time, value }, Cell::LatestInt64 { time: t, value: v }) => {
                (*time, *value) = (*time, *value).max((t, v));
            }
            (Cell::LatestDouble { time, value }, Cell::LatestDouble { time: t, value: v }) => {
                if t.cmp(time).then(v.total_cmp(value)) == Ordering::Greater {
                    (*time, *value) = (t, v);
                }
            }
            (Cell::ExtremaInt64(side, a), Cell::ExtremaInt64(_, b)) => {
                *a = extrema(*side, std::mem::take(a), b, i64::cmp);
            }
            (Cell::ExtremaDouble(side, a), Cell::ExtremaDouble(_, b)) => {
                *a = extrema(*side, std::mem::take(a), b, f64::total_cmp);
            }
            (Cell::SetString(a), Cell::SetString(b)) => merge_strings(a, b),
            (Cell::BoundedTrie(a), Cell::BoundedTrie(b)) => a.merge(b),
            (Cell::Histogram(a), Cell::Histogram(b)) => return merge_histograms(a, b),
            (Cell::Last(a), Cell::Last(b)) => *a = b,
            _ => return false,
        }
        true
    }

    fn ints(side: Side, values: Vec<i64>) -> Self {
        Cell::ExtremaInt64(side, extrema(side, values, Vec::new(), i64::cmp))
    }

    fn doubles(side: Side, values: Vec<f64>) -> Self {
        Cell::ExtremaDouble(side, extrema(side, values, Vec::new(), f64::total_cmp))
    }

    /// A distribution of nothing has no extremes, whatever stands in their place.
    fn merge_distribution_int64(&mut self, other: Cell) {
        if let (
            Cell::DistributionInt64 { count, sum, min, max },
            Cell::DistributionInt64 { count: c, sum: s, min: low, max: high },
        ) = (self, other)
        {
            (*min, *max) = match (*count, c) {
                (_, 0) => (*min, *max),
                (0, _) => (low, high),
                _ => (low.min(*min), high.max(*max)),
            };
            *count = count.wrapping_add(c);
            *sum = sum.wrapping_add(s);
        }
    }

    fn merge_distribution_double(&mut self, other: Cell) {
        if let (
            Cell::DistributionDouble { count, sum, min, max },
            Cell::DistributionDouble { count: c, sum: s, min: low, max: high },
        ) = (self, other)
        {
            (*min, *max) = match (*count, c) {
                (_, 0) => (*min, *max),
                (0, _) => (low, high),
                _ => (low.min(*min), high.max(*max)),
            };
            *count = count.wrapping_add(c);
            *sum += s;
        }
    }
}

/// The best of both lists, as many as the longer one has: the payload does not say how many it could
/// have had, and an SDK that sends n values keeps n.
fn extrema<T>(side: Side, mut a: Vec<T>, b: Vec<T>, compare: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    let most = a.len().max(b.len()).min(LONGEST_EXTREMA);
    a.extend(b);
    a.sort_by(|x, y| side.order(compare(x, y)));
    a.truncate(most);
    a
}

fn merge_strings(all: &mut BTreeSet<String>, more: BTreeSet<String>) {
    let mut size: usize = all.iter().map(String::len).sum();
    for text in more {
        if size > STRING_SET_BYTES {
            return;
        }
        let length = text.len();
        if all.insert(text) {
            size += length;
        }
    }
}

fn merge_histograms(a: &mut HistogramValue, b: HistogramValue) -> bool {
    if a.bucket_options != b.bucket_options {
        return false;
    }
    a.count = match (a.count, b.count) {
        (Some(x), Some(y)) => Some(x.wrapping_add(y)),
        (x, y) => x.or(y),
    };
    if a.bucket_counts.len() < b.bucket_counts.len() {
        a.bucket_counts.resize(b.bucket_counts.len(), 0);
    }
    for (count, more) in a.bucket_counts.iter_mut().zip(b.bucket_counts) {
        *count = count.wrapping_add(more);
    }
    true
}
