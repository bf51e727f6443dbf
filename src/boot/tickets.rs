//! The keys of session tickets over time: new ones for each epoch, agreed on with the fleet where there is one.
//!
//! For each epoch a node offers the secret that it has drawn, and takes what is there: the first offer stands. A node
//! that cannot reach Redis goes on with what it has, which is good for twelve hours, and offers that when Redis is back,
//! so that even a Redis that has lost everything changes no key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::listen::Ticketing;
use crate::listen::tickets::{EPOCH, Secret, epoch_of};
use crate::redis::{Away, Redis, cmd};

/// The time between two looks at the clock, and at what the fleet has.
const EVERY: Duration = Duration::from_secs(60);
/// The same while Redis does not answer.
const SOON: Duration = Duration::from_secs(2);

/// Keeps the keys for as long as the process lives.
pub(super) async fn keep(ticketing: Ticketing, redis: Option<Redis>) {
    loop {
        let now = SystemTime::now();
        if let Err(error) = ticketing.turn(now) {
            tracing::error!(%error, "no new keys for session tickets: this system has no randomness");
        }
        let agreed = match &redis {
            Some(redis) => agree(&ticketing, redis, now).await.is_ok(),
            None => true,
        };
        tokio::time::sleep(if agreed { EVERY } else { SOON }).await;
    }
}

/// Agrees with the other nodes on the secrets of this epoch and the next, and takes that of the one before.
async fn agree(ticketing: &Ticketing, redis: &Redis, now: SystemTime) -> Result<(), Away> {
    let epoch = epoch_of(now);
    for of in [epoch, epoch + 1] {
        if let Some(own) = ticketing.secret(of) {
            offer(redis, of, &own, now).await?;
        }
    }
    for of in [epoch.saturating_sub(1), epoch, epoch + 1] {
        let found: Option<Vec<u8>> = redis.call("ticket keys", cmd("GET").arg(key(redis, of))).await?;
        if let Some(secret) = found.as_deref().and_then(Secret::from_bytes)
            && ticketing.adopt(of, &secret)
        {
            tracing::debug!(epoch = of, "keys of session tickets taken from the fleet");
        }
    }
    Ok(())
}

/// Puts a secret where all nodes find it, unless there is one; it goes when no ticket under it is accepted any more.
async fn offer(redis: &Redis, epoch: u64, secret: &Secret, now: SystemTime) -> Result<(), Away> {
    let over = EPOCH * u32::try_from(epoch + 2).unwrap_or(u32::MAX);
    let left = over.saturating_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default()).as_secs().max(1);
    let mut set = cmd("SET");
    set.arg(key(redis, epoch)).arg(&secret.bytes()[..]).arg("NX").arg("EX").arg(left);
    redis.call("ticket keys", &set).await
}

fn key(redis: &Redis, epoch: u64) -> String {
    format!("{}:tickets:{epoch}", redis.prefix())
}
