//! What operators see of sending events on to a broker.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of a relay. They are there where one runs.
#[derive(Clone, Default)]
pub struct RelayMeters {
    /// 1 while the broker takes events.
    pub up: Gauge,
    /// Events from the oldest one on that waits.
    pub backlog: Gauge,
    /// Seconds for which that one waits.
    pub oldest_unsent: Gauge<f64, AtomicU64>,
    /// Events that the broker confirmed, repetitions included.
    pub published: Counter,
    /// Those of them that no queue was bound to.
    pub returned: Counter,
}

impl RelayMeters {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let meters = Self::default();
        registry.register("broker_up", "Whether the broker takes events", meters.up.clone());
        let backlog = meters.backlog.clone();
        registry.register(
            "events_backlog",
            "Events from the oldest one on that waits for the broker",
            backlog,
        );
        let age = meters.oldest_unsent.clone();
        registry.register("events_oldest_unsent_seconds", "Age of the oldest event that waits", age);
        registry.register("events_published", "Events confirmed by the broker", meters.published.clone());
        registry.register("events_returned", "Events that no queue was bound to", meters.returned.clone());
        meters
    }
}
