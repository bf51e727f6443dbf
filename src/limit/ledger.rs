//! Quotas: how much of each was used in the present window of the calendar, kept in Redis for all nodes.
//!
//! Redis has an account for each key ([`script`]), by its own clock, which outlives every node. A node does not ask for each request: of a
//! key that is busy it takes some beforehand ([`Holding`]), and gives back what it does not need. While Redis is away, each node admits its part
//! of what was left, or all, or none, and tells Redis of them afterwards.

mod holding;
mod script;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::{sleep, timeout_at};

use crate::telemetry::meters::Meters;

use super::calendar::{Span, Window};
use super::counted::{Short, Verdict};
use super::fleet::Nodes;
use super::key::Key;
use super::leases::Leases;
use super::places::{MOST, Places};
use super::{Quota, StoreFailure};

use holding::{Holding, Idle, Scene, Taken};
use script::{Entry, SETTLE, Settled};

/// After so long what a key has in hand and does not use is given back, and Redis told of what was admitted without it.
const IDLE: Duration = Duration::from_secs(1);

/// What is used of a quota under each key, by all nodes together.
#[derive(Debug)]
pub(super) struct Ledger {
    window: Window,
    nodes: Nodes,
    places: Places<Holding>,
    /// What its keys are hashed under.
    secret: [u8; 32],
    began: Instant,
    /// By how many milliseconds Redis's clock is ahead.
    ahead: AtomicI64,
    /// Whether a task sees to it that Redis is told of what was admitted without it.
    telling: AtomicBool,
    leases: Leases,
}

/// How much there is, and what becomes of requests while nobody can tell what is left of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) quota: Quota,
    pub(super) on_failure: StoreFailure,
}

/// What an account says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Requests that were admitted in this window, with those that nodes have in hand.
    pub used: u64,
    /// Requests that were granted on top of the quota.
    pub granted: u64,
    /// How many are left.
    pub left: u32,
    /// The window.
    pub span: Span,
}

/// What is to be done with an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Read,
    /// Forget what was used and granted.
    Reset,
    /// Grant so many more in this window.
    Grant(u32),
}

/// What a request is to do.
enum Next {
    Told(Verdict),
    /// Wait until Redis has answered, and look again.
    Wait(watch::Receiver<()>),
}

impl Ledger {
    /// Counts what `identity` says, which is the same on all nodes and for as long as what was used is to be known.
    pub(super) fn new(identity: &str, window: Window, nodes: Nodes, meters: &Meters, route: &str) -> Self {
        Self {
            window,
            nodes,
            places: Places::new(MOST, meters.limit_keys.with([route])),
            secret: blake3::derive_key("tidegate: a quota that nodes share", identity.as_bytes()),
            began: Instant::now(),
            ahead: AtomicI64::new(0),
            telling: AtomicBool::new(false),
            leases: Leases::new(meters, route),
        }
    }

    /// What values of keys are hashed under, the same on all nodes.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Whether a request of this key is decided without waiting for Redis.
    pub(super) fn is_ready(&self, key: &Key, terms: Terms) -> bool {
        if self.nodes.are_away() {
            return true;
        }
        let scene = self.scene(terms);
        self.places.shard(key).get(key).is_some_and(|holding| holding.is_ready(&scene))
    }

    /// Counts one request; waits for Redis where it must, for its patience at the most.
    pub(super) async fn charge(self: &Arc<Self>, key: Key, terms: Terms) -> Verdict {
        let deadline = tokio::time::Instant::now() + self.nodes.patience();
        loop {
            let mut asked = match self.next(&key, terms) {
                Next::Told(verdict) => return verdict,
                Next::Wait(asked) => asked,
            };
            // It ends when the asking does: nothing is ever sent.
            if timeout_at(deadline, asked.changed()).await.is_err() {
                return self.charge_apart(&key, self.scene(terms), terms);
            }
        }
    }

    /// Counts one request without waiting: where Redis would have to be asked, by this node's part of what is left.
    pub(super) fn charge_at_once(self: &Arc<Self>, key: Key, terms: Terms) -> Verdict {
        match self.next(&key, terms) {
            Next::Told(verdict) => verdict,
            // Redis is not away for that.
            Next::Wait(_) => {
                let scene = Scene { on_failure: StoreFailure::Local, ..self.scene(terms) };
                self.charge_apart(&key, scene, terms)
            }
        }
    }

    fn next(self: &Arc<Self>, key: &Key, terms: Terms) -> Next {
        let scene = self.scene(terms);
        let mut places = self.places.shard(key);
        let holding = places.get_or_new(key, scene.now, || Holding::new(scene.now));
        let taken = holding.take(&scene);
        if taken == Taken::Later {
            holding.waits();
        }
        if holding.wants(&scene) {
            self.ask(key, holding, &scene);
        }
        self.see_to_telling(holding, terms);
        match (taken, holding.asked()) {
            (Taken::Later, Some(asked)) => Next::Wait(asked),
            (taken, _) => Next::Told(verdict(taken, &scene)),
        }
    }

    fn charge_apart(self: &Arc<Self>, key: &Key, scene: Scene, terms: Terms) -> Verdict {
        let mut places = self.places.shard(key);
        let holding = places.get_or_new(key, scene.now, || Holding::new(scene.now));
        let taken = holding.take_apart(&scene);
        self.see_to_telling(holding, terms);
        verdict(taken, &scene)
    }

    /// Has Redis told of what was admitted without it, once it is back, whether or not somebody asks for the key again.
    fn see_to_telling(self: &Arc<Self>, holding: &Holding, terms: Terms) {
        if holding.owes() && !self.telling.swap(true, Ordering::Relaxed) {
            let ledger = Arc::clone(self);
            tokio::spawn(async move { ledger.tell_all(terms).await });
        }
    }

