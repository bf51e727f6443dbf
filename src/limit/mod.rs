//! Whether a client may ask, and how often: lists of addresses, and rates per client address, counted in this process.
//!
//! A [`Limit`] is one rate with a count for each client; [`Limits`] are those of a route. Counting is the generic
//! cell rate algorithm (GCRA): no windows at whose edges a client gets twice its share, one number per client.

mod addresses;
mod client;
mod counts;
mod fields;
mod local;
mod networks;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use http::HeaderValue;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::meters::Meters;

use client::Client;
use local::Local;

pub use addresses::Addresses;
pub use fields::retry_after;
pub use networks::Networks;

/// A rate: `count` requests per `per`, of which `burst` may come at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How many requests; at least 1.
    pub count: u32,
    /// Within which time; whole seconds, at least one.
    pub per: Duration,
    /// How many may come at once; at least 1.
    pub burst: u32,
}

/// A rule under the name that clients see.
#[derive(Debug)]
pub struct Policy {
    /// The name in `RateLimit` and `RateLimit-Policy`.
    pub name: Box<str>,
    /// The rate.
    pub rule: Rule,
}

/// One rate, and what each client has used of it.
///
/// Generic over the clock for tests alone.
#[derive(Debug)]
pub struct Limit<C: Clock = DefaultClock> {
    policy: Arc<Policy>,
    counts: Local<C>,
    admitted: Counter,
    refused: Counter,
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

/// A client asked more often than it may; the answer is 429.
#[derive(Clone, Debug, thiserror::Error)]
#[error("limit `{}` exceeded", standing.policy.name)]
pub struct Exceeded {
    /// What the client has left: nothing.
    pub standing: Standing,
    /// How long until it may ask again, for [`retry_after`].
    pub retry_after: Duration,
}

impl Limit {
    /// A limit named, shown and metered by the name of its route.
    pub fn new(name: &str, rule: Rule, meters: &Meters) -> Self {
        Self::start(name, name, rule, meters, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limit<C> {
    fn start(route: &str, name: &str, rule: Rule, meters: &Meters, clock: C) -> Self {
        Self {
            policy: Arc::new(Policy { name: name.into(), rule }),
            counts: Local::new(rule, meters.limit_keys.with([route]), clock),
            admitted: meters.limit_decisions.with([route, "admitted"]),
            refused: meters.limit_decisions.with([route, "refused"]),
        }
    }

    /// Counts one request of a client, or refuses it. A refused request is not counted.
    pub fn charge(&self, client: IpAddr) -> Result<Standing, Exceeded> {
        match self.counts.charge(Client::of(client)) {
            Ok((remaining, reset)) => {
                self.admitted.inc();
                Ok(Standing { policy: Arc::clone(&self.policy), remaining, reset })
            }
            Err(wait) => {
                self.refused.inc();
                let standing = Standing { policy: Arc::clone(&self.policy), remaining: 0, reset: wait };
                Err(Exceeded { standing, retry_after: wait })
            }
        }
    }

    /// The rate.
    pub fn rule(&self) -> &Rule {
        &self.policy.rule
    }
}

/// The limits of a route, in their order in the file.
#[derive(Debug)]
pub struct Limits<C: Clock = DefaultClock> {
    limits: Vec<Arc<Limit<C>>>,
    /// `RateLimit-Policy`, which never changes.
    policies: HeaderValue,
}

impl Limits {
    /// The limits of a route; `None` when it has no rules.
    ///
    /// A limit of the same rule in the same place of `running`, the route's limits before a reload, goes on
    /// counting: a reload forgives nobody.
    pub fn new(route: &str, rules: &[Rule], running: Option<&Self>, meters: &Meters) -> Option<Self> {
        Self::start(route, rules, running, meters, &DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn start(
        route: &str,
        rules: &[Rule],
        running: Option<&Self>,
        meters: &Meters,
        clock: &C,
    ) -> Option<Self> {
        let limit = |(place, rule): (usize, &Rule)| {
            let name = if place == 0 { route.to_owned() } else { format!("{route}-{}", place + 1) };
            let before = running
                .and_then(|running| running.limits.get(place))
                .filter(|limit| limit.policy.rule == *rule && *limit.policy.name == *name);
            before
                .cloned()
                .unwrap_or_else(|| Arc::new(Limit::start(route, &name, *rule, meters, clock.clone())))
        };
        let limits: Vec<_> = rules.iter().enumerate().map(limit).collect();
        let policies = fields::policies(limits.iter().map(|limit| &*limit.policy));
        (!limits.is_empty()).then_some(Self { limits, policies })
    }
}

impl<C: Clock + Clone> Limits<C> {
    /// Counts one request against each limit in order; the first that refuses decides.
    ///
    /// Limits before the one that refuses have counted the request, those behind it have not: a client that runs
    /// into one bound still uses up the wider ones. Admitted, the standing is the tightest: the one with the fewest
    /// requests left.
    pub fn charge(&self, client: IpAddr) -> Result<Standing, Exceeded> {
        let mut tightest: Option<Standing> = None;
        for limit in &self.limits {
            let standing = limit.charge(client)?;
            if tightest.as_ref().is_none_or(|least| standing.remaining < least.remaining) {
                tightest = Some(standing);
            }
        }
        Ok(tightest.expect("a route's limits are at least one"))
    }

    /// The value of `RateLimit-Policy`: every rule of the route.
    pub fn policies(&self) -> &HeaderValue {
        &self.policies
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use governor::clock::FakeRelativeClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn limit(rule: Rule, meters: &Meters, clock: &FakeRelativeClock) -> Limit<FakeRelativeClock> {
        Limit::start("users", "users", rule, meters, clock.clone())
    }

    #[test]
    fn a_burst_is_admitted_then_refused_until_time_passes() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rule { count: 10, per: SECOND, burst: 3 }, &meters, &clock);
        let left: Vec<u32> = (0..3).map(|_| limit.charge(client(1)).unwrap().remaining).collect();
        assert_eq!(left, [2, 1, 0]);

        let exceeded = limit.charge(client(1)).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_millis(100));
        assert_eq!(exceeded.standing.remaining, 0);
        assert_eq!(exceeded.to_string(), "limit `users` exceeded");
        assert!(limit.charge(client(2)).is_ok(), "another client has its own count");

        clock.advance(exceeded.retry_after);
        assert_eq!(limit.charge(client(1)).unwrap().remaining, 0);
        assert!(limit.charge(client(1)).is_err());
    }

    #[test]
    fn the_standing_tells_when_the_burst_is_back() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rule { count: 60, per: 60 * SECOND, burst: 60 }, &meters, &clock);
        for _ in 0..9 {
            limit.charge(client(1)).unwrap();
        }
        let standing = limit.charge(client(1)).unwrap();
        assert_eq!((standing.remaining, standing.reset), (50, 10 * SECOND));
        clock.advance(standing.reset);
        assert_eq!(limit.charge(client(1)).unwrap().remaining, 59);
    }

    #[test]
    fn threads_at_a_frozen_clock_get_exactly_the_burst() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rule { count: 1, per: SECOND, burst: 500 }, &meters, &clock);
        let admitted: usize = thread::scope(|scope| {
            let charge = || (0..200).filter(|_| limit.charge(client(1)).is_ok()).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(charge)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 500);
        let text = meters.render();
        assert!(text.contains("limit_decisions_total{route=\"users\",outcome=\"admitted\"} 500"), "{text}");
        assert!(text.contains("limit_decisions_total{route=\"users\",outcome=\"refused\"} 1100"), "{text}");
    }

