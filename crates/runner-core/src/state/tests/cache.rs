//! What workers may cache of user state.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::super::UserStateCaches;
use crate::engine::Partition;

fn token(caches: &Arc<UserStateCaches>, worker: &str, partitions: &[u16], commit: bool) -> Bytes {
    let attempt = caches.begin(partitions.iter().copied().map(Partition).collect());
    let token = attempt.token(worker);
    assert_eq!(attempt.token(worker), token);
    if commit {
        attempt.commit();
    }
    token
}

#[test]
fn a_token_stays_while_nobody_else_has_the_keys_and_nothing_fails() {
    let caches = Arc::new(UserStateCaches::default());
    let first = token(&caches, "one", &[1, 2], true);
    assert_eq!(token(&caches, "one", &[2, 3], true), first);
    // Other keys on another worker change nothing.
    let other = token(&caches, "other", &[4], true);
    assert_ne!(other, first);
    assert_eq!(token(&caches, "one", &[1], true), first);
    assert_eq!(token(&caches, "other", &[4], true), other);
}

#[test]
fn a_token_changes_when_another_worker_had_the_keys() {
    let caches = Arc::new(UserStateCaches::default());
    let first = token(&caches, "one", &[1, 2], true);
    let other = token(&caches, "other", &[2], true);
    assert_eq!(token(&caches, "one", &[1], true), first);
    let second = token(&caches, "one", &[2], true);
    assert!(second != first && second != other);
    assert_ne!(token(&caches, "other", &[2], true), other);
}

#[test]
fn a_token_changes_when_an_attempt_fails() {
    let caches = Arc::new(UserStateCaches::default());
    let first = token(&caches, "one", &[1], true);
    // It goes well, but it is not known to yet.
    let running = caches.begin(vec![Partition(2)]);
    assert_eq!(running.token("one"), first);
    assert_eq!(token(&caches, "one", &[1], false), first);
    let second = token(&caches, "one", &[1], true);
    assert_ne!(second, first);
    // That the token of before fails once more says nothing of this one.
    running.discard();
    assert_eq!(token(&caches, "one", &[1], true), second);
}

/// Workers that cache as harnesses do, in random schedules with failures: what they read is what is committed.
#[test]
fn workers_never_see_old_state() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let workers: Vec<String> = (0..1 + random.below(3)).map(|worker| format!("w{worker}")).collect();
        let caches = Arc::new(UserStateCaches::default());
        let mut committed: HashMap<u16, u64> = HashMap::new();
        let mut cached: HashMap<(usize, Bytes, u16), u64> = HashMap::new();
        let mut hits = 0;
        // Two bundles at a time, with other keys each.
        for _ in 0..100 {
            let mut running = Vec::new();
            for half in 0..2_u16 {
                let partitions: Vec<u16> =
                    (0..4).map(|key| half * 4 + key).filter(|_| random.below(2) > 0).collect();
                let attempt = caches.begin(partitions.iter().copied().map(Partition).collect());
                let worker = random.below(workers.len() as u64) as usize;
                running.push((attempt.token(&workers[worker]), attempt, worker, partitions));
            }
            for (token, attempt, worker, partitions) in running {
                for key in &partitions {
                    let truth = committed.get(key).copied().unwrap_or_default();
                    let place = (worker, token.clone(), *key);
                    hits += u64::from(cached.contains_key(&place));
                    let read = *cached.get(&place).unwrap_or(&truth);
                    assert_eq!(read, truth, "seed {seed}");
                    cached.insert(place, read + 1);
                }
                if random.below(10) > 0 {
                    partitions.iter().for_each(|key| *committed.entry(*key).or_default() += 1);
                    attempt.commit();
                }
            }
        }
        assert!(hits > 0 || workers.len() > 1, "seed {seed}: nothing was ever cached");
    }
}

/// Numbers that look random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % limit
    }
}
