//! Ordered lists: values by sort key, read and cleared by range.

use std::collections::BTreeMap;

use beam_model::coders::{CoderError, varint};
use bytes::Bytes;

use super::merge::merge;
use super::paging::{self, bad_token};
use super::values::Values;
use crate::fault::Fault;
use crate::ports::{StatePage, Storage};

/// Encoded elements by sort key, those of one in the order in which they were added. An element is the sort
/// key as a varint and the value with its length before it.
#[derive(Clone, Debug, Default)]
pub(super) struct OrderedList {
    pub(super) elements: BTreeMap<i64, Values>,
    bytes: u64,
}

/// What a bundle does to an ordered list.
#[derive(Debug, Default)]
pub(super) struct OrderedListWrites {
    /// Of what is committed, these sort keys do not count any more.
    removed: Ranges,
    added: BTreeMap<i64, Values>,
    bytes: u64,
}

/// Sort keys, first and last of them included. The protocol's ranges leave out their end, but the range of
/// all of them has to have the last as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: i64,
    last: i64,
}

impl Span {
    /// `OrderedListRange`: `None` if there is nothing in it.
    pub(super) fn new(start: i64, end: i64) -> Option<Self> {
        let last = if (start, end) == (i64::MIN, i64::MAX) { end } else { end.checked_sub(1)? };
        (start <= last).then_some(Self { first: start, last })
    }
}

/// Sort keys as spans that do not touch: the first of each, and its last.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<i64, i64>);

impl Ranges {
    fn add(&mut self, span: Span) {
        let Span { mut first, mut last } = span;
        // From the last that could touch it backwards: none before one that ends before it can.
        while let Some((&start, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end < first.saturating_sub(1) {
                break;
            }
            self.0.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    fn contains(&self, key: i64) -> bool {
        self.0.range(..=key).next_back().is_some_and(|(_, last)| key <= *last)
    }
}

impl OrderedList {
    pub(super) fn of(elements: BTreeMap<i64, Values>) -> Self {
        let bytes = elements.values().map(Values::bytes).sum();
        Self { elements, bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the elements of a later one, those of one sort key after those that are there.
    ///
    /// Errors: the storage has no room.
    pub(super) fn absorb(&mut self, later: &Self, storage: &dyn Storage) -> Result<(), Fault> {
        self.bytes += later.bytes;
        for (key, values) in &later.elements {
            self.elements.entry(*key).or_default().extend(values.clone(), storage)?;
        }
        Ok(())
    }
}

impl OrderedListWrites {
    /// Errors: `data` is not elements as an ordered list has them; nothing is appended then. Or the storage has no room.
    pub(super) fn append(&mut self, data: &Bytes, storage: &dyn Storage) -> Result<(), Fault> {
        for (key, element) in split(data)? {
            self.bytes += element.len() as u64;
            self.added.entry(key).or_default().append(element, storage)?;
        }
        Ok(())
    }

    pub(super) fn clear(&mut self, span: Span) {
        self.bytes -= remove(&mut self.added, span);
        self.removed.add(span);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Errors: the storage has no room.
    pub(super) fn commit(self, committed: &mut OrderedList, storage: &dyn Storage) -> Result<(), Fault> {
        for (first, last) in self.removed.0 {
            committed.bytes -= remove(&mut committed.elements, Span { first, last });
        }
        committed.bytes += self.bytes;
        for (key, values) in self.added {
            committed.elements.entry(key).or_default().extend(values, storage)?;
        }
        Ok(())
    }
}

/// Removes what is in the span and says how many bytes that were.
fn remove(elements: &mut BTreeMap<i64, Values>, span: Span) -> u64 {
    let keys: Vec<i64> = elements.range(span.first..=span.last).map(|(key, _)| *key).collect();
    keys.iter().filter_map(|key| elements.remove(key)).map(|values| values.bytes()).sum()
}

/// The elements in `data` with their sort keys.
fn split(data: &Bytes) -> Result<Vec<(i64, Bytes)>, Fault> {
    let mut elements = Vec::new();
    let mut rest = data.clone();
    while !rest.is_empty() {
        let (key, length) = element(&rest).map_err(|error| {
            Fault::environment(format!("a worker appended what is no element of an ordered list: {error}"))
        })?;
        elements.push((key, rest.split_to(length)));
    }
    Ok(elements)
}

/// Sort key and length of the first element.
fn element(encoded: &[u8]) -> Result<(i64, usize), CoderError> {
    let (key, start) = varint::read_signed(encoded)?;
    let (_, length) = varint::read_prefixed(encoded.get(start..).unwrap_or_default())?;
    Ok((key, start + length))
}

/// Bytes of a token: sort key, and how many parts of its values are before the page.
const TOKEN_BYTES: usize = 12;

/// The elements of a span as their bundle sees them.
pub(super) fn get(
    committed: Option<&OrderedList>,
    writes: Option<&OrderedListWrites>,
    span: Span,
    continuation: &[u8],
) -> Result<StatePage, Fault> {
    let (first, skipped) = match continuation {
        [] => (span.first, 0),
        token => read_token(token)
            .filter(|(key, _)| (span.first..=span.last).contains(key))
            .ok_or_else(bad_token)?,
    };
    let range = first..=span.last;
    let committed = committed.map(|list| list.elements.range(range.clone())).into_iter().flatten();
    let committed = committed.filter(|(key, _)| !writes.is_some_and(|writes| writes.removed.contains(**key)));
    let added = writes.map(|writes| writes.added.range(range)).into_iter().flatten();
    let parts = merge(committed, added).flat_map(|(key, committed, added)| {
        let parts = committed.into_iter().chain(added).flat_map(Values::parts);
        (0_u32..).zip(parts).map(|(index, part)| ((*key, index), part))
    });
    let parts = parts.skip_while(|(place, _)| *place < (first, skipped));
    paging::page(parts.map(Ok), write_token)
}

fn write_token((key, skipped): (i64, u32)) -> Bytes {
    [&key.to_be_bytes()[..], &skipped.to_be_bytes()[..]].concat().into()
}

fn read_token(token: &[u8]) -> Option<(i64, u32)> {
    let token: [u8; TOKEN_BYTES] = token.try_into().ok()?;
    let (key, skipped) = token.split_first_chunk()?;
    Some((i64::from_be_bytes(*key), u32::from_be_bytes(skipped.try_into().ok()?)))
}
