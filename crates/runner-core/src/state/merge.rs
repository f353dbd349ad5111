//! Two sorted sequences as one: what is committed, and what a bundle writes over it.

use std::cmp::Ordering;

/// All keys of both in order, each with what either has for it. Both are sorted by key and have no key twice.
pub(super) fn merge<K: Ord, L, R>(
    left: impl Iterator<Item = (K, L)>,
    right: impl Iterator<Item = (K, R)>,
) -> impl Iterator<Item = (K, Option<L>, Option<R>)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => left.next().map(|(key, value)| (key, Some(value), None)),
            Ordering::Greater => right.next().map(|(key, value)| (key, None, Some(value))),
            Ordering::Equal => {
                let (key, value) = left.next()?;
                Some((key, Some(value), right.next().map(|(_, value)| value)))
            }
        }
    })
}
