//! Rules, one by one and together: which are asked when, and what they say.

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

fn exceeded<T>(verdict: Result<T, No>) -> Exceeded {
    match verdict {
        Err(No::Exceeded(exceeded)) => exceeded,
        _ => panic!("the limit is not exceeded"),
    }
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

    let exceeded = exceeded(limit.charge_at_once(&client(1)));
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
    let exceeded = exceeded(limits.charge_at_once(&client(1), Moment::Came));
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
    let asked = |moment| limits.charge_at_once(&client(1), moment).unwrap().map(|it| it.policy.name.clone());
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
    assert!(anew(Rule { methods: Methods::Listed(vec![Method::GET]), ..per_client(1, SECOND, 1) }).is_err());
    assert!(anew(per_client(1, SECOND, 2)).is_ok(), "another rate counts anew");
    let by_route = Rule { key: KeyRule(vec![Part::Route]), ..per_client(1, SECOND, 1) };
    assert!(anew(by_route).is_ok(), "another key counts anew");
}

#[test]
fn a_word_is_common_to_routes_and_outlives_a_reload() {
    let (meters, clock) = (Meters::new(), FakeRelativeClock::default());
    let rule = Rule { key: KeyRule(vec![Part::Constant("writes".to_owned())]), ..per_client(1, SECOND, 2) };
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
