//! Choosing a server for one try.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fastrand::Rng;
use thiserror::Error;

use super::Upstream;
use super::affinity::{Affinity, Token};
use super::balance::Choice;
use super::clock::Moment;
use super::endpoint::Endpoint;
use super::group::{Group, Tier};
use super::lease::{Lease, Met, Tried};

/// No server may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoServer {
    /// Every server is down by its health checks, or some are and the rest are ejected or drained.
    #[error("every server of upstream `{0}` is down")]
    Down(Arc<str>),
    /// Every server is ejected for its failing answers.
    #[error("every server of upstream `{0}` is ejected")]
    Ejected(Arc<str>),
    /// Every server is being drained.
    #[error("every server of upstream `{0}` is being drained")]
    Draining(Arc<str>),
    /// No server has an address.
    #[error("no server of upstream `{0}` is resolved")]
    Unresolved(Arc<str>),
    /// The circuit breaker lets nothing through.
    #[error("the circuit breaker of upstream `{upstream}` is open for another {wait:?}")]
    Open {
        /// The upstream's name.
        upstream: Arc<str>,
        /// How long it lets nothing through; above 0.
        wait: Duration,
    },
}

impl Upstream {
    /// Chooses a server for one try, in constant time, without an allocation, and without a lock but for a circuit breaker
    /// that is not closed.
    ///
    /// Never one that is drained, nor one that is down or ejected while enough others are not (`panic_below`); a backup
    /// only where no primary is left to be tried. One that was tried only if no other is left, and one that failed only if
    /// all have: a connection that the server closed while it was idle says nothing against the server.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(&self, tried: &Tried, affinity: Affinity) -> Result<Lease, NoServer> {
        self.pick_with(tried, affinity, Moment::now(), &mut Rng::new())
    }

    /// The same at this moment by this source of chance.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick_with(
        &self,
        tried: &Tried,
        affinity: Affinity,
        now: Moment,
        rng: &mut Rng,
    ) -> Result<Lease, NoServer> {
        if tried.is_empty() {
            self.budget.request(now);
        }
        let probe = self.breaker.as_ref().map_or(Ok(None), |breaker| breaker.enter(now));
        let probe = probe.map_err(|wait| NoServer::Open { upstream: self.shared_name(), wait })?;
        let group = self.group.load();
        let chosen = self.choose(&group, tried, affinity, now, rng);
        chosen
            .map(|endpoint| Lease::take(endpoint.clone(), now).probing(probe))
            .ok_or_else(|| why_none(self.shared_name(), &group, now))
    }

    /// Whether a cookie's value names a server of this upstream.
    pub fn knows(&self, token: Token) -> bool {
        self.group.load().named(token).is_some()
    }

    fn choose<'g>(
        &self,
        group: &'g Group,
        tried: &Tried,
        affinity: Affinity,
        now: Moment,
        rng: &mut Rng,
    ) -> Option<&'g Arc<Endpoint>> {
        let stock = group.stock();
        let named = affinity.server.and_then(|token| group.named(token)).filter(|endpoint| {
            let tier = endpoint.tier();
            tier == stock.in_use() && stock.permits(tier, endpoint, now) && !tried.contains(endpoint)
        });
        if named.is_some() {
            return named;
        }
        let mut from = |(tier, worst)| {
            let choice = Choice {
                balance: &self.settings.balance,
                turn: &self.turn,
                now,
                key: affinity.key,
                load: self.counts.in_flight.load(Relaxed),
                fit: |endpoint: &Endpoint| stock.permits(tier, endpoint, now) && tried.met(endpoint) <= worst,
            };
            group.pool(tier).choose(&choice, rng)
        };
        let first = from((Tier::Primary, Met::Never));
        if first.is_some() || tried.is_empty() {
            return first.or_else(|| from((Tier::Backup, Met::Never)));
        }
        let mut rounds =
            [(Tier::Backup, Met::Never), (Tier::Primary, Met::Closed), (Tier::Backup, Met::Closed)];
        // Who only found a connection closed has no reason to ask a backup.
        if tried.last_was_harmless() {
            rounds.swap(0, 1);
        }
        let failed = [(Tier::Primary, Met::Failed), (Tier::Backup, Met::Failed)];
        rounds.into_iter().chain(failed).find_map(from)
    }
}

fn why_none(name: Arc<str>, group: &Group, now: Moment) -> NoServer {
    let all = group.endpoints();
    let every = |is: &dyn Fn(&Endpoint) -> bool| all.iter().all(|endpoint| is(endpoint));
    if all.is_empty() {
        NoServer::Unresolved(name)
    } else if every(&Endpoint::is_draining) {
        NoServer::Draining(name)
    } else if every(&|endpoint| endpoint.is_up() && endpoint.is_ejected(now)) {
        NoServer::Ejected(name)
    } else {
        NoServer::Down(name)
    }
}
