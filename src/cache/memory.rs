//! The first tier: answers in this process's memory, bounded by their bytes.
//!
//! A hit takes no lock and allocates nothing: it finds the URL's entry in a table that is read without locks, clones an
//! `Arc`, and counts the use in the entry. Whoever changes something takes one lock, for as long as a few operations on
//! queues and table take; answers that leave are freed after it is let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::eviction::{Order, Table};
use super::seeded::Seeded;
use super::stored::{Key, Resource};
use super::weight;
use crate::telemetry::meters::Meters;

/// How many entries are taken out under one hold of the lock, where many are.
const SWEEP: usize = 256;

/// The table of stored answers. Never holds more bytes than it was given; keeps what is asked for again over what was
/// asked for once.
#[derive(Debug)]
pub struct Memory {
    table: Table,
    order: Mutex<Order>,
    /// Counts what was taken out on purpose. An update that began before is tried again.
    removals: AtomicU64,
    largest: u64,
    bytes: Gauge,
    entries: Gauge,
    evictions: Counter,
}

impl Memory {
    /// Holds up to `bytes`, keys, headers, tables and overhead included.
    pub fn new(bytes: u64, meters: &Meters) -> Self {
        let order = Order::new(bytes);
        Self {
            largest: order.room() / 2,
            table: Table::with_hasher(Seeded::new()),
            order: Mutex::new(order),
            removals: AtomicU64::new(0),
            bytes: meters.cache_bytes.with([]),
            entries: meters.cache_entries.with([]),
            evictions: meters.cache_evictions.with([]),
        }
    }

    /// What is held of a URL; counts as a use.
    pub fn get(&self, key: &Key) -> Option<Arc<Resource>> {
        let table = self.table.pin();
        let cell = table.get(key)?;
        cell.touch();
        cell.resource()
    }

    /// The same without counting.
    pub fn peek(&self, key: &Key) -> Option<Arc<Resource>> {
        self.table.pin().get(key)?.resource()
    }

    /// Puts in place of what is held of a URL what `next` makes of it; `None` takes it out.
    ///
    /// `next` is called without a lock, and again if meanwhile something else was put there or anything was removed
    /// ([`Memory::remove`], [`Memory::remove_if`], [`Memory::clear`]): what it looks at holds when its result is put in
    /// place. So an answer that a purge meets is not stored after it, if `next` asks the log of purges and a purge is
    /// noted there before it removes.
    ///
    /// Answers that do not fit ([`Memory::largest`]) are left out: those that are too large alone, then the oldest.
    /// Whether the newest answer is held.
    pub fn update(&self, key: Key, mut next: impl FnMut(Option<&Resource>) -> Option<Resource>) -> bool {
        loop {
            let removals = self.removals.load(Ordering::SeqCst);
            let current = self.peek(&key);
            let fitting = next(current.as_deref()).and_then(|next| weight::fit(next, self.largest));
            let newest = fitting.as_ref().is_some_and(|fitting| fitting.newest);
            if fitting.is_none() && current.is_none() {
                return false;
            }
            let mut order = self.order.lock();
            let same = current.as_ref().map(Arc::as_ptr) == self.peek(&key).as_ref().map(Arc::as_ptr);
            if !same || removals != self.removals.load(Ordering::SeqCst) {
                continue;
            }
            let (before, evicted) = match fitting {
                Some(fitting) => order.put(&self.table, key, fitting.resource, fitting.weight),
                None => (order.take(&self.table, &key), Vec::new()),
            };
            self.measure(order);
            self.evictions.inc_by(evicted.len() as u64);
            drop((before, evicted));
            return newest;
        }
    }

    /// Takes out what is held of a URL. Whether there was anything.
    pub fn remove(&self, key: &Key) -> bool {
        let mut order = self.order.lock();
        self.removals.fetch_add(1, Ordering::SeqCst);
        let removed = order.take(&self.table, key);
        self.measure(order);
        removed.is_some()
    }

    /// Takes out all URLs of which `met` says so; how many. What is put in place while it looks may stay.
    pub fn remove_if(&self, mut met: impl FnMut(&Key, &Resource) -> bool) -> usize {
        self.interrupt();
        let mut keys = Vec::new();
        self.for_each(|key, resource| {
            if met(key, resource) {
                keys.push(*key);
            }
        });
        self.sweep(&keys)
    }

    /// Takes out everything.
    pub fn clear(&self) {
        self.remove_if(|_, _| true);
    }

    /// How many URLs are held.
    pub fn len(&self) -> usize {
        self.order.lock().entries()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are held, overhead included.
    pub fn weight(&self) -> u64 {
        self.order.lock().bytes()
    }

    /// The most that one URL's answers may take, in bytes, overhead included.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// Shows each URL that is held from beginning to end; of those that come and go meanwhile, some.
    pub fn for_each(&self, mut see: impl FnMut(&Key, &Arc<Resource>)) {
        for (key, cell) in &self.table.pin() {
            if let Some(resource) = cell.resource() {
                see(key, &resource);
            }
        }
    }

    /// Has every update that is under way look again.
    fn interrupt(&self) {
        let _order = self.order.lock();
        self.removals.fetch_add(1, Ordering::SeqCst);
    }

    fn sweep(&self, keys: &[Key]) -> usize {
        let mut count = 0;
        for keys in keys.chunks(SWEEP) {
            let mut order = self.order.lock();
            let removed: Vec<_> = keys.iter().filter_map(|key| order.take(&self.table, key)).collect();
            self.measure(order);
            count += removed.len();
        }
        count
    }

    /// Shows what is held, and lets the lock go.
    fn measure(&self, order: MutexGuard<'_, Order>) {
        self.bytes.set(i64::try_from(order.bytes()).unwrap_or(i64::MAX));
        self.entries.set(i64::try_from(order.entries()).unwrap_or(i64::MAX));
        drop(order);
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
pub(super) mod tests;
