//! How an upstream stands, for `/upstreams` on the admin listener.

use serde::Serialize;

use super::Upstream;
use super::address::Address;
use super::breaker::{Breaker, Phase};
use super::clock::Moment;
use super::endpoint::{Endpoint, Server};
use super::group::Tier;

/// An upstream and its servers, as they stand.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamView {
    /// Its name.
    pub name: String,
    /// Whether all servers are used whatever their state, as too few are up.
    pub panic: bool,
    /// Its circuit breaker; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// Its servers, in the order of configuration; a name with several addresses has an entry for each.
    pub servers: Vec<ServerView>,
}

/// A circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BreakerView {
    /// `closed`: requests go through; `half-open`: a few do, as probes; `open`: none.
    pub state: &'static str,
    /// Why not all go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl BreakerView {
    fn of(breaker: &Breaker, now: Moment) -> Self {
        let (state, reason) = match breaker.phase(now) {
            (Phase::Closed, _) => ("closed", None),
            (Phase::HalfOpen, _) => ("half-open", Some("a few requests go through as probes".to_owned())),
            (Phase::Open, left) if left.is_zero() => ("open", Some("the next request is a probe".to_owned())),
            (Phase::Open, left) => {
                ("open", Some(format!("too many tries failed; nothing is sent for another {left:?}")))
            }
        };
        Self { state, reason }
    }
}

/// A server at an address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerView {
    /// The server as it is configured.
    pub server: String,
    /// Where it is; absent while a name is not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Its weight.
    pub weight: u16,
    /// Whether it is used only while no other server is up.
    pub backup: bool,
    /// Whether it may be chosen.
    pub state: State,
    /// Why it may not, or what else is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Requests in flight.
    pub in_flight: usize,
    /// The last health check; absent without checks or before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckView>,
    /// How often it was ejected since it is known.
    pub ejections: u64,
}

/// Whether a server may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may.
    Up,
    /// Its health checks fail, or none has passed yet.
    Down,
    /// Its answers failed; it is left alone for a while.
    Ejected,
    /// An operator has it drained: it gets no new requests.
    Draining,
    /// Its name stands for no address.
    Unresolved,
}

/// A health check that was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckView {
    /// How long ago, in whole seconds.
    pub seconds_ago: u64,
    /// Whether it passed.
    pub passed: bool,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u128,
}

impl UpstreamView {
    pub(super) fn of(upstream: &Upstream, now: Moment) -> Self {
        let group = upstream.group();
        let servers = upstream.servers().iter().flat_map(|server| {
            let mut at: Vec<ServerView> = group
                .endpoints()
                .iter()
                .filter(|endpoint| std::sync::Arc::ptr_eq(endpoint.server(), server))
                .map(|endpoint| ServerView::of(endpoint, now))
                .collect();
            if at.is_empty() {
                at.push(ServerView::unresolved(server));
            }
            at
        });
        Self {
            name: upstream.name().to_owned(),
            panic: group.stock().panics,
            breaker: upstream.breaker.as_ref().map(|breaker| BreakerView::of(breaker, now)),
            servers: servers.collect(),
        }
    }
}

impl ServerView {
    fn of(endpoint: &Endpoint, now: Moment) -> Self {
        let server = endpoint.server();
        let vitals = endpoint.vitals();
        let last = if server.checked { vitals.health.last() } else { None };
        let (state, reason) = if endpoint.is_draining() {
            (State::Draining, Some("an operator has it drained".to_owned()))
        } else if !endpoint.is_up() {
            let failure = last.as_ref().and_then(|last| last.failure.as_deref());
            (State::Down, Some(failure.unwrap_or("no health check has passed yet").to_owned()))
        } else if let Some(until) = vitals.conduct.ejected_until(now).filter(|_| server.ejectable) {
            (
                State::Ejected,
                Some(format!("its answers failed; left alone for another {:?}", until.since(now))),
            )
        } else {
            (State::Up, server.resolution.load().trouble.clone())
        };
        let check = last.map(|last| CheckView {
            seconds_ago: now.since(last.at).as_secs(),
            passed: last.failure.is_none(),
            elapsed_ms: last.elapsed.as_millis(),
        });
        Self {
            server: endpoint.name().to_owned(),
            address: Some(endpoint.address().clone()),
            weight: endpoint.weight(),
            backup: endpoint.tier() == Tier::Backup,
            state,
            reason,
            in_flight: endpoint.in_flight(),
            last_check: check,
            ejections: vitals.conduct.ejections(),
        }
    }

    fn unresolved(server: &Server) -> Self {
        Self {
            server: server.name.to_string(),
            address: None,
            weight: server.weight,
            backup: server.tier == Tier::Backup,
            state: State::Unresolved,
            reason: server.resolution.load().trouble.clone(),
            in_flight: 0,
            last_check: None,
            ejections: 0,
        }
    }
}
