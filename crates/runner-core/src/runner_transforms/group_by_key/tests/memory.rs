//! With little memory, or none, panes are what they are with enough, and data stay within the memory that there is.

use std::sync::Arc;

use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;
use proptest::prelude::*;

use super::properties::{groupings, run, steps};
use super::{Grouped, Pane, by, discarding, element, repeat};
use crate::plan::{Grain, Trigger};
use crate::ports::memory::{MemoryStorage, SpillingStorage};
use crate::ports::{MemoryBudget, Storage};
use crate::runner_transforms::group_by_key::GroupByKey;
use crate::runner_transforms::iterables::Iterables;

/// By window and key; those of one keep their order.
fn sorted(mut panes: Vec<Pane>) -> Vec<Pane> {
    panes.iter_mut().for_each(|pane| pane.values.sort());
    panes.sort_by(|a, b| (&a.key, a.window).cmp(&(&b.key, b.window)));
    panes
}

/// With so much memory.
fn storage(limit: u64) -> Arc<dyn Storage> {
    match limit {
        0 => SpillingStorage::new(),
        limit => Arc::new(MemoryStorage::new(MemoryBudget::new(limit))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn memory_changes_no_pane(
        (windows, grouping) in groupings(),
        steps in steps(),
        limit in prop_oneof![Just(0_u64), 100_u64..8_000],
    ) {
        let storage = storage(limit);
    let mut enough = Grouped::new(windows, grouping.clone());
        let mut little = Grouped::kept_in(windows, grouping, storage.clone());
        let (expected, found) = (run(&mut enough, &steps)?, run(&mut little, &steps)?);
        prop_assert_eq!(sorted(found.panes), sorted(expected.panes));
        prop_assert_eq!(little.groups.dropped(), enough.groups.dropped());
        drop(little);
        let budget = storage.budget();
        prop_assert_eq!((budget.used(), budget.on_disk()), (0, 0), "all is given back");
    }
}

/// Of `KV<bytes, varint>`, as many as there are `numbers`, of so many keys in turn.
fn block(numbers: std::ops::Range<u64>, keys: u64) -> Bytes {
    let of = |n: u64| element(&format!("key {}", n % keys), 1, &[(0, 10)], n << 40);
    numbers.flat_map(of).collect::<Vec<_>>().into()
}

/// How many values come, and the sum of their numbers.
fn count(grouped: &mut GroupByKey) -> (u64, u64) {
    let (mut count, mut sum) = (0, 0);
    for pane in grouped.take_panes(Grain::Element) {
        let values = super::read(&pane.unwrap().data).values;
        count += values.len() as u64;
        sum += values.iter().map(|value| value >> 40).sum::<u64>();
    }
    (count, sum)
}

#[test]
fn a_window_of_ten_times_the_memory_stays_within_it() {
    let limit = 1 << 20;
    // Few keys with much, and many with little.
    for keys in [1, 7, 500] {
        let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(limit)));
        let mut grouped = GroupByKey::new(by(Trigger::Default), "Group".to_owned(), storage.clone(), None);
        let (blocks, per_block) = (150, 10_000);
        for n in 0..blocks {
            grouped
                .add(&block(n * per_block..(n + 1) * per_block, keys), ProcessingTime::from_millis(0))
                .unwrap();
        }
        let budget = storage.budget();
        assert!(budget.spilled() > 9 * limit, "{keys} keys: {budget:?}");
        assert!(budget.peak() < limit + limit / 4, "{keys} keys: {budget:?}");
        grouped.advance_watermark(EventTime(10)).unwrap();
        let all = blocks * per_block;
        assert_eq!(count(&mut grouped), (all, all * (all - 1) / 2));
        // But for a single pane, which is put together.
        let pane = budget.spilled() / keys;
        assert!(budget.peak() < limit * 3 / 2 + pane * 5 / 4, "{keys} keys: {budget:?}");
        drop(grouped);
        assert_eq!(budget.used(), 0);
    }
}