    /// Tells Redis of all keys that owe something, until none does.
    async fn tell_all(&self, terms: Terms) {
        loop {
            sleep(IDLE).await;
            if self.nodes.are_away() {
                continue;
            }
            for key in self.places.keys(Holding::owes) {
                self.tell(&key, terms).await;
            }
            self.telling.store(false, Ordering::Relaxed);
            // One that owed something meanwhile has left it to this task.
            if self.places.keys(Holding::owes).is_empty() || self.telling.swap(true, Ordering::Relaxed) {
                return;
            }
        }
    }

    async fn tell(&self, key: &Key, terms: Terms) {
        let (ended, asked) = watch::channel(());
        let scene = self.scene(terms);
        let entry = self.places.shard(key).get(key).and_then(|holding| holding.tells(&scene, asked));
        if let Some(entry) = entry {
            self.lease(key, terms.quota.count, entry).await;
        }
        drop(ended);
    }

    /// Asks Redis for more, in a task of its own: whoever waits for it may go.
    fn ask(self: &Arc<Self>, key: &Key, holding: &mut Holding, scene: &Scene) {
        let (ended, asked) = watch::channel(());
        let entry = holding.begins(scene, asked);
        let (ledger, key, quota) = (Arc::clone(self), *key, scene.quota);
        tokio::spawn(async move {
            let is_to_be_watched = ledger.lease(&key, quota, entry).await;
            drop(ended);
            if is_to_be_watched {
                ledger.watch_over(&key).await;
            }
        });
    }

    /// Takes requests for a key; whether somebody is to see to those that are not used.
    async fn lease(&self, key: &Key, quota: u32, entry: Entry) -> bool {
        let answer = self.settle(key, quota, entry).await;
        let now = self.now();
        let mut places = self.places.shard(key);
        let holding = places.get_or_new(key, now, || Holding::new(now));
        self.leases.count(answer.as_ref().map(|(settled, _)| settled.taken.unwrap_or(0)));
        let Some((settled, span)) = answer else {
            holding.failed(now);
            return false;
        };
        holding.came(&settled, &entry, span, now);
        holding.is_to_be_watched()
    }

    /// Gives back what a key has in hand, once nobody has asked for a while.
    async fn watch_over(&self, key: &Key) {
        loop {
            let since = self.now();
            sleep(IDLE).await;
            let idle = match self.places.shard(key).get(key) {
                Some(holding) => holding.gives_back(since),
                None => Idle::Nothing,
            };
            match idle {
                Idle::Nothing => return,
                Idle::NotYet => {}
                Idle::Back(hand, span) => {
                    let entry = Entry { owed: -i64::from(hand), ..Entry::default() };
                    // If it is lost, so are these requests: no more than a part of the quota.
                    let _ = self.send(key, 0, entry, span).await;
                    return;
                }
            }
        }
    }

    /// Reads an account, and changes it; `None` where Redis does not answer.
    pub(super) async fn account(&self, key: &Key, quota: u32, deed: Deed) -> Option<Account> {
        let entry = match deed {
            Deed::Read => Entry::default(),
            Deed::Reset => Entry { reset: true, ..Entry::default() },
            Deed::Grant(more) => Entry { more, ..Entry::default() },
        };
        let (settled, span) = self.settle(key, quota, entry).await?;
        if let Some(holding) = self.places.shard(key).get(key).filter(|_| deed != Deed::Read) {
            holding.is_settled_anew();
        }
        let Settled { used, granted, left, .. } = settled;
        Some(Account { used, granted, left, span })
    }

    /// Makes an entry in the present window, which Redis knows best.
    async fn settle(&self, key: &Key, quota: u32, entry: Entry) -> Option<(Settled, Span)> {
        let mut span = self.window.at(self.wall() / 1000);
        let settled = self.send(key, quota, entry, span).await?;
        if settled.taken.is_some() {
            return Some((settled, span));
        }
        span = self.window.at(settled.now / 1000);
        // What is owed is owed in the window that is over.
        let settled = self.send(key, quota, Entry { owed: 0, ..entry }, span).await?;
        settled.taken.is_some().then_some((settled, span))
    }

    async fn send(&self, key: &Key, quota: u32, entry: Entry, span: Span) -> Option<Settled> {
        let name = format!("quota:{}", key.hidden(&self.secret));
        let arguments = entry.arguments(span, quota);
        let arguments = arguments.each_ref().map(String::as_bytes);
        let read = |answer| Settled::read(answer, &entry, quota);
        let settled = self.nodes.ask("quota", &SETTLE, &name, &arguments, read).await?;
        let ahead = i128::from(settled.now) - i128::from(local_ms());
        self.ahead.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
        Some(settled)
    }

    fn scene(&self, terms: Terms) -> Scene {
        let wall = self.wall();
        let span = self.window.at(wall / 1000);
        Scene {
            now: self.now(),
            span,
            remains: Duration::from_millis((span.until * 1000).saturating_sub(wall)),
            quota: terms.quota.count,
            nodes: self.nodes.live(),
            away: self.nodes.are_away(),
            on_failure: terms.on_failure,
        }
    }

    /// Redis's time in milliseconds since 1970, as far as it is known.
    fn wall(&self) -> u64 {
        local_ms().saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Nanoseconds since it began.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn verdict(taken: Taken, scene: &Scene) -> Verdict {
    match taken {
        Taken::Admitted { left } => Ok((left, scene.remains)),
        Taken::Unknown => Err(Short::Unknown),
        Taken::Spent | Taken::Later => Err(Short::Spent(scene.remains)),
    }
}

fn local_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
