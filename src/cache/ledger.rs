//! When each of many things was last purged: a table of fixed size that is read without a lock.
//!
//! Things share buckets of eight. Where a ninth comes, the one purged longest ago is forgotten, and the bucket's floor
//! rises to its stamp: whatever is older than the floor counts as purged. That is safe, and costs fetches once there
//! have been about as many purges of different things, since an answer's fetch, as the table has places.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::seeded::Seeded;
use super::stored::Stamp;

const WAYS: usize = 8;
const BUCKETS: usize = 1 << 13;

/// How a purge meets an answer; of several that do, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Covered {
    /// It is stale.
    Soft,
    /// It is gone.
    Hard,
}

/// The last purge of each manner.
#[derive(Debug, Default)]
pub(super) struct Last {
    hard: AtomicU64,
    soft: AtomicU64,
}

impl Last {
    pub(super) fn note(&self, stamp: Stamp, soft: bool) {
        let last = if soft { &self.soft } else { &self.hard };
        last.fetch_max(stamp.0, Ordering::SeqCst);
    }

    /// Which of them came after `since`.
    pub(super) fn after(&self, since: Stamp) -> Option<Covered> {
        if self.hard.load(Ordering::SeqCst) > since.0 {
            return Some(Covered::Hard);
        }
        self.softly_after(since).then_some(Covered::Soft)
    }

    fn softly_after(&self, since: Stamp) -> bool {
        self.soft.load(Ordering::SeqCst) > since.0
    }

