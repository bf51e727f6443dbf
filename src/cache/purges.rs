//! The log of purges, as far as a node needs it: what no longer holds, by when its fetch began.
//!
//! A fetch notes the position ([`Purges::stamp`]) before it asks the origin, and its answer carries it as
//! [`Stored::stamp`]. A purge takes a position of its own, greater than all that were handed out. An answer with a
//! lesser stamp is met by it: its fetch may have seen the origin as it was before.
//!
//! Who purges first notes, then removes ([`super::Memory::remove`] for a URL, [`super::Memory::remove_if`] to free the
//! memory of the others). Who stores asks [`Purges::covers_fill`] within [`super::Memory::update`], which asks again if
//! anything was removed before the answer is in place. So once a purge has returned, no answer from before it is found:
//! - it was in place before the removal, and is removed; or
//! - it was about to be, and the question put again finds the purge noted; or
//! - its question came later, and finds it, too.
//!
//! A hit asks [`Purges::covers`]. Hard purges of URLs it need not look at, as they remove what they meet; an API whose
//! writes purge hundreds of URLs a second thereby never costs hits elsewhere. Answers that come from outside this
//! memory, fetched or read from the second tier, are asked about with [`Purges::covers_fill`], which looks at all.
//!
//! Everything here is bounded: tags and URLs by [`super::ledger`], prefixes by `PREFIXES_MAX`. What is forgotten
//! counts as purged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub use super::ledger::Covered;
use super::ledger::{Last, Ledger};
use super::purge::{Purge, Target};
use super::stored::{Key, Stamp, Stored};

/// The most prefixes that are remembered. With one more, all answers from before the oldest of them count as purged.
const PREFIXES_MAX: usize = 256;
/// The greatest place that is taken from the fleet's log (the year 2248), so that there are always greater ones.
const PLACE_MAX: u64 = u64::MAX >> 1;

/// What was purged, and when.
#[derive(Debug)]
pub struct Purges {
    position: AtomicU64,
    /// The last purge that answers in memory are to be compared with: any but hard ones of URLs.
    newest: AtomicU64,
    urls: Ledger,
    tags: Ledger,
    prefixes: Prefixes,
    everything: Last,
}

impl Purges {
    /// Nothing yet. The position is 0, so that a node that reads the fleet's log from its beginning gives each purge the
    /// place that it has there.
    #[expect(clippy::new_without_default, reason = "a log is begun once, on purpose")]
    pub fn new() -> Self {
        Self {
            position: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            urls: Ledger::new(),
            tags: Ledger::new(),
            prefixes: Prefixes::default(),
            everything: Last::default(),
        }
    }