/// What fires early is put together from what is on disk again and again, and stays there until the last pane. Ten elements of
/// each of ten keys come at once.
#[test]
fn accumulated_panes_are_read_again() {
    let storage = SpillingStorage::new();
    let mut grouped =
        GroupByKey::new(by(repeat(super::count(10))), "Group".to_owned(), storage.clone(), None);
    for n in 0..5 {
        grouped.add(&block(n * 100..(n + 1) * 100, 10), ProcessingTime::from_millis(0)).unwrap();
        let all = (n + 1) * 100;
        assert_eq!(count(&mut grouped), (all, all * (all - 1) / 2));
    }
    assert!(storage.budget().on_disk() > 0);
    grouped.advance_watermark(EventTime::MAX).unwrap();
    assert_eq!(count(&mut grouped), (0, 0));
    assert_eq!((storage.budget().used(), storage.budget().on_disk()), (0, 0));
}

/// A frame is read once, however many keys have values in it.
#[test]
fn keys_that_fire_together_are_read_together() {
    let storage = SpillingStorage::new();
    let grouping = discarding(by(Trigger::Default));
    let mut grouped = GroupByKey::new(grouping, "Group".to_owned(), storage.clone(), None);
    grouped.add(&block(0..1_000, 200), ProcessingTime::from_millis(0)).unwrap();
    grouped.advance_watermark(EventTime(10)).unwrap();
    assert_eq!(count(&mut grouped), (1_000, 1_000 * 999 / 2));
    let budget = storage.budget();
    assert_eq!(budget.reads(), budget.writes(), "{budget:?}");
    assert_eq!(budget.read_back(), budget.spilled(), "{budget:?}");
}

/// Where those who read panes know tokens, values of one key that are too many stay in the storage.
#[test]
fn a_pane_that_is_too_large_has_a_token() {
    let limit = 1 << 20;
    let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(limit)));
    let iterables = Arc::new(Iterables::default());
    let grouping = by(Trigger::Default);
    let mut grouped = GroupByKey::new(grouping, "Group".to_owned(), storage.clone(), Some(iterables.clone()));
    let (blocks, per_block) = (60, 10_000);
    for n in 0..blocks {
        grouped.add(&block(n * per_block..(n + 1) * per_block, 1), ProcessingTime::from_millis(0)).unwrap();
    }
    grouped.add(&element("small", 1, &[(0, 10)], 5).into(), ProcessingTime::from_millis(0)).unwrap();
    grouped.advance_watermark(EventTime(10)).unwrap();
    let panes: Vec<_> = grouped.take_panes(Grain::Block).map(Result::unwrap).collect();
    assert_eq!(panes.len(), 2);
    assert_eq!(super::read(&panes[1].data).values, [5]);
    assert!(panes[0].iterable.is_some() && panes[0].data.len() < 100);
    let at = panes[0].data.windows(9).position(|bytes| bytes == b"iterable-").unwrap();
    let token = panes[0].data.slice(at..);
    let (mut values, mut continuation) = (0..blocks * per_block, Bytes::new());
    loop {
        let page = iterables.get(&token, &continuation).unwrap();
        let mut rest: &[u8] = &page.data;
        while !rest.is_empty() {
            let (value, len) = beam_model::coders::varint::read(rest).unwrap();
            assert_eq!(Some(value >> 40), values.next());
            rest = &rest[len..];
        }
        continuation = page.continuation;
        if continuation.is_empty() {
            break;
        }
    }
    assert_eq!(values.next(), None);
    drop((panes, grouped));
    assert_eq!(storage.budget().used(), 0);
}

/// Each element fires all that came before it, and these panes wait to be taken.
#[test]
fn accumulated_panes_that_wait_do_not_take_a_copy_each() {
    let limit = 1 << 20;
    let storage = Arc::new(MemoryStorage::new(MemoryBudget::new(limit)));
    let mut grouped = GroupByKey::new(by(repeat(super::count(1))), "Group".to_owned(), storage.clone(), None);
    let elements = 6_000;
    grouped.add(&block(0..elements, 1), ProcessingTime::from_millis(0)).unwrap();
    let budget = storage.budget();
    assert!(budget.peak() < limit * 8, "{budget:?}");
    let panes = grouped.take_panes(Grain::Element).map(|pane| pane.unwrap().data.len() as u64);
    // Far more than there is memory for.
    assert!(panes.sum::<u64>() > 50 * limit);
}
