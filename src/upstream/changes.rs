//! What happens to the servers of an upstream: ejected, drained, found at other addresses.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::clock::Moment;
use super::endpoint::{Endpoint, Server};
use super::group::Group;
use super::outlier::Outlier;
use super::{Upstream, assembly};

/// How a server stands that is drained from now on, or no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that it still has in flight.
    pub in_flight: usize,
    /// How many addresses of the upstream may be chosen now.
    pub usable: usize,
}

impl Upstream {
    /// Sends a server, by its place as configured, no new requests, or sends it some again; `None` where there is no such
    /// server. What is in flight goes on. Known to later configurations, and forgotten when the process ends.
    pub fn drain(&self, server: &str, drain: bool) -> Option<Drained> {
        // Of a server that is written twice, both share what is set here.
        let known = self.servers.iter().find(|known| &*known.name == server)?;
        let changed = known.draining.swap(drain, Relaxed) != drain;
        let now = Moment::now();
        let group = self.group.load();
        let of_it = || group.endpoints().iter().filter(|endpoint| endpoint.name() == server);
        if changed && !drain {
            of_it().for_each(|endpoint| endpoint.vitals().come_back(now));
        }
        if changed {
            let what = if drain { "server is drained" } else { "server is no longer drained" };
            tracing::info!(upstream = self.name(), server, "{what}");
        }
        self.take_stock(now);
        let in_flight = of_it().map(|endpoint| endpoint.in_flight()).sum();
        let usable = group.endpoints().iter().filter(|endpoint| endpoint.is_usable(now)).count();
        Some(Drained { in_flight, usable })
    }

    /// Counts a failure against a server, and ejects it when it is due and the group can spare it.
    pub(super) fn note_failure(&self, endpoint: &Endpoint, now: Moment) {
        let Some(rules) = &self.settings.outlier else { return };
        let conduct = &endpoint.vitals().conduct;
        if !conduct.failed(rules, now) {
            return;
        }
        // Of two servers ejected at once, each might have counted on the other. Who finds the door taken does not
        // wait: the next failure comes back.
        let Some(_guard) = self.changing.try_lock() else { return };
        let group = self.group.load();
        if conduct.is_ejected(now) || !makes_room(&group, endpoint, rules, now) {
            return;
        }
        let time = conduct.eject(rules, now);
        endpoint.server().counts.ejections.inc();
        self.take_stock(now);
        let (upstream, server, address) = (self.name(), endpoint.name(), endpoint.address());
        tracing::warn!(upstream, server, %address, ?time, "server is ejected for its failing answers");
    }

    /// Makes the group anew from what its names stand for now.
    pub(super) fn publish(&self) {
        let guard = self.changing.lock();
        let group = assembly::group(&self.servers, Some(&self.group.load()), &self.settings, &self.me);
        self.group.store(Arc::new(group));
        drop(guard);
        self.take_stock(Moment::now());
    }

    /// Counts who may be chosen, and shows it; once this upstream is replaced, that is its successor's to show.
    pub(super) fn take_stock(&self, now: Moment) {
        let _guard = self.counting.lock();
        let group = self.group.load();
        let stock = group.take_stock(self.settings.panic_below, now);
        if self.tasks.have_ended() {
            return;
        }
        if let Some(breaker) = &self.breaker {
            breaker.show();
        } else {
            self.counts.breaker.set(0);
        }
        self.counts.panics.set(stock.panics.into());
        if self.panics.swap(stock.panics, Relaxed) != stock.panics {
            let upstream = self.name();
            if stock.panics {
                tracing::warn!(upstream, "too few servers are up: all are used, whatever their state");
            } else {
                tracing::info!(upstream, "enough servers are up again");
            }
        }
        let usable = group.endpoints().iter().filter(|endpoint| endpoint.is_usable(now));
        let mut usable = usable.map(|endpoint| endpoint.server()).peekable();
        // Endpoints stand in the order of their servers.
        for server in &self.servers {
            let mut up = 0;
            while usable.next_if(|next| Arc::ptr_eq(next, server)).is_some() {
                up = 1;
            }
            show(server, up);
        }
    }
}

/// Whether an endpoint may be ejected. Where as many are as may be, whoever has been left alone for longest is let in for it: what
/// just failed is known to be no good, what failed a while ago is not. But not where nothing else would be left than the one that is let in.
fn makes_room(group: &Group, endpoint: &Endpoint, rules: &Outlier, now: Moment) -> bool {
    let all = group.endpoints();
    let others = || all.iter().filter(|other| other.id() != endpoint.id());
    let ejected = others().filter(|other| other.is_ejected(now)).count();
    let others_usable = others().any(|other| other.is_usable(now));
    if rules.permits(all.len(), ejected, others_usable) {
        return true;
    }
    let since = |other: &Endpoint| other.vitals().conduct.ejected_since(now).unwrap_or(now);
    let out = others().filter(|other| other.is_ejected(now)).min_by_key(|other| since(other));
    let Some(first) = out.filter(|first| rules.yields(now.since(since(first)))) else { return false };
    let enough = rules.permits(all.len(), ejected - 1, others_usable);
    if enough {
        first.vitals().conduct.let_in(now);
    }
    enough
}

fn show(server: &Server, up: i64) {
    server.counts.up.set(up);
    server.counts.draining.set(server.draining.load(Relaxed).into());
}
