//! Which URLs go when room is needed: three queues (S3-FIFO), of which a hit touches none.
//!
//! A newcomer stands in the small queue, a tenth of the room. Who was asked for there moves on to the main queue; who
//! was not goes, and leaves a ghost: the fingerprint of its key. Who comes back while its ghost is remembered begins in
//! the main queue, where each use, up to three, buys one more round. A scan of answers that nobody asks for twice thus
//! passes through the small queue and displaces nothing in the main one.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use papaya::{HashMap, HashMapRef, LocalGuard};

use super::seeded::Seeded;
use super::stored::{Key, Resource};

/// Uses that are counted of an entry; more tell nothing new.
const USES_MAX: u8 = 3;
/// Entries that are spared in a row, so that making room is short though everything is in use.
const SPARED_MAX: usize = 1024;
/// Entries that have left but still stand in a queue are swept out once they are this many more than those that stay.
const DEAD_MAX: usize = 64;

/// The table: read without a lock, changed by [`Order`] alone.
pub(super) type Table = HashMap<Key, Cell, Seeded>;
type Pinned<'t> = HashMapRef<'t, Key, Cell, Seeded, LocalGuard<'t>>;

/// What the table holds of a URL.
///
/// The answers are in a cell of their own: the table frees entries some time after they have left it, and whoever
/// leaves is to give up its bodies at once.
#[derive(Debug)]
pub(super) struct Cell {
    resource: ArcSwapOption<Resource>,
    weight: AtomicU64,
    /// Which item of the queues is its own; an item of another turn is dead.
    turn: u64,
    used: AtomicU8,
    in_main: AtomicBool,
}

impl Cell {
    /// The answers; `None` if they have just left.
    pub(super) fn resource(&self) -> Option<Arc<Resource>> {
        self.resource.load_full()
    }

    /// Counts a use. Two at once may count as one.
    pub(super) fn touch(&self) {
        let used = self.used.load(Ordering::Relaxed);
        if used < USES_MAX {
            self.used.store(used + 1, Ordering::Relaxed);
        }
    }
}

/// The queues, and with them the right to change the table.
#[derive(Debug)]
pub(super) struct Order {
    room: u64,
    small: Line,
    main: Line,
    ghosts: Ghosts,
    turns: u64,
}

impl Order {
    /// Of a table that may take `bytes`, the ghosts included.
    pub(super) fn new(bytes: u64) -> Self {
        let ghosts = Ghosts::new(bytes);
        Self {
            room: bytes.saturating_sub(ghosts.bytes()),
            small: Line::default(),
            main: Line::default(),
            ghosts,
            turns: 0,
        }
    }

    /// Bytes that entries may take.
    pub(super) fn room(&self) -> u64 {
        self.room
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    /// How many there are.
    pub(super) fn entries(&self) -> usize {
        self.small.live + self.main.live
    }

    /// Items in the queues, dead ones included.
    #[cfg(test)]
    pub(super) fn items(&self) -> usize {
        self.small.items.len() + self.main.items.len()
    }

    /// Puts answers in place of those that are there, first making room, `weight` being at most half of it. What has
    /// to go is handed over, to be freed once the lock is: first what was there before, if anything, then those
    /// evicted.
    pub(super) fn put(
        &mut self,
        table: &Table,
        key: Key,
        resource: Arc<Resource>,
        weight: u64,
    ) -> (Option<Arc<Resource>>, Vec<Arc<Resource>>) {
        let table = table.pin();
        let mut evicted = Vec::new();
        let Some(cell) = table.get(&key) else {
            self.make_room(&table, weight, None, &mut evicted);
            self.add(&table, key, resource, weight);
            return (None, evicted);
        };
        let before = cell.weight.swap(0, Ordering::Relaxed);
        self.line(cell).bytes -= before;
        self.make_room(&table, weight, Some(&key), &mut evicted);
        cell.weight.store(weight, Ordering::Relaxed);
        self.line(cell).bytes += weight;
        (cell.resource.swap(Some(resource)), evicted)
    }

    /// Takes a URL's answers out.
    pub(super) fn take(&mut self, table: &Table, key: &Key) -> Option<Arc<Resource>> {
        let table = table.pin();
        let cell = table.remove(key)?;
        let line = self.line(cell);
        line.leave(cell);
        if line.items.len() > 2 * line.live + DEAD_MAX {
            line.items.retain(|(key, turn)| table.get(key).is_some_and(|cell| cell.turn == *turn));
        }
        cell.resource.swap(None)
    }

    fn line(&mut self, cell: &Cell) -> &mut Line {
        if cell.in_main.load(Ordering::Relaxed) { &mut self.main } else { &mut self.small }
    }

    fn add(&mut self, table: &Pinned<'_>, key: Key, resource: Arc<Resource>, weight: u64) {
        let in_main = self.ghosts.take(&key, self.entries());
        self.turns += 1;
        let cell = Cell {
            resource: ArcSwapOption::new(Some(resource)),
            weight: AtomicU64::new(weight),
            turn: self.turns,
            used: AtomicU8::new(0),
            in_main: AtomicBool::new(in_main),
        };
        self.line(&cell).join(key, &cell);
        table.insert(key, cell);
    }

    fn make_room(
        &mut self,
        table: &Pinned<'_>,
        weight: u64,
        kept: Option<&Key>,
        evicted: &mut Vec<Arc<Resource>>,
    ) {
        while self.bytes() + weight > self.room {
            if !self.evict(table, kept, evicted) {
                return;
            }
        }
    }

    /// Lets one go: the first in the queue whose turn it is that was not used since it was last looked at. Whether there
    /// was one.
    fn evict(&mut self, table: &Pinned<'_>, kept: Option<&Key>, evicted: &mut Vec<Arc<Resource>>) -> bool {
        let mut spared = 0;
        loop {
            let Some(from_main) = self.main_is_due() else { return false };
            let line = if from_main { &mut self.main } else { &mut self.small };
            let Some((key, turn)) = line.items.pop_front() else { return false };
            let Some(cell) = table.get(&key).filter(|cell| cell.turn == turn) else { continue };
            line.leave(cell);
            let used = cell.used.load(Ordering::Relaxed);
            if kept == Some(&key) || (used > 0 && spared < SPARED_MAX) {
                spared += 1;
                // What counts from now on are uses in the main queue.
                cell.used.store(if from_main { used.saturating_sub(1) } else { 0 }, Ordering::Relaxed);
                cell.in_main.store(true, Ordering::Relaxed);
                self.main.join(key, cell);
                continue;
            }
            if !from_main {
                self.ghosts.add(&key);
            }
            table.remove(&key);
            evicted.extend(cell.resource.swap(None));
            return true;
        }
    }

    /// Whose turn it is to give room: the small queue's while it has more than a tenth. `None`: both are empty.
    fn main_is_due(&self) -> Option<bool> {
        match (self.small.live, self.main.live) {
            (0, 0) => None,
            (0, _) => Some(true),
            (_, 0) => Some(false),
            _ => Some(self.small.bytes <= self.room / 10),
        }
    }
}

/// A queue.
#[derive(Debug, Default)]
struct Line {
    /// Keys, each with the turn in which it came; some may have left the table since.
    items: VecDeque<(Key, u64)>,
    bytes: u64,
    live: usize,
}

impl Line {
    fn join(&mut self, key: Key, cell: &Cell) {
        self.items.push_back((key, cell.turn));
        self.live += 1;
        self.bytes += cell.weight.load(Ordering::Relaxed);
    }

