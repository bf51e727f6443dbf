//! Tests of the log of purges, alone and with the memory tier.

use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::cache::memory::Memory;
use crate::cache::memory::tests::{key, stored};
use crate::cache::stored::Resource;
use crate::telemetry::meters::Meters;

const URL: &str = "https://example.com/users/1";

fn answer(stamp: Stamp, tags: &[u64]) -> Stored {
    Stored { stamp, tags: tags.into(), url: URL.into(), ..stored(10) }
}

fn hard(target: Target) -> Purge {
    Purge { target, soft: false }
}

fn soft(target: Target) -> Purge {
    Purge { target, soft: true }
}

/// What a hit and a fill find.
fn found(purges: &Purges, stamp: Stamp) -> (Option<Covered>, Option<Covered>) {
    let stored = answer(stamp, &[1, 2]);
    (purges.covers(&key(1), &stored), purges.covers_fill(stamp, &key(1), &stored.tags, &stored.url))
}

#[test]
fn a_purge_meets_what_it_names_if_it_was_fetched_before() {
    let (gone, stale) = (Some(Covered::Hard), Some(Covered::Soft));
    let rows = [
        // From memory, a hard purge of a URL removes.
        (hard(Target::Url(key(1))), None, gone),
        (soft(Target::Url(key(1))), stale, stale),
        (hard(Target::Url(key(2))), None, None),
        (soft(Target::Url(key(2))), None, None),
        (hard(Target::Tag(2)), gone, gone),
        (soft(Target::Tag(1)), stale, stale),
        (hard(Target::Tag(3)), None, None),
        (hard(Target::Prefix("https://example.com/users".into())), gone, gone),
        (soft(Target::Prefix(URL.into())), stale, stale),
        (hard(Target::Prefix("https://example.com/users/12".into())), None, None),
        (hard(Target::Everything), gone, gone),
        (soft(Target::Everything), stale, stale),
    ];
    for (purge, on_hit, on_fill) in rows {
        let purges = Purges::new();
        let before = purges.stamp();
        assert_eq!(found(&purges, before), (None, None));
        let stamp = purges.note(&purge);
        assert!(stamp > before && purges.stamp() >= stamp);
        assert_eq!(found(&purges, before), (on_hit, on_fill), "{purge:?}");
        assert_eq!(found(&purges, purges.stamp()), (None, None), "{purge:?}, fetched after it");
    }
}

#[test]
fn the_harder_purge_counts_whichever_comes_last() {
    for (first, second) in [(false, true), (true, false)] {
        for target in [Target::Tag(1), Target::Prefix(URL.into()), Target::Everything] {
            let purges = Purges::new();
            purges.note(&Purge { target: target.clone(), soft: first });
            purges.note(&Purge { target: target.clone(), soft: second });
            assert_eq!(found(&purges, Stamp(0)).0, Some(Covered::Hard), "{target:?} {first}");
        }
    }
}

#[test]
fn a_hard_purge_of_a_url_hides_no_soft_one() {
    let purges = Purges::new();
    purges.note(&soft(Target::Url(key(1))));
    purges.note(&hard(Target::Url(key(1))));
    assert_eq!(found(&purges, Stamp(0)), (Some(Covered::Soft), Some(Covered::Hard)));
}

#[test]
fn a_place_in_the_fleets_log_is_kept_where_it_is_ahead_and_counts_as_now_where_it_is_behind() {
    let purges = Purges::new();
    assert_eq!(purges.note_at(&hard(Target::Tag(1)), Stamp(100)), Stamp(100));
    assert_eq!(purges.note_at(&hard(Target::Tag(2)), Stamp(200)), Stamp(200));
    assert_eq!(purges.stamp(), Stamp(200));
    assert_eq!(purges.note_at(&hard(Target::Tag(2)), Stamp(150)), Stamp(201));
    assert_eq!(found(&purges, Stamp(200)).0, Some(Covered::Hard), "fetched here before the purge came");
    assert_eq!(found(&purges, Stamp(201)).0, None);
    let stamp = purges.note_at(&hard(Target::Everything), Stamp(u64::MAX));
    assert!(purges.note(&hard(Target::Everything)) > stamp, "a place from nowhere leaves places after it");
    assert!(purges.note_at(&hard(Target::Everything), Stamp(u64::MAX)) > stamp);
}

#[test]
fn what_is_confirmed_meets_what_other_nodes_fetched_meanwhile() {
    let purges = Purges::new();
    let noted = purges.note(&hard(Target::Tag(1)));
    let ahead = Stamp(noted.0 + 50);
    purges.confirm(&hard(Target::Tag(1)), ahead);
    assert_eq!(purges.stamp(), ahead);
    assert_eq!(found(&purges, Stamp(noted.0 + 49)).0, Some(Covered::Hard));
    assert_eq!(found(&purges, ahead).0, None);
    purges.confirm(&hard(Target::Tag(1)), Stamp(noted.0 - 1));
    assert_eq!(purges.stamp(), ahead);
    assert_eq!(found(&purges, ahead).0, None, "what was fetched since is not met again");
}

#[test]
fn forgotten_prefixes_count_as_purges_of_everything_before_them() {
    let purges = Purges::new();
    let mut stamps = Vec::new();
    for number in 0..=PREFIXES_MAX {
        stamps.push(purges.note(&hard(Target::Prefix(format!("https://other.example/{number}/").into()))));
    }
    assert_eq!(found(&purges, Stamp(stamps[0].0 - 1)).0, Some(Covered::Hard));
    assert_eq!(found(&purges, stamps[0]).0, None);
}

