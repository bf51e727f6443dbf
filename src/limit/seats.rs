//! Which requests are under way, counted by what they have in common.
//!
//! A seat is taken when a request comes in and is free when it ends, however it does: dropping a [`Seat`] gives it back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use super::key::Key;

/// Parts with a lock each, so that cores seldom meet. Held while one number is changed.
const SHARDS: usize = 64;

/// How many requests are under way, by key. Outlives the plan that it was made for while any of them is.
///
/// Only keys of requests that are under way are remembered, so that there are never more of them than of those.
#[derive(Debug)]
pub(super) struct Seats {
    taken: Taken,
    held: Gauge,
}

#[derive(Debug)]
enum Taken {
    /// All requests have it in common.
    Whole(AtomicU32),
    ByKey {
        shards: Box<[Mutex<HashMap<Key, u32>>]>,
        shard_of: RandomState,
    },
}

/// The right to be under way, for as long as it lives.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    key: Option<Key>,
}

impl Seats {
    /// All are free; `held` is told how many are taken.
    pub(super) fn new(whole: bool, held: Gauge) -> Self {
        let taken = if whole {
            Taken::Whole(AtomicU32::new(0))
        } else {
            let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
            Taken::ByKey { shards, shard_of: RandomState::new() }
        };
        Self { taken, held }
    }

    /// Takes a seat where fewer than `most` are taken under this key.
    pub(super) fn take(self: &Arc<Self>, key: impl FnOnce() -> Key, most: u32) -> Option<Seat> {
        let key = match &self.taken {
            Taken::Whole(taken) => {
                let one_more = |taken: u32| (taken < most).then_some(taken + 1);
                taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
                None
            }
            Taken::ByKey { .. } => {
                let key = key();
                let mut shard = self.shard(&key)?.lock();
                let taken = shard.get(&key).copied().unwrap_or(0);
                if taken >= most {
                    return None;
                }
                shard.insert(key, taken + 1);
                Some(key)
            }
        };
        self.held.inc();
        Some(Seat { seats: Arc::clone(self), key })
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<HashMap<Key, u32>>> {
        let Taken::ByKey { shards, shard_of } = &self.taken else { return None };
        // The hash is keyed: nobody can choose addresses that share a shard.
        shards.get(usize::try_from(shard_of.hash_one(key) % SHARDS as u64).unwrap_or_default())
    }

    fn give_back(&self, key: Option<&Key>) {
        self.held.dec();
        if let Taken::Whole(taken) = &self.taken {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
        let Some((key, shard)) = key.and_then(|key| Some((key, self.shard(key)?))) else { return };
        if let Entry::Occupied(mut taken) = shard.lock().entry(*key) {
            match *taken.get() {
                2.. => *taken.get_mut() -= 1,
                _ => {
                    taken.remove();
                }
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.give_back(self.key.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn seats(whole: bool) -> Arc<Seats> {
        Arc::new(Seats::new(whole, Gauge::default()))
    }

    fn remembered(seats: &Seats) -> usize {
        match &seats.taken {
            Taken::Whole(_) => 0,
            Taken::ByKey { shards, .. } => shards.iter().map(|shard| shard.lock().len()).sum(),
        }
    }

    #[test]
    fn a_seat_is_free_again_when_it_is_dropped_even_by_a_panic() {
        for whole in [true, false] {
            let seats = seats(whole);
            let take = || seats.take(|| Key::numbered(1), 2);
            let (one, two) = (take(), take());
            assert!(one.is_some() && two.is_some() && take().is_none());
            drop(one);
            let three = take();
            assert!(three.is_some() && take().is_none());
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _held = three;
                panic!("on the way");
            }));
            assert!(panicked.is_err() && take().is_some());
            drop(two);
            assert_eq!((seats.held.get(), remembered(&seats)), (0, 0));
        }
    }

    #[test]
    fn a_lower_bound_admits_nobody_until_enough_have_gone() {
        let seats = seats(true);
        let take = |most| seats.take(|| Key::numbered(1), most);
        let mut taken: Vec<_> = (0..3).filter_map(|_| take(3)).collect();
        assert!(take(2).is_none());
        taken.truncate(1);
        assert!(take(2).is_some());
    }

    #[test]
    fn threads_together_have_exactly_as_many_as_there_are() {
        for whole in [true, false] {
            let seats = seats(whole);
            let held: usize = thread::scope(|scope| {
                let some =
                    || (0..100).filter_map(|_| seats.take(|| Key::numbered(1), 250)).collect::<Vec<_>>();
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(some)).collect();
                let held: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
                held.iter().map(Vec::len).sum()
            });
            assert_eq!((held, seats.held.get()), (250, 0));
        }
    }

    proptest! {
        #[test]
        fn each_key_has_its_own_and_nothing_is_remembered_of_who_has_gone(
            turns in prop::collection::vec((0_u32..5, any::<bool>()), 1..200),
        ) {
            let seats = seats(false);
            let mut held: HashMap<u32, Vec<Seat>> = HashMap::new();
            for (client, comes) in turns {
                let of_client = held.entry(client).or_default();
                if comes {
                    let taken = seats.take(|| Key::numbered(client), 3);
                    prop_assert_eq!(taken.is_some(), of_client.len() < 3);
                    of_client.extend(taken);
                } else {
                    of_client.pop();
                }
                prop_assert_eq!(remembered(&seats), held.values().filter(|seats| !seats.is_empty()).count());
            }
        }
    }
}
