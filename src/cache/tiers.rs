//! Where answers are kept: memory, over what the fleet shares; and the order of purges over both.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tokio::task::JoinHandle;

use super::asking::Asking;
use super::fleet::{Fleet, Joining, Told};
use super::flight::Flight;
use super::freshness::Times;
use super::hearing::Hearing;
use super::marker::Keys;
use super::marks::Unstored;
use super::memory::Memory;
use super::merge::{self, HeadSays};
use super::policy::NotKept;
use super::purge::{Purge, Target};
use super::purges::{Covered, Purges};
use super::said::Said;
use super::status::Forwarded;
use super::stored::{Body, Key, Resource, Stamp, Stored, Terms};
use super::vary::{Selecting, Unbounded};
use super::writes::{Way, Writes, Written};
use super::{compact, parts, policy, vary};
use crate::redis::Redis;
use crate::telemetry::meters::Meters;
use crate::telemetry::{OwnWriteMeters, PurgeKind, PurgeMeters, PurgeOrigin};

/// The store of a process. Outlives every reload.
pub struct Tiers {
    memory: Memory,
    /// The order of purges.
    pub purges: Arc<Purges>,
    /// The order of writes.
    pub writes: Writes,
    /// What seals the markers of clients that wrote.
    pub marker_keys: Keys,
    /// URLs whose answers are not stored.
    pub unstored: Unstored,
    /// What is counted of these.
    pub own_writes: OwnWriteMeters,
    /// Whether changes at the origin are heard of.
    pub hearing: Hearing,
    pub(super) purge_meters: PurgeMeters,
    pub(super) fleet: Option<Fleet>,
}

/// What is stored for a request.
#[derive(Debug)]
pub struct Found {
    /// What suits it.
    pub suits: Option<Suits>,
    /// Why there is none, if there is none.
    pub why: Forwarded,
}

/// A stored answer that suits a request.
#[derive(Debug)]
pub struct Suits {
    /// The answer.
    pub stored: Arc<Stored>,
    /// Whether it was purged softly: stale, whatever its lifetime says.
    pub soft: bool,
}

