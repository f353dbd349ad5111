//! Blocks that no SDK should write: each is a fault of the worker's, and none a panic.

use beam_model::coders::Coder;
use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;
use proptest::prelude::*;

use super::{element, interval};
use crate::fault::{Blame, Fault};
use crate::plan::testing::grouping;
use crate::plan::{AccessPattern, Collection, Grain, Grouping, Merging};
use crate::ports::StoredBlock;
use crate::ports::memory::MemoryStorage;
use crate::runner_transforms::elements;
use crate::runner_transforms::group_by_key::GroupByKey;
use crate::runner_transforms::side_input::SideInputBuilder;

fn collection() -> Collection {
    Collection {
        id: "side".to_owned(),
        element_coder: Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::VarInt)).into(),
        window_coder: Coder::IntervalWindow.into(),
        grain: Grain::Element,
        by_key: false,
        timed: false,
        side_input_patterns: vec![AccessPattern::Iterable, AccessPattern::Multimap],
        live: None,
    }
}

/// Groups, reads as a side input and cuts a block; says what came of each.
fn digest(block: &Bytes) -> [Result<(), Fault>; 3] {
    let group = |bounded| {
        let coder = grouping(Coder::IntervalWindow);
        let grouping = Grouping { merging: Merging::Sessions, bounded, ..coder };
        let mut groups = GroupByKey::in_memory(grouping);
        groups.add(block, ProcessingTime::from_millis(0))?;
        groups.advance_watermark(EventTime::MAX)?;
        groups.take_panes(Grain::Block).try_for_each(|block| block.map(drop))
    };
    let (grouped, streamed) = (group(true), group(false));
    assert_eq!(grouped.is_ok(), streamed.is_ok(), "{grouped:?} {streamed:?}");
    let mut side = SideInputBuilder::new(&collection(), MemoryStorage::unlimited());
    let asked = side.add(&StoredBlock::in_memory(block.clone())).and_then(|()| side.finish().map(drop));
    let cut = elements::cut(&collection(), vec![block.clone()], MemoryStorage::unlimited().as_ref());
    let cut = cut.map(|elements| {
        assert_eq!(
            elements.iter().flat_map(|block| block.data.read().unwrap()).collect::<Vec<_>>(),
            block.to_vec(),
            "cutting loses nothing"
        );
    });
    [grouped, asked, cut]
}

fn is_the_workers(results: [Result<(), Fault>; 3]) {
    for fault in results.into_iter().filter_map(Result::err) {
        assert_eq!(fault.blame, Blame::Environment, "{fault}");
    }
}

fn sound() -> Vec<u8> {
    [element(5, &[interval(0, 10), interval(5, 15)], "key", 300), element(7, &[interval(7, 9)], "", 1)]
        .concat()
}

#[test]
fn a_sound_block_is_none() {
    assert!(digest(&sound().into()).iter().all(Result::is_ok));
}

#[test]
fn every_block_cut_short() {
    let whole = sound();
    let boundary = element(5, &[interval(0, 10), interval(5, 15)], "key", 300).len();
    for len in (1..whole.len()).filter(|len| *len != boundary) {
        let results = digest(&Bytes::copy_from_slice(&whole[..len]));
        assert!(results.iter().all(Result::is_err), "cut at {len}");
        is_the_workers(results);
    }
}

/// A window that ends before it starts.
#[test]
fn windows_that_are_none_do_not_merge() {
    let mut window = interval(0, 10);
    window.truncate(8);
    window.extend([0xFF; 9]);
    window.push(1);
    let [grouped, ..] = digest(&element(5, &[window], "key", 1).into());
    assert!(grouped.unwrap_err().message.contains("Group"));
}

#[test]
fn a_huge_count_of_windows_costs_nothing() {
    for window_coder in [Coder::GlobalWindow, Coder::IntervalWindow] {
        let mut block = element(5, &[], "key", 1);
        block[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut groups = GroupByKey::in_memory(grouping(window_coder));
        assert_eq!(
            groups.add(&block.into(), ProcessingTime::from_millis(0)).unwrap_err().blame,
            Blame::Environment
        );
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        is_the_workers(digest(&bytes.into()));
    }

    #[test]
    fn a_sound_block_with_bytes_changed(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut block = sound();
        for (index, byte) in changes {
            let at = index.index(block.len());
            block[at] = byte;
        }
        is_the_workers(digest(&block.into()));
    }
}
