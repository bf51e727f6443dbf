//! The metrics of an upstream and its servers: handles while they live, forgotten after.
//!
//! A reload hands the handles on to the successor, so a series ends only when its upstream or server is gone from the
//! configuration and the last request to it is over.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::telemetry::meters::{Meters, Metric};

use super::retry::Failure;

/// What is counted of an upstream as a whole.
pub(super) struct GroupCounts {
    /// Time to the head of an answer, in seconds.
    pub(super) seconds: Histogram,
    /// Requests in flight to all servers together.
    pub(super) in_flight: AtomicUsize,
    /// Requests waiting for their turn.
    pub(super) pending: Gauge,
    /// 1 while all servers are used whatever their state.
    pub(super) panics: Gauge,
    /// Retries that the budget forbade.
    pub(super) denied: Counter,
    /// 0 while the circuit breaker is closed, 1 while it is half-open, 2 while it is open.
    pub(super) breaker: Gauge,
    /// Times that it opened.
    pub(super) opened: Counter,
    retries: [Counter; REASONS.len()],
    upstream: Arc<str>,
    families: GroupFamilies,
}

struct GroupFamilies {
    seconds: Metric<Histogram, 1>,
    pending: Metric<Gauge, 1>,
    panics: Metric<Gauge, 1>,
    denied: Metric<Counter, 1>,
    breaker: Metric<Gauge, 1>,
    opened: Metric<Counter, 1>,
    retries: Metric<Counter, 2>,
}

/// The values of the label `reason` of `upstream_retries`, in the order of [`reason_index`].
const REASONS: [&str; 4] = ["connect", "reset", "timeout", "status"];

fn reason_index(failure: Failure) -> usize {
    match failure {
        Failure::Connect => 0,
        Failure::Reset => 1,
        Failure::Timeout => 2,
        Failure::Status(_) => 3,
    }
}

impl GroupCounts {
    pub(super) fn new(upstream: &Arc<str>, meters: &Meters) -> Self {
        Self {
            seconds: meters.upstream_seconds.with([upstream]),
            in_flight: AtomicUsize::new(0),
            pending: meters.upstream_pending.with([upstream]),
            panics: meters.upstream_panics.with([upstream]),
            denied: meters.upstream_retries_denied.with([upstream]),
            breaker: meters.upstream_breaker.with([upstream]),
            opened: meters.upstream_breaker_opened.with([upstream]),
            retries: REASONS.map(|reason| meters.upstream_retries.with([upstream, reason])),
            upstream: upstream.clone(),
            families: GroupFamilies {
                seconds: meters.upstream_seconds.clone(),
                pending: meters.upstream_pending.clone(),
                panics: meters.upstream_panics.clone(),
                denied: meters.upstream_retries_denied.clone(),
                breaker: meters.upstream_breaker.clone(),
                opened: meters.upstream_breaker_opened.clone(),
                retries: meters.upstream_retries.clone(),
            },
        }
    }

    /// The count of retries that followed a failure of this kind.
    pub(super) fn retries(&self, failure: Failure) -> &Counter {
        &self.retries[reason_index(failure)]
    }
}

impl Drop for GroupCounts {
    fn drop(&mut self) {
        self.families.seconds.forget([&self.upstream]);
        self.families.pending.forget([&self.upstream]);
        self.families.panics.forget([&self.upstream]);
        self.families.denied.forget([&self.upstream]);
        self.families.breaker.forget([&self.upstream]);
        self.families.opened.forget([&self.upstream]);
        for reason in REASONS {
            self.families.retries.forget([&self.upstream, reason]);
        }
    }
}

impl fmt::Debug for GroupCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCounts").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

/// What is counted of one server.
pub(super) struct ServerCounts {
    /// Tries that the server answered.
    pub(super) ok: Counter,
    /// Tries that failed.
    pub(super) error: Counter,
    /// Requests in flight.
    pub(super) in_flight: Gauge,
    /// 1 where the server may be chosen.
    pub(super) up: Gauge,
    /// 1 where the server is sent no new requests.
    pub(super) draining: Gauge,
    /// Times that the server was ejected.
    pub(super) ejections: Counter,
    /// Connections that failed for want of TLS.
    pub(super) tls_errors: Counter,
    upstream: Arc<str>,
    server: Arc<str>,
    families: ServerFamilies,
}

struct ServerFamilies {
    requests: Metric<Counter, 3>,
    in_flight: Metric<Gauge, 2>,
    up: Metric<Gauge, 2>,
    draining: Metric<Gauge, 2>,
    ejections: Metric<Counter, 2>,
    tls_errors: Metric<Counter, 2>,
}

impl ServerCounts {
    pub(super) fn new(upstream: &Arc<str>, server: &Arc<str>, meters: &Meters) -> Self {
        Self {
            ok: meters.upstream_requests.with([upstream, server, "ok"]),
            error: meters.upstream_requests.with([upstream, server, "error"]),
            in_flight: meters.upstream_in_flight.with([upstream, server]),
            up: meters.upstream_up.with([upstream, server]),
            draining: meters.upstream_draining.with([upstream, server]),
            ejections: meters.upstream_ejections.with([upstream, server]),
            tls_errors: meters.upstream_tls_errors.with([upstream, server]),
            upstream: upstream.clone(),
            server: server.clone(),
            families: ServerFamilies {
                requests: meters.upstream_requests.clone(),
                in_flight: meters.upstream_in_flight.clone(),
                up: meters.upstream_up.clone(),
                draining: meters.upstream_draining.clone(),
                ejections: meters.upstream_ejections.clone(),
                tls_errors: meters.upstream_tls_errors.clone(),
            },
        }
    }
}

impl Drop for ServerCounts {
    fn drop(&mut self) {
        let (upstream, server) = (&*self.upstream, &*self.server);
        for outcome in ["ok", "error"] {
            self.families.requests.forget([upstream, server, outcome]);
        }
        self.families.in_flight.forget([upstream, server]);
        self.families.up.forget([upstream, server]);
        self.families.draining.forget([upstream, server]);
        self.families.ejections.forget([upstream, server]);
        self.families.tls_errors.forget([upstream, server]);
    }
}

impl fmt::Debug for ServerCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCounts").field("server", &self.server).finish_non_exhaustive()
    }
}
