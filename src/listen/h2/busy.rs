//! Whether a connection is idle.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How many requests are being served, and since when there are none.
#[derive(Debug)]
pub(super) struct Busy {
    began: Instant,
    requests: AtomicUsize,
    /// Milliseconds after `began` at which the last request ended.
    last: AtomicU64,
}

impl Busy {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), requests: AtomicUsize::new(0), last: AtomicU64::new(0) }
    }

    pub(super) fn begins(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
        // Whoever sees that there are none sees since when.
        self.requests.fetch_sub(1, Ordering::Release);
    }

    /// When the connection will have been idle for so long, if nothing comes; `None` if it has been.
    pub(super) fn idle_at(&self, timeout: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.requests.load(Ordering::Acquire) > 0 {
            return Some(now + timeout);
        }
        let end = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + timeout;
        (end > now).then_some(end)
    }
}
