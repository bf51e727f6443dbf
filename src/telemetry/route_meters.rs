//! The metrics of one route, resolved once: counting on them needs no lookup.

use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::cache_meters::CacheMeters;
use super::meters::{Meters, Metric};
use super::websockets::{Websocket, WebsocketMeters};

/// Handles to the metrics of one route.
///
/// What may never happen on a route (a status, a cache outcome, a refusal) is resolved when it first does, so that
/// `/metrics` shows no rows that are always zero. Decisions of limits are counted by the limits.
#[derive(Debug)]
pub struct RouteMeters {
    route: Box<str>,
    requests: Metric<Counter, 2>,
    by_status: Box<[OnceLock<Counter>]>,
    seconds: Histogram,
    /// What its cache does.
    pub cache: CacheMeters,
    refusals: Metric<Counter, 2>,
    by_reason: RwLock<Vec<(&'static str, Counter)>>,
    websockets: WebsocketMeters,
    compressed: Metric<Counter, 2>,
    by_coding: [OnceLock<Counter>; 3],
}

/// Statuses of HTTP: three digits, the first of them 1 to 5 (RFC 9110 §15).
const STATUSES: std::ops::Range<u16> = 100..600;

impl RouteMeters {
    /// The metrics of the route of this name.
    pub fn new(meters: &Meters, route: &str) -> Self {
        Self {
            route: route.into(),
            requests: meters.requests.clone(),
            by_status: STATUSES.map(|_| OnceLock::new()).collect(),
            seconds: meters.request_seconds.with([route]),
            cache: CacheMeters::new(meters, route),
            refusals: meters.refusals.clone(),
            by_reason: RwLock::default(),
            websockets: WebsocketMeters::new(meters),
            compressed: meters.compressed.clone(),
            by_coding: Default::default(),
        }
    }

    /// Counts a request that was answered with `status` after `elapsed`.
    ///
    /// A status out of 100 to 599, as for a client that left before any answer, is counted under `0`.
    pub fn answered(&self, status: u16, elapsed: Duration) {
        match status.checked_sub(STATUSES.start).and_then(|index| self.by_status.get(usize::from(index))) {
            Some(counter) => {
                counter.get_or_init(|| self.requests.with([&self.route, &status.to_string()])).inc()
            }
            None => self.requests.with([&self.route, "0"]).inc(),
        };
        self.seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a connection that has changed its protocol, as open until what is returned is dropped.
    pub fn websocket(&self) -> Websocket {
        self.websockets.open(&self.route)
    }

    /// Counts an answer that was compressed: in which coding, and where that stands among the three.
    pub fn compressed(&self, coding: &str, place: usize) {
        if let Some(counter) = self.by_coding.get(place) {
            counter.get_or_init(|| self.compressed.with([&self.route, coding])).inc();
        }
    }

    /// Counts an answer that the gateway made itself, by reason code.
    pub fn refused(&self, reason: &'static str) {
        if let Some((_, counter)) = self.by_reason.read().iter().find(|(known, _)| *known == reason) {
            counter.inc();
            return;
        }
        let counter = self.refusals.with([&self.route, reason]);
        counter.inc();
        // Two first refusals at once may both get here: both hold the same counter, so one entry too many is harmless.
        self.by_reason.write().push((reason, counter));
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache_meters::CacheOutcome;
    use super::*;

    #[test]
    fn each_count_goes_to_its_own_row() {
        let meters = Meters::new();
        let route = RouteMeters::new(&meters, "users");
        for (status, times) in [(100, 1), (200, 3), (599, 2), (0, 4), (99, 1), (600, 1)] {
            (0..times).for_each(|_| route.answered(status, Duration::from_millis(3)));
        }
        route.cache.outcome(CacheOutcome::Miss);
        (0..3).for_each(|_| route.refused("limit-exceeded"));
        route.refused("no-server");

        let text = meters.render();
        let count = |row: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(row))
                .unwrap_or_else(|| panic!("{row}: {text}"));
            line.trim().parse::<u64>().unwrap()
        };
        for (status, times) in [("100", 1), ("200", 3), ("599", 2), ("0", 6)] {
            assert_eq!(
                count(&format!("tidegate_requests_total{{route=\"users\",status=\"{status}\"}}")),
                times
            );
        }
        assert_eq!(count("tidegate_cache_requests_total{route=\"users\",outcome=\"miss\"}"), 1);
        assert_eq!(count("tidegate_refusals_total{route=\"users\",reason=\"limit-exceeded\"}"), 3);
        assert_eq!(count("tidegate_refusals_total{route=\"users\",reason=\"no-server\"}"), 1);
        assert_eq!(count("tidegate_request_seconds_count{route=\"users\"}"), 12);
    }

    #[test]
    fn two_compilations_of_a_route_count_on_the_same_rows() {
        let meters = Meters::new();
        for _ in 0..2 {
            RouteMeters::new(&meters, "users").answered(200, Duration::ZERO);
        }
        assert_eq!(meters.requests.with(["users", "200"]).get(), 2);
    }

    #[test]
    fn what_never_happened_is_not_shown() {
        let meters = Meters::new();
        let _route = RouteMeters::new(&meters, "users");
        let text = meters.render();
        assert!(!text.contains("status=\""), "{text}");
        assert!(!text.contains("outcome=\"hit\""), "{text}");
    }
}
