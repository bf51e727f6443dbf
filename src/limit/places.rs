//! Something remembered for each key, for a bounded number of keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::gauge::Gauge;

use super::key::Key;

/// Most keys that one limit remembers.
pub(super) const MOST: usize = 1 << 18;

/// Parts with a lock each, so that cores seldom meet. Held for the arithmetic of one request.
const SHARDS: usize = 64;

/// Keys looked at for one that may be forgotten, each time a new one comes.
const SWEPT: usize = 3;

/// Keys compared when one of them must be forgotten.
const COMPARED: usize = 16;

/// What is remembered of a key.
pub(super) trait Owing {
    /// Until when it tells more than that the key is new: from then on it may be forgotten. In nanoseconds.
    fn until(&self) -> u64;
}

/// What is remembered of each key.
///
/// What owes nothing any more is as good as nothing, so each newcomer makes up for its place by removing a few such keys
/// that the hand of a clock comes by: memory follows the number of keys that owe something, without a sweep
/// that would hold everybody up.
///
/// When [`MOST`] keys owe something at once, which takes a flood of addresses, the newcomer takes the place
/// of the one that owes least among a few. A flood of single requests so displaces itself: who has used up its
/// burst is not forgotten for it, and whoever is forgotten gains the little that it had used.
#[derive(Debug)]
pub(super) struct Places<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    shard_of: RandomState,
    held: Gauge,
}

/// A part of them.
#[derive(Debug)]
pub(super) struct Shard<V> {
    places: HashMap<Key, usize>,
    values: Vec<(Key, V)>,
    hand: usize,
    most: usize,
    held: Gauge,
}

impl<V: Owing> Places<V> {
    /// Remembers nothing yet. `held` is told how many keys are remembered, `most` of which there are at a time.
    pub(super) fn new(most: usize, held: Gauge) -> Self {
        let shard = || Shard {
            places: HashMap::new(),
            values: Vec::new(),
            hand: 0,
            most: (most / SHARDS).max(1),
            held: held.clone(),
        };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            shard_of: RandomState::new(),
            held,
        }
    }

    /// The keys of which this holds. Each part is looked through in turn, and held meanwhile.
    pub(super) fn keys(&self, holds: impl Fn(&V) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            keys.extend(shard.values.iter().filter(|(_, value)| holds(value)).map(|(key, _)| *key));
        }
        keys
    }

    /// The part that this key belongs to.
    pub(super) fn shard(&self, key: &Key) -> MutexGuard<'_, Shard<V>> {
        // The hash is keyed: nobody can choose addresses that share a shard.
        let hash = self.shard_of.hash_one(key);
        self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()].lock()
    }
}

impl<V: Owing> Shard<V> {
    /// What is remembered of this key.
    pub(super) fn get(&mut self, key: &Key) -> Option<&mut V> {
        let place = *self.places.get(key)?;
        Some(&mut self.values[place].1)
    }

    /// What is remembered of this key, or what is new of it from now on.
    pub(super) fn get_or_new(&mut self, key: &Key, now: u64, new: impl FnOnce() -> V) -> &mut V {
        match self.places.get(key).copied() {
            Some(place) => &mut self.values[place].1,
            None => self.remember(*key, new(), now),
        }
    }

    /// Remembers a key that is not remembered yet.
    pub(super) fn remember(&mut self, key: Key, value: V, now: u64) -> &mut V {
        let before = self.values.len();
        self.sweep(now);
        let place = if self.values.len() < self.most { self.values.len() } else { self.displaced() };
        self.places.insert(key, place);
        if place == self.values.len() {
            self.values.push((key, value));
        } else {
            self.values[place] = (key, value);
        }
        self.held.inc_by(number(self.values.len()) - number(before));
        &mut self.values[place].1
    }

    /// Removes those of the next few keys that owe nothing any more.
    fn sweep(&mut self, now: u64) {
        for _ in 0..SWEPT.min(self.values.len()) {
            let place = self.turn();
            if self.values[place].1.until() <= now {
                self.forget(place);
            }
        }
    }

    /// The place of the one that owes least among the next few, which is forgotten.
    fn displaced(&mut self) -> usize {
        let mut place = self.turn();
        for _ in 1..COMPARED {
            let next = self.turn();
            if self.values[next].1.until() < self.values[place].1.until() {
                place = next;
            }
        }
        self.places.remove(&self.values[place].0);
        place
    }

    /// Removes a key; the last one takes its place.
    fn forget(&mut self, place: usize) {
        let (key, _) = self.values.swap_remove(place);
        self.places.remove(&key);
        if let Some((moved, _)) = self.values.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// Moves the hand on by one key.
    fn turn(&mut self) -> usize {
        self.hand = if self.hand + 1 < self.values.len() { self.hand + 1 } else { 0 };
        self.hand
    }
}

impl<V> Drop for Places<V> {
    fn drop(&mut self) {
        let held: usize = self.shards.iter_mut().map(|shard| shard.get_mut().values.len()).sum();
        self.held.dec_by(number(held));
    }
}

fn number(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl<V> Places<V> {
    /// How many keys are remembered; each must be found where it is.
    pub(super) fn checked(&self) -> usize {
        let held = self.shards.iter().map(|shard| {
            let shard = shard.lock();
            assert_eq!(shard.places.len(), shard.values.len());
            assert!(shard.values.iter().enumerate().all(|(at, (key, _))| shard.places[key] == at));
            shard.values.len()
        });
        let held = held.sum();
        assert_eq!(self.held.get(), number(held));
        held
    }

    /// How many parts there are.
    pub(super) const SHARDS: usize = SHARDS;
}
