//! The nodes that count together: how many there are, and the Redis that they share.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Instant, sleep};

use crate::redis::{Away, PATIENCE, Redis, Script, Value};

/// How often a node says that it is there, how often while not all are, and after how long without that it is taken for gone.
const EVERY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(200);
const GONE_MS: &str = "5000";

/// For how long fewer nodes must have been seen before they are believed to be fewer: after an outage they come back one after the other.
const BELIEVED: Duration = Duration::from_secs(10);

/// The other nodes, and this one. Outlives every plan; clones are the same. Until [`Nodes::join`] there is this one alone.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    joined: OnceLock<Joined>,
    /// How many there are; 0 before any were seen.
    live: AtomicU32,
    /// How many of them are back, after Redis was away; 0 while all are.
    back: AtomicU32,
}

struct Joined {
    redis: Redis,
    seen: Gauge,
}

/// Says that a node is there, forgets those that do not say so any more, and counts them. `ARGV` the node's name and how many milliseconds
/// it is taken for there.
static BEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
",
    )
});

impl Nodes {
    /// Counts over this Redis from now on; `seen` is told how many nodes there are.
    pub fn join(&self, redis: Redis, seen: Gauge) {
        // A process joins once.
        let _ = self.0.joined.set(Joined { redis, seen });
    }

    /// Says that this node is there for as long as the process lives, and sees who else is.
    pub async fn keep(self) {
        let Some(joined) = self.0.joined.get() else { return };
        let (name, key) =
            (format!("{:032x}", fastrand::u128(..)), format!("{}:limit:nodes", joined.redis.prefix()));
        let mut fewer_since = None;
        loop {
            let arguments = [name.as_bytes(), GONE_MS.as_bytes()];
            match joined.redis.script("limit nodes", &BEAT, &[&key], &arguments).await {
                Ok(Value::Int(seen)) => self.see(u32::try_from(seen).unwrap_or(1).max(1), &mut fewer_since),
                // Whatever is counted together is counted by this node alone, until it has seen another.
                Ok(_) | Err(_) => self.0.back.store(1, Ordering::Relaxed),
            }
            joined.seen.set(self.live().into());
            let all_there = self.0.back.load(Ordering::Relaxed) == 0;
            sleep(if all_there { EVERY } else { SOON }).await;
        }
    }

    /// Takes note of how many nodes are there: more at once, fewer after a while.
    fn see(&self, seen: u32, fewer_since: &mut Option<Instant>) {
        let is_back = self.0.back.load(Ordering::Relaxed) > 0;
        let is_believed =
            seen >= self.live() || fewer_since.get_or_insert_with(Instant::now).elapsed() > BELIEVED;
        if is_believed {
            *fewer_since = None;
            self.0.live.store(seen, Ordering::Relaxed);
        }
        self.0.back.store(if is_back && !is_believed { seen } else { 0 }, Ordering::Relaxed);
    }

    /// By how much more a request costs while only some are back after an outage: the others admit their part meanwhile.
    pub(super) fn stretch(&self) -> f64 {
        match self.0.back.load(Ordering::Relaxed) {
            0 => 1.0,
            back => (f64::from(self.live()) / f64::from(back)).max(1.0),
        }
    }

    /// How many nodes there are, as far as was seen; this one at least.
    pub(in crate::limit) fn live(&self) -> u32 {
        self.0.live.load(Ordering::Relaxed).max(1)
    }

    /// Whether Redis is known not to answer: nobody waits for it.
    pub(in crate::limit) fn are_away(&self) -> bool {
        self.0.joined.get().is_none_or(|joined| joined.redis.is_open())
    }

    /// How long Redis is waited for.
    pub(in crate::limit) fn patience(&self) -> Duration {
        self.0.joined.get().map_or(PATIENCE, |joined| joined.redis.patience(0))
    }

    /// Runs a script on one key; `None` where Redis does not answer.
    pub(in crate::limit) async fn ask<T>(
        &self,
        what: &'static str,
        script: &Script,
        key: &str,
        arguments: &[&[u8]],
        read: impl FnOnce(Value) -> Result<T, Away>,
    ) -> Option<T> {
        let redis = &self.0.joined.get()?.redis;
        let key = format!("{}:{key}", redis.prefix());
        match redis.script(what, script, &[&key], arguments).await.and_then(read) {
            Ok(told) => Some(told),
            Err(Away::Nonsense) => {
                tracing::debug!(what, "redis has said something that makes no sense here");
                None
            }
            Err(_) => None,
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("live", &self.live()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nodes_are_believed_at_once_and_fewer_after_a_while() {
        let (nodes, mut fewer_since) = (Nodes::default(), None);
        for (seen, live) in [(1, 1), (3, 3), (2, 3), (3, 3), (1, 3)] {
            nodes.see(seen, &mut fewer_since);
            assert_eq!(nodes.live(), live, "{seen} seen");
        }
        fewer_since = fewer_since.and_then(|since: Instant| since.checked_sub(2 * BELIEVED));
        nodes.see(1, &mut fewer_since);
        assert_eq!(nodes.live(), 1);
    }

    #[test]
    fn after_an_outage_those_who_are_back_have_their_parts_alone() {
        let (nodes, mut fewer_since) = (Nodes::default(), None);
        nodes.see(3, &mut fewer_since);
        nodes.0.back.store(1, Ordering::Relaxed);
        assert!((nodes.stretch() - 3.0).abs() < 1e-9);
        for (seen, stretch) in [(1, 3.0), (2, 1.5), (3, 1.0), (2, 1.0)] {
            nodes.see(seen, &mut fewer_since);
            assert!((nodes.stretch() - stretch).abs() < 1e-9, "{seen} seen");
        }
    }
}
