//! The storage with a disk does what the one without does, and keeps to its budget.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may stop at the first surprise.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use runner_core::fault::{Blame, Retry};
use runner_core::ports::{MemoryBudget, Storage, StoredBlock};
use state_store::DiskStorage;

/// What a block may count besides its bytes.
const OVERHEAD: u64 = 1024;

struct Disk {
    storage: DiskStorage,
    folder: tempfile::TempDir,
}

fn disk(limit: u64) -> Disk {
    let folder = tempfile::tempdir().unwrap();
    let storage = DiskStorage::new(MemoryBudget::new(limit), folder.path()).unwrap();
    Disk { storage, folder }
}

impl Disk {
    fn budget(&self) -> &Arc<MemoryBudget> {
        self.storage.budget()
    }
}

/// Bytes that do not compress well.
fn noise(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    bytes.take(len).collect()
}

#[test]
fn what_fits_stays_in_memory() {
    let disk = disk(1 << 20);
    let block = disk.storage.put(noise(1, 1000)).unwrap();
    assert_eq!((disk.budget().spilled(), disk.budget().on_disk()), (0, 0));
    assert!(disk.budget().used() >= 1000);
    assert_eq!(block.read().unwrap(), noise(1, 1000));
    drop(block);
    assert_eq!(disk.budget().used(), 0);
}

#[test]
fn what_does_not_fit_goes_to_disk_last_first_and_comes_back() {
    let disk = disk(4 << 20);
    let blocks: Vec<StoredBlock> = (0..100).map(|n| disk.storage.put(noise(n, 100_000)).unwrap()).collect();
    let budget = disk.budget();
    assert!(budget.used() <= 4 << 20, "{budget:?}");
    assert!(budget.peak() <= (4 << 20) + 100_000 + OVERHEAD, "{budget:?}");
    assert!(budget.spilled() >= 10_000_000 - (4 << 20), "{budget:?}");
    let spilled = budget.spilled();
    for (n, block) in blocks.iter().enumerate() {
        assert_eq!(block.read().unwrap(), noise(n as u64, 100_000), "{n}");
    }
    assert_eq!(budget.spilled(), spilled, "reading spills nothing");
    assert!(budget.writes() > 1 && budget.reads() > 1, "{budget:?}");
    assert!(budget.read_back() >= 10_000_000 - (4 << 20), "{budget:?}");
    drop(blocks);
    assert_eq!(disk.budget().on_disk(), 0);
}

#[test]
fn small_blocks_are_written_together_and_compressed() {
    let disk = disk(1 << 20);
    let blocks: Vec<StoredBlock> =
        (0..2000_u64).map(|n| disk.storage.put(Bytes::from(vec![n as u8; 1000])).unwrap()).collect();
    let budget = disk.budget();
    assert!(budget.used() <= 1 << 20, "{budget:?}");
    assert!(budget.on_disk() < budget.spilled() / 10, "{budget:?}");
    for (n, block) in blocks.iter().enumerate() {
        assert_eq!(block.read().unwrap(), vec![n as u8; 1000], "{n}");
    }
}

#[test]
fn nothing_is_left_in_the_folder() {
    let disk = disk(1);
    let block = disk.storage.put(noise(1, 1000)).unwrap();
    let written = disk.storage.write(&noise(2, 1000)).unwrap();
    assert!(disk.budget().on_disk() >= 2000);
    assert_eq!(std::fs::read_dir(disk.folder.path()).unwrap().count(), 0, "files have no names");
    assert_eq!((block.read().unwrap(), written.read().unwrap()), (noise(1, 1000), noise(2, 1000)));
}

