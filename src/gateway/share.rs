//! A fetch's dealings with the fleet: what other nodes have stored, and whose turn it is to ask the origin.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use tokio::time::Instant;

use crate::cache::entry::Entry;
use crate::cache::fleet::Fleet;
use crate::cache::policy::NotKept;
use crate::cache::redis::{Found, Lease, Told, Verdict};
use crate::cache::reuse::{self, Reuse};
use crate::cache::stored::{Body, Key, Stamp, Stored};
use crate::cache::{Tiers, parts, vary};
use crate::telemetry::Scope;

use super::fetch::Errand;
use super::renew::Held;

/// How long one node may fetch for all until it says that it still does. A fetch whose node died is made by another.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// How long a fetch waits for those of other nodes, and how long these keep the lease: longer than a lease, so that one whose node died is taken over by
/// one of those who waited, and not by all of them.
pub(super) const WAIT: Duration = Duration::from_secs(5);

impl Errand {
    /// Looks for what the fleet has stored. `None`: it is to be fetched; by this node for all, if there is a lease.
    pub(super) async fn ask_fleet(&mut self) -> Option<Arc<Stored>> {
        let fetching = self.fetching.clone();
        if !self.takes_shared() {
            return None;
        }
        let tiers = fetching.tiers;
        let fleet = tiers.fleet_soon().await?;
        let deadline = Instant::now() + WAIT;
        let mut waited = false;
        let mut found = fleet.tier.look(&self.key).await.ok()?;
        loop {
            // Waiting took its time: without sight of the purges nothing of others is taken.
            if !fleet.sees() {
                return None;
            }
            if let Some(stored) = self.adopt(fleet, &found).await {
                if waited && let Some(route) = &self.exchange.route {
                    route.meters.cache.joined(Scope::Fleet);
                }
                return Some(stored);
            }
            // Whose client wrote asks with what that takes; others' fetches may be without.
            if self.after > Stamp::default() {
                return None;
            }
            // What is validated at each use is asked for by each, and so is a part. What others store all the while may suit
            // them alone.
            if !self.is_for_all() || self.validates_each_use() || Instant::now() >= deadline {
                return None;
            }
            let kind = self.kind_among(&found);
            found = match fleet.tier.lease(&self.key, kind, found.version, LEASE).await.ok()? {
                Lease::Taken(token) => {
                    self.lease = Some(Held::of(tiers, self.key, token));
                    return None;
                }
                // A version that cannot be read never compares: without a lease, then, and what is stored puts it right.
                Lease::Changed(now) if now.version == found.version => return None,
                Lease::Changed(found) => Arc::new(found),
                Lease::Held(other) => match other.wait(deadline).await {
                    Told::Verdict(Verdict::Uncacheable) | Told::TimedOut => return None,
                    Told::Verdict(Verdict::Stored | Verdict::Failed) | Told::Vacant => {
                        waited = true;
                        fleet.tier.look(&self.key).await.ok()?
                    }
                },
            };
        }
    }

    /// Looks for what the fleet has stored, and for nothing else.
    pub(super) async fn ask_fleet_alone(mut self) -> Option<Shared> {
        let fetching = self.fetching.clone();
        if !self.takes_shared() {
            return None;
        }
        let fleet = fetching.tiers.fleet_soon().await?;
        self.find_candidates();
        let found = fleet.tier.look(&self.key).await.ok()?;
        match self.adopt(fleet, &found).await {
            Some(stored) => Some(Shared::Serves(stored)),
            None => self.selected().map(|at| Shared::Stale(self.candidates.swap_remove(at))),
        }
    }

    /// Of which kind the request is for the fleet: all nodes that have seen the same say the same. Where nothing is shared yet,
    /// as this node knows it.
    fn kind_among(&self, found: &Found) -> u64 {
        match found.variants.first() {
            Some(newest) => {
                vary::kind(self.authorized, newest.stored.selecting.names(), &self.request.headers)
            }
            None => self.kind,
        }
    }

    /// Whether what other nodes have stored may serve it: a whole serves HEAD and ranges as well.
    fn takes_shared(&self) -> bool {
        !self.asked.no_cache && !self.rules.observe
    }

