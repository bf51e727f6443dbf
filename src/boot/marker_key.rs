//! The key of markers over time: agreed on with the fleet where there is one, while markers are made.
//!
//! The first offer stands. A node that cannot reach Redis goes on with what it has, and offers that when Redis is back, so that
//! even a Redis that has lost everything changes no key. It is not renewed: what a thief of it could do is to have reads reach their
//! upstream, which `Cache-Control: no-cache` does as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::cache::marker::Keys;
use crate::plan::Plan;
use crate::redis::{Away, Redis, cmd};

/// The time between two looks at what the fleet has, and the same while Redis does not answer or no markers are made.
const EVERY: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(1);
/// For how long it stays in Redis when no node looks any more.
const LASTS: u64 = 24 * 60 * 60;

/// How long markers that are about to be made wait until the process has what the others have, so that the first of them hold
/// everywhere.
const AT_FIRST: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(20);

/// The key of this process, and where the fleet's is, if there is a fleet.
#[derive(Clone)]
pub(super) struct MarkerKey {
    keys: &'static Keys,
    redis: Option<Redis>,
}

impl MarkerKey {
    pub(super) fn new(keys: &'static Keys, redis: Option<Redis>) -> Self {
        Self { keys, redis }
    }

    /// Agrees with the fleet before a plan is in force, if that makes markers and the one before did not.
    pub(super) async fn begin(&self, plan: &Plan, before: Option<&Plan>) {
        let (Some(redis), began) = (&self.redis, Instant::now()) else { return };
        if !makes_markers(plan) || before.is_some_and(makes_markers) {
            return;
        }
        while self.agree(redis).await.is_err() && began.elapsed() < AT_FIRST {
            tokio::time::sleep(STEP).await;
        }
    }

    /// Keeps it for as long as the process lives; nothing to do for a node without a fleet.
    pub(super) async fn keep(self, live: Arc<ArcSwap<Plan>>) {
        let Some(redis) = &self.redis else { return };
        loop {
            let wanted = makes_markers(&live.load());
            let agreed = wanted && self.agree(redis).await.is_ok();
            tokio::time::sleep(if agreed { EVERY } else { SOON }).await;
        }
    }

    async fn agree(&self, redis: &Redis) -> Result<(), Away> {
        let name = format!("{}:marker-key", redis.prefix());
        let mut offer = cmd("SET");
        offer.arg(&name).arg(&self.keys.secret()[..]).arg("NX").arg("EX").arg(LASTS);
        redis.call::<()>("marker key", &offer).await?;
        let found: Option<Vec<u8>> = redis.call("marker key", cmd("GET").arg(&name)).await?;
        if found.is_some_and(|secret| self.keys.adopt(&secret)) {
            tracing::debug!("the key of markers was taken from the fleet");
        }
        redis.call("marker key", cmd("EXPIRE").arg(&name).arg(LASTS)).await
    }
}

fn makes_markers(plan: &Plan) -> bool {
    plan.cache.own_writes.is_some()
}
