//! Bounds on what is sent to an upstream at once: so many in flight, so many waiting, the next refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bounds on what is sent to an upstream at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight to the whole upstream; more wait. At least 1.
    pub max_connections: u32,
    /// Requests that may wait for their turn; more are refused.
    pub max_pending: u32,
    /// Longest wait for a turn.
    pub max_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024, max_wait: Duration::from_secs(2) }
    }
}

/// The upstream has as much to do as it may have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Saturated {
    /// As many requests wait already as may.
    #[error("upstream `{upstream}` is saturated: {pending} requests are waiting already")]
    QueueFull {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The bound of the queue.
        pending: u32,
    },
    /// No turn came in time.
    #[error("upstream `{upstream}` is saturated: no turn within {waited:?}")]
    Waited {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How long the request waited.
        waited: Duration,
    },
}

/// The door to an upstream.
#[derive(Debug)]
pub struct Admission {
    upstream: Arc<str>,
    limits: Limits,
    slots: Arc<Semaphore>,
    pending: AtomicUsize,
    gauge: Gauge,
}

/// The right to have one request in flight; dropping it lets the next one in.
#[derive(Debug)]
#[must_use = "the turn is over when the permit is dropped"]
pub struct Permit {
    _slot: OwnedSemaphorePermit,
}

impl Admission {
    /// A door with these bounds; `gauge` shows how many wait.
    pub fn new(upstream: Arc<str>, limits: Limits, gauge: Gauge) -> Self {
        let slots = usize::try_from(limits.max_connections.max(1)).unwrap_or(usize::MAX);
        let slots = Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)));
        Self { upstream, limits, slots, pending: AtomicUsize::new(0), gauge }
    }

    /// The bounds it was made with.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for a turn, first come first served; a caller that gives up waiting leaves no trace.
    pub async fn admit(&self) -> Result<Permit, Saturated> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(Permit { _slot: slot });
        }
        let _place = self.queue()?;
        match timeout(self.limits.max_wait, self.slots.clone().acquire_owned()).await {
            Ok(slot) => Ok(Permit { _slot: slot.expect("the semaphore is never closed") }),
            Err(_) => {
                Err(Saturated::Waited { upstream: self.upstream.clone(), waited: self.limits.max_wait })
            }
        }
    }

    fn queue(&self) -> Result<Place<'_>, Saturated> {
        let max = usize::try_from(self.limits.max_pending).unwrap_or(usize::MAX);
        if self.pending.fetch_add(1, Relaxed) >= max {
            self.pending.fetch_sub(1, Relaxed);
            return Err(Saturated::QueueFull {
                upstream: self.upstream.clone(),
                pending: self.limits.max_pending,
            });
        }
        self.gauge.inc();
        Ok(Place(self))
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a>(&'a Admission);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
        self.0.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(max_connections: u32, max_pending: u32) -> Arc<Admission> {
        let limits = Limits { max_connections, max_pending, max_wait: Duration::from_secs(2) };
        Arc::new(Admission::new("users".into(), limits, Gauge::default()))
    }

    /// A task that waits at the door; it stands in the queue when this returns.
    async fn waiting(door: &Arc<Admission>) -> tokio::task::JoinHandle<Result<Permit, Saturated>> {
        let before = door.gauge.get();
        let task = tokio::spawn({
            let door = door.clone();
            async move { door.admit().await }
        });
        while door.gauge.get() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_go_in_so_many_wait_and_the_next_is_refused() {
        let door = door(2, 1);
        let first = door.admit().await.unwrap();
        let _second = door.admit().await.unwrap();
        let third = waiting(&door).await;
        assert!(matches!(door.admit().await, Err(Saturated::QueueFull { pending: 1, .. })));

        drop(first);
        let _third = third.await.unwrap().unwrap();
        assert_eq!(door.gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end() {
        let door = door(1, 1);
        let _only = door.admit().await.unwrap();
        let late = door.admit().await.unwrap_err();
        assert_eq!(late, Saturated::Waited { upstream: "users".into(), waited: Duration::from_secs(2) });
        assert_eq!(door.gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_frees_the_place_in_the_queue() {
        let door = door(1, 1);
        let only = door.admit().await.unwrap();
        let gone = waiting(&door).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(door.gauge.get(), 0);

        let next = waiting(&door).await;
        drop(only);
        assert!(next.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_the_next_is_refused_at_once() {
        let door = door(1, 0);
        let _only = door.admit().await.unwrap();
        assert!(matches!(door.admit().await, Err(Saturated::QueueFull { pending: 0, .. })));
    }
}