    /// Whether other nodes would make the same fetch.
    fn is_for_all(&self) -> bool {
        self.request.method == Method::GET && !self.is_ranged()
    }

    /// Whether what is stored for the request serves nobody without a word of the origin.
    fn validates_each_use(&self) -> bool {
        self.selected().is_some_and(|at| !self.candidates[at].terms.is_reusable())
    }

    /// Takes what suits the request into memory. It is the answer if it is fresh; else it may be confirmed.
    async fn adopt(&mut self, fleet: &Fleet, found: &Found) -> Option<Arc<Stored>> {
        let tiers = self.fetching.tiers;
        let suits = |entry: &&Entry| {
            self.suits(&entry.stored) && entry.is_whole() && !tiers.refuses(&self.key, &entry.stored)
        };
        let entry = found.variants.iter().find(suits)?;
        if self.in_part.as_ref().is_some_and(|part| outdates(part, entry)) {
            return None;
        }
        let of_the_same = |held: &&Arc<Stored>| held.selecting == entry.stored.selecting;
        let newer = self.candidates.iter().filter(of_the_same).any(|held| held.stored >= entry.stored.stored);
        let now = SystemTime::now();
        let soft = tiers.doubts(&self.key, &entry.stored, now);
        let reuse = reuse::reuse(&self.asked, &entry.stored.terms, soft, self.arrived, now);
        // What is fetched ahead of its time is fresh still; only another node's newer one spares the fetch.
        let serves = reuse == Reuse::Serve && entry.stored.seen >= self.after && !(self.ahead && newer);
        if !serves && newer {
            return None;
        }
        let bytes = entry.apart.as_ref().map_or(0, |apart| apart.length);
        let _reserved = self.fetching.flights.held().reserve(bytes)?;
        let stored = fleet.tier.whole(&self.key, entry).await.ok()??;
        if !tiers.adopt(self.key, &stored) {
            return None; // purged while its content was read
        }
        if serves {
            return Some(stored);
        }
        self.candidates.retain(|held| held.selecting != stored.selecting);
        self.candidates.insert(0, stored);
        None
    }
}

/// Whether a part that came later shows that a whole is no more what its origin has.
fn outdates(part: &Stored, whole: &Entry) -> bool {
    let held = (&part.headers, parts::length(&part.body));
    part.stored >= whole.stored.stored && !parts::may_be_of_one(held, (&whole.stored.headers, whole.length()))
}

/// What the fleet has stored for a request.
pub(super) enum Shared {
    /// It serves it.
    Serves(Arc<Stored>),
    /// It is past its time, or what this node has is; it may stand in where the origin fails.
    Stale(Arc<Stored>),
}

/// Gives an answer to the fleet, and the lease back with it.
pub(super) async fn give(tiers: &'static Tiers, key: Key, stored: &Arc<Stored>, terms: Share) {
    let Some(fleet) = tiers.fleet() else { return };
    if let Body::Parts { .. } = &stored.body {
        // Nodes share wholes alone.
        return give_up(tiers, &key, terms.lease, None).await;
    }
    match terms {
        Share { lease: Some(lease), head_alone: false } => {
            // An error leaves the lease to run out.
            let _ = fleet.tier.store(&key, stored, Some(lease.token())).await;
        }
        Share { lease: Some(lease), head_alone: true } => {
            let _ = fleet.tier.freshen(&key, stored, Some(lease.token())).await;
        }
        Share { lease: None, head_alone } => fleet.tier.store_behind(key, stored.clone(), head_alone),
    }
}

/// How an answer is given to the fleet.
pub(super) struct Share {
    pub(super) lease: Option<Held>,
    /// Whether its body is there already.
    pub(super) head_alone: bool,
}

/// Gives a lease back without an answer.
pub(super) async fn give_up(tiers: &Tiers, key: &Key, lease: Option<Held>, why: Option<NotKept>) {
    if let (Some(fleet), Some(lease)) = (tiers.fleet(), lease) {
        let verdict = if why.is_some() { Verdict::Uncacheable } else { Verdict::Failed };
        let _ = fleet.tier.release(key, lease.token(), verdict).await;
    }
}
