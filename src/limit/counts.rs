//! One number per key, for a bounded number of keys.

use std::time::Duration;

use governor::nanos::Nanos;
use governor::state::StateStore;
use prometheus_client::metrics::gauge::Gauge;

use super::key::Key;
use super::places::{MOST, Owing, Places};

/// The theoretical arrival time (TAT) of each key's next request: what GCRA knows of it. One in the past is as good as none.
#[derive(Debug)]
pub(super) struct Counts {
    places: Places<Nanos>,
    /// The time that one request costs; a newcomer's TAT less this is the present.
    interval: Nanos,
}

impl Owing for Nanos {
    fn until(&self) -> u64 {
        self.as_u64()
    }
}

impl Counts {
    /// Remembers nobody yet; some 60 bytes for each key. `held` is told how many keys are remembered.
    pub(super) fn new(interval: Duration, held: Gauge) -> Self {
        Self::bounded(interval, held, MOST)
    }

    fn bounded(interval: Duration, held: Gauge, most: usize) -> Self {
        Self { places: Places::new(most, held), interval: interval.into() }
    }
}

impl StateStore for Counts {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.places.shard(key);
        if let Some(debt) = shard.get(key) {
            let (answer, due) = decide(Some(*debt))?;
            *debt = due;
            return Ok(answer);
        }
        let (answer, due) = decide(None)?;
        shard.remember(*key, due, due.saturating_sub(self.interval).as_u64());
        Ok(answer)
    }
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
        counts.places.checked()
    }

    const SHARDS: usize = Places::<Nanos>::SHARDS;

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
                held(&counts);
            }
        }
    }
}
