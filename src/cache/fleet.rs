//! What nodes share: the second tier, and the log of purges.
//!
//! Answers from Redis are trusted only while this node sees the log to its end: a purge that it has not heard of may
//! have met them. What is in memory is trusted for a while longer ([`Fleet::distrusts`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;

use super::bus::{Bus, Event, Sight};
use super::purge::{Purge, Target};
use super::purges::Purges;
use super::redis::{Tier, TierCounters};
use super::said::Said;
use super::stored::{Key, Stamp, Stored};
use super::untold::Telling;
use super::writes::{Way, Written};
use super::{Tiers, tiers};
use crate::redis::Redis;
use crate::telemetry::{PurgeMeters, PurgeOrigin};

/// This node's part in the fleet.
pub struct Fleet {
    /// The second tier.
    pub tier: Tier,
    /// Whether answers are shared, or purges alone.
    pub(super) shares: bool,
    bus: Bus,
    /// Since when the log is not seen, in milliseconds since 1970; 0 while it is.
    blind_since: AtomicU64,
    blind_max: Duration,
    queue: Gauge,
    began: Instant,
}

/// How long after its start a process waits for the log to be seen, where a request needs it: its first answers are in
/// Redis, most likely, and the log is seen within a few milliseconds.
const FIRST_SIGHT: Duration = Duration::from_millis(500);

/// How often whoever waits for purges to be told looks whether they are.
const STEP: Duration = Duration::from_millis(5);

/// How the fleet is joined.
#[derive(Debug)]
pub struct Joining {
    /// Whether answers are shared; purges are in any case.
    pub shares: bool,
    /// For how long memory is trusted while the log of purges cannot be read.
    pub blind_max: Duration,
    /// The largest body that is shared, in bytes.
    pub max_object: u64,
    /// What the tier counts.
    pub counters: TierCounters,
    /// Answers and purges that wait to be written.
    pub queue: Gauge,
}

/// Whether other nodes know of a purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// They hear of it now.
    Now,
    /// There are none.
    Alone,
    /// They will, once Redis is back.
    Later,
}

impl Fleet {
    pub(super) fn new(redis: Redis, joining: Joining, purges: &Arc<Purges>) -> Self {
        let purges = purges.clone();
        let valid = Box::new(move |key: &_, stored: &Stored| {
            purges.covers_fill(stored.stamp, key, &stored.tags, &stored.url).is_none()
        });
        Self {
            tier: Tier::new(redis.clone(), joining.max_object, valid, joining.counters),
            shares: joining.shares,
            bus: Bus::new(redis),
            blind_since: AtomicU64::new(millis(SystemTime::now())),
            blind_max: joining.blind_max,
            queue: joining.queue,
            began: Instant::now(),
        }
    }

    /// Whether purges of other nodes are heard as they come.
    pub fn sees(&self) -> bool {
        self.blind_since.load(Ordering::Acquire) == 0
    }

    /// The same; a process that has just started waits for a moment until it is so.
    pub(super) async fn sees_soon(&self) -> bool {
        let left = FIRST_SIGHT.saturating_sub(self.began.elapsed());
        if self.sees() || left.is_zero() {
            return self.sees();
        }
        let mut sight = self.bus.sight();
        let seeing = sight.wait_for(|sight| *sight == Sight::Seeing);
        tokio::time::timeout(left, seeing).await.is_ok_and(|sight| sight.is_ok())
    }

    /// Whether an answer in memory is not to be used without asking: the log has not been read for longer than it is
    /// trusted without, and so long ago it was stored.
    pub(super) fn distrusts(&self, stored: &Stored, now: SystemTime) -> bool {
        let since = self.blind_since.load(Ordering::Relaxed);
        if since == 0 {
            return false;
        }
        let sure = stored.stored.max(UNIX_EPOCH + Duration::from_millis(since));
        now.duration_since(sure).is_ok_and(|blind| blind > self.blind_max)
    }

