//! The servers of an upstream as they stand now, in two tiers: those that are used, and those that stand in for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::config::units::Share;

use super::Settings;
use super::affinity::Token;
use super::balance::Pool;
use super::clock::Moment;
use super::endpoint::Endpoint;

/// Who is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Primary,
    /// Asked while no primary may be.
    Backup,
}

/// The servers of an upstream as they stand now; made anew when a name changes its addresses.
#[derive(Debug)]
pub(super) struct Group {
    /// All of them, in the order of configuration.
    endpoints: Box<[Arc<Endpoint>]>,
    primaries: Pool,
    backups: Pool,
    by_token: HashMap<Token, Arc<Endpoint>>,
    stock: AtomicU8,
}

/// What was found when stock was taken last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    /// No primary is up, and a backup is.
    pub(super) on_backups: bool,
    /// Of the tier in use too few are up, so that all of it is used.
    pub(super) panics: bool,
}

const ON_BACKUPS: u8 = 1;
const PANICS: u8 = 2;

impl Group {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, settings: &Settings) -> Self {
        let of_tier =
            |tier| endpoints.iter().filter(|endpoint| endpoint.tier() == tier).cloned().collect::<Vec<_>>();
        let tokens = endpoints.iter().filter_map(|endpoint| Some((endpoint.token()?, endpoint.clone())));
        Self {
            primaries: Pool::new(of_tier(Tier::Primary), &settings.balance),
            backups: Pool::new(of_tier(Tier::Backup), &settings.balance),
            by_token: tokens.collect(),
            endpoints: endpoints.into(),
            stock: AtomicU8::new(0),
        }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    pub(super) const fn pool(&self, tier: Tier) -> &Pool {
        match tier {
            Tier::Primary => &self.primaries,
            Tier::Backup => &self.backups,
        }
    }

    /// The server that a cookie names.
    pub(super) fn named(&self, token: Token) -> Option<&Arc<Endpoint>> {
        self.by_token.get(&token)
    }

    /// What was found when stock was taken last.
    pub(super) fn stock(&self) -> Stock {
        let bits = self.stock.load(Relaxed);
        Stock { on_backups: bits & ON_BACKUPS != 0, panics: bits & PANICS != 0 }
    }

    /// Counts who is up, which is done when that changes, so that a choice need not.
    ///
    /// Of the tier in use, fewer than the share `panic_below` of the servers that are not drained is too few.
    pub(super) fn take_stock(&self, panic_below: Share, now: Moment) -> Stock {
        let (primaries, backups) = (self.primaries.take_stock(now), self.backups.take_stock(now));
        let on_backups = primaries == 0 && backups > 0;
        let (pool, usable) = if on_backups { (&self.backups, backups) } else { (&self.primaries, primaries) };
        let all = pool.endpoints().iter().filter(|endpoint| !endpoint.is_draining()).count();
        let panics = usable * 100 < all * usize::from(panic_below.0);
        if panics {
            pool.count_all();
        }
        let bits = if on_backups { ON_BACKUPS } else { 0 } | if panics { PANICS } else { 0 };
        self.stock.store(bits, Relaxed);
        Stock { on_backups, panics }
    }
}

impl Stock {
    /// Who is asked first now.
    pub(super) const fn in_use(self) -> Tier {
        if self.on_backups { Tier::Backup } else { Tier::Primary }
    }

    /// Whether a server of this tier may be asked now.
    pub(super) fn permits(self, tier: Tier, endpoint: &Endpoint, now: Moment) -> bool {
        let whatever_its_state = self.panics && tier == self.in_use();
        if whatever_its_state { !endpoint.is_draining() } else { endpoint.is_usable(now) }
    }
}
