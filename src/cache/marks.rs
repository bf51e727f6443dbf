//! Two small tables about keys, bounded and without locks: which URLs were purged lately, which are not stored.
//!
//! Each key has one slot, and keys may share a slot. Sharing costs a fetch now and then; it never lets an answer be
//! served that should not be.

use std::sync::atomic::{AtomicU64, Ordering};

use pingora::cache::key::HashBinary;

/// How often the keys of each slot were purged.
///
/// A request notes the count before it goes to the origin. If it has changed when the answer is there, the answer may
/// be from before the purge, and is not stored.
#[derive(Debug)]
pub(super) struct Purges {
    slots: Box<[AtomicU64]>,
}

impl Purges {
    const SLOTS: usize = 1 << 14;

    pub(super) fn new() -> Self {
        Self { slots: zeroes(Self::SLOTS) }
    }

    /// How often so far.
    pub(super) fn count(&self, key: &HashBinary) -> u64 {
        self.slots[slot(key, Self::SLOTS)].load(Ordering::SeqCst)
    }

    /// Once more: call this before what is stored is removed.
    pub(super) fn note(&self, key: &HashBinary) {
        self.slots[slot(key, Self::SLOTS)].fetch_add(1, Ordering::SeqCst);
    }
}

/// URLs whose last answer was not one to store, and is likely to stay so.
///
/// Requests for them do not wait for each other, and go to the origin as they are. The first answer that can be stored
/// clears the mark.
#[derive(Debug)]
pub(super) struct Unstored {
    slots: Box<[AtomicU64]>,
}

impl Unstored {
    const SLOTS: usize = 1 << 14;

    pub(super) fn new() -> Self {
        Self { slots: zeroes(Self::SLOTS) }
    }

    /// Whether the key is marked, for requests with `Authorization` or for those without.
    pub(super) fn has(&self, key: &HashBinary, authorized: bool) -> bool {
        self.slots[slot(key, Self::SLOTS)].load(Ordering::Relaxed) == tag(key, authorized)
    }

    /// Marks it.
    pub(super) fn mark(&self, key: &HashBinary, authorized: bool) {
        self.slots[slot(key, Self::SLOTS)].store(tag(key, authorized), Ordering::Relaxed);
    }

    /// Clears the mark, if it is this key's.
    pub(super) fn clear(&self, key: &HashBinary, authorized: bool) {
        let slot = &self.slots[slot(key, Self::SLOTS)];
        // Failing means that the slot holds another key's mark, or none: nothing to clear.
        let _ = slot.compare_exchange(tag(key, authorized), 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn zeroes(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Keys are hashes: any of their bits are as good as others. `slots` is a power of two.
fn slot(key: &HashBinary, slots: usize) -> usize {
    usize::from(u16::from_be_bytes([key[0], key[1]])) & (slots - 1)
}

/// 62 bits of the key that choose no slot, and whether the caller is known; never 0.
fn tag(key: &HashBinary, authorized: bool) -> u64 {
    let number = u128::from_be_bytes(*key) & u128::from(u64::MAX);
    (u64::try_from(number).unwrap_or(u64::MAX) | 0b11) - u64::from(authorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: HashBinary = *b"one-------------";
    const OTHER: HashBinary = *b"other-----------";

    #[test]
    fn a_purge_is_seen_by_its_key() {
        let purges = Purges::new();
        let (before, other) = (purges.count(&ONE), purges.count(&OTHER));
        purges.note(&ONE);
        assert_ne!(purges.count(&ONE), before);
        assert_eq!(purges.count(&OTHER), other);
    }

    #[test]
    fn a_mark_is_for_one_key_and_one_kind_of_caller_until_it_is_cleared() {
        let unstored = Unstored::new();
        assert!(!unstored.has(&ONE, false) && !unstored.has(&[0; 16], false));
        unstored.mark(&ONE, true);
        assert!(unstored.has(&ONE, true));
        assert!(!unstored.has(&ONE, false) && !unstored.has(&OTHER, true));
        unstored.clear(&ONE, false);
        assert!(unstored.has(&ONE, true));
        unstored.clear(&ONE, true);
        assert!(!unstored.has(&ONE, true));
    }
}