    /// Notes a purge that is about to be noted here and told: from now on [`Fleet::doubts`] what it names.
    pub(super) fn telling(&self, purge: Purge) -> Telling<'_> {
        self.bus.telling(purge)
    }

    /// Whether a purge that comes of an event was noted here already, as another node has told of it.
    pub(super) fn has_place(&self, event: &Said, purge: &Purge) -> bool {
        self.bus.has_place(event, purge)
    }

    /// Tells the other nodes of a purge that was noted here.
    pub(super) async fn tell(&self, telling: Telling<'_>, purges: &Purges) -> Told {
        let told = match self.bus.publish(telling.purge.clone()).await {
            Ok(place) => {
                purges.confirm(&telling.purge, place);
                Told::Now
            }
            Err(_away) => Told::Later,
        };
        // From here on its place tells what it meets.
        drop(telling);
        self.count_unsent();
        told
    }

    /// Tells the other nodes of a write; its place in the log. `None`: they could not be told.
    pub(super) async fn write(&self, written: &Written) -> Option<Stamp> {
        self.bus.write(written).await.ok()
    }

    /// The same of purges that come of one event, which all nodes may have heard.
    pub(super) async fn tell_heard(&self, event: &Said, telling: Vec<Telling<'_>>, purges: &Purges) -> Told {
        let told: Vec<&Purge> = telling.iter().map(|telling| &telling.purge).collect();
        let told = match self.bus.publish_heard(event, &told).await {
            Ok(places) => {
                told.into_iter().zip(places).for_each(|(purge, place)| purges.confirm(purge, place));
                Told::Now
            }
            Err(_away) => Told::Later,
        };
        drop(telling);
        self.count_unsent();
        told
    }

    /// Whether an answer that another node shared may be older than a purge of this node, whatever their stamps say: the
    /// purge names it, and its place in the log is not known yet.
    pub(super) fn doubts(&self, key: &Key, stored: &Stored) -> bool {
        self.bus.is_untold(|purge| purge.names(key, &stored.tags, &stored.url))
    }

    fn count_unsent(&self) {
        self.queue.set(i64::try_from(self.bus.unsent() + self.tier.queued()).unwrap_or(i64::MAX));
    }

    /// Hears of purges, tells of them, and writes answers down, for as long as the process lives.
    pub(super) async fn run(&self, tiers: &'static Tiers) {
        let read = self.bus.run(|event| self.heard(event, tiers));
        let share = async {
            if self.shares {
                self.tier.run().await;
            }
        };
        tokio::join!(read, share, self.watch(&tiers.purge_meters));
    }

    /// Waits until each purge of this node is in the log, and each answer that it was to share is written; false if that
    /// takes too long.
    pub(super) async fn drained(&self, within: Duration) -> bool {
        let drained = async {
            while !self.bus.is_told() {
                tokio::time::sleep(STEP).await;
            }
            self.tier.drained(within).await
        };
        tokio::time::timeout(within, drained).await.unwrap_or(false)
    }

    fn heard(&self, event: Event, tiers: &'static Tiers) {
        let all = Purge { target: Target::Everything, soft: false };
        match event {
            Event::Lost => {
                tiers.purge_meters.lost();
                tiers.purges.note(&all);
                tiers.sweep(&all);
            }
            // Answers from before the log are from before purges that nobody knows any more.
            Event::Began { floor } => {
                tiers.writes.begin(floor);
                tiers.purges.note_at(&all, floor);
            }
            // Either before the purges that it caused: from here on fetches are sent with these tokens.
            Event::Said(newer) => tiers.writes.tell(&newer, Way::Fleet),
            Event::Wrote { place, written } => tiers.writes.hear(&written, place),
            Event::Sent { place, purge } => tiers.purges.confirm(&purge, place),
            Event::Purged { place, purge, own: true } => {
                tiers.purges.confirm(&purge, place);
                tiers.writes.reach(place);
            }
            Event::Purged { place, purge, own: false } => {
                tiers.purges.note_at(&purge, place);
                tiers.writes.reach(place);
                tiers.sweep(&purge);
                tiers.purge_meters.purged(tiers::kind_of(&purge), PurgeOrigin::Fleet);
                if self.sees() {
                    tiers.purge_meters.lag(age(place));
                }
            }
        }
    }

    /// Notes whether the log is seen.
    async fn watch(&self, meters: &PurgeMeters) {
        let mut sight = self.bus.sight();
        loop {
            let seeing = *sight.borrow_and_update() == Sight::Seeing;
            let since = if seeing { 0 } else { millis(SystemTime::now()).max(1) };
            if seeing || self.sees() {
                self.blind_since.store(since, Ordering::Release);
            }
            meters.connected(seeing);
            self.count_unsent();
            let blind_for = time_since(self.blind_since.load(Ordering::Acquire));
            meters.behind(if seeing { Duration::ZERO } else { blind_for });
            // The bus holds the sender; without a change, how far behind the log is grows all the same.
            let _ = tokio::time::timeout(Duration::from_secs(1), sight.changed()).await;
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// How long ago a place in the log was taken, by the clocks of Redis and of this node.
fn age(place: Stamp) -> Duration {
    time_since(place.0 >> 20)
}

/// How long ago a time is; not at all where it is yet to come, as clocks are set back.
fn time_since(millis_then: u64) -> Duration {
    Duration::from_millis(millis(SystemTime::now()).saturating_sub(millis_then))
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
