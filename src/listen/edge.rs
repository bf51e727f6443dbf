//! What all listeners share, and what a reload may replace under them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use super::bind::Kind;
use super::client;
use super::client_ca::Unwelcome;
use super::crowd::Crowd;
use super::guard::HeadFailures;
use super::h2;
use super::head::Limits;
use super::proof::Prover;
use super::sending::SendCounts;
use super::tls::TlsTable;
use crate::telemetry::Meters;

/// Bounds on clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most connections open at once, in all.
    pub max_connections: u32,
    /// Most connections open at once from one address (IPv6: one /64).
    pub max_connections_per_ip: u32,
    /// Longest TLS handshake, from the connection to the end; a header of the PROXY protocol is part of it.
    pub handshake_timeout: Duration,
    /// Longest time from the first byte of a request head to its last.
    pub header_timeout: Duration,
    /// Longest wait between two reads of a request body.
    pub body_timeout: Duration,
    /// Fewest bytes of a request body a second, over `body_timeout`; 0 is none.
    pub min_body_rate: u64,
    /// Longest wait for the client to take bytes of an answer.
    pub send_timeout: Duration,
    /// Fewest bytes of answers that a client takes a second while we wait for it, over `send_timeout`; 0 is none.
    pub min_send_rate: u64,
    /// How long an idle connection is kept. Connections that are open keep the value they began with on HTTP/2.
    pub idle_timeout: Duration,
    /// Largest request head in bytes.
    pub max_header_size: usize,
    /// Most fields in a request head.
    pub max_headers: usize,
}

impl Bounds {
    /// The bounds on a request head alone.
    pub fn head(&self) -> Limits {
        Limits { size: self.max_header_size, fields: self.max_headers }
    }
}

/// The state of the listeners: certificates, bounds, counts. It outlives every reload.
pub struct Edge {
    tls: ArcSwapOption<TlsTable>,
    /// How often that was replaced.
    turn: AtomicU64,
    /// Tells connections that it was.
    turns: watch::Sender<()>,
    bounds: ArcSwap<Bounds>,
    trusted: ArcSwap<Vec<IpNet>>,
    prover: ArcSwap<Option<Arc<dyn Prover>>>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) counts: Counts,
}

impl Edge {
    /// An edge that has accepted nobody yet. Without certificates every TLS handshake fails, and
    /// nobody is trusted yet.
    pub fn new(tls: Option<TlsTable>, bounds: Bounds, meters: &Meters) -> Arc<Self> {
        Arc::new(Self {
            tls: ArcSwapOption::from_pointee(tls),
            turn: AtomicU64::new(0),
            turns: watch::Sender::new(()),
            bounds: ArcSwap::from_pointee(bounds),
            trusted: ArcSwap::default(),
            prover: ArcSwap::default(),
            crowd: Crowd::new(),
            counts: Counts::new(meters),
        })
    }

    /// Replaces the certificates, and the authorities of clients. Handshakes that have begun keep those they began with;
    /// connections whose clients are let in no more end.
    pub fn set_tls(&self, tls: Option<TlsTable>) {
        self.tls.store(tls.map(Arc::new));
        self.turn.fetch_add(1, Ordering::AcqRel);
        self.turns.send_replace(());
    }

    /// The number of what is in force by [`Self::tls`]. Read before that, it is never too high.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Acquire)
    }

    /// Changes whenever the number has.
    pub(super) fn turns(&self) -> watch::Receiver<()> {
        self.turns.subscribe()
    }

    /// Replaces the bounds. Connections that are open keep those they began with.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.bounds.store(Arc::new(bounds));
    }

    /// Replaces the networks whose headers of the PROXY protocol are believed.
    pub fn set_trusted(&self, trusted: Vec<IpNet>) {
        self.trusted.store(Arc::new(trusted));
    }

    /// Replaces who knows what is to be proved to certification authorities; nobody at first.
    pub fn set_prover(&self, prover: Option<Arc<dyn Prover>>) {
        self.prover.store(Arc::new(prover));
    }

    /// Who knows what is to be proved to certification authorities.
    pub fn prover(&self) -> Option<Arc<dyn Prover>> {
        Option::clone(&self.prover.load())
    }

    /// Whether the word of this peer on its clients is believed.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        client::is_trusted(peer, &self.trusted.load())
    }

    /// The bounds in force.
    pub fn bounds(&self) -> Bounds {
        **self.bounds.load()
    }

    /// The certificates in force.
    pub fn tls(&self) -> Option<Arc<TlsTable>> {
        self.tls.load_full()
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("bounds", &self.bounds()).finish_non_exhaustive()
    }
}

