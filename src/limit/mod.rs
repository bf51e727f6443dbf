//! Whether a client may ask, and how often: lists of addresses, rates per key, counted in this process or by the fleet, and
//! how many requests may be under way at once ([`Concurrency`]).
//!
//! A [`Limit`] is one rate with a count for each key; [`Limits`] are those of a route. Counting is the generic
//! cell rate algorithm (GCRA): no windows at whose edges a client gets twice its share, one number per key.

mod addresses;
mod commons;
mod concurrency;
mod counted;
mod counts;
mod fields;
mod fleet;
mod key;
mod local;
mod networks;
mod places;
mod rule;
mod seats;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use http::HeaderValue;
use prometheus_client::metrics::counter::Counter;

use crate::telemetry::meters::Meters;

use counted::{Counted, Verdict};
use key::Key;
use watch::Watch;

pub use addresses::Addresses;
pub use commons::Commons;
pub use concurrency::{CommonSeats, Concurrency, ConcurrencyRule, Full};
pub use fields::retry_after;
pub use fleet::Nodes;
pub use key::{Caller, Facts, KeyRule, Part};
pub use networks::Networks;
pub use seats::Seat;
pub use rule::{Charge, Methods, Moment, Rate, Rule, Scope};

/// A rate under the name that clients see.
#[derive(Debug)]
pub struct Policy {
    /// The name in `RateLimit` and `RateLimit-Policy`.
    pub name: Box<str>,
    /// The rate.
    pub rate: Rate,
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
        Self {
            policy: Arc::new(Policy { name: name.into(), rate: rule.rate }),
            moment: rule.moment(),
            rule,
            counted,
            admitted: decisions("admitted"),
            refused: decisions(refused),
            watch: Watch::default(),
        }
    }

    /// Counts one request, or refuses it. A refused request is not counted. Waits for the fleet where it must.
    ///
    /// # Errors
    /// More was asked than the rate allows.
    pub async fn charge(&self, facts: &Facts<'_>) -> Result<Standing, Exceeded> {
        self.tell(self.counted.charge(self.key(facts)).await)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// More was asked than the rate allows, or than this node's part of it where the fleet would have to be asked.
    pub fn charge_at_once(&self, facts: &Facts<'_>) -> Result<Standing, Exceeded> {
        self.tell(self.counted.charge_at_once(self.key(facts)))
    }

    fn key(&self, facts: &Facts<'_>) -> Key {
        self.rule.key.of(facts, self.counted.secret())
    }

    fn tell(&self, verdict: Verdict) -> Result<Standing, Exceeded> {
        let policy = Arc::clone(&self.policy);
        match verdict {
            Ok((remaining, reset)) => {
                self.admitted.inc();
                Ok(Standing { policy, remaining, reset })
            }
            Err(wait) => {
                self.refused.inc();
                Err(Exceeded { standing: Standing { policy, remaining: 0, reset: wait }, retry_after: wait })
            }
        }
    }

    fn is_for(&self, facts: &Facts<'_>, moment: Moment) -> bool {
        self.moment == moment && self.rule.methods.have(facts.method)
    }

    /// What a verdict means for the request, with the tightest standing so far.
    fn weigh(
        &self,
        verdict: Result<Standing, Exceeded>,
        facts: &Facts<'_>,
        tightest: Option<Standing>,
    ) -> Result<Option<Standing>, Exceeded> {
        match verdict {
            Err(exceeded) if self.rule.observe => {
                self.watch.saw(&exceeded.standing.policy.name, facts);
                Ok(tightest)
            }
            Err(exceeded) => Err(exceeded),
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
                .map(|limit| limit.counted.clone());
            let counted = if rule.key.is_common() {
                commons.of(rule, || Counted::new("", rule, ground))
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
    pub async fn charge(&self, facts: &Facts<'_>, moment: Moment) -> Result<Option<Standing>, Exceeded> {
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
    pub fn charge_at_once(&self, facts: &Facts<'_>, moment: Moment) -> Result<Option<Standing>, Exceeded> {
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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::thread;

    use governor::clock::FakeRelativeClock;
    use http::{HeaderMap, Method};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    static NO_FIELDS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

    fn client(last: u8) -> Facts<'static> {
        Facts { client: [192, 0, 2, last].into(), method: &Method::GET, fields: &NO_FIELDS, caller: None }
    }

    fn limit(rate: Rate, meters: &Meters, clock: &FakeRelativeClock) -> Limit<FakeRelativeClock> {
        let ground = Ground { route: "users", nodes: &Nodes::default(), meters, clock };
        let rule = Rule::per_client(rate);
        Limit::over(Counted::new("users", &rule, &ground), "users", rule, &ground)
    }

    fn limits(rules: &[Rule], meters: &Meters, clock: &FakeRelativeClock) -> Limits<FakeRelativeClock> {
        start("users", rules, None, &mut Commons::none(), meters, clock).unwrap()
    }

    fn start(
        route: &str,
        rules: &[Rule],
        running: Option<&Limits<FakeRelativeClock>>,
        commons: &mut Commons<FakeRelativeClock>,
        meters: &Meters,
        clock: &FakeRelativeClock,
    ) -> Option<Limits<FakeRelativeClock>> {
        let nodes = Nodes::default();
        Limits::start(rules, running, commons, &Ground { route, nodes: &nodes, meters, clock })
    }

    fn per_client(count: u32, per: Duration, burst: u32) -> Rule {
        Rule::per_client(Rate { count, per, burst })
    }

    #[test]
    fn a_burst_is_admitted_then_refused_until_time_passes() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rate { count: 10, per: SECOND, burst: 3 }, &meters, &clock);
        let left: Vec<u32> = (0..3).map(|_| limit.charge_at_once(&client(1)).unwrap().remaining).collect();
        assert_eq!(left, [2, 1, 0]);

        let exceeded = limit.charge_at_once(&client(1)).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_millis(100));
        assert_eq!(exceeded.standing.remaining, 0);
        assert_eq!(exceeded.to_string(), "limit `users` exceeded");
        assert!(limit.charge_at_once(&client(2)).is_ok(), "another client has its own count");

        clock.advance(exceeded.retry_after);
        assert_eq!(limit.charge_at_once(&client(1)).unwrap().remaining, 0);
        assert!(limit.charge_at_once(&client(1)).is_err());
    }

    #[test]
    fn the_standing_tells_when_the_burst_is_back() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rate { count: 60, per: 60 * SECOND, burst: 60 }, &meters, &clock);
        for _ in 0..9 {
            limit.charge_at_once(&client(1)).unwrap();
        }
        let standing = limit.charge_at_once(&client(1)).unwrap();
        assert_eq!((standing.remaining, standing.reset), (50, 10 * SECOND));
        clock.advance(standing.reset);
        assert_eq!(limit.charge_at_once(&client(1)).unwrap().remaining, 59);
    }

    #[test]
    fn threads_at_a_frozen_clock_get_exactly_the_burst() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rate { count: 1, per: SECOND, burst: 500 }, &meters, &clock);
        let admitted: usize = thread::scope(|scope| {
            let charge = || (0..200).filter(|_| limit.charge_at_once(&client(1)).is_ok()).count();
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
        let limits = limits(&[per_client(100, SECOND, 100), per_client(2, 60 * SECOND, 2)], &meters, &clock);
        let standing = limits.charge_at_once(&client(1), Moment::Came).unwrap().unwrap();
        assert_eq!((&*standing.policy.name, standing.remaining), ("users-2", 1));
        limits.charge_at_once(&client(1), Moment::Came).unwrap();
        let exceeded = limits.charge_at_once(&client(1), Moment::Came).unwrap_err();
        assert_eq!((&*exceeded.standing.policy.name, exceeded.retry_after), ("users-2", 30 * SECOND));
        assert_eq!(limits.policies(), "\"users\";q=100;w=1, \"users-2\";q=2;w=60");
        assert!(start("users", &[], None, &mut Commons::none(), &meters, &clock).is_none());
    }

    #[test]
    fn rules_are_for_their_methods_and_their_time() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let writes = Rule { methods: Methods::Unsafe, ..per_client(1, SECOND, 1) };
        let lists = Rule { methods: Methods::Listed(vec![Method::GET]), ..per_client(1, SECOND, 2) };
        let misses = Rule { charge: Charge::Miss, ..per_client(1, SECOND, 3) };
        let limits = limits(&[writes, lists, misses], &meters, &clock);
        let left = |method: &Method, moment| {
            let standing = limits.charge_at_once(&Facts { method, ..client(1) }, moment).unwrap();
            standing.map(|standing| standing.remaining)
        };
        assert_eq!(left(&Method::POST, Moment::Came), Some(0));
        assert_eq!(left(&Method::GET, Moment::Came), Some(1));
        assert_eq!(left(&Method::HEAD, Moment::Came), None);
        assert_eq!(left(&Method::HEAD, Moment::Fetched), Some(2));
        assert!(limits.charge_at_once(&Facts { method: &Method::PUT, ..client(1) }, Moment::Came).is_err());
    }

    #[test]
    fn rules_by_caller_wait_until_it_is_known() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let by_claim = |charge| {
            let key = KeyRule(vec![Part::Constant("all".to_owned()), Part::Claim("sub".to_owned())]);
            Rule { key, charge, ..per_client(9, SECOND, 9) }
        };
        let limits = limits(
            &[by_claim(Charge::Request), by_claim(Charge::Miss), per_client(5, SECOND, 5)],
            &meters,
            &clock,
        );
        let asked =
            |moment| limits.charge_at_once(&client(1), moment).unwrap().map(|it| it.policy.name.clone());
        assert_eq!(asked(Moment::Came).as_deref(), Some("users-3"));
        assert_eq!(asked(Moment::Known).as_deref(), Some("users"));
        assert_eq!(asked(Moment::Fetched).as_deref(), Some("users-2"));
    }

    #[test]
    fn who_observes_refuses_nobody_and_is_not_shown() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let observed = Rule { observe: true, ..per_client(1, SECOND, 1) };
        let limits = limits(&[observed], &meters, &clock);
        for _ in 0..3 {
            assert!(limits.charge_at_once(&client(1), Moment::Came).unwrap().is_none());
        }
        assert_eq!(limits.policies(), "");
        let text = meters.render();
        assert!(text.contains("limit_decisions_total{route=\"users\",outcome=\"admitted\"} 1"), "{text}");
        assert!(text.contains("limit_decisions_total{route=\"users\",outcome=\"would_refuse\"} 2"), "{text}");
    }

    #[test]
    fn a_reload_forgives_nobody_whose_rate_and_key_stay() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let before = limits(&[per_client(1, SECOND, 1)], &meters, &clock);
        before.charge_at_once(&client(1), Moment::Came).unwrap();

        let anew = |rule: Rule| {
            let mut commons = Commons::none();
            let limits = start("users", &[rule], Some(&before), &mut commons, &meters, &clock);
            limits.unwrap().charge_at_once(&client(1), Moment::Came).map(drop)
        };
        assert!(anew(per_client(1, SECOND, 1)).is_err());
        assert!(
            anew(Rule { methods: Methods::Listed(vec![Method::GET]), ..per_client(1, SECOND, 1) }).is_err()
        );
        assert!(anew(per_client(1, SECOND, 2)).is_ok(), "another rate counts anew");
        let by_route = Rule { key: KeyRule(vec![Part::Route]), ..per_client(1, SECOND, 1) };
        assert!(anew(by_route).is_ok(), "another key counts anew");
    }

    #[test]
    fn a_word_is_common_to_routes_and_outlives_a_reload() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let rule =
            Rule { key: KeyRule(vec![Part::Constant("writes".to_owned())]), ..per_client(1, SECOND, 2) };
        let start = |route: &str, commons: &mut Commons<_>| {
            start(route, std::slice::from_ref(&rule), None, commons, &meters, &clock).unwrap()
        };
        let mut commons = Commons::none();
        let (users, orders) = (start("users", &mut commons), start("orders", &mut commons));
        users.charge_at_once(&client(1), Moment::Came).unwrap();
        orders.charge_at_once(&client(2), Moment::Came).unwrap();
        assert!(users.charge_at_once(&client(3), Moment::Came).is_err());

        let anew = start("anew", &mut Commons::of_running([&orders].into_iter()));
        assert!(anew.charge_at_once(&client(4), Moment::Came).is_err());
    }

    #[test]
    fn clients_remembered_are_metered_until_their_limit_goes() {
        let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
        let limit = limit(Rate { count: 1, per: SECOND, burst: 1 }, &meters, &clock);
        for last in 0..5 {
            limit.charge_at_once(&client(last)).unwrap();
        }
        assert!(meters.render().contains("limit_keys{route=\"users\"} 5"));
        drop(limit);
        assert!(meters.render().contains("limit_keys{route=\"users\"} 0"));
    }
}
