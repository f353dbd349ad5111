//! A map that is cheap to copy again and again while it changes: copies share all that is the same in them.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use indexmap::IndexMap;

/// A shard with more entries than this has the map divided into twice as many shards.
const MOST_ENTRIES: usize = 128;

type Shard<V> = Arc<IndexMap<Box<[u8]>, V>>;

/// A map from encoded windows or keys. A copy costs a pointer for each shard, a change after it the copy of one.
#[derive(Clone)]
pub(super) struct Shards<V> {
    /// A power of two of them.
    shards: Vec<Shard<V>>,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { shards: vec![Arc::default()] }
    }
}

impl<V> Shards<V> {
    fn index(key: &[u8], shards: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        hasher.write(key);
        // The remainder is less than a length.
        (hasher.finish() % shards.max(1) as u64) as usize
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&V> {
        self.shards.get(Self::index(key, self.shards.len()))?.get(key)
    }

    /// In an order that stays the same as long as nothing is added.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key.as_ref(), value))
    }

    #[cfg(test)]
    fn shared_with(&self, other: &Self) -> usize {
        self.shards.iter().zip(&other.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count()
    }
}

impl<V: Clone + Default> Shards<V> {
    /// The value of a key, which is added if it is not there.
    pub(super) fn entry(&mut self, key: &[u8]) -> &mut V {
        let index = Self::index(key, self.shards.len());
        if self.shards[index].len() >= MOST_ENTRIES && !self.shards[index].contains_key(key) {
            self.divide();
        }
        let index = Self::index(key, self.shards.len());
        let shard = Arc::make_mut(&mut self.shards[index]);
        let at = match shard.get_index_of(key) {
            Some(at) => at,
            None => shard.insert_full(key.into(), V::default()).0,
        };
        &mut shard[at]
    }

    fn divide(&mut self) {
        let count = self.shards.len() * 2;
        let mut shards = vec![IndexMap::new(); count];
        for (key, value) in self.iter() {
            shards[Self::index(key, count)].insert(key.into(), value.clone());
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_has_and_shares_what_is_the_same() {
        let mut map: Shards<u32> = Shards::default();
        for n in 0..10_000_u32 {
            *map.entry(&n.to_be_bytes()) += n;
        }
        let copy = map.clone();
        *map.entry(&7_u32.to_be_bytes()) = 1;
        assert_eq!(map.get(&7_u32.to_be_bytes()), Some(&1));
        assert_eq!(copy.get(&7_u32.to_be_bytes()), Some(&7));
        assert_eq!(copy.iter().count(), 10_000);
        assert!(copy.shards.len() >= 10_000 / MOST_ENTRIES);
        assert_eq!(map.shared_with(&copy), copy.shards.len() - 1);
        assert_eq!(map.get(b"none"), None);
    }
}
