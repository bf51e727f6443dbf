//! The key of markers over time: agreed on with the fleet where there is one.
//!
//! The first offer stands. A node that cannot reach Redis goes on with what it has, and offers that when Redis is back, so that
//! even a Redis that has lost everything changes no key. It is not renewed: what a thief of it could do is to have reads reach their
//! upstream, which `Cache-Control: no-cache` does as well.

use std::time::{Duration, Instant};

use crate::cache::marker::Keys;
use crate::redis::{Away, Redis, cmd};

/// The time between two looks at what the fleet has, and the same while Redis does not answer.
const EVERY: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);
/// For how long it stays in Redis when no node looks any more.
const LASTS: u64 = 24 * 60 * 60;

/// How long a process that starts waits until it has what the others have, so that its first markers hold everywhere.
const AT_FIRST: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(20);

/// Agrees with the fleet before the first request, if that is there.
pub(super) async fn begin(keys: &Keys, redis: Option<&Redis>) {
    let (Some(redis), began) = (redis, Instant::now()) else { return };
    while agree(keys, redis).await.is_err() && began.elapsed() < AT_FIRST {
        tokio::time::sleep(STEP).await;
    }
}

/// Keeps it for as long as the process lives; nothing to do for a node without a fleet.
pub(super) async fn keep(keys: &Keys, redis: Option<Redis>) {
    let Some(redis) = redis else { return };
    loop {
        let agreed = agree(keys, &redis).await.is_ok();
        tokio::time::sleep(if agreed { EVERY } else { SOON }).await;
    }
}

async fn agree(keys: &Keys, redis: &Redis) -> Result<(), Away> {
    let name = format!("{}:marker-key", redis.prefix());
    let mut offer = cmd("SET");
    offer.arg(&name).arg(&keys.secret()[..]).arg("NX").arg("EX").arg(LASTS);
    redis.call::<()>("marker key", &offer).await?;
    let found: Option<Vec<u8>> = redis.call("marker key", cmd("GET").arg(&name)).await?;
    if found.is_some_and(|secret| keys.adopt(&secret)) {
        tracing::debug!("the key of markers was taken from the fleet");
    }
    redis.call("marker key", cmd("EXPIRE").arg(&name).arg(LASTS)).await
}
