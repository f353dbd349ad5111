//! The elements of one window and key: which of them are still seen.

use beam_model::coders::{PaneInfo, Timing};
use bytes::Bytes;

use crate::fault::Fault;
use crate::plan::Contents;
use crate::ports::memory::MemoryStorage;
use crate::ports::{Storage, StoredBlock};
use crate::runner_transforms::side_input::page_bytes;

/// A page that is smaller is soon joined with others, and has to be at hand for that.
const SMALL_PAGE_BYTES: usize = 16 << 10;

/// Which firing elements come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Firing {
    /// Of the pane; 0 if there is none.
    index: i64,
    /// Whether a trigger has fired it.
    fired: bool,
}

impl Firing {
    pub(super) fn of(pane: PaneInfo) -> Self {
        match pane.timing {
            Timing::Early | Timing::OnTime | Timing::Late => Self { index: pane.index, fired: true },
            Timing::Unknown => Self { index: 0, fired: false },
        }
    }
}

/// Elements that have come together, of one window and key.
pub(super) struct Fresh {
    firing: Firing,
    encoded: Vec<u8>,
    count: u32,
}

impl Fresh {
    pub(super) fn new(firing: Firing) -> Self {
        Self { firing, encoded: Vec::new(), count: 0 }
    }

    pub(super) fn add(&mut self, contents: Contents, firing: Firing, element: &[u8]) {
        match contents {
            Contents::All => {}
            Contents::NewestPane | Contents::NewestFiring => {
                if firing.index < self.firing.index {
                    return;
                }
                if firing.index > self.firing.index {
                    self.encoded.clear();
                    self.count = 0;
                }
            }
        }
        self.firing = firing;
        self.encoded.extend_from_slice(element);
        self.count = self.count.saturating_add(1);
    }
}

/// What is seen of one window and key.
#[derive(Clone, Default)]
pub(super) struct Values {
    firing: Option<Firing>,
    pub(super) pages: Vec<StoredBlock>,
    pub(super) count: u32,
}

impl Values {
    /// Errors: the storage has no room, or a page cannot be read back.
    pub(super) fn add(
        &mut self,
        contents: Contents,
        fresh: Fresh,
        storage: &dyn Storage,
    ) -> Result<(), Fault> {
        if let Some(seen) = self.firing {
            let stale = fresh.firing.index < seen.index;
            let newer = fresh.firing.index > seen.index;
            let replaces = match contents {
                Contents::All => false,
                Contents::NewestPane | Contents::NewestFiring if stale => return Ok(()),
                Contents::NewestPane => newer,
                Contents::NewestFiring => newer || !fresh.firing.fired,
            };
            if replaces {
                self.pages.clear();
                self.count = 0;
            }
        }
        self.firing = Some(fresh.firing);
        self.count = self.count.saturating_add(fresh.count);
        self.push(fresh.encoded, storage)
    }

    /// Adds a page, and joins small ones at the end so that each is about twice as large as the next: few
    /// pages, and no byte is copied often.
    fn push(&mut self, page: Vec<u8>, storage: &dyn Storage) -> Result<(), Fault> {
        if page.is_empty() {
            return Ok(());
        }
        let mut last = Bytes::from(page);
        while let Some(before) = self.pages.last() {
            let (len, more) = (before.len(), last.len() as u64);
            if len / 2 > more || len + more > page_bytes(storage) as u64 {
                break;
            }
            last = [before.read()?.as_ref(), &last].concat().into();
            self.pages.pop();
        }
        self.pages.push(match last.len() < SMALL_PAGE_BYTES {
            true => MemoryStorage::new(storage.budget().clone()).put(last)?,
            false => storage.put(last)?,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: Firing = Firing { index: 0, fired: false };

    fn pane(index: i64) -> Firing {
        Firing { index, fired: true }
    }

    fn all(values: &Values) -> Vec<u8> {
        values.pages.iter().flat_map(|page| page.read().unwrap()).collect()
    }

    /// What is seen after these have come, one after another.
    fn seen(contents: Contents, firings: &[(Firing, &str)]) -> String {
        let mut values = Values::default();
        for (firing, text) in firings {
            let mut fresh = Fresh::new(*firing);
            fresh.add(contents, *firing, text.as_bytes());
            values.add(contents, fresh, MemoryStorage::unlimited().as_ref()).unwrap();
        }
        String::from_utf8(all(&values)).unwrap()
    }

    #[test]
    fn a_newer_pane_replaces_an_older_one_in_whatever_order_they_come() {
        for contents in [Contents::NewestPane, Contents::NewestFiring] {
            assert_eq!(seen(contents, &[(pane(0), "a"), (pane(1), "b"), (pane(2), "c")]), "c");
            assert_eq!(seen(contents, &[(pane(2), "c"), (pane(0), "a"), (pane(1), "b")]), "c");
            assert_eq!(seen(contents, &[(pane(0), "a"), (pane(1), "b"), (pane(1), "c")]), "bc");
        }
        assert_eq!(seen(Contents::All, &[(pane(0), "a"), (pane(1), "b")]), "ab");
    }

    #[test]
    fn what_was_never_in_a_pane_is_replaced_only_in_the_newest_firing() {
        let raw = [(RAW, "a"), (RAW, "b")];
        assert_eq!(seen(Contents::All, &raw), "ab");
        assert_eq!(seen(Contents::NewestPane, &raw), "ab");
        assert_eq!(seen(Contents::NewestFiring, &raw), "b");
    }

    #[test]
    fn of_what_comes_together_the_newest_pane_is_seen() {
        let mut fresh = Fresh::new(pane(0));
        for (index, text) in [(0, "a"), (2, "c"), (1, "b"), (2, "d")] {
            fresh.add(Contents::NewestFiring, pane(index), text.as_bytes());
        }
        assert_eq!((fresh.encoded.as_slice(), fresh.count), (b"cd".as_slice(), 2));
    }

    #[test]
    fn many_small_additions_make_few_pages() {
        let mut values = Values::default();
        let storage = MemoryStorage::unlimited();
        let mut all = Vec::new();
        for n in 0..20_000_u32 {
            let mut fresh = Fresh::new(RAW);
            fresh.add(Contents::All, RAW, &[n as u8; 100]);
            all.extend_from_slice(&[n as u8; 100]);
            values.add(Contents::All, fresh, storage.as_ref()).unwrap();
        }
        assert_eq!(self::all(&values), all);
        assert_eq!(values.count, 20_000);
        assert!(values.pages.len() < 24, "{}", values.pages.len());
        assert!(values.pages.iter().all(|page| page.len() <= page_bytes(storage.as_ref()) as u64));
    }
}
