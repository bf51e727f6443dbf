//! One number per key, for a bounded number of keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use super::key::Key;

/// Most clients that one limit remembers: at some 60 bytes each, 16 MiB.
pub(super) const MOST: usize = 1 << 18;

/// Parts with a lock each, so that cores seldom meet. Held for the arithmetic of one request.
const SHARDS: usize = 64;

/// Clients looked at for one that may be forgotten, each time a new one comes.
const SWEPT: usize = 3;

/// Clients compared when one of them must be forgotten.
const COMPARED: usize = 16;

/// The theoretical arrival time (TAT) of each client's next request: what GCRA knows of it.
///
/// A time in the past is as good as none, so each newcomer makes up for its place by removing a few such clients
/// that the hand of a clock comes by: memory follows the number of clients that are in debt, without a sweep
/// that would hold everybody up.
///
/// When [`MOST`] clients are in debt at once, which takes a flood of addresses, the newcomer takes the place
/// of the one least in debt among a few. A flood of single requests so displaces itself: who has used up its
/// burst is not forgotten for it, and whoever is forgotten gains the little that it had used.
#[derive(Debug)]
pub(super) struct Counts {
    shards: Box<[Mutex<Shard>]>,
    shard_of: RandomState,
    /// The time that one request costs; a newcomer's TAT less this is the present.
    interval: Nanos,
    most: usize,
    held: Gauge,
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<Key, usize>,
    debts: Vec<(Key, Nanos)>,
    hand: usize,
}

impl Counts {
    /// Remembers nobody yet. `held` is told how many clients are remembered.
    pub(super) fn new(interval: Duration, held: Gauge) -> Self {
        Self::bounded(interval, held, MOST)
    }

    fn bounded(interval: Duration, held: Gauge, most: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            shard_of: RandomState::new(),
            interval: interval.into(),
            most: (most / SHARDS).max(1),
            held,
        }
    }

    fn shard(&self, client: &Key) -> &Mutex<Shard> {
        // The hash is keyed: nobody can choose addresses that share a shard.
        let hash = self.shard_of.hash_one(client);
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or_default()]
    }
}

impl StateStore for Counts {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, client: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(client).lock();
        if let Some(place) = shard.places.get(client).copied() {
            let debt = &mut shard.debts[place].1;
            let (answer, due) = decide(Some(*debt))?;
            *debt = due;
            return Ok(answer);
        }
        let (answer, due) = decide(None)?;
        let before = shard.debts.len();
        shard.sweep(due.saturating_sub(self.interval));
        if shard.debts.len() < self.most {
            shard.remember(*client, due);
        } else {
            shard.displace(*client, due);
        }
        self.held.inc_by(number(shard.debts.len()) - number(before));
        Ok(answer)
    }
}

impl Shard {
    /// Removes those of the next few clients that owe nothing any more.
    fn sweep(&mut self, now: Nanos) {
        for _ in 0..SWEPT.min(self.debts.len()) {
            let place = self.turn();
            if self.debts[place].1 <= now {
                self.forget(place);
            }
        }
    }

    fn remember(&mut self, client: Key, due: Nanos) {
        self.places.insert(client, self.debts.len());
        self.debts.push((client, due));
    }

    /// Gives a newcomer the place of the one least in debt among the next few.
    fn displace(&mut self, client: Key, due: Nanos) {
        let mut place = self.turn();
        for _ in 1..COMPARED {
            let next = self.turn();
            if self.debts[next].1 < self.debts[place].1 {
                place = next;
            }
        }
        self.places.remove(&self.debts[place].0);
        self.places.insert(client, place);
        self.debts[place] = (client, due);
    }

    /// Removes a client; the last one takes its place.
    fn forget(&mut self, place: usize) {
        let (client, _) = self.debts.swap_remove(place);
        self.places.remove(&client);
        if let Some((moved, _)) = self.debts.get(place) {
            self.places.insert(*moved, place);
        }
    }

    /// Moves the hand on by one client.
    fn turn(&mut self) -> usize {
        self.hand = if self.hand + 1 < self.debts.len() { self.hand + 1 } else { 0 };
        self.hand
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        let held: usize = self.shards.iter_mut().map(|shard| shard.get_mut().debts.len()).sum();
        self.held.dec_by(number(held));
    }
}

fn number(clients: usize) -> i64 {
    i64::try_from(clients).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Reference;

    use proptest::prelude::*;

    use super::*;

    const INTERVAL: u64 = 10;

    fn counts(most: usize) -> Counts {
        Counts::bounded(Duration::from_nanos(INTERVAL), Gauge::default(), most)
    }

    /// One request at a time, with a burst that never ends; tells what was remembered.
    fn charge(counts: &Counts, client: u32, now: u64) -> Option<u64> {
        let decide = |debt: Option<Nanos>| {
            let due = debt.map_or(now, |debt| debt.as_u64().max(now)) + INTERVAL;
            Ok::<_, ()>((debt.map(Nanos::as_u64), Nanos::new(due)))
        };
        counts.measure_and_replace(&Key::numbered(client), decide).unwrap()
    }

    fn held(counts: &Counts) -> usize {
        counts.shards.iter().map(|shard| shard.lock().debts.len()).sum()
    }

    #[test]
    fn a_flood_stays_within_the_bound_and_displaces_itself() {
        let counts = counts(64 * SHARDS);
        for _ in 0..100 {
            charge(&counts, 0, 0);
        }
        for client in 1..100_000 {
            charge(&counts, client, 0);
        }
        assert!(held(&counts) <= 64 * SHARDS);
        assert_eq!(counts.held.get(), i64::try_from(held(&counts)).unwrap());
        assert_eq!(charge(&counts, 0, 0), Some(100 * INTERVAL), "who is deep in debt is remembered");
    }

    #[test]
    fn who_owes_nothing_makes_room_for_newcomers() {
        let counts = counts(1 << 18);
        for client in 0..50_000 {
            // Each request is paid before the next ten clients have come.
            charge(&counts, client, u64::from(client));
        }
        assert!(held(&counts) < 10 * SHARDS, "{}", held(&counts));
        assert_eq!(counts.held.get(), i64::try_from(held(&counts)).unwrap());
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let counts = counts(1 << 10);
        let refused = counts.measure_and_replace(&Key::numbered(1), |_| Err::<((), Nanos), _>("no"));
        assert_eq!(refused, Err("no"));
        assert_eq!(held(&counts), 0);
    }

    proptest! {
        #[test]
        fn below_the_bound_nobody_in_debt_is_forgotten(requests in prop::collection::vec((0_u32..200, 0_u64..8), 1..600)) {
            let counts = counts(1 << 18);
            let mut reference: Reference<u32, u64> = Reference::new();
            let mut now = 0;
            for (client, pause) in requests {
                now += pause;
                let owed = reference.get(&client).copied().filter(|due| *due > now);
                let remembered = charge(&counts, client, now);
                prop_assert_eq!(remembered.filter(|due| *due > now), owed);
                reference.insert(client, owed.unwrap_or(now) + INTERVAL);
                for shard in &counts.shards {
                    let shard = shard.lock();
                    prop_assert_eq!(shard.places.len(), shard.debts.len());
                    prop_assert!(shard.debts.iter().enumerate().all(|(i, (client, _))| shard.places[client] == i));
                }
            }
        }
    }
}
