//! Every metric of this process, under one registry.

pub mod relay;
pub mod worker;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::store::{PoolUse, ServerReport, ServerState};
use relay::RelayMeters;
use worker::WorkerMeters;

/// The media type of [`Meters::page`].
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Buckets from half a millisecond to the longest that a request may take.
const SECONDS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// All metrics of a process. Labels come from bounded sets only: route templates, known methods, statuses.
pub struct Meters {
    registry: Registry,
    requests: Family<Answered, Counter>,
    seconds: Family<Asked, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    streams: Gauge,
    connections: Family<Connections, Gauge>,
    up: Family<ServerName, Gauge>,
    lag: Family<ServerName, Gauge<f64, AtomicU64>>,
    /// Reads answered by each server of the database.
    pub reads: Reads,
    /// Tries for the database's lock after the first.
    pub busy_retries: Counter,
    /// Requests whose handler panicked.
    pub panics: Counter,
    /// Number of the newest event.
    pub events_last: Gauge,
    /// Events that were removed because they were old.
    pub events_forgotten: Counter,
    /// Those of them that were still to be sent on.
    pub events_lost: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerName {
    server: String,
}

/// Reads by the server that answered them.
#[derive(Clone, Default)]
pub struct Reads(Family<ServerName, Counter>);

impl Reads {
    /// One more by this server.
    pub fn count(&self, server: &str) {
        self.0.get_or_create(&ServerName { server: server.to_owned() }).inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connections {
    pool: String,
    state: &'static str,
}

impl Meters {
    /// All metrics, registered, at zero.
    #[expect(clippy::new_without_default, reason = "a registry is made once, on purpose")]
    pub fn new() -> Self {
        let mut meters = Self {
            registry: Registry::with_prefix("user_service"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Gauge::default(),
            streams: Gauge::default(),
            connections: Family::default(),
            up: Family::default(),
            lag: Family::default(),
            reads: Reads::default(),
            busy_retries: Counter::default(),
            panics: Counter::default(),
            events_last: Gauge::default(),
            events_forgotten: Counter::default(),
            events_lost: Counter::default(),
        };
        let registry = &mut meters.registry;
        registry.register("http_requests", "Requests answered", meters.requests.clone());
        registry.register("http_request_seconds", "Time from request to answer", meters.seconds.clone());
        registry.register("http_requests_in_flight", "Requests being answered", meters.in_flight.clone());
        registry.register("panics", "Requests ended by a panic", meters.panics.clone());
        registry.register("database_connections", "Connections to the database", meters.connections.clone());
        registry.register(
            "database_server_up",
            "Whether a server of the database is asked",
            meters.up.clone(),
        );
        registry.register("database_replica_lag_seconds", "How far behind a replica is", meters.lag.clone());
        registry.register("database_reads", "Reads by the server that answered", meters.reads.0.clone());
        let busy = meters.busy_retries.clone();
        registry.register("database_busy_retries", "Further tries for the database's lock", busy);
        registry.register("event_streams", "Clients that follow the events", meters.streams.clone());
        registry.register("events_last", "Number of the newest event", meters.events_last.clone());
        let forgotten = meters.events_forgotten.clone();
        registry.register("events_forgotten", "Events removed by this process for their age", forgotten);
        let lost = meters.events_lost.clone();
        registry.register("events_lost", "Events removed by this process before a broker had them", lost);
        meters
    }

    /// Adds the metrics of a relay.
    pub fn relay(&mut self) -> RelayMeters {
        RelayMeters::register(&mut self.registry)
    }

    /// Adds the metrics of a worker.
    pub fn worker(&mut self) -> WorkerMeters {
        WorkerMeters::register(&mut self.registry)
    }

    /// Counts a stream of events until the returned guard is dropped.
    pub fn stream(&self) -> InFlight {
        self.streams.inc();
        InFlight(self.streams.clone())
    }

    /// Counts a request as in flight until the returned guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an answered request.
    pub fn answered(&self, method: &Method, route: &str, status: StatusCode, elapsed: Duration) {
        let method = known(method);
        let (route, status) = (route.to_owned(), status.as_u16());
        self.seconds.get_or_create(&Asked { method, route: route.clone() }).observe(elapsed.as_secs_f64());
        self.requests.get_or_create(&Answered { method, route, status }).inc();
    }

    /// The metrics in OpenMetrics text, with connections and servers as they are now.
    pub fn page(&self, pools: &[PoolUse], servers: &[ServerReport]) -> Result<String, std::fmt::Error> {
        for ServerReport { name, state, lag } in servers {
            let server = ServerName { server: name.clone() };
            self.up.get_or_create(&server).set(i64::from(*state == ServerState::Up));
            // The last lag that was known stands: a replica that is away gets no nearer.
            if let Some(lag) = lag {
                self.lag.get_or_create(&server).set(lag.as_secs_f64());
            }
        }
        for PoolUse { pool, busy, idle } in pools {
            for (state, count) in [("busy", busy), ("idle", idle)] {
                self.connections
                    .get_or_create(&Connections { pool: pool.clone(), state })
                    .set(i64::from(*count));
            }
        }
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// One request or stream in flight; dropping it ends the count, however it ended.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A method as a label: what clients make up counts as one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
