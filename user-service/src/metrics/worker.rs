//! What operators see of welcoming users.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::InFlight;

/// The metrics of a worker. They are there where one works.
#[derive(Clone, Default)]
pub struct WorkerMeters {
    /// 1 while the worker consumes.
    pub up: Gauge,
    /// Messages that are at hand.
    pub at_hand: Gauge,
    /// Welcomes that were sent and put down as sent.
    pub delivered: Counter,
    /// Messages whose user had a welcome already.
    pub duplicates: Counter,
    /// Failures after which a message waits for its next try.
    pub retried: Counter,
    /// Messages that were given back to the queue: the database was away, or another worker had the user.
    pub put_back: Counter,
    /// Messages that went to the dead letters.
    pub dead: Counter,
}

impl WorkerMeters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let meters = Self::default();
        registry.register("worker_up", "Whether the worker consumes", meters.up.clone());
        registry.register("worker_at_hand", "Messages that are being dealt with", meters.at_hand.clone());
        registry.register("worker_delivered", "Welcomes that were sent", meters.delivered.clone());
        let duplicates = meters.duplicates.clone();
        registry.register("worker_duplicates", "Messages whose user had a welcome already", duplicates);
        registry.register("worker_retried", "Failures that are tried again later", meters.retried.clone());
        registry.register("worker_put_back", "Messages given back for another time", meters.put_back.clone());
        registry.register("worker_dead_lettered", "Messages given up", meters.dead.clone());
        meters
    }
}

impl WorkerMeters {
    /// Counts a message as at hand until the returned guard is dropped.
    pub fn take(&self) -> InFlight {
        self.at_hand.inc();
        InFlight(self.at_hand.clone())
    }
}
