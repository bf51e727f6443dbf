//! A small table about keys, bounded and without locks: which URLs are not stored.
//!
//! Each key has one slot, and keys may share a slot. Sharing costs a fetch now and then; it never lets an answer be
//! served that should not be.

use std::sync::atomic::{AtomicU64, Ordering};

use super::stored::Key;

/// URLs whose last answer was not one to store, and is likely to stay so.
///
/// Requests for them do not wait for each other, and go to the origin as they are. The first answer that can be stored
/// clears the mark.
#[derive(Debug)]
pub struct Unstored {
    slots: Box<[AtomicU64]>,
}

impl Unstored {
    const SLOTS: usize = 1 << 14;

    /// None is marked.
    pub fn new() -> Self {
        Self { slots: zeroes(Self::SLOTS) }
    }

    /// Whether the key is marked, for requests with `Authorization` or for those without.
    pub fn has(&self, key: &Key, authorized: bool) -> bool {
        self.slots[slot(key, Self::SLOTS)].load(Ordering::Relaxed) == tag(key, authorized)
    }

    /// Marks it.
    pub fn mark(&self, key: &Key, authorized: bool) {
        self.slots[slot(key, Self::SLOTS)].store(tag(key, authorized), Ordering::Relaxed);
    }

    /// Clears the mark, if it is this key's.
    pub fn clear(&self, key: &Key, authorized: bool) {
        let slot = &self.slots[slot(key, Self::SLOTS)];
        // Failing means that the slot holds another key's mark, or none: nothing to clear.
        let _ = slot.compare_exchange(tag(key, authorized), 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn zeroes(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// Keys are hashes: any of their bits are as good as others. `slots` is a power of two.
fn slot(key: &Key, slots: usize) -> usize {
    usize::from(u16::from_be_bytes([key.0[0], key.0[1]])) & (slots - 1)
}

/// 62 bits of the key that choose no slot, and whether the caller is known; never 0.
fn tag(key: &Key, authorized: bool) -> u64 {
    let number = u128::from_be_bytes(key.0) & u128::from(u64::MAX);
    (u64::try_from(number).unwrap_or(u64::MAX) | 0b11) - u64::from(authorized)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Key = Key(*b"one-------------");
    const OTHER: Key = Key(*b"other-----------");

    #[test]
    fn a_mark_is_for_one_key_and_one_kind_of_caller_until_it_is_cleared() {
        let unstored = Unstored::new();
        assert!(!unstored.has(&ONE, false) && !unstored.has(&Key([0; 16]), false));
        unstored.mark(&ONE, true);
        assert!(unstored.has(&ONE, true));
        assert!(!unstored.has(&ONE, false) && !unstored.has(&OTHER, true));
        unstored.clear(&ONE, false);
        assert!(unstored.has(&ONE, true));
        unstored.clear(&ONE, true);
        assert!(!unstored.has(&ONE, true));
    }
}
