//! Whether a client may ask, and how often: lists of addresses, rates per key, counted in this process or by the fleet, and
//! how many requests may be under way at once ([`Concurrency`]).
//!
//! A [`Limit`] is one rate with a count for each key; [`Limits`] are those of a route. Counting is the generic
//! cell rate algorithm (GCRA): no windows at whose edges a client gets twice its share, one number per key.

mod account;
mod addresses;
mod calendar;
mod commons;
mod concurrency;
mod counted;
mod counts;
mod fields;
mod fleet;
mod key;
mod leases;
mod ledger;
mod local;
mod networks;
mod places;
mod rule;
mod seats;
mod watch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use http::HeaderValue;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::meters::Meters;

use counted::{Counted, Short, Verdict};
use key::Key;
use watch::Watch;

pub use account::{Question, Told};
pub use addresses::Addresses;
pub use calendar::{Span, Window};
pub use commons::Commons;
pub use concurrency::{CommonSeats, Concurrency, ConcurrencyRule, Full};
pub use fields::retry_after;
pub use fleet::Nodes;
pub use key::{Caller, Facts, KeyRule, Part};
pub use ledger::{Account, Deed};
pub use networks::Networks;
pub use rule::{Amount, Charge, Methods, Moment, Quota, Rate, Rule, Scope, StoreFailure};
pub use seats::Seat;

/// A rate or a quota under the name that clients see.
#[derive(Debug)]
pub struct Policy {
    /// The name in `RateLimit` and `RateLimit-Policy`.
    pub name: Box<str>,
    /// How much may be asked.
    pub amount: Amount,
}

/// One rule, and what is used of its rate.
///
/// Generic over the clock for tests alone.
#[derive(Debug)]
pub struct Limit<C: Clock = DefaultClock> {
    policy: Arc<Policy>,
    rule: Rule,
    moment: Moment,
    counted: Counted<C>,
    admitted: Counter,
    refused: Counter,
    uncounted: Counter,
    watch: Watch,
}

/// What a client has left after a request.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The rule that counted it.
    pub policy: Arc<Policy>,
    /// How many more requests may come now.
    pub remaining: u32,
    /// When admitted: how long until all of the burst is back. When refused: how long until one request is.
    pub reset: Duration,
}

impl Standing {
    /// The one with fewer requests left.
    #[must_use]
    pub fn or_tighter(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other.remaining <= self.remaining => other,
            _ => self,
        }
    }
}

/// A client asked more often than it may; the answer is 429.
#[derive(Clone, Debug, thiserror::Error)]
#[error("limit `{}` exceeded", standing.policy.name)]
pub struct Exceeded {
    /// What the client has left: nothing.
    pub standing: Standing,
    /// How long until it may ask again, for [`retry_after`].
    pub retry_after: Duration,
}

/// Why a request is refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum No {
    /// There were too many.
    #[error(transparent)]
    Exceeded(Exceeded),
    /// Nobody knows whether there were, as what nodes count in is away, and the rule says no then.
    #[error("limit `{}` cannot be counted", .0.name)]
    Uncounted(Arc<Policy>),
}

impl Limit {
    /// A limit of its own, shown and metered by the name of its route.
    pub fn new(route: &str, rule: Rule, meters: &Meters) -> Self {
        let ground = Ground { route, nodes: &Nodes::default(), meters, clock: &DefaultClock::default() };
        Self::over(Counted::new(route, &rule, &ground), route, rule, &ground)
    }
}

/// What limits of a route are made on.
struct Ground<'g, C> {
    route: &'g str,
    nodes: &'g Nodes,
    meters: &'g Meters,
    clock: &'g C,
}

impl<C: Clock + Clone> Limit<C> {
    fn over(counted: Counted<C>, name: &str, rule: Rule, ground: &Ground<'_, C>) -> Self {
        let refused = if rule.observe { "would_refuse" } else { "refused" };
        let decisions = |outcome| ground.meters.limit_decisions.with([ground.route, outcome]);
        let uncounted = match rule.on_store_failure {
            StoreFailure::Deny => decisions("uncounted"),
            StoreFailure::Local | StoreFailure::Allow => Counter::default(),
        };
        Self {
            policy: Arc::new(Policy { name: name.into(), amount: rule.amount }),
            moment: rule.moment(),
            rule,
            counted,
            admitted: decisions("admitted"),
            refused: decisions(refused),
            uncounted,
            watch: Watch::default(),
        }
    }