    fn raise(&self, other: &Self) {
        self.hard.fetch_max(other.hard.load(Ordering::SeqCst), Ordering::SeqCst);
        self.soft.fetch_max(other.soft.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn either(&self) -> u64 {
        self.hard.load(Ordering::SeqCst).max(self.soft.load(Ordering::SeqCst))
    }

    fn reset(&self) {
        self.hard.store(0, Ordering::SeqCst);
        self.soft.store(0, Ordering::SeqCst);
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Ledger {
    buckets: Box<[Bucket]>,
    seeded: Seeded,
    newest: Last,
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Hashes of the things; 0 where there is none.
    things: [AtomicU64; WAYS],
    lasts: [Last; WAYS],
    floor: Last,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            seeded: Seeded::new(),
            newest: Last::default(),
            writing: Mutex::new(()),
        }
    }

    /// A purge of one of the things.
    pub(super) fn note(&self, thing: &impl Hash, stamp: Stamp, soft: bool) {
        let (bucket, hash) = self.place(thing);
        let writing = self.writing.lock();
        bucket.note(hash, stamp, soft);
        drop(writing);
        self.newest.note(stamp, soft);
    }

    /// Which purges of a thing came after `since`: one or two loads if none of anything did.
    pub(super) fn after(&self, thing: &impl Hash, since: Stamp) -> Option<Covered> {
        self.newest.after(since)?;
        let (bucket, hash) = self.place(thing);
        bucket.after(hash, since)
    }

    /// Whether a soft purge of a thing came after `since`, whatever hard ones did.
    pub(super) fn softly_after(&self, thing: &impl Hash, since: Stamp) -> bool {
        if !self.newest.softly_after(since) {
            return false;
        }
        let (bucket, hash) = self.place(thing);
        let own = bucket.find(hash).is_some_and(|at| bucket.lasts[at].softly_after(since));
        own || bucket.floor.softly_after(since)
    }

    /// Which purges of any thing came after `since`.
    pub(super) fn any_after(&self, since: Stamp) -> Option<Covered> {
        self.newest.after(since)
    }

    fn place(&self, thing: &impl Hash) -> (&Bucket, u64) {
        let hash = self.seeded.hash_one(thing).max(1);
        let [.., high, low] = hash.to_le_bytes();
        (&self.buckets[usize::from(u16::from_be_bytes([low, high])) % BUCKETS], hash)
    }
}

impl Bucket {
    /// A reader that finds a thing just as it is forgotten may read the stamps of the next one: it looks at the floor
    /// last, and the floor rises first.
    fn note(&self, hash: u64, stamp: Stamp, soft: bool) {
        let at = self.find(hash).or_else(|| self.find(0)).unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|at| self.lasts[*at].either()).unwrap_or(0);
            self.floor.raise(&self.lasts[oldest]);
            self.things[oldest].store(0, Ordering::SeqCst);
            self.lasts[oldest].reset();
            oldest
        });
        self.lasts[at].note(stamp, soft);
        self.things[at].store(hash, Ordering::SeqCst);
    }

    fn after(&self, hash: u64, since: Stamp) -> Option<Covered> {
        let own = self.find(hash).and_then(|at| self.lasts[at].after(since));
        own.max(self.floor.after(since))
    }

    fn find(&self, hash: u64) -> Option<usize> {
        self.things.iter().position(|thing| thing.load(Ordering::SeqCst) == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manner_is_remembered_for_each_thing() {
        let ledger = Ledger::new();
        ledger.note(&1_u64, Stamp(10), false);
        ledger.note(&1_u64, Stamp(20), true);
        ledger.note(&2_u64, Stamp(15), true);
        let rows = [
            (1_u64, 9, Some(Covered::Hard)),
            (1, 10, Some(Covered::Soft)),
            (1, 19, Some(Covered::Soft)),
            (1, 20, None),
            (2, 14, Some(Covered::Soft)),
            (2, 15, None),
            (3, 0, None),
        ];
        for (thing, since, wanted) in rows {
            assert_eq!(ledger.after(&thing, Stamp(since)), wanted, "{thing} {since}");
        }
        assert_eq!(ledger.any_after(Stamp(9)), Some(Covered::Hard));
        assert_eq!(ledger.any_after(Stamp(12)), Some(Covered::Soft));
        assert_eq!(ledger.any_after(Stamp(20)), None);
    }

    #[test]
    fn half_as_many_things_as_there_are_places_are_nearly_all_remembered_apart() {
        let ledger = Ledger::new();
        let half = (WAYS * BUCKETS / 2) as u64;
        (0..half).for_each(|thing| ledger.note(&thing, Stamp(thing + 1), false));
        let wrong = (half..2 * half).filter(|other| ledger.after(other, Stamp(0)).is_some()).count() as u64;
        assert!(wrong < half / 20, "{wrong} of {half} others count as purged");
    }

    #[test]
    fn whatever_is_forgotten_still_counts() {
        let ledger = Ledger::new();
        let many = (WAYS * BUCKETS * 3) as u64;
        (0..many).for_each(|thing| ledger.note(&thing, Stamp(thing + 1), false));
        for thing in 0..many {
            assert_eq!(ledger.after(&thing, Stamp(thing)), Some(Covered::Hard), "{thing}");
        }
        let recent = (0..many).filter(|thing| ledger.after(thing, Stamp(many - 1000)).is_some()).count();
        assert!(recent < 2000, "{recent} count as purged among the last thousand purges");
    }

    #[test]
    fn what_was_purged_softly_is_not_forgotten_as_gone() {
        let ledger = Ledger::new();
        let many = (WAYS * BUCKETS * 2) as u64;
        (0..many).for_each(|thing| ledger.note(&thing, Stamp(thing + 1), true));
        assert_eq!(ledger.after(&0_u64, Stamp(0)), Some(Covered::Soft));
    }

    #[test]
    fn a_reader_never_misses_a_purge_that_was_noted() {
        let ledger = Ledger::new();
        let many = (WAYS * BUCKETS * 4) as u64;
        let noted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for thing in 1..=many {
                    ledger.note(&thing, Stamp(thing), false);
                    noted.store(thing, Ordering::SeqCst);
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    while noted.load(Ordering::SeqCst) < many {
                        let last = noted.load(Ordering::SeqCst);
                        for thing in (1..=last).rev().step_by(1 + fastrand::usize(1..200)).take(50) {
                            assert_eq!(ledger.after(&thing, Stamp(thing - 1)), Some(Covered::Hard));
                        }
                    }
                });
            }
        });
    }
}
