//! What came of tokens that were verified: to verify a signature costs a hundred times what it costs to remember it.

use std::collections::HashMap;
use std::time::SystemTime;

use parking_lot::Mutex;

/// What stands for a token: nobody finds two with the same, and none is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Print([u8; 32]);

impl Print {
    /// Of a token.
    pub(super) fn of(token: &str) -> Self {
        Self(*blake3::hash(token.as_bytes()).as_bytes())
    }
}

/// A token as it was shown, with what stands for it.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) text: &'a str,
    pub(super) print: Print,
}

impl<'a> Shown<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, print: Print::of(text) }
    }
}

/// Callers by their tokens, or whatever else is found out with some effort; as many as there is room for, each until its token ends.
///
/// Each shard has two generations: when the young one is full, the old one is forgotten and the young one is the old
/// one. Who asks again is young again.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    /// Room in each generation of a shard, in bytes of tokens.
    room: usize,
}

const SHARDS: usize = 16;

/// Room for a provider's tokens, in bytes of them: some ten thousand callers. What is known of a caller takes about five
/// times the length of its token.
pub(super) const ROOM: usize = 16 << 20;

#[derive(Debug)]
struct Shard<T> {
    young: HashMap<Print, Known<T>>,
    old: HashMap<Print, Known<T>>,
    /// Bytes of tokens in the young generation.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Known<T> {
    what: T,
    until: SystemTime,
    /// The epoch of the keys by which it was verified.
    epoch: u64,
    /// The length of its token.
    length: usize,
}

impl<T: Clone> Remembered<T> {
    /// With room for tokens of so many bytes together.
    pub(super) fn new(room: usize) -> Self {
        let empty = || Shard { young: HashMap::new(), old: HashMap::new(), bytes: 0 };
        Self { shards: std::array::from_fn(|_| Mutex::new(empty())), room: room / SHARDS / 2 }
    }

    /// What is known of this token, if it still holds and no key was withdrawn since.
    pub(super) fn find(&self, print: Print, epoch: u64, now: SystemTime) -> Option<T> {
        let mut shard = self.shard(print).lock();
        let holds = |known: &Known<T>| known.epoch == epoch && now < known.until;
        if let Some(known) = shard.young.get(&print) {
            return holds(known).then(|| known.what.clone());
        }
        let known = shard.old.remove(&print).filter(holds)?;
        let what = known.what.clone();
        shard.add(print, known, self.room);
        Some(what)
    }

    /// Remembers what came of a token of this length, which was verified by keys of this epoch.
    pub(super) fn add(&self, print: Print, what: T, until: SystemTime, epoch: u64, length: usize) {
        let known = Known { what, until, epoch, length };
        self.shard(print).lock().add(print, known, self.room);
    }

    fn shard(&self, print: Print) -> &Mutex<Shard<T>> {
        &self.shards[usize::from(print.0[0]) % SHARDS]
    }
}

impl<T> Shard<T> {
    fn add(&mut self, print: Print, known: Known<T>, room: usize) {
        if self.bytes + known.length > room {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += known.length;
        if let Some(before) = self.young.insert(print, known) {
            self.bytes -= before.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::auth::{Caller, Claims, Proof};

    fn caller() -> Arc<Caller> {
        Arc::new(Caller::new("idp".into(), Proof::Token, Claims::new()))
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_known_until_it_ends_or_its_keys_are_others() {
        let remembered = Remembered::new(ROOM);
        let print = Print::of("token");
        assert!(remembered.find(print, 1, at(0)).is_none());
        remembered.add(print, caller(), at(10), 1, 100);
        assert!(remembered.find(print, 1, at(9)).is_some());
        assert!(remembered.find(print, 1, at(10)).is_none());
        assert!(remembered.find(print, 2, at(9)).is_none());
        assert!(remembered.find(Print::of("Token"), 1, at(9)).is_none());
    }

    #[test]
    fn room_is_bounded_and_who_asks_stays() {
        const LENGTH: usize = 1000;
        let remembered = Remembered::new(SHARDS * 2 * 10 * LENGTH);
        let often = Print::of("often");
        remembered.add(often, caller(), at(10), 1, LENGTH);
        for number in 0..10_000 {
            remembered.add(Print::of(&number.to_string()), caller(), at(10), 1, LENGTH);
            assert!(remembered.find(often, 1, at(0)).is_some(), "{number}");
        }
        let held: usize =
            remembered.shards.iter().map(|shard| shard.lock()).map(|it| it.young.len() + it.old.len()).sum();
        assert!(held <= SHARDS * 2 * 10, "{held}");
    }
}
