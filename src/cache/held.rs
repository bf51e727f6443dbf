//! The bound on bytes of answers that are on their way: what memory holds beside the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// Bytes that are held, and their bound.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicU64,
    bound: u64,
    gauge: Gauge,
}

impl Held {
    /// Nothing, of at most `bound` bytes.
    pub fn new(bound: u64, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicU64::new(0), bound, gauge })
    }

    /// Holds so many bytes; `None` if that is too much.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        let mut reserved = Reserved { held: self.clone(), bytes: 0 };
        reserved.grow(bytes).then_some(reserved)
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Bytes that somebody holds; they are given back when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    held: Arc<Held>,
    bytes: u64,
}

impl Reserved {
    /// Holds more; whether all together are within the bound. They are held in any case: who may not keep what there is
    /// already lets go of it.
    pub fn grow(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.held.gauge.inc_by(bytes.try_into().unwrap_or(i64::MAX));
        self.held.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.held.bound
    }

    /// Holds less.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.held.gauge.dec_by(bytes.try_into().unwrap_or(i64::MAX));
        self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_whole() {
        let gauge = Gauge::default();
        let held = Held::new(10, gauge.clone());
        let mut first = held.reserve(6).unwrap();
        assert!(held.reserve(5).is_none(), "a refusal holds nothing");
        assert_eq!(held.bytes(), 6);
        assert!(first.grow(4) && !first.grow(1));
        first.shrink(3);
        assert_eq!((held.bytes(), gauge.get()), (8, 8));
        let second = held.reserve(2);
        drop((first, second));
        assert_eq!((held.bytes(), gauge.get()), (0, 0));
    }
}