/// Handles of the metrics that connections are counted on.
pub(super) struct Counts {
    /// Of plain connections, and of those under TLS.
    connections: [Connections; 2],
    pub(super) refused_total: Counter,
    pub(super) refused_per_ip: Counter,
    pub(super) introductions: Introductions,
    /// Completed handshakes, by version (1.2, 1.3) and whether a session was resumed.
    pub(super) handshakes: [[Counter; 2]; 2],
    pub(super) timeout: Counter,
    pub(super) closed: Counter,
    pub(super) protocol: Counter,
    pub(super) no_certificate: Counter,
    /// By what was wrong with the client's certificate.
    pub(super) unwelcome: [Counter; Unwelcome::ALL.len()],
    pub(super) handshake_seconds: Histogram,
    pub(super) heads: HeadFailures,
    pub(super) sending: SendCounts,
    /// Connections that were accepted and are not served yet.
    pub(super) arriving: Gauge,
    pub(super) http2: h2::Ends,
}

/// Connections of one kind of listener.
pub(super) struct Connections {
    pub(super) accepted: Counter,
    pub(super) open: Gauge,
}

impl Connections {
    fn new(meters: &Meters, kind: Kind) -> Self {
        let label = [kind.scheme()];
        Self { accepted: meters.connections.with(label), open: meters.connections_open.with(label) }
    }
}

/// Connections closed for their header of the PROXY protocol, by what was wrong.
pub(super) struct Introductions {
    pub(super) untrusted: Counter,
    pub(super) malformed: Counter,
    pub(super) timeout: Counter,
    pub(super) closed: Counter,
}

impl Introductions {
    fn new(meters: &Meters) -> Self {
        let failed = |reason| meters.proxy_protocol_failures.with([reason]);
        Self {
            untrusted: failed("untrusted"),
            malformed: failed("malformed"),
            timeout: failed("timeout"),
            closed: failed("closed"),
        }
    }
}

impl Counts {
    fn new(meters: &Meters) -> Self {
        let version = |version| [false, true].map(|it| meters.handshakes.with([version, resumed_label(it)]));
        Self {
            connections: [Kind::Http { redirect: false }, Kind::Https]
                .map(|kind| Connections::new(meters, kind)),
            refused_total: meters.connections_refused.with(["total"]),
            refused_per_ip: meters.connections_refused.with(["per_ip"]),
            introductions: Introductions::new(meters),
            handshakes: [version("1.2"), version("1.3")],
            timeout: meters.handshake_failures.with(["timeout"]),
            closed: meters.handshake_failures.with(["closed"]),
            protocol: meters.handshake_failures.with(["protocol"]),
            no_certificate: meters.handshake_failures.with(["no_certificate"]),
            unwelcome: Unwelcome::ALL.map(|why| meters.handshake_failures.with([why.label()])),
            handshake_seconds: meters.handshake_seconds.with([]),
            heads: HeadFailures {
                timeout: meters.head_timeouts.with(["timeout"]),
                malformed: meters.head_timeouts.with(["malformed"]),
            },
            sending: SendCounts {
                late: meters.send_timeouts.with([]),
                waiting: meters.connections_sending.with([]),
            },
            arriving: meters.connections_arriving.with([]),
            http2: h2::Ends::new(meters),
        }
    }
}

impl Counts {
    /// Those of connections under TLS, or of others.
    pub(super) fn connections(&self, secure: bool) -> &Connections {
        &self.connections[usize::from(secure)]
    }
}

fn resumed_label(resumed: bool) -> &'static str {
    if resumed { "yes" } else { "no" }
}