    fn leave(&mut self, cell: &Cell) {
        self.live -= 1;
        self.bytes -= cell.weight.load(Ordering::Relaxed);
    }
}

/// Fingerprints of keys that left the small queue unused, in a table of fixed size.
#[derive(Debug)]
struct Ghosts {
    /// Each a fingerprint, never 0, and when it was left.
    buckets: Box<[[(u32, u32); 4]]>,
    seeded: Seeded,
    /// Counts those that were left.
    clock: u32,
}

impl Ghosts {
    /// One for each 4 KiB of the table, at most 4 million.
    fn new(bytes: u64) -> Self {
        let buckets =
            usize::try_from(bytes >> 14).unwrap_or(usize::MAX).clamp(4, 1 << 20).next_power_of_two();
        let buckets = vec![[(0, 0); 4]; buckets].into_boxed_slice();
        Self { buckets, seeded: Seeded::new(), clock: 0 }
    }

    fn bytes(&self) -> u64 {
        size_of_val(&*self.buckets) as u64
    }

    /// Takes the place of the oldest in its bucket.
    fn add(&mut self, key: &Key) {
        self.clock = self.clock.wrapping_add(1);
        let now = self.clock;
        let (bucket, fingerprint) = self.place(key);
        if let Some(oldest) =
            bucket.iter_mut().max_by_key(|(print, when)| (*print == 0, now.wrapping_sub(*when)))
        {
            *oldest = (fingerprint, now);
        }
    }

    /// Whether it is among the last `span` that were left; it is forgotten.
    fn take(&mut self, key: &Key, span: usize) -> bool {
        let now = self.clock;
        let (bucket, fingerprint) = self.place(key);
        let Some(ghost) = bucket.iter_mut().find(|ghost| ghost.0 == fingerprint) else { return false };
        let age = now.wrapping_sub(ghost.1);
        *ghost = (0, 0);
        usize::try_from(age).is_ok_and(|age| age < span)
    }

    fn place(&mut self, key: &Key) -> (&mut [(u32, u32); 4], u32) {
        let [a, b, c, d, low @ ..] = self.seeded.hash_one(key).to_be_bytes();
        let bucket = u32::from_be_bytes(low) as usize & (self.buckets.len() - 1);
        (&mut self.buckets[bucket], u32::from_be_bytes([a, b, c, d]) | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> Key {
        Key(number.to_be_bytes())
    }

    #[test]
    fn a_ghost_is_met_once_and_only_for_a_while() {
        let mut ghosts = Ghosts::new(64 << 20);
        ghosts.add(&key(1));
        assert!(!ghosts.take(&key(2), 100));
        assert!(ghosts.take(&key(1), 100));
        assert!(!ghosts.take(&key(1), 100));
        ghosts.add(&key(1));
        (2..12).for_each(|number| ghosts.add(&key(number)));
        assert!(!ghosts.take(&key(1), 10), "ten have left since");
        assert!(ghosts.take(&key(2), 10));
    }

    #[test]
    fn ghosts_take_a_five_hundredth() {
        for bytes in [1 << 20, 256 << 20, 1 << 30_u64] {
            assert_eq!(Ghosts::new(bytes).bytes(), bytes / 512);
        }
        assert!(Ghosts::new(1 << 44).bytes() <= 32 << 20);
    }
}
