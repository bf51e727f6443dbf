//! What this node has to do with the others, counted: calls to Redis, writes to it, purges and their log.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::cache_meters::words;
use super::meters::{Meters, Metric};

words! {
    /// What a purge covers.
    PurgeKind {
        /// A URL with all its variants.
        Url "url",
        /// A tag.
        Tag "tag",
        /// All URLs that begin alike.
        Prefix "prefix",
        /// Everything.
        All "all",
    }
}

words! {
    /// Who purged.
    PurgeOrigin {
        /// An operator, by the admin listener.
        Admin "admin",
        /// A client with the method `PURGE`.
        Method "method",
        /// An unsafe request that succeeded (RFC 9111 §4.4).
        Unsafe "unsafe",
        /// An event that its origin told.
        Event "event",
        /// Another node: read from the log.
        Fleet "fleet",
    }
}

const KINDS: usize = PurgeKind::ALL.len();
const ORIGINS: usize = PurgeOrigin::ALL.len();

/// The metrics of Redis: handles for those who ask it.
#[derive(Clone, Debug)]
pub struct RedisMeters {
    /// Calls that were answered.
    pub ok: Counter,
    /// Calls that the server refused, or whose connection failed.
    pub error: Counter,
    /// Calls without an answer in time.
    pub timeout: Counter,
    /// Calls that were not made: the breaker was open, or too many were waiting.
    pub open: Counter,
    /// Seconds from the call to its end, of calls that were made.
    pub seconds: Histogram,
    /// 1 while the breaker is open.
    pub breaker: Gauge,
    /// Answers that wait to be written.
    pub queue: Gauge,
    /// Answers that were to be written and were not.
    pub dropped: Counter,
    /// What was found and could not be read.
    pub unreadable: Counter,
}

impl RedisMeters {
    /// The process's.
    pub fn new(meters: &Meters) -> Self {
        let calls = |outcome| meters.redis_calls.with([outcome]);
        Self {
            ok: calls("ok"),
            error: calls("error"),
            timeout: calls("timeout"),
            open: calls("open"),
            seconds: meters.redis_seconds.with([]),
            breaker: meters.redis_breaker.with([]),
            queue: meters.redis_queue.with([]),
            dropped: meters.redis_dropped.with([]),
            unreadable: meters.redis_unreadable.with([]),
        }
    }
}

/// The metrics of clients that are shown what they wrote.
#[derive(Debug)]
pub struct OwnWriteMeters {
    /// A write was answered with a marker.
    pub given: Counter,
    /// A marker came with a request, and counts.
    pub shown: Counter,
    /// What was stored was not served for a marker.
    pub skipped: Counter,
    /// A marker came after its time.
    pub expired: Counter,
    /// What came was no marker of this fleet.
    pub refused: Counter,
}

impl OwnWriteMeters {
    /// The process's.
    pub fn new(meters: &Meters) -> Self {
        let events = |event| meters.cache_own_writes.with([event]);
        Self {
            given: events("given"),
            shown: events("shown"),
            skipped: events("skipped"),
            expired: events("expired"),
            refused: events("refused"),
        }
    }
}

/// The metrics of purges and of their log.
#[derive(Debug)]
pub struct PurgeMeters {
    purges: Metric<Counter, 2>,
    by_kind: [[OnceLock<Counter>; ORIGINS]; KINDS],
    connected: Gauge,
    behind: Gauge,
    lag: Histogram,
    lost: Counter,
}

impl PurgeMeters {
    /// The process's.
    pub fn new(meters: &Meters) -> Self {
        Self {
            purges: meters.cache_purges.clone(),
            by_kind: Default::default(),
            connected: meters.purge_log_connected.with([]),
            behind: meters.purge_log_behind.with([]),
            lag: meters.purge_log_lag.with([]),
            lost: meters.purge_log_lost.with([]),
        }
    }

    /// A purge took effect here.
    pub fn purged(&self, kind: PurgeKind, origin: PurgeOrigin) {
        self.by_kind[kind as usize][origin as usize]
            .get_or_init(|| self.purges.with([kind.name(), origin.name()]))
            .inc();
    }

    /// Whether the log of purges can be read now.
    pub fn connected(&self, now: bool) {
        self.connected.set(now.into());
    }

    /// For how long the log has not been read to its end; zero while it is.
    pub fn behind(&self, by: Duration) {
        self.behind.set(i64::try_from(by.as_secs()).unwrap_or(i64::MAX));
    }

    /// From another node's purge, by its clock, to its effect here, by ours.
    pub fn lag(&self, time: Duration) {
        self.lag.observe(time.as_secs_f64());
    }

    /// The log had been cut before it was read: purges may have been missed, and what was stored before is not trusted.
    pub fn lost(&self) {
        self.lost.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::meters::TABLE;
    use super::*;

    #[test]
    fn calls_purges_and_states_are_shown() {
        let meters = Meters::new();
        let (redis, purges) = (RedisMeters::new(&meters), PurgeMeters::new(&meters));
        redis.timeout.inc();
        redis.seconds.observe(0.05);
        redis.breaker.set(1);
        redis.queue.set(7);
        redis.dropped.inc();
        redis.unreadable.inc();
        purges.purged(PurgeKind::Tag, PurgeOrigin::Fleet);
        purges.connected(true);
        purges.behind(Duration::from_millis(2900));
        purges.lag(Duration::from_millis(20));
        purges.lost();
        let text = meters.render();
        for row in [
            "tidegate_redis_calls_total{outcome=\"timeout\"} 1",
            "tidegate_redis_calls_total{outcome=\"ok\"} 0",
            "tidegate_redis_call_seconds_count{} 1",
            "tidegate_redis_unreadable_total{} 1",
            "tidegate_redis_breaker_open{} 1",
            "tidegate_redis_write_queue{} 7",
            "tidegate_redis_write_drops_total{} 1",
            "tidegate_cache_purges_total{kind=\"tag\",origin=\"fleet\"} 1",
            "tidegate_cache_purge_log_connected{} 1",
            "tidegate_cache_purge_log_behind_seconds{} 2",
            "tidegate_cache_purge_lag_seconds_count{} 1",
            "tidegate_cache_purge_log_lost_total{} 1",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is not in\n{text}");
        }
        assert!(!text.contains("kind=\"url\""), "{text}");
    }

    #[test]
    fn the_table_of_metrics_names_every_word() {
        let row = TABLE.iter().find(|row| row.name == "tidegate_cache_purges_total").unwrap();
        let kinds = PurgeKind::ALL.map(PurgeKind::name);
        for word in kinds.into_iter().chain(PurgeOrigin::ALL.map(PurgeOrigin::name)) {
            assert!(row.meaning.contains(&format!("`{word}`")), "{word}");
        }
    }
}