    /// Counts one request, or refuses it. A refused request is not counted. Waits for the fleet where it must.
    ///
    /// # Errors
    /// More was asked than the rate allows, or nobody knows.
    pub async fn charge(&self, facts: &Facts<'_>) -> Result<Standing, No> {
        self.tell(self.counted.charge(self.key(facts)).await)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// More was asked than the rate allows, or than this node's part of it where the fleet would have to be asked.
    pub fn charge_at_once(&self, facts: &Facts<'_>) -> Result<Standing, No> {
        self.tell(self.counted.charge_at_once(self.key(facts)))
    }

    fn key(&self, facts: &Facts<'_>) -> Key {
        self.rule.key.of(facts, self.counted.secret())
    }

    fn tell(&self, verdict: Verdict) -> Result<Standing, No> {
        let policy = Arc::clone(&self.policy);
        match verdict {
            Ok((remaining, reset)) => {
                self.admitted.inc();
                Ok(Standing { policy, remaining, reset })
            }
            Err(Short::Spent(wait)) => {
                self.refused.inc();
                let standing = Standing { policy, remaining: 0, reset: wait };
                Err(No::Exceeded(Exceeded { standing, retry_after: wait }))
            }
            Err(Short::Unknown) => {
                self.uncounted.inc();
                Err(No::Uncounted(policy))
            }
        }
    }

    fn is_for(&self, facts: &Facts<'_>, moment: Moment) -> bool {
        self.moment == moment && self.rule.methods.have(facts.method)
    }

    /// What a verdict means for the request, with the tightest standing so far.
    fn weigh(
        &self,
        verdict: Result<Standing, No>,
        facts: &Facts<'_>,
        tightest: Option<Standing>,
    ) -> Result<Option<Standing>, No> {
        match verdict {
            Err(_) if self.rule.observe => {
                self.watch.saw(&self.policy.name, facts);
                Ok(tightest)
            }
            Err(no) => Err(no),
            Ok(_) if self.rule.observe => Ok(tightest),
            Ok(standing) => Ok(Some(standing.or_tighter(tightest))),
        }
    }
}

/// The limits of a route, in their order in the file.
#[derive(Debug)]
pub struct Limits<C: Clock = DefaultClock> {
    limits: Vec<Limit<C>>,
    /// `RateLimit-Policy`, which never changes.
    policies: HeaderValue,
}

impl Limits {
    /// The limits of a route; `None` when it has no rules.
    ///
    /// A limit of the same rate, key and scope in the same place of `running`, the route's limits before a reload, goes on
    /// counting: a reload forgives nobody. Those with a word in their key count with all in `commons`.
    pub fn new(
        route: &str,
        rules: &[Rule],
        running: Option<&Self>,
        commons: &mut Commons,
        nodes: &Nodes,
        meters: &Meters,
    ) -> Option<Self> {
        Self::start(
            rules,
            running,
            commons,
            &Ground { route, nodes, meters, clock: &DefaultClock::default() },
        )
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn start(
        rules: &[Rule],
        running: Option<&Self>,
        commons: &mut Commons<C>,
        ground: &Ground<'_, C>,
    ) -> Option<Self> {
        let route = ground.route;
        let limit = |(place, rule): (usize, &Rule)| {
            let name = if place == 0 { route.to_owned() } else { format!("{route}-{}", place + 1) };
            let before = running
                .and_then(|running| running.limits.get(place))
                .filter(|limit| limit.rule.counts_as(rule))
                .map(|limit| limit.counted.clone().under(rule));
            let counted = if rule.key.is_common() {
                commons.of(rule, || Counted::new("", rule, ground)).under(rule)
            } else {
                before.unwrap_or_else(|| Counted::new(&name, rule, ground))
            };
            Limit::over(counted, &name, rule.clone(), ground)
        };
        let limits: Vec<_> = rules.iter().enumerate().map(limit).collect();
        let shown = limits.iter().filter(|limit| !limit.rule.observe);
        let policies = fields::policies(shown.map(|limit| &*limit.policy));
        (!limits.is_empty()).then_some(Self { limits, policies })
    }

    /// Counts one request against each limit that is for it and asked at this moment, in order; the first that refuses decides.
    /// Waits for the fleet where it must.
    ///
    /// Limits before the one that refuses have counted the request, those behind it have not: a client that runs
    /// into one bound still uses up the wider ones. Admitted, the standing is the tightest: the one with the fewest
    /// requests left; there is none where no limit was asked.
    ///
    /// # Errors
    /// A limit is exceeded.
    pub async fn charge(&self, facts: &Facts<'_>, moment: Moment) -> Result<Option<Standing>, No> {
        let mut tightest = None;
        for limit in self.for_it(facts, moment) {
            tightest = limit.weigh(limit.charge(facts).await, facts, tightest)?;
        }
        Ok(tightest)
    }

    /// The same without waiting: meant for requests for which all limits [are ready](Self::are_ready).
    ///
    /// # Errors
    /// A limit is exceeded.
    pub fn charge_at_once(&self, facts: &Facts<'_>, moment: Moment) -> Result<Option<Standing>, No> {
        let mut tightest = None;
        for limit in self.for_it(facts, moment) {
            tightest = limit.weigh(limit.charge_at_once(facts), facts, tightest)?;
        }
        Ok(tightest)
    }

    /// Whether no limit has to ask the fleet first.
    pub fn are_ready(&self, facts: &Facts<'_>, moment: Moment) -> bool {
        self.for_it(facts, moment).all(|limit| limit.counted.is_ready(|| limit.key(facts)))
    }

    fn for_it<'l>(&'l self, facts: &'l Facts<'_>, moment: Moment) -> impl Iterator<Item = &'l Limit<C>> {
        self.limits.iter().filter(move |limit| limit.is_for(facts, moment))
    }

    /// The value of `RateLimit-Policy`: every rule of the route that may refuse.
    pub fn policies(&self) -> &HeaderValue {
        &self.policies
    }
}