    #[test]
    fn the_first_refusal_decides_and_the_tightest_standing_is_shown() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let rules =
            [Rule { count: 100, per: SECOND, burst: 100 }, Rule { count: 2, per: 60 * SECOND, burst: 2 }];
        let limits = Limits::start("users", &rules, None, &meters, &clock).unwrap();
        let standing = limits.charge(client(1)).unwrap();
        assert_eq!((&*standing.policy.name, standing.remaining), ("users-2", 1));
        limits.charge(client(1)).unwrap();
        let exceeded = limits.charge(client(1)).unwrap_err();
        assert_eq!((&*exceeded.standing.policy.name, exceeded.retry_after), ("users-2", 30 * SECOND));
        assert_eq!(limits.policies(), "\"users\";q=100;w=1, \"users-2\";q=2;w=60");
        assert!(Limits::start("users", &[], None, &meters, &clock).is_none());
    }

    #[test]
    fn a_reload_forgives_nobody_whose_rule_stays() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let rule = |burst| Rule { count: 1, per: SECOND, burst };
        let before = Limits::start("users", &[rule(1)], None, &meters, &clock).unwrap();
        before.charge(client(1)).unwrap();

        let same = Limits::start("users", &[rule(1)], Some(&before), &meters, &clock).unwrap();
        assert!(same.charge(client(1)).is_err());
        let other = Limits::start("users", &[rule(2)], Some(&before), &meters, &clock).unwrap();
        assert!(other.charge(client(1)).is_ok(), "another rule counts anew");
    }

    #[test]
    fn clients_remembered_are_metered_until_their_limit_goes() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rule { count: 1, per: SECOND, burst: 1 }, &meters, &clock);
        for last in 0..5 {
            limit.charge(client(last)).unwrap();
        }
        assert!(meters.render().contains("limit_keys{route=\"users\"} 5"));
        drop(limit);
        assert!(meters.render().contains("limit_keys{route=\"users\"} 0"));
    }
}
