//! One server: what is configured of it, where it is, how it is, and how much it has to do.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Upstream;
use super::address::Address;
use super::breaker::Breaker;
use super::clock::Moment;
use super::counts::{GroupCounts, ServerCounts};
use super::health::Health;
use super::outlier::Conduct;
use super::resolve::{self, Name, Resolution, Target};

/// A server as it is configured. A name that has several addresses is one server at several endpoints.
#[derive(Debug)]
pub(super) struct Server {
    /// Its place as written: `ip:port`, `host:port`, `dns://host:port` or `srv://NAME`.
    pub(super) name: Arc<str>,
    /// The `Host` of requests that are to have the server's.
    pub(super) authority: Arc<str>,
    pub(super) upstream: Arc<str>,
    pub(super) weight: u16,
    /// Whether active checks decide if it is up.
    pub(super) checked: bool,
    /// Whether failing answers eject it.
    pub(super) ejectable: bool,
    /// What counts the tries of the whole upstream, where anything does.
    pub(super) breaker: Option<Arc<Breaker>>,
    /// Connections are shared only under the same key.
    pub(super) group_key: u64,
    /// The name to look up, if it is one.
    pub(super) lookup: Option<Name>,
    pub(super) resolution: ArcSwap<Resolution>,
    /// Asks for a lookup before its time.
    pub(super) hurry: Notify,
    pub(super) counts: Arc<ServerCounts>,
    pub(super) group_counts: Arc<GroupCounts>,
}

/// What is the same of all servers of an upstream.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) upstream: Arc<str>,
    pub(super) checked: bool,
    pub(super) ejectable: bool,
    pub(super) breaker: Option<Arc<Breaker>>,
    pub(super) group_key: u64,
    pub(super) counts: Arc<GroupCounts>,
}

impl Server {
    /// A server at `place`; `known` is what a predecessor knew of the name.
    pub(super) fn new(
        common: &Common,
        place: &Arc<str>,
        weight: u16,
        known: Option<Arc<Resolution>>,
        counts: Arc<ServerCounts>,
    ) -> Self {
        let target = Target::parse(place);
        let resolution = known.unwrap_or_else(|| Arc::new(Resolution::before_lookup(&target)));
        Self {
            name: place.clone(),
            authority: resolve::authority(place),
            upstream: common.upstream.clone(),
            weight: weight.max(1),
            checked: common.checked,
            ejectable: common.ejectable,
            breaker: common.breaker.clone(),
            group_key: common.group_key,
            lookup: if let Ok(Target::Name(name)) = target { Some(name) } else { None },
            resolution: ArcSwap::new(resolution),
            hurry: Notify::new(),
            counts,
            group_counts: common.counts.clone(),
        }
    }
}

/// What is known of whatever answers at an address. Outlives reloads and lookups.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Never 0, never twice in a process.
    pub(super) id: u64,
    pub(super) in_flight: AtomicUsize,
    pub(super) health: Health,
    pub(super) conduct: Conduct,
}

impl Vitals {
    pub(super) fn new(checked: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            in_flight: AtomicUsize::new(0),
            health: if checked { Health::unknown() } else { Health::presumed_up() },
            conduct: Conduct::default(),
        }
    }
}

/// A server at one address.
#[derive(Debug)]
pub struct Endpoint {
    address: Address,
    weight: u16,
    server: Arc<Server>,
    vitals: Arc<Vitals>,
    /// Asked only when the server is due for ejection.
    group: Weak<Upstream>,
}

impl Endpoint {
    pub(super) fn new(
        server: Arc<Server>,
        address: Address,
        weight_in_name: u16,
        vitals: Arc<Vitals>,
        group: Weak<Upstream>,
    ) -> Self {
        let weight = server.weight.saturating_mul(weight_in_name.max(1));
        Self { address, weight, server, vitals, group }
    }

    /// What it is called where a request is to have the server's `Host`: its place without a scheme.
    pub fn authority(&self) -> &Arc<str> {
        &self.server.authority
    }

    /// The server as it is configured: `ip:port`, `host:port`, `dns://host:port` or `srv://NAME`.
    pub fn name(&self) -> &str {
        &self.server.name
    }

    /// The name, to keep.
    pub fn shared_name(&self) -> Arc<str> {
        self.server.name.clone()
    }

    /// The name of the upstream it belongs to.
    pub fn upstream(&self) -> &str {
        &self.server.upstream
    }

    /// Where it is.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its share of requests next to the others' weights; at least 1.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Connections to this address are shared only under the same key.
    pub fn group_key(&self) -> u64 {
        self.server.group_key
    }

    /// Requests in flight to it, by all generations of the configuration together.
    pub fn in_flight(&self) -> usize {
        self.vitals.in_flight.load(Relaxed)
    }

    /// Whether it may be chosen: not down by its checks, not ejected.
    pub(super) fn is_usable(&self, now: Moment) -> bool {
        self.is_up() && !self.is_ejected(now)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.server.checked || self.vitals.health.is_up()
    }

    pub(super) fn is_ejected(&self, now: Moment) -> bool {
        self.server.ejectable && self.vitals.conduct.is_ejected(now)
    }

    /// Tells two servers apart, over reloads and lookups.
    pub(super) fn id(&self) -> u64 {
        self.vitals.id
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    pub(super) fn group(&self) -> Option<Arc<Upstream>> {
        self.group.upgrade()
    }
}