#[test]
fn a_disk_that_cannot_be_written_to_loses_nothing() {
    let Disk { storage, folder } = disk(10_000);
    let kept = storage.put(noise(1, 9000)).unwrap();
    let path = folder.path().to_owned();
    folder.close().unwrap();
    let fault = storage.put(noise(2, 9000)).unwrap_err();
    assert_eq!((fault.blame, fault.retry), (Blame::Runner, Retry::Never));
    assert!(fault.message.contains(path.to_str().unwrap()), "{fault}");
    assert!(fault.message.contains("--spill-dir"), "{fault}");
    assert_eq!(kept.read().unwrap(), noise(1, 9000));
    // There is one again.
    std::fs::create_dir(&path).unwrap();
    let next = storage.put(noise(3, 9000)).unwrap();
    assert!(!storage.budget().is_over(), "{:?}", storage.budget());
    assert_eq!((kept.read().unwrap(), next.read().unwrap()), (noise(1, 9000), noise(3, 9000)));
    drop((kept, next));
    assert_eq!((storage.budget().used(), storage.budget().on_disk()), (0, 0));
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn a_folder_that_is_none_is_refused_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = DiskStorage::new(MemoryBudget::unlimited(), file.path()) else {
        panic!("a file is no folder")
    };
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("--spill-dir"), "{error}");
}

#[test]
fn what_a_block_holds_lives_as_long_as_it_does() {
    let disk = disk(1);
    let held = Arc::new(7_u8);
    let block = disk.storage.put(noise(1, 100)).unwrap().holding(held.clone());
    assert_eq!(Arc::strong_count(&held), 2);
    drop(block);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn many_threads() {
    let disk = disk(100_000);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let storage = &disk.storage;
            scope.spawn(move || {
                let mut blocks = Vec::new();
                for n in 0..200 {
                    let seed = thread * 1000 + n;
                    blocks.push((seed, storage.put(noise(seed, 3000)).unwrap()));
                    if n % 3 == 0 {
                        let (seed, block) = blocks.remove(blocks.len() / 2);
                        assert_eq!(block.read().unwrap(), noise(seed, 3000));
                    }
                }
                for (seed, block) in blocks {
                    assert_eq!(block.read().unwrap(), noise(seed, 3000));
                }
            });
        }
    });
    let budget = disk.budget();
    // One may have a block under way in each thread, and two frames that were just read.
    assert!(budget.peak() < 100_000 + 8 * 4000 + 2 * 8000 + 1600 * OVERHEAD, "{budget:?}");
    assert_eq!((budget.used(), budget.on_disk()), (0, 0), "{budget:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Write(usize),
    Drop(prop::sample::Index),
    Read(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..5000).prop_map(Step::Put),
        1 => (0_usize..5000).prop_map(Step::Write),
        2 => any::<prop::sample::Index>().prop_map(Step::Drop),
        2 => any::<prop::sample::Index>().prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #[test]
    fn any_history(limit in 0_u64..200_000, steps in steps()) {
        let disk = disk(limit);
        let mut blocks: Vec<(u64, usize, StoredBlock)> = Vec::new();
        for (seed, step) in (0..).zip(steps) {
            match step {
                Step::Put(len) => blocks.push((seed, len, disk.storage.put(noise(seed, len)).unwrap())),
                Step::Write(len) => blocks.push((seed, len, disk.storage.write(&noise(seed, len)).unwrap())),
                Step::Drop(index) if !blocks.is_empty() => drop(blocks.swap_remove(index.index(blocks.len()))),
                Step::Read(index) if !blocks.is_empty() => {
                    let (seed, len, block) = &blocks[index.index(blocks.len())];
                    prop_assert_eq!(block.read().unwrap(), noise(*seed, *len));
                }
                Step::Drop(_) | Step::Read(_) => {}
            }
            let most = limit + blocks.len() as u64 * OVERHEAD + 2 * 10_000;
            prop_assert!(disk.budget().used() <= most, "{:?}", disk.budget());
        }
        for (seed, len, block) in blocks.drain(..) {
            prop_assert_eq!(block.len(), len as u64);
            prop_assert_eq!(block.read().unwrap(), noise(seed, len));
        }
    }
}
