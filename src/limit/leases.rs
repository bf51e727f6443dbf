//! How asking Redis for requests of a key went, counted.

use prometheus_client::metrics::counter::Counter;

use crate::telemetry::meters::Meters;

/// One counter for each way in which it may go.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) granted: Counter,
    pub(super) refused: Counter,
    away: Counter,
}

impl Leases {
    /// Those of a route.
    pub(super) fn new(meters: &Meters, route: &str) -> Self {
        let lease = |outcome| meters.limit_leases.with([route, outcome]);
        Self { granted: lease("granted"), refused: lease("refused"), away: lease("away") }
    }

    /// Redis has granted so many; `None` where it has not answered.
    pub(super) fn count(&self, granted: Option<u32>) {
        let counter = match granted {
            Some(0) => &self.refused,
            Some(_) => &self.granted,
            None => &self.away,
        };
        counter.inc();
    }
}
