//! The right to fetch for all nodes, kept for as long as the fetch takes.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cache::Tiers;
use crate::cache::redis::Token;
use crate::cache::stored::Key;

use super::share::{LEASE, WAIT};

/// A lease. It is renewed as long as this is held, up to [`WAIT`]; nobody waits for a fetch that takes longer. Whoever
/// dies renews it no more.
pub(super) struct Held {
    token: Token,
    renewing: JoinHandle<()>,
}

impl Held {
    /// One that has just been taken.
    pub(super) fn of(tiers: &'static Tiers, key: Key, token: Token) -> Self {
        let renewing = tokio::spawn(renew(tiers, key, token.clone()));
        Self { token, renewing }
    }

    /// Proof of it.
    pub(super) fn token(&self) -> &Token {
        &self.token
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(tiers: &'static Tiers, key: Key, token: Token) {
    let end = Instant::now() + WAIT;
    loop {
        sleep(LEASE / 2).await;
        let left = end.saturating_duration_since(Instant::now());
        let Some(fleet) = tiers.fleet().filter(|_| left > Duration::ZERO) else { return };
        // A call that fails is made again in time, unless it was the last.
        if fleet.tier.renew(&key, &token, LEASE.min(left)).await == Ok(false) {
            return;
        }
    }
}