    /// The position now: what a fetch notes before it asks.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.position.load(Ordering::SeqCst))
    }

    /// Takes note that another node has come as far as this: purges to come are later than what it has fetched.
    pub fn reach(&self, stamp: Stamp) {
        self.position.fetch_max(stamp.0.min(PLACE_MAX), Ordering::SeqCst);
    }

    /// A purge made on this node. Its stamp is greater than every one handed out before, and those handed out later are
    /// at least it.
    ///
    /// It is the next one and not a time: a clock ahead of the fleet's log would make what this node fetches, and shares,
    /// seem newer than purges that are yet to come.
    pub fn note(&self, purge: &Purge) -> Stamp {
        self.note_at(purge, Stamp(0))
    }

    /// A purge that the fleet's log has at `place`. Where that is behind this node's position, the purge counts as of
    /// now: the clocks of nodes differ, and what was fetched here before the purge came may be from before it.
    pub fn note_at(&self, purge: &Purge, place: Stamp) -> Stamp {
        let place = place.0.min(PLACE_MAX);
        let next = |position: u64| place.max(position + 1);
        let before = self.position.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| Some(next(now)));
        let stamp = Stamp(before.map_or_else(next, next));
        self.record(purge, stamp);
        stamp
    }

    /// A purge that was noted here got this place in the fleet's log. What other nodes fetched up to then is met, too;
    /// what this node fetched since it noted the purge is met only where it must be: if its stamp is less than `place`.
    pub fn confirm(&self, purge: &Purge, place: Stamp) {
        let place = place.0.min(PLACE_MAX);
        self.position.fetch_max(place, Ordering::SeqCst);
        self.record(purge, Stamp(place));
    }

    /// Whether a later purge meets an answer that is held in memory, to which hard purges of URLs are done by removal.
    /// One load where nothing was purged since its fetch began.
    pub fn covers(&self, key: &Key, stored: &Stored) -> Option<Covered> {
        if self.newest.load(Ordering::SeqCst) <= stored.stamp.0 {
            return None;
        }
        let by_url = self.urls.softly_after(key, stored.stamp).then_some(Covered::Soft);
        by_url.max(self.covers_by_content(stored.stamp, &stored.tags, &stored.url))
    }

    /// Whether a later purge meets an answer that comes from outside: fetched with this stamp by this node, or by
    /// another that shared it. One that is met hard must not be stored, nor served to requests that came after the
    /// purge.
    pub fn covers_fill(&self, stamp: Stamp, key: &Key, tags: &[u64], url: &str) -> Option<Covered> {
        self.urls.after(key, stamp).max(self.covers_by_content(stamp, tags, url))
    }

    fn covers_by_content(&self, stamp: Stamp, tags: &[u64], url: &str) -> Option<Covered> {
        let mut covered = self.everything.after(stamp);
        if self.tags.any_after(stamp) > covered {
            covered = covered.max(tags.iter().filter_map(|tag| self.tags.after(tag, stamp)).max());
        }
        covered.max(self.prefixes.after(stamp, url))
    }

    fn record(&self, purge: &Purge, stamp: Stamp) {
        let soft = purge.soft;
        match &purge.target {
            Target::Url(key) => self.urls.note(key, stamp, soft),
            Target::Tag(tag) => self.tags.note(tag, stamp, soft),
            Target::Prefix(prefix) => {
                let forget = |old: &Prefix| self.everything.note(old.stamp, old.soft);
                self.prefixes.note(prefix, stamp, soft, forget);
            }
            Target::Everything => self.everything.note(stamp, soft),
        }
        if soft || !matches!(purge.target, Target::Url(_)) {
            self.newest.fetch_max(stamp.0, Ordering::SeqCst);
        }
    }
}

/// Purges by prefix, in the order of their stamps.
#[derive(Debug, Default)]
struct Prefixes {
    list: ArcSwap<Vec<Prefix>>,
    newest: Last,
    writing: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Arc<str>,
    stamp: Stamp,
    soft: bool,
}

impl Prefixes {
    /// Adds one. Those that it makes needless leave. Those for which there is no place any more are on the list until
    /// `forget` has seen to it that they count all the same.
    fn note(&self, text: &str, stamp: Stamp, soft: bool, forget: impl Fn(&Prefix)) {
        let writing = self.writing.lock();
        let mut list = Vec::clone(&self.list.load());
        list.retain(|old| old.stamp > stamp || (soft && !old.soft) || !old.text.starts_with(text));
        let at = list.partition_point(|old| old.stamp <= stamp);
        list.insert(at, Prefix { text: text.into(), stamp, soft });
        let surplus = list.len().saturating_sub(PREFIXES_MAX);
        list.drain(..surplus).for_each(|old| forget(&old));
        self.list.store(Arc::new(list));
        drop(writing);
        self.newest.note(stamp, soft);
    }

    fn after(&self, since: Stamp, url: &str) -> Option<Covered> {
        self.newest.after(since)?;
        let list = self.list.load();
        let later = list.iter().rev().take_while(|prefix| prefix.stamp > since);
        let met = later.filter(|prefix| url.starts_with(&*prefix.text));
        met.map(|prefix| if prefix.soft { Covered::Soft } else { Covered::Hard }).max()
    }
}

#[cfg(test)]
#[path = "purges_tests.rs"]
mod tests;