impl Tiers {
    /// A store that holds up to `memory_bytes`, over what nodes share, if they do. Made once, for as long as the process
    /// lives; [`Tiers::run`] is to be run beside it.
    pub fn new(memory_bytes: u64, meters: &Meters, fleet: Option<(Redis, Joining)>) -> &'static Self {
        let purges = Arc::new(Purges::new());
        Box::leak(Box::new(Self {
            memory: Memory::new(memory_bytes, meters),
            unstored: Unstored::new(),
            hearing: Hearing::default(),
            purge_meters: PurgeMeters::new(meters),
            own_writes: OwnWriteMeters::new(meters),
            writes: Writes::new(fleet.is_none()),
            marker_keys: Keys::draw(),
            fleet: fleet.map(|(redis, joining)| Fleet::new(redis, joining, &purges)),
            purges,
        }))
    }

    /// Keeps in touch with the fleet; nothing to do without one.
    pub async fn run(&'static self) {
        if let Some(fleet) = &self.fleet {
            fleet.run(self).await;
        }
    }

    /// Waits until other nodes are told of all purges, and have what they are to share; false if that takes too long.
    pub async fn drained(&self, within: Duration) -> bool {
        match &self.fleet {
            Some(fleet) => fleet.drained(within).await,
            None => true,
        }
    }

    /// Where nodes share answers, if they do, while this one sees what they purge.
    pub fn fleet(&self) -> Option<&Fleet> {
        self.fleet.as_ref().filter(|fleet| fleet.shares && fleet.sees())
    }

    /// The same; a process that has just started waits for a moment until it does.
    pub async fn fleet_soon(&self) -> Option<&Fleet> {
        let fleet = self.fleet.as_ref().filter(|fleet| fleet.shares)?;
        fleet.sees_soon().await.then_some(fleet)
    }

    /// Answers in memory, and bytes that they take.
    pub fn held(&self) -> (usize, u64) {
        (self.memory.len(), self.memory.weight())
    }

    /// What is held in memory of a URL; does not count as a use.
    pub fn peek(&self, key: &Key) -> Option<Arc<Resource>> {
        self.memory.peek(key)
    }

    /// The largest body that can be stored, in bytes.
    pub fn largest(&self) -> u64 {
        self.memory.largest()
    }

    /// The newest answer in memory that suits a request.
    pub fn find(&self, asking: &Asking, request: &HeaderMap) -> Found {
        let Some(resource) = self.memory.get(&asking.key) else {
            return Found { suits: None, why: Forwarded::UriMiss };
        };
        for stored in &resource.variants {
            if asking.suits(stored, request) {
                let soft = match self.purges.covers(&asking.key, stored) {
                    Some(Covered::Hard) => continue,
                    covered => covered.is_some() || self.distrusts(stored, asking.arrived),
                };
                let suits = Some(Suits { stored: stored.clone(), soft });
                return Found { suits, why: Forwarded::Miss };
            }
        }
        // One that suits but for its caller says that more than fields is in the way.
        let but_for_the_caller = resource.variants.iter().any(|stored| stored.selecting.matches(request));
        let why = if but_for_the_caller { Forwarded::Miss } else { Forwarded::VaryMiss };
        Found { suits: None, why }
    }

    /// Whether an answer in memory is to be validated first, as purges, or changes at the origin, have not been heard of for
    /// too long.
    pub fn distrusts(&self, stored: &Stored, now: SystemTime) -> bool {
        self.hearing.distrusts(stored, now)
            || self.fleet.as_ref().is_some_and(|fleet| fleet.distrusts(stored, now))
    }

    /// Whether an answer from outside is to be validated first: it was purged softly, or changes at the origin have not been
    /// heard of for too long.
    pub fn doubts(&self, key: &Key, stored: &Stored, now: SystemTime) -> bool {
        self.meets(key, stored).is_some() || self.hearing.distrusts(stored, now)
    }

    /// Of which kind a request is, as far as is known before its answer: those of one kind may share a fetch. `known` is an
    /// answer of its URL that is on its way; without one, the newest that is stored says by which fields they differ.
    pub fn kind(&self, asking: &Asking, request: &HeaderMap, known: Option<&Stored>) -> u64 {
        let newest = || self.memory.peek(&asking.key)?.variants.first().cloned();
        let newest = if known.is_none() { newest() } else { None };
        match known.or(newest.as_deref()) {
            Some(known) => vary::kind(asking.authorized, known.selecting.names(), request),
            None => vary::kind(asking.authorized, &asking.rules.vary, request),
        }
    }

    /// What is stored of a URL and may be confirmed by its origin.
    pub fn candidates(&self, key: &Key) -> Vec<Arc<Stored>> {
        let Some(resource) = self.memory.peek(key) else { return Vec::new() };
        let hard = |stored: &Arc<Stored>| self.purges.covers(key, stored) == Some(Covered::Hard);
        resource.variants.iter().filter(|stored| !hard(stored)).cloned().collect()
    }

    /// Whether a purge has overtaken a fetch, or the lifetime of its answer its body.
    pub fn is_overtaken<T>(&self, key: &Key, flight: &Flight<T>, now: SystemTime) -> bool {
        match flight.filling() {
            Some(stored) => self.meets(key, &stored).is_some() || stored.terms.is_over(now),
            None => self.purges.covers_fill(flight.stamp, key, &[], "").is_some(),
        }
    }

    /// Whether a purge has met an answer that comes from outside.
    pub fn meets(&self, key: &Key, stored: &Stored) -> Option<Covered> {
        self.purges.covers_fill(stored.stamp, key, &stored.tags, &stored.url)
    }

    /// Stores an answer here and, behind, for the fleet; unless a purge has overtaken it: `false`.
    pub fn store(&self, key: Key, stored: &Arc<Stored>) -> bool {
        self.share(key, stored, false)
    }

    /// Parts stay here: nodes share wholes alone.
    fn share(&self, key: Key, stored: &Arc<Stored>, head_alone: bool) -> bool {
        let kept = self.keep(key, stored);
        if let (true, Some(fleet), Body::Whole(_)) = (kept, self.fleet(), &stored.body) {
            fleet.tier.store_behind(key, stored.clone(), head_alone);
        }
        kept
    }

    /// Stores an answer in memory, unless a purge has overtaken it: `false`.
    pub fn keep(&self, key: Key, stored: &Arc<Stored>) -> bool {
        // What was purged softly while it was fetched is stale, and stays to be confirmed.
        self.keep_unless(key, stored, || self.meets(&key, stored) == Some(Covered::Hard))
    }

    /// Stores an answer that another node shared in memory, unless it is from before a purge, or may be: `false`.
    pub fn adopt(&self, key: Key, stored: &Arc<Stored>) -> bool {
        // Its node may have read more of the log: a purge of this node must be later all the same.
        self.purges.reach(stored.stamp);
        self.keep_unless(key, stored, || self.refuses(&key, stored))
    }

    /// Whether an answer that another node shared is from before a purge, or may be.
    pub fn refuses(&self, key: &Key, stored: &Stored) -> bool {
        // In this order: a purge is doubted no more once its place is noted, and from then on is found there.
        self.fleet.as_ref().is_some_and(|fleet| fleet.doubts(key, stored))
            || self.meets(key, stored) == Some(Covered::Hard)
    }

    fn keep_unless(&self, key: Key, stored: &Arc<Stored>, is_purged: impl Fn() -> bool) -> bool {
        let mut kept = false;
        self.memory.update(key, |old| {
            kept = !is_purged();
            if !kept {
                return old.cloned();
            }
            Some(old.map_or_else(Resource::default, Clone::clone).with(stored.clone()))
        });
        kept
    }

    /// Another form of an answer has been made: from now on its bytes count, too.
    pub fn weigh_again(&self, key: &Key) {
        self.memory.update(*key, |old| Some(old?.clone()));
    }

    /// Forgets one answer, which its origin lets nobody keep any more: here, and soon where the fleet would find it.
    pub fn withdraw(&self, key: &Key, stored: &Stored) {
        self.memory.update(*key, |old| {
            let left = old?.variants.iter().filter(|other| other.selecting != stored.selecting);
            let variants: Vec<_> = left.cloned().collect();
            (!variants.is_empty()).then_some(Resource { variants })
        });
        if let Some(fleet) = self.fleet() {
            fleet.tier.withdraw_behind(*key, stored);
        }
    }

    /// Forgets, or makes stale, what a purge names: here at once, on other nodes soon.
    pub fn purge(&'static self, purge: &Purge, origin: PurgeOrigin) {
        drop(self.purge_here(purge, origin));
    }

    /// The same; returns once the other nodes hear of it, or will when Redis is back.
    ///
    /// With it, how many URLs left memory at once; `None` where what is met goes as it is found.
    pub async fn purge_and_tell(&'static self, purge: &Purge, origin: PurgeOrigin) -> (Told, Option<u64>) {
        let (here, told) = self.purge_here(purge, origin);
        let told = match told {
            // It ends without an answer only where the process does.
            Some(told) => told.await.unwrap_or(Told::Later),
            None => Told::Alone,
        };
        (told, here)
    }

    /// Forgets, or makes stale, what an event at the origin names, which other nodes may hear as well: here at once, on others
    /// as soon as one of them has heard it. Whoever fetches after that is shown what the event tells of.
    ///
    /// The task tells them, and ends with what came of it; `None` where there is nobody to tell. What another node has told of this event
    /// is done already.
    pub fn purge_heard(&'static self, event: Said, purges: &[Purge]) -> Option<JoinHandle<Told>> {
        if let Some(newer) = &event.newer {
            self.writes.tell(newer, Way::Own);
        }
        let fleet = self.fleet.as_ref();
        let is_new = |purge: &&Purge| !fleet.is_some_and(|fleet| fleet.has_place(&event, purge));
        let purges: Vec<&Purge> = purges.iter().filter(is_new).collect();
        let telling = fleet.map(|fleet| {
            (fleet, purges.iter().map(|purge| fleet.telling((*purge).clone())).collect::<Vec<_>>())
        });
        for purge in &purges {
            self.purges.note(purge);
            self.purge_meters.purged(kind_of(purge), PurgeOrigin::Event);
            self.sweep(purge);
        }
        let (fleet, telling) = telling.filter(|(_, telling)| !telling.is_empty())?;
        let tell = async move { fleet.tell_heard(&event, telling, &self.purges).await };
        Some(tokio::spawn(tell))
    }

    /// Purges here, and tells the other nodes in a task of its own: they are told whether or not whoever gave the order
    /// stays.
    fn purge_here(
        &'static self,
        purge: &Purge,
        origin: PurgeOrigin,
    ) -> (Option<u64>, Option<JoinHandle<Told>>) {
        // Before it is noted: what other nodes shared is doubted for as long as stamps do not tell.
        let told = self.fleet.as_ref().map(|fleet| (fleet, fleet.telling(purge.clone())));
        self.purges.note(purge);
        self.purge_meters.purged(kind_of(purge), origin);
        let here = self.sweep(purge);
        (here, told.map(|(fleet, telling)| tokio::spawn(fleet.tell(telling, &self.purges))))
    }

    /// Purges what a successful unsafe request has outdated. Where the request is a write that clients are shown, that comes first, so
    /// that who hears of the purges knows how to ask; the write's place in the order of writes, or the last of all where nobody can say.
    ///
    /// Neither a client that leaves meanwhile nor the end of the process ([`Tiers::drained`]) comes between the write and its purges.
    pub async fn outdate(&'static self, written: Option<Written>, outdated: Vec<Target>) -> Option<Stamp> {
        let hard = |target| Purge { target, soft: false };
        let purges: Vec<Purge> = outdated.into_iter().map(hard).collect();
        let purge = move |purges: &[Purge]| {
            for purge in purges {
                self.purge(purge, PurgeOrigin::Unsafe);
            }
        };
        let Some(written) = written else {
            purge(&purges);
            return None;
        };
        // Until each is on its way by itself.
        let telling = self
            .fleet
            .as_ref()
            .map(|fleet| purges.iter().map(|purge| fleet.telling(purge.clone())).collect::<Vec<_>>());
        let write = tokio::spawn(async move {
            let place = self.wrote(&written).await;
            purge(&purges);
            drop(telling);
            place
        });
        // It ends without an answer only where the process does.
        Some(write.await.unwrap_or(Stamp(u64::MAX)))
    }

    /// Notes a write that has succeeded and tells the other nodes.
    async fn wrote(&self, written: &Written) -> Stamp {
        let place = match (self.writes.note(written), &self.fleet) {
            (None, Some(fleet)) => fleet.write(written).await,
            (place, _) => place,
        };
        place.unwrap_or(Stamp(u64::MAX))
    }

    /// Removes from memory what can be removed at once, and counts it; what remains is covered by the stamp of the purge.
    pub(super) fn sweep(&'static self, purge: &Purge) -> Option<u64> {
        match &purge.target {
            Target::Url(key) if !purge.soft => Some(self.memory.remove(key).into()),
            Target::Everything if !purge.soft => {
                let held = self.memory.len() as u64;
                // It is of no use to anybody any more; to free it may take a while.
                tokio::task::spawn_blocking(|| self.memory.clear());
                Some(held)
            }
            _ => None,
        }
    }

    /// What the answer to a HEAD says of the stored answer to a GET (RFC 9111 §4.3.5).
    pub fn told_by_head(
        &self,
        asking: &Asking,
        request: &HeaderMap,
        status: StatusCode,
        answer: &HeaderMap,
        times: Times,
    ) {
        let Some(Suits { stored, .. }) = self.find(asking, request).suits else { return };
        let length = parts::length(&stored.body);
        match merge::head_says(stored.status, &stored.headers, length, status, answer) {
            HeadSays::Nothing => {}
            HeadSays::Invalidate => {
                let terms =
                    Terms { fresh_until: stored.terms.born, never_stale: true, ..stored.terms.clone() };
                self.share(asking.key, &Arc::new(Stored { terms, ..(*stored).clone() }), true);
            }
            HeadSays::Freshen => self.freshen(asking, request, &stored, answer, times),
        }
    }

    /// Puts the fields of an answer to HEAD into the stored answer to GET; where these forbid to keep it, it is
    /// forgotten, unless that is for this request alone.
    fn freshen(
        &self,
        asking: &Asking,
        request: &HeaderMap,
        stored: &Arc<Stored>,
        answer: &HeaderMap,
        times: Times,
    ) {
        let (rules, fields) = (&asking.rules, (request, asking.authorized));
        let headers = merge::renewed(&stored.headers, answer, rules);
        let kept = policy::keep(&http::Method::GET, fields, stored.status, &headers, rules, times);
        let kept = kept.and_then(|terms| {
            let selecting = Selecting::of(&headers, rules, request);
            selecting.map(|selecting| (terms, selecting)).map_err(|Unbounded| NotKept::Vary)
        });
        match kept {
            Ok((terms, selecting)) => {
                let headers = compact(&policy::stored_headers(&headers, rules, times.answered));
                let fresh = Stored { headers, terms, selecting, ..(**stored).clone() };
                self.share(asking.key, &Arc::new(fresh), true);
            }
            Err(reason) if reason.is_of_request() => {}
            Err(_) => self.withdraw(&asking.key, stored),
        }
    }
}

/// What a purge names, for the metric.
pub(super) fn kind_of(purge: &Purge) -> PurgeKind {
    match purge.target {
        Target::Url(_) => PurgeKind::Url,
        Target::Tag(_) => PurgeKind::Tag,
        Target::Prefix(_) => PurgeKind::Prefix,
        Target::Everything => PurgeKind::All,
    }
}
