//! Multimaps, and maps and sets, which are multimaps for the protocol.

use std::collections::BTreeMap;
use std::ops::Bound;

use beam_model::coders::{Coder, CoderError};
use bytes::Bytes;

use super::MapValues;
use super::bag::{self, BagWrites};
use super::merge::merge;
use super::merged_cells::absorb_values;
use super::paging::{self, Part, bad_token};
use super::values::Values;
use crate::fault::Fault;
use crate::ports::{StatePage, Storage};

/// Values by map key (nested encoding). A key is there if something was appended for it, be it of no bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Multimap {
    pub(super) keys: BTreeMap<Box<[u8]>, Values>,
    bytes: u64,
}

/// What a bundle does to a multimap.
#[derive(Debug, Default)]
pub(super) struct MultimapWrites {
    cleared: bool,
    keys: BTreeMap<Box<[u8]>, BagWrites>,
    bytes: u64,
}

impl Multimap {
    pub(super) fn of(keys: BTreeMap<Box<[u8]>, Values>) -> Self {
        let bytes = keys.iter().map(|(key, values)| key.len() as u64 + values.bytes()).sum();
        Self { keys, bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds what a later one holds. `one`: of the values of a key only the later ones stay.
    ///
    /// Errors: the storage has no room.
    pub(super) fn absorb(&mut self, later: &Self, one: bool, storage: &dyn Storage) -> Result<(), Fault> {
        for (map_key, values) in &later.keys {
            match self.keys.get_mut(map_key) {
                Some(known) => {
                    self.bytes -= known.bytes();
                    absorb_values(known, values, one, storage)?;
                    self.bytes += known.bytes();
                }
                None => {
                    self.bytes += map_key.len() as u64 + values.bytes();
                    self.keys.insert(map_key.clone(), values.clone());
                }
            }
        }
        Ok(())
    }
}

impl MultimapWrites {
    /// Errors: the storage has no room.
    pub(super) fn append(&mut self, map_key: &[u8], data: Bytes, storage: &dyn Storage) -> Result<(), Fault> {
        let bytes = data.len() as u64;
        self.of(map_key).appended.append(data, storage)?;
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn clear_key(&mut self, map_key: &[u8]) {
        let writes = self.of(map_key);
        let cleared = writes.appended.bytes();
        writes.clear();
        self.bytes -= cleared;
    }

    pub(super) fn clear(&mut self) {
        *self = Self { cleared: true, ..Self::default() };
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Errors: the storage has no room.
    pub(super) fn commit(self, committed: &mut Multimap, storage: &dyn Storage) -> Result<(), Fault> {
        if self.cleared {
            *committed = Multimap::default();
        }
        for (map_key, writes) in self.keys {
            let key_bytes = map_key.len() as u64;
            let mut values = match committed.keys.remove(&map_key) {
                Some(values) => {
                    committed.bytes -= key_bytes + values.bytes();
                    values
                }
                None => Values::default(),
            };
            writes.commit(&mut values, storage)?;
            if !values.is_empty() {
                committed.bytes += key_bytes + values.bytes();
                committed.keys.insert(map_key, values);
            }
        }
        Ok(())
    }

    fn of(&mut self, map_key: &[u8]) -> &mut BagWrites {
        if !self.keys.contains_key(map_key) {
            self.bytes += map_key.len() as u64;
        }
        self.keys.entry(map_key.into()).or_default()
    }
}

/// A map key that is there: what is committed for it, and what is written.
type Entry<'a> = (&'a [u8], Option<&'a Values>, Option<&'a BagWrites>);

/// A multimap as its bundle sees it.
#[derive(Clone, Copy)]
pub(super) struct MultimapView<'a> {
    pub(super) committed: Option<&'a Multimap>,
    pub(super) writes: Option<&'a MultimapWrites>,
}

impl<'a> MultimapView<'a> {
    pub(super) fn values(self, map_key: &[u8], continuation: &[u8]) -> Result<StatePage, Fault> {
        let committed = self.committed().and_then(|map| map.keys.get(map_key));
        bag::get(committed, self.writes.and_then(|writes| writes.keys.get(map_key)), continuation)
    }

    /// All keys, one after another.
    pub(super) fn keys(self, continuation: &[u8]) -> Result<StatePage, Fault> {
        let keys = self.present(continuation)?.map(|(key, _, _)| Ok((key, Part::Slice(key))));
        paging::page(keys, token)
    }

    /// Each key with its values, as `KV<K, Iterable<V>>`.
    pub(super) fn entries(self, values: &MapValues, continuation: &[u8]) -> Result<StatePage, Fault> {
        let entries = self.present(continuation)?.map(|(key, committed, writes)| {
            let mut entry = key.to_vec();
            entry.extend_from_slice(&count(values, committed, writes)?.to_be_bytes());
            bag::parts(committed, writes).try_for_each(|part| part.append_to(&mut entry))?;
            Ok((key, Part::Made(entry)))
        });
        paging::page(entries, token)
    }

    /// In the order of the encoded keys, which makes the next key a good token.
    fn present(self, continuation: &[u8]) -> Result<impl Iterator<Item = Entry<'a>>, Fault> {
        let from = match continuation {
            [] => Vec::new(),
            [0, key @ ..] => key.to_vec(),
            _ => return Err(bad_token()),
        };
        let range = (Bound::<&[u8]>::Included(&from), Bound::Unbounded);
        let committed = self.committed().map(|map| map.keys.range::<[u8], _>(range));
        let writes = self.writes.map(|writes| writes.keys.range::<[u8], _>(range));
        let (committed, writes) = (committed.into_iter().flatten(), writes.into_iter().flatten());
        Ok(merge(committed, writes).filter_map(|(key, committed, writes)| {
            let there = bag::current(committed, writes).any(|values| !values.is_empty());
            there.then_some((&**key, committed, writes))
        }))
    }

    fn committed(self) -> Option<&'a Multimap> {
        self.committed.filter(|_| !self.writes.is_some_and(|writes| writes.cleared))
    }
}

/// A byte before the key, since a token of no bytes would mean the end.
fn token(key: &[u8]) -> Bytes {
    [&[0], key].concat().into()
}

fn count(values: &MapValues, committed: Option<&Values>, writes: Option<&BagWrites>) -> Result<i32, Fault> {
    let MapValues::Many(coder) = values else { return Ok(1) };
    let mut count: u64 = 0;
    for part in bag::parts(committed, writes) {
        count = count.saturating_add(elements(coder, &part.read()?).map_err(malformed)?);
    }
    if count == 0 {
        // Values of no bytes: SDKs append them one by one.
        count = bag::current(committed, writes).map(Values::appends).sum();
    }
    i32::try_from(count).map_err(|_| {
        Fault::user(format!("a key of a multimap state has {count} values; an entry can hold {}", i32::MAX))
            .fatal()
    })
}

fn elements(coder: &Coder, mut encoded: &[u8]) -> Result<u64, CoderError> {
    let mut count = 0;
    while !encoded.is_empty() {
        let length = coder.skip(encoded)?;
        if length == 0 {
            let reason = "its coder takes no bytes, but there are some";
            return Err(CoderError::Malformed { what: "value of a multimap state", reason });
        }
        encoded = encoded.get(length..).unwrap_or_default();
        count += 1;
    }
    Ok(count)
}

fn malformed(error: CoderError) -> Fault {
    Fault::environment(format!("the values of a multimap state cannot be counted: {error}")).fatal()
}
