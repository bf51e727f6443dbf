//! How the process joins the fleet: Redis, as the configuration has it.

use crate::cache::fleet::Joining;
use crate::cache::redis::TierCounters;
use crate::config::redis::RedisKind;
use crate::plan::{CacheSettings, RedisSettings};
use crate::redis::address::Kind;
use crate::redis::{Address, Counters, Redis, Settings};
use crate::telemetry::{Meters, RedisMeters};

/// The pipe, and the terms on which nodes share answers over it. Connects later, in the background.
pub(super) fn join(redis: &RedisSettings, cache: &CacheSettings, meters: &Meters) -> (Redis, Joining) {
    let counts = RedisMeters::new(meters);
    let counters = Counters {
        seconds: counts.seconds,
        ok: counts.ok,
        error: counts.error,
        timeout: counts.timeout,
        open: counts.open,
        breaker: counts.breaker,
    };
    let settings = Settings {
        address: address(redis),
        ca: redis.ca.clone(),
        patience: redis.timeout,
        prefix: redis.prefix.clone(),
    };
    let joining = Joining {
        blind_max: cache.blind_max,
        max_object: cache.max_object,
        counters: TierCounters { dropped: counts.dropped, unreadable: counts.unreadable },
        queue: counts.queue,
    };
    (Redis::new(settings, counters), joining)
}

fn address(redis: &RedisSettings) -> Address {
    let url = &redis.url;
    Address {
        kind: match &url.kind {
            RedisKind::Server => Kind::Server,
            RedisKind::Sentinel { service } => Kind::Sentinel { service: service.clone() },
            RedisKind::Cluster => Kind::Cluster,
        },
        tls: url.tls,
        hosts: url.hosts.clone(),
        user: redis.username.clone(),
        password: redis.password.clone(),
        database: url.database,
    }
}
