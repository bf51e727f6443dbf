//! Counting together with the other nodes, over Redis, and alone while Redis is away.
//!
//! Redis keeps one number for each key: GCRA's, by Redis's clock ([`script`]). A node does not ask it for each request. It takes a few
//! at once for a key that is busy here ([`Share`]), admits so many by itself, and takes the next before it runs out. While there are none
//! to be had, it refuses by itself as well.
//!
//! Where Redis does not answer, each node admits its part: the rate over the nodes that were last seen ([`Nodes`]).

mod nodes;
mod script;
mod share;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::telemetry::meters::Meters;

use super::counted::{Short, Verdict};
use super::key::Key;
use super::leases::Leases;
use super::places::{MOST, Places};
use super::{Rate, Rule};

use script::{Ask, LEASE, Lease};
use share::{Share, Taken, Terms};

pub use nodes::Nodes;

/// What is used of a rate under each key, by all nodes together.
#[derive(Debug)]
pub(super) struct Fleet {
    terms: Terms,
    nodes: Nodes,
    places: Places<Share>,
    /// The name of the rule in Redis, and what its keys are hashed under there.
    secret: [u8; 32],
    began: Instant,
    leases: Leases,
}

/// What a request is to do.
enum Next {
    Told(Verdict),
    /// Wait until Redis has answered, and look again.
    Wait(watch::Receiver<()>),
}

impl Fleet {
    /// Counts a rate of the rule `name`, which is the same on all nodes.
    pub(super) fn new(
        name: &str,
        rate: Rate,
        rule: &Rule,
        nodes: Nodes,
        meters: &Meters,
        route: &str,
    ) -> Self {
        let key = &rule.key;
        let told = format!("{name}\0{rate:?}\0{key:?}");
        Self {
            terms: Terms::of(rate).when_away(rule.on_store_failure),
            nodes,
            places: Places::new(MOST, meters.limit_keys.with([route])),
            secret: blake3::derive_key("tidegate: a limit that nodes share", told.as_bytes()),
            began: Instant::now(),
            leases: Leases::new(meters, route),
        }
    }

    /// What values of keys are hashed under, the same on all nodes.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Whether a request of this key is decided without waiting for Redis.
    pub(super) fn is_ready(&self, key: &Key) -> bool {
        if self.nodes.are_away() {
            return true;
        }
        let now = self.now();
        self.places.shard(key).get(key).is_some_and(|share| share.is_ready(now))
    }

    /// Counts one request; waits for Redis where it must, for its patience at the most.
    pub(super) async fn charge(self: &Arc<Self>, key: Key) -> Verdict {
        let deadline = tokio::time::Instant::now() + self.nodes.patience();
        loop {
            let mut asked = match self.next(&key) {
                Next::Told(verdict) => return verdict,
                Next::Wait(asked) => asked,
            };
            // It ends when the asking does: nothing is ever sent.
            if timeout_at(deadline, asked.changed()).await.is_err() {
                return self.charge_apart(&key, Share::take_apart);
            }
        }
    }

    /// Counts one request without waiting: where Redis would have to be asked, by this node's part of the rate.
    pub(super) fn charge_at_once(self: &Arc<Self>, key: Key) -> Verdict {
        match self.next(&key) {
            Next::Told(verdict) => verdict,
            // Redis is not away for that.
            Next::Wait(_) => self.charge_apart(&key, Share::take_part),
        }
    }

    fn next(self: &Arc<Self>, key: &Key) -> Next {
        let now = self.now();
        let mut places = self.places.shard(key);
        let share = places.get_or_new(key, now, || Share::new(now, &self.terms));
        let away = self.nodes.are_away();
        let taken = match share.take(now, &self.terms, self.nodes.live()) {
            Taken::Later if away => share.take_apart(now, &self.terms, self.nodes.live()),
            taken => taken,
        };
        if let Taken::Later = taken {
            share.waits();
        }
        if share.wants(now, &self.terms) && !away {
            self.ask(key, share, now);
        }
        match (taken, share.asked()) {
            (Taken::Later, Some(asked)) => Next::Wait(asked),
            (taken, _) => Next::Told(self.verdict(taken)),
        }
    }

    fn verdict(&self, taken: Taken) -> Verdict {
        match taken {
            Taken::Admitted { left } => Ok((left, self.terms.all_back(left))),
            Taken::Refused { wait } => Err(Short::Spent(wait)),
            Taken::Unknown => Err(Short::Unknown),
            Taken::Later => Err(Short::Spent(self.terms.interval())),
        }
    }

    fn charge_apart(&self, key: &Key, take: fn(&mut Share, u64, &Terms, u32) -> Taken) -> Verdict {
        let now = self.now();
        let mut places = self.places.shard(key);
        let share = places.get_or_new(key, now, || Share::new(now, &self.terms));
        self.verdict(take(share, now, &self.terms, self.nodes.live()))
    }

    /// Asks Redis for more, in a task of its own: whoever waits for it may go.
    fn ask(self: &Arc<Self>, key: &Key, share: &mut Share, now: u64) {
        let (ended, asked) = watch::channel(());
        let ask = share.begins(now, &self.terms, self.nodes.stretch(), asked);
        let (fleet, key) = (Arc::clone(self), *key);
        tokio::spawn(async move {
            fleet.lease(key, ask).await;
            drop(ended);
        });
    }

    async fn lease(&self, key: Key, ask: Ask) {
        let name = format!("limit:{}", key.hidden(&self.secret));
        let arguments = ask.arguments();
        let arguments = arguments.each_ref().map(String::as_bytes);
        let read = |answer| Lease::read(answer, &ask);
        let answer = self.nodes.ask("limit", &LEASE, &name, &arguments, read).await;
        self.leases.count(answer.as_ref().map(|lease| lease.granted));
        let now = self.now();
        let mut places = self.places.shard(&key);
        let share = places.get_or_new(&key, now, || Share::new(now, &self.terms));
        match answer {
            Some(lease) => share.came(&lease, &ask, now, &self.terms),
            None => share.failed(now, &self.terms),
        }
    }

    /// Nanoseconds since it began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