#[test]
fn a_prefix_makes_the_longer_ones_before_it_needless() {
    let purges = Purges::new();
    for number in 0..10 * PREFIXES_MAX {
        purges.note(&hard(Target::Prefix(format!("https://other.example/{number}").into())));
        purges.note(&hard(Target::Prefix("https://other.example/".into())));
    }
    assert_eq!(found(&purges, Stamp(0)).0, None);
    purges.note(&hard(Target::Prefix(URL.into())));
    purges.note(&soft(Target::Prefix("https://example.com/".into())));
    assert_eq!(found(&purges, Stamp(0)).0, Some(Covered::Hard), "a soft purge makes no hard one needless");
}

proptest! {
    /// Against a list of all purges ever made.
    #[test]
    fn what_is_covered_is_what_a_plain_list_says(
        purges_made in proptest::collection::vec((0..4_u8, 0..4_u64, any::<bool>()), 0..40),
        since in 0..41_u64,
    ) {
        let purges = Purges::new();
        let mut wanted = (None, None);
        for (place, (kind, what, soft)) in (1..).zip(purges_made) {
            let prefixes = ["https://e", URL, "https://example.com/users/2", ""];
            let target = match kind {
                0 => Target::Url(key(what)),
                1 => Target::Tag(what),
                2 => Target::Prefix(prefixes[usize::try_from(what).unwrap()].into()),
                _ => Target::Everything,
            };
            let covered = Some(if soft { Covered::Soft } else { Covered::Hard });
            let met = match kind {
                0 => what == 1,
                1 => what == 1 || what == 2,
                2 => what != 2,
                _ => true,
            };
            if met && place > since {
                wanted.1 = wanted.1.max(covered);
                if kind != 0 || soft {
                    wanted.0 = wanted.0.max(covered);
                }
            }
            purges.note_at(&Purge { target, soft }, Stamp(place));
        }
        prop_assert_eq!(found(&purges, Stamp(since)), wanted);
    }
}

/// The origin's truth is a number that only grows. Whoever purges has raised it before; whoever fetches reads it after
/// noting the stamp. Once a purge has returned, no number from before it may be found.
#[test]
fn no_answer_from_before_a_purge_is_found_after_it() {
    let targets = [
        hard(Target::Url(key(1))),
        hard(Target::Tag(1)),
        hard(Target::Prefix("https://example.com/".into())),
        hard(Target::Everything),
    ];
    for purge in targets {
        race(&purge);
    }
}

/// How many purges each thread makes at most until something was found: on a busy machine the usual sixty are over
/// before those that fill and find have had their first turn.
const PURGES_MAX: u32 = 1_000_000;

struct Race {
    memory: Memory,
    purges: Purges,
    truth: AtomicU64,
    /// The truth of which the last purge that returned has told.
    told: AtomicU64,
    ended: AtomicBool,
}

fn race(purge: &Purge) {
    let race = Race {
        memory: Memory::new(1 << 20, &Meters::new()),
        purges: Purges::new(),
        truth: AtomicU64::new(0),
        told: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    };
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| race.until_ended(|| race.fill()));
            scope.spawn(|| race.until_ended(|| hits.fetch_add(race.hit(), Ordering::Relaxed)));
        }
        scope.spawn(|| race.until_ended(|| race.memory.update(key(1), |now| now.filter(|_| false).cloned())));
        scope.spawn(|| race.until_ended(|| (2..40).map(|n| race.put(n, Stamp(0), 50_000)).count()));
        let makers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut made = 0;
                    while made < 60 || (hits.load(Ordering::Relaxed) == 0 && made < PURGES_MAX) {
                        race.purge(purge);
                        std::thread::yield_now();
                        made += 1;
                    }
                })
            })
            .collect();
        let ends: Vec<_> = makers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        race.ended.store(true, Ordering::SeqCst);
        assert!(ends.iter().all(Result::is_ok));
    });
    assert!(hits.into_inner() > 0, "nothing was ever found: {purge:?}");
}

impl Race {
    fn until_ended<T>(&self, mut step: impl FnMut() -> T) {
        while !self.ended.load(Ordering::SeqCst) {
            step();
        }
    }

    fn purge(&self, purge: &Purge) {
        let truth = self.truth.fetch_add(1, Ordering::SeqCst) + 1;
        self.purges.note(purge);
        match &purge.target {
            Target::Url(key) => drop(self.memory.remove(key)),
            Target::Everything => self.memory.clear(),
            Target::Tag(_) | Target::Prefix(_) => {}
        }
        self.told.fetch_max(truth, Ordering::SeqCst);
    }

    fn fill(&self) {
        let stamp = self.purges.stamp();
        let truth = self.truth.load(Ordering::SeqCst);
        self.put(1, stamp, usize::try_from(truth).unwrap());
    }

    /// The truth is told by the length of the body.
    fn put(&self, number: u64, stamp: Stamp, length: usize) {
        let stored = Stored { stamp, tags: [1, 2].into(), url: URL.into(), ..stored(length) };
        let (stored, url) = (Arc::new(stored), key(number));
        self.memory.update(url, |now| {
            let met = self.purges.covers_fill(stamp, &url, &stored.tags, &stored.url);
            let newer = now.is_some_and(|now| now.variants[0].stamp > stamp);
            if met == Some(Covered::Hard) || newer {
                return now.cloned();
            }
            Some(Resource::default().with(Arc::clone(&stored)))
        });
    }

    /// How many were found.
    fn hit(&self) -> u64 {
        let told = self.told.load(Ordering::SeqCst);
        let Some(found) = self.memory.get(&key(1)) else { return 0 };
        let stored = &found.variants[0];
        if self.purges.covers(&key(1), stored).is_some() {
            return 0;
        }
        let length = stored.body.held();
        assert!(length >= told, "an answer of {length} was found after the purge at {told}");
        1
    }
}
