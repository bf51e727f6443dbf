//! How the process joins the fleet: Redis, as the configuration has it.

use crate::cache::fleet::Joining;
use crate::cache::redis::TierCounters;
use crate::config::redis::{RedisKind, RedisUrl};
use crate::plan::{CacheSettings, RedisSettings};
use crate::redis::address::Kind;
use crate::redis::{Address, Counters, Redis, Settings};
use crate::telemetry::{Meters, RedisMeters};

/// The pipe, and the terms on which nodes share over it. Connects later, in the background.
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
        address: address(&redis.url, redis.username.clone(), redis.password.clone()),
        ca: redis.ca.clone(),
        patience: redis.timeout,
        prefix: redis.prefix.clone(),
    };
    let joining = Joining {
        shares: cache.redis,
        blind_max: cache.blind_max,
        max_object: cache.max_object,
        counters: TierCounters { dropped: counts.dropped, unreadable: counts.unreadable },
        queue: counts.queue,
    };
    (Redis::new(settings, counters), joining)
}

fn address(url: &RedisUrl, user: Option<String>, password: Option<String>) -> Address {
    Address {
        kind: match &url.kind {
            RedisKind::Server => Kind::Server,
            RedisKind::Sentinel { service } => Kind::Sentinel { service: service.clone() },
            RedisKind::Cluster => Kind::Cluster,
        },
        tls: url.tls,
        hosts: url.hosts.clone(),
        user,
        password,
        database: url.database,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Where a URL points that stands alone, with user and password in it.
    pub(crate) fn address_at(url: &str) -> Address {
        let url = RedisUrl::parse(url).unwrap();
        address(&url, url.username.clone(), url.password.clone())
    }

    #[test]
    fn an_address_is_what_its_url_says_and_prints_it_without_the_login() {
        let cases = [
            ("redis://cache", "redis://cache:6379"),
            ("redis://u:p@cache:7000/3", "redis://cache:7000/3"),
            ("rediss://[2001:db8::1]:7000", "rediss://[2001:db8::1]:7000"),
            ("redis+sentinel://a,b:1,c/main", "redis+sentinel://a:26379,b:1,c:26379/main"),
            ("rediss+sentinel://:p@a/main/2", "rediss+sentinel://a:26379/main/2"),
            ("redis+cluster://u:p@a:1,b:2,c", "redis+cluster://a:1,b:2,c:6379"),
        ];
        for (text, printed) in cases {
            let address = address_at(text);
            assert_eq!(format!("{address} {address:?}"), format!("{printed} Address({printed})"));
            let (user, password) = (address.user.as_deref(), address.password.as_deref());
            assert_eq!(user, text.contains("u:").then_some("u"), "{text}");
            assert_eq!(password, text.contains(":p@").then_some("p"), "{text}");
        }
    }
}
