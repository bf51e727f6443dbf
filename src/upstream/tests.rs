//! Behaviour of a whole upstream.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use fastrand::Rng;
use proptest::prelude::*;

use crate::config::units::Share;
use crate::telemetry::Meters;

use super::address::Address;
use super::clock::Moment;
use super::endpoint::Endpoint;
use super::health::LastCheck;
use super::resolve::{Answer, LookupFailed, Place};
use super::testing::{Origin, Says, eventually, refusing_address, upstream_of};
use super::view::State;
use super::{
    Affinity, Balance, Failed, Failure, Failures, HashKey, HealthCheck, Lease, NoServer, Outlier, Retries,
    ServerSettings, Settings, Tried, Upstream,
};

const EWMA: Balance = Balance::Ewma { decay: Duration::from_secs(10) };

fn hash(percent: Option<u8>) -> Balance {
    Balance::Hash { key: HashKey::Path, max_overload: percent.map(Share) }
}

/// Every algorithm.
fn all_ways() -> [Balance; 5] {
    [Balance::LeastRequest, Balance::RoundRobin, EWMA, hash(None), hash(Some(25))]
}

/// A request with a key of its own.
fn keyed(rng: &mut Rng) -> Affinity {
    Affinity { key: Some(rng.u64(..)), server: None }
}

mod breaker;
mod choice;

const NOW: Moment = Moment::from_millis(1_000_000);

/// Servers `10.0.0.1:80`, `10.0.0.2:80`, … with these weights.
fn settings(weights: &[u16]) -> Settings {
    let mut settings = Settings::new("users", []);
    settings.servers = (1..)
        .zip(weights)
        .map(|(n, weight)| ServerSettings::new(format!("10.0.0.{n}:80"), *weight))
        .collect();
    settings
}

/// A thousand servers.
fn thousand() -> Settings {
    let mut settings = Settings::new("users", []);
    settings.servers =
        (0..1000).map(|n| ServerSettings::new(format!("10.0.{}.{}:80", n / 250, n % 250), 1)).collect();
    settings
}

fn balanced(balance: Balance, weights: &[u16]) -> Arc<Upstream> {
    upstream_of(Settings { balance, ..settings(weights) })
}

fn endpoints(upstream: &Upstream) -> Vec<Arc<Endpoint>> {
    upstream.group().endpoints().to_vec()
}

fn set_up(endpoint: &Endpoint, up: bool) {
    let rules = HealthCheck { healthy_threshold: 1, unhealthy_threshold: 1, ..HealthCheck::of_path("/") };
    let failure = (!up).then(|| Arc::from("answered 503"));
    endpoint
        .vitals()
        .health
        .note(LastCheck { at: NOW, elapsed: Duration::ZERO, failure, of_tls: false }, &rules);
}

/// More than a hundred thousand, and each slot of a table of hashes as often as the others.
const PICKS: u32 = 2 * 65_537;

/// A key for each pick, evenly spread: what is to be seen is how keys are shared, and not how they happen to fall.
fn nth_key(pick: u32) -> Affinity {
    let (round, slot) = (u128::from(pick / 65_537), u128::from(pick % 65_537));
    let key = (slot << 64).div_ceil(65_537) + round * 0x1234_5678_9abc;
    Affinity { key: u64::try_from(key).ok(), server: None }
}

/// How many picks go to each server, with so many requests in flight: the earliest ends when the next one begins.
fn shares(upstream: &Upstream, in_flight: usize, rng: &mut Rng) -> Vec<u32> {
    let all = endpoints(upstream);
    let places: HashMap<u64, usize> = all.iter().enumerate().map(|(at, server)| (server.id(), at)).collect();
    let (mut counts, mut leases) = (vec![0; all.len()], VecDeque::new());
    for pick in 0..PICKS {
        let lease = upstream.pick_with(&Tried::default(), nth_key(pick), NOW, rng).unwrap();
        counts[places[&lease.server().id()]] += 1;
        leases.push_back(lease);
        if leases.len() > in_flight {
            leases.pop_front();
        }
    }
    counts
}

/// Each server has its share, give or take a fiftieth of that.
fn assert_within_two_percent(counts: &[u32], weights: &[u16], what: &str) {
    let picks: u32 = counts.iter().sum();
    let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
    for (count, weight) in counts.iter().zip(weights) {
        let share = f64::from(picks) * f64::from(*weight) / f64::from(total);
        let off = f64::from(*count) / share - 1.0;
        assert!(off.abs() < 0.02, "{what}: {counts:?} for weights {weights:?}, off by {off}");
    }
}

// ── shares ──

#[test]
fn idle_servers_get_their_weights_share_of_a_hundred_thousand_picks() {
    for balance in all_ways() {
        for weights in [&[1, 1, 1][..], &[1, 2, 3], &[1, 9], &[7, 1, 1, 1], &[1000, 1], &[5]] {
            let counts = shares(&balanced(balance.clone(), weights), 0, &mut Rng::with_seed(7));
            assert_within_two_percent(&counts, weights, &format!("{balance:?}"));
        }
    }
}

#[test]
fn a_thousand_servers_get_their_share() {
    for balance in [Balance::LeastRequest, Balance::RoundRobin, EWMA] {
        let upstream = upstream_of(Settings { balance: balance.clone(), ..thousand() });
        let counts = shares(&upstream, 0, &mut Rng::with_seed(7));
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= 1, "{balance:?}: from {least} to {most}");
    }
}

#[test]
fn round_robin_is_exact() {
    for weights in [&[1, 1, 1][..], &[1, 2, 3], &[7, 1, 1, 1], &[1000, 1]] {
        let upstream = balanced(Balance::RoundRobin, weights);
        let counts = shares(&upstream, 0, &mut Rng::new());
        let total: f64 = weights.iter().copied().map(f64::from).sum();
        for (count, weight) in counts.iter().zip(weights) {
            let share = f64::from(PICKS) * f64::from(*weight) / total;
            assert!((f64::from(*count) - share).abs() <= 1.0, "{counts:?} for weights {weights:?}");
        }
    }
}

#[test]
fn servers_under_load_get_their_weights_share() {
    // So many that a difference of one is small beside what each has, and that keys do not come in bursts beyond a bound.
    for balance in [Balance::LeastRequest, Balance::RoundRobin, hash(Some(25))] {
        for weights in [&[1, 1, 1][..], &[1, 2, 3], &[1, 4], &[1, 9]] {
            let counts = shares(&balanced(balance.clone(), weights), 1000, &mut Rng::with_seed(3));
            assert_within_two_percent(&counts, weights, &format!("{balance:?} under load"));
        }
    }
}

#[test]
fn the_share_of_a_server_that_is_down_goes_to_the_others_by_weight() {
    for balance in all_ways() {
        let upstream = upstream_of(Settings {
            balance: balance.clone(),
            health: Some(HealthCheck::of_path("/")),
            ..settings(&[1, 2, 3, 6])
        });
        let all = endpoints(&upstream);
        all[..3].iter().for_each(|endpoint| set_up(endpoint, true));
        let counts = shares(&upstream, 0, &mut Rng::with_seed(5));
        assert_eq!(counts[3], 0);
        assert_within_two_percent(&counts[..3], &[1, 2, 3], &format!("{balance:?}"));
    }
}

#[test]
fn round_robin_takes_turns_in_order() {
    let upstream = balanced(Balance::RoundRobin, &[1, 1, 1]);
    let names: Vec<String> = (0..6)
        .map(|_| upstream.pick(&Tried::default(), Affinity::default()).unwrap().server().name().to_owned())
        .collect();
    assert_eq!(names[..3], ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    assert_eq!(names[..3], names[3..]);
}

#[test]
fn an_idle_server_is_preferred_to_a_busy_one() {
    let upstream = balanced(Balance::LeastRequest, &[1, 1]);
    let busy = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
    for _ in 0..1000 {
        assert_ne!(
            upstream.pick(&Tried::default(), Affinity::default()).unwrap().server().id(),
            busy.server().id()
        );
    }
}

#[test]
fn the_group_is_loaded_evenly_while_requests_pile_up() {
    let upstream = balanced(Balance::LeastRequest, &[1; 10]);
    let mut rng = Rng::with_seed(11);
    let leases: Vec<Lease> = (0..1000)
        .map(|_| upstream.pick_with(&Tried::default(), Affinity::default(), NOW, &mut rng).unwrap())
        .collect();
    for endpoint in endpoints(&upstream) {
        assert!((95..=105).contains(&endpoint.in_flight()), "{}", endpoint.in_flight());
    }
    drop(leases);
    assert!(endpoints(&upstream).iter().all(|endpoint| endpoint.in_flight() == 0));
}

// ── who may be chosen ──

/// What a server is to a pick.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Role {
    up: bool,
    ejected: bool,
    tried: bool,
    weight: u16,
    busy: usize,
}

fn role() -> impl Strategy<Value = Role> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 1_u16..20, 0_usize..3)
        .prop_map(|(up, ejected, tried, weight, busy)| Role { up, ejected, tried, weight, busy })
}

proptest! {
    #[test]
    fn a_pick_is_the_best_there_is(
        roles in prop::collection::vec(role(), 1..24), seed: u64, way in 0_usize..5, turn: u16,
    ) {
        let weights: Vec<u16> = roles.iter().map(|role| role.weight).collect();
        let balance = all_ways()[way].clone();
        let health = Some(HealthCheck::of_path("/"));
        let upstream = upstream_of(Settings { balance, health, ..settings(&weights) });
        upstream.turn.store(turn.into(), Relaxed);
        let mut tried = Tried::default();
        let mut busy = Vec::new();
        let all = endpoints(&upstream);
        for (endpoint, role) in all.iter().zip(&roles) {
            if role.up {
                set_up(endpoint, true);
            }
            if role.ejected {
                endpoint.vitals().conduct.eject(&Outlier::default(), NOW);
            }
            // A request remembers its ten last tries.
            if role.tried && tried.count() < 10 {
                tried.add(&Lease::take(endpoint.clone(), NOW));
            }
            busy.extend((0..role.busy).map(|_| Lease::take(endpoint.clone(), NOW)));
        }
        let usable = |endpoint: &Endpoint| endpoint.is_up() && !endpoint.is_ejected(NOW);

        let mut rng = Rng::with_seed(seed);
        let affinity = keyed(&mut rng);
        let picked = upstream.pick_with(&tried, affinity, NOW, &mut rng);

        match picked {
            Ok(lease) => {
                prop_assert!(usable(lease.server()));
                if tried.contains(lease.server()) {
                    prop_assert!(!all.iter().any(|other| usable(other) && !tried.contains(other)));
                }
            }
            Err(why) => {
                prop_assert!(!all.iter().any(|endpoint| usable(endpoint)));
                let all_up = roles.iter().all(|role| role.up);
                prop_assert_eq!(matches!(why, NoServer::Ejected(_)), all_up);
                prop_assert_eq!(matches!(why, NoServer::Down(_)), !all_up);
            }
        }
    }
}

#[test]
fn a_few_servers_that_are_up_are_found_among_a_thousand() {
    for balance in all_ways() {
        let upstream = upstream_of(Settings {
            balance: balance.clone(),
            health: Some(HealthCheck::of_path("/")),
            ..thousand()
        });
        let all = endpoints(&upstream);
        set_up(&all[700], true);
        set_up(&all[701], true);
        let mut counts = [0; 2];
        for _ in 0..1000 {
            let mut rng = Rng::new();
            let affinity = keyed(&mut rng);
            let lease = upstream.pick_with(&Tried::default(), affinity, NOW, &mut rng).unwrap();
            let server = all.iter().position(|e| e.id() == lease.server().id()).unwrap();
            counts[server - 700] += 1;
        }
        // 700 stands right after those that are down, and yet gets no more than its share.
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{balance:?} {counts:?}");
    }
}

#[test]
fn the_only_server_is_tried_again() {
    let upstream = balanced(Balance::LeastRequest, &[1]);
    let mut tried = Tried::default();
    tried.add(&upstream.pick(&tried, Affinity::default()).unwrap());
    assert!(upstream.pick(&tried, Affinity::default()).is_ok());
}

#[test]
fn retries_go_round_all_servers_before_any_sees_the_request_twice() {
    for balance in all_ways() {
        let upstream = balanced(balance, &[1, 50, 3, 9]);
        let mut tried = Tried::default();
        for _ in 0..4 {
            let lease = upstream.pick(&tried, Affinity::default()).unwrap();
            assert!(!tried.contains(lease.server()));
            tried.add(&lease);
        }
        assert_eq!(tried.count(), 4);
    }
}

// ── leases ──

#[tokio::test]
async fn a_cancelled_request_is_not_in_flight_any_more() {
    let upstream = balanced(Balance::LeastRequest, &[1]);
    let endpoint = endpoints(&upstream)[0].clone();
    let request = tokio::spawn({
        let upstream = upstream.clone();
        async move {
            let _lease = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
            std::future::pending::<()>().await;
        }
    });
    eventually("in flight", || endpoint.in_flight() == 1).await;
    request.abort();
    eventually("cancelled", || endpoint.in_flight() == 0).await;
}

#[test]
fn the_first_word_on_a_try_counts_and_silence_says_nothing() {
    let meters = Meters::new();
    let upstream = Upstream::new(settings(&[1]), None, &meters);
    let mut lease = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
    lease.answered(Duration::from_millis(3));
    lease.succeeded();
    lease.failed(Failure::Reset);
    drop(lease);
    drop(upstream.pick(&Tried::default(), Affinity::default()));
    let mut lease = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
    lease.failed(Failure::Status(503));

    let text = meters.render();
    let line = |outcome| {
        format!(
            "upstream_requests_total{{upstream=\"users\",server=\"10.0.0.1:80\",outcome=\"{outcome}\"}} 1\n"
        )
    };
    assert!(text.contains(&line("ok")) && text.contains(&line("error")), "{text}");
    assert!(text.contains("upstream_in_flight{upstream=\"users\",server=\"10.0.0.1:80\"} 1\n"), "{text}");
    assert!(text.contains("upstream_seconds_count{upstream=\"users\"} 1\n"), "{text}");
}

// ── ejection ──

fn fail(upstream: &Upstream, endpoint: &Arc<Endpoint>, times: u16, now: Moment) {
    assert!(upstream.settings.outlier.is_some());
    for _ in 0..times {
        Lease::take(endpoint.clone(), NOW).failed_at(Failure::Status(502), now);
    }
}

#[test]
fn a_failing_server_is_left_alone_and_comes_back() {
    let upstream = balanced(Balance::LeastRequest, &[1, 1, 1]);
    let sick = endpoints(&upstream)[1].clone();
    fail(&upstream, &sick, 4, NOW);
    assert!(sick.is_usable(NOW));
    fail(&upstream, &sick, 1, NOW);
    assert!(!sick.is_usable(NOW));
    assert_eq!(shares(&upstream, 0, &mut Rng::new())[1], 0);

    let later = NOW.plus(Duration::from_secs(30));
    assert!(sick.is_usable(later));
    fail(&upstream, &sick, 5, later);
    assert!(sick.is_ejected(later.plus(Duration::from_secs(59))), "the second lasts twice as long");
    assert!(!sick.is_ejected(later.plus(Duration::from_secs(60))));
}

#[test]
fn without_outlier_detection_nobody_is_ejected() {
    let upstream = upstream_of(Settings { outlier: None, ..settings(&[1, 1]) });
    let endpoint = endpoints(&upstream)[0].clone();
    for _ in 0..100 {
        Lease::take(endpoint.clone(), NOW).failed_at(Failure::Connect, NOW);
    }
    assert!(endpoint.is_usable(NOW));
}

#[test]
fn the_last_server_that_is_up_is_not_ejected() {
    let health = Some(HealthCheck::of_path("/"));
    let outlier = Some(Outlier { max_ejected: Share(100), ..Outlier::default() });
    let upstream = upstream_of(Settings { health, outlier, ..settings(&[1, 1, 1]) });
    let all = endpoints(&upstream);
    set_up(&all[0], true);
    fail(&upstream, &all[0], 50, NOW);
    assert!(all[0].is_usable(NOW));
    set_up(&all[1], true);
    fail(&upstream, &all[0], 1, NOW);
    assert!(!all[0].is_usable(NOW), "now there is another");
}

#[test]
fn who_fails_now_takes_the_place_of_who_failed_first() {
    let upstream = balanced(Balance::LeastRequest, &[1, 1, 1, 1]);
    let all = endpoints(&upstream);
    let usable = |now| all.iter().map(|endpoint| endpoint.is_usable(now)).collect::<Vec<_>>();
    fail(&upstream, &all[0], 5, NOW);
    let second = NOW.plus(Duration::from_secs(2));
    fail(&upstream, &all[1], 5, second);
    fail(&upstream, &all[2], 5, second);
    assert_eq!(usable(second), [false, false, true, true], "half of them are out, none for long");

    let third = NOW.plus(Duration::from_secs(3));
    fail(&upstream, &all[2], 1, third);
    assert_eq!(usable(third), [true, false, false, true]);
    fail(&upstream, &all[0], 5, third);
    assert_eq!(usable(third), [true, false, false, true], "they do not put each other out without end");
}

#[test]
fn nobody_is_put_out_for_one_that_may_be_no_good_alone() {
    let upstream = balanced(Balance::LeastRequest, &[1, 1]);
    let all = endpoints(&upstream);
    fail(&upstream, &all[0], 5, NOW);
    let later = NOW.plus(Duration::from_secs(20));
    fail(&upstream, &all[1], 5, later);
    assert!(!all[0].is_usable(later) && all[1].is_usable(later));
}

proptest! {
    #[test]
    fn never_more_than_the_share_is_ejected_and_never_all(
        servers in 1_usize..=10,
        percent in 0_u8..=100,
        events in prop::collection::vec((0_usize..10, 1_u16..8, 0_u64..20), 1..60),
    ) {
        let max_ejected = Share(percent);
        let outlier = Some(Outlier { max_ejected, ..Outlier::default() });
        let upstream = upstream_of(Settings { outlier, ..settings(&vec![1; servers]) });
        let all = endpoints(&upstream);
        let mut now = NOW;
        for (server, failures, seconds) in events {
            fail(&upstream, &all[server % servers], failures, now);
            let ejected = all.iter().filter(|endpoint| endpoint.is_ejected(now)).count();
            prop_assert!(ejected * 100 <= servers * usize::from(percent));
            prop_assert!(ejected < servers);
            now = now.plus(Duration::from_secs(seconds));
        }
    }
}

#[test]
fn two_servers_that_fail_at_once_are_never_both_ejected() {
    let outlier = Some(Outlier { consecutive_errors: 1, max_ejected: Share(100), ..Outlier::default() });
    let upstream = upstream_of(Settings { outlier, ..settings(&[1, 1]) });
    let all = endpoints(&upstream);
    let arrivals = AtomicUsize::new(0);
    // Both threads leave together, so that their failures come as close as can be.
    let meet = |meeting: usize| {
        arrivals.fetch_add(1, SeqCst);
        let mut looks = 0;
        while arrivals.load(SeqCst) < 2 * meeting {
            looks += 1;
            if looks % 1000 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    let rounds: Vec<Moment> = (0..20_000).map(|round| NOW.plus(Duration::from_secs(3600 * round))).collect();
    let without_server = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for endpoint in &all {
            scope.spawn(|| {
                for (round, now) in rounds.iter().enumerate() {
                    meet(2 * round + 1);
                    fail(&upstream, endpoint, 1, *now);
                    meet(2 * round + 2);
                    let usable = all.iter().any(|endpoint| endpoint.is_usable(*now));
                    without_server.fetch_add(usize::from(!usable), Relaxed);
                }
            });
        }
    });
    assert_eq!(without_server.load(Relaxed), 0);
    let ejections: u64 = all.iter().map(|endpoint| endpoint.vitals().conduct.ejections()).sum();
    assert_eq!(ejections, 20_000, "one in each round");
}

// ── retries ──

#[test]
fn a_retry_needs_a_try_left_a_reason_that_counts_and_budget() {
    let meters = Meters::new();
    let on = Failures::from_iter([Failure::Connect, Failure::Status(503)]);
    let retries = Retries { attempts: 3, on, budget: Share(20), ..Retries::default() };
    let upstream = Upstream::new(Settings { retries, ..settings(&[1]) }, None, &meters);

    let wait = |tries, failure| {
        let tried = tried(&upstream, tries);
        upstream.may_retry_at(&Failed { failure, tried: &tried, told: None, left: None }, NOW, 1.0)
    };
    assert_eq!(wait(1, Failure::Connect), Some(Duration::from_millis(25)));
    assert_eq!(wait(2, Failure::Status(503)), Some(Duration::from_millis(50)));
    assert_eq!(wait(3, Failure::Connect), None, "that was the last try");
    assert_eq!(wait(1, Failure::Reset), None, "not on the list");

    let more = (0..100).filter(|_| wait(1, Failure::Connect).is_some()).count();
    assert_eq!(more, 28, "with the two above, thirty in ten seconds");
    let text = meters.render();
    assert!(text.contains("upstream_retries_total{upstream=\"users\",reason=\"connect\"} 29\n"), "{text}");
    assert!(text.contains("upstream_retries_total{upstream=\"users\",reason=\"status\"} 1\n"), "{text}");
    assert!(text.contains("upstream_retries_denied_total{upstream=\"users\"} 72\n"), "{text}");
}

#[test]
fn the_budget_grows_with_requests_and_not_with_retries() {
    let upstream = balanced(Balance::LeastRequest, &[1, 1]);
    let mut tried = Tried::default();
    for _ in 0..1000 {
        let lease = upstream.pick_with(&Tried::default(), Affinity::default(), NOW, &mut Rng::new()).unwrap();
        tried.add(&lease);
        let _retry = upstream.pick_with(&tried, Affinity::default(), NOW, &mut Rng::new()).unwrap();
    }
    let tried = self::tried(&upstream, 1);
    let failed = Failed { failure: Failure::Connect, tried: &tried, told: None, left: None };
    let granted = (0..1000).filter(|_| upstream.may_retry_at(&failed, NOW, 0.0).is_some()).count();
    assert_eq!(granted, 200);
}

#[test]
fn a_server_that_asks_to_be_left_alone_is_if_nobody_else_is_there_and_time_is_left() {
    let retries = Retries { on: Failures::from_iter([Failure::Status(503)]), ..Retries::default() };
    let alone = upstream_of(Settings { retries, ..settings(&[1]) });
    let of_two = upstream_of(Settings { retries, ..settings(&[1, 1]) });
    let wait = |upstream: &Upstream, told: u64, left: Option<u64>| {
        let tried = tried(upstream, 1);
        let (told, left) = (Some(Duration::from_secs(told)), left.map(Duration::from_secs));
        let failed = Failed { failure: Failure::Status(503), tried: &tried, told, left };
        upstream.may_retry_at(&failed, NOW, 1.0)
    };
    assert_eq!(wait(&alone, 3, Some(10)), Some(Duration::from_secs(3)));
    assert_eq!(wait(&alone, 0, Some(10)), Some(Duration::from_millis(25)), "no sooner than without a word");
    assert_eq!(wait(&alone, 10, Some(10)), None, "nothing would be left of the time");
    assert_eq!(wait(&alone, 30, None), Some(Duration::from_secs(30)));
    assert_eq!(wait(&alone, 31, None), None, "nobody is kept waiting that long");
    assert_eq!(wait(&of_two, 31, Some(10)), Some(Duration::from_millis(25)), "the other one said nothing");
}

#[test]
fn a_retry_that_could_not_begin_in_time_is_not_made() {
    let upstream = balanced(Balance::LeastRequest, &[1]);
    let tried = tried(&upstream, 1);
    let within = |millis| {
        let left = Some(Duration::from_millis(millis));
        upstream.may_retry_at(
            &Failed { failure: Failure::Connect, tried: &tried, told: None, left },
            NOW,
            1.0,
        )
    };
    assert_eq!(within(25), None);
    assert_eq!(within(26), Some(Duration::from_millis(25)));
}

/// The first server, tried so often.
fn tried(upstream: &Upstream, times: usize) -> Tried {
    let lease = Lease::take(endpoints(upstream)[0].clone(), NOW);
    let mut tried = Tried::default();
    (0..times).for_each(|_| tried.add(&lease));
    tried
}

// ── reload ──

#[test]
fn a_reload_keeps_what_is_known_of_a_server_by_its_address() {
    let meters = Meters::new();
    let health = Some(HealthCheck::of_path("/"));
    let old = Upstream::new(Settings { health: health.clone(), ..settings(&[1, 1, 1]) }, None, &meters);
    let before = endpoints(&old);
    set_up(&before[0], true);
    set_up(&before[1], true);
    let mut lease = Lease::take(before[0].clone(), NOW);
    before[1].vitals().conduct.eject(&Outlier::default(), NOW);

    // The first server leaves, the fourth is new, the order changes.
    let places = [("10.0.0.4:80", 1), ("10.0.0.1:80", 5), ("10.0.0.2:80", 1)];
    let new = Upstream::new(Settings { health, ..Settings::new("users", places) }, Some(&old), &meters);
    let after = endpoints(&new);
    assert!(!after[0].is_up(), "new: down until its first check");
    assert!(after[1].is_usable(NOW));
    assert_eq!((after[1].weight(), after[1].in_flight()), (5, 1));
    assert!(after[2].is_up() && after[2].is_ejected(NOW));

    // A failure that the old plan's request reports is known to the new plan, too.
    lease.failed(Failure::Connect);
    drop(lease);
    assert_eq!(after[1].in_flight(), 0);
}

#[test]
fn a_configuration_that_is_refused_leaves_no_trace() {
    let meters = Meters::new();
    let old = Upstream::new(settings(&[1, 1]), None, &meters);
    let before = meters.render();
    let health = Some(HealthCheck::of_path("/"));
    drop(Upstream::new(Settings { health, ..settings(&[1]) }, Some(&old), &meters));
    assert_eq!(meters.render(), before);
    assert!(endpoints(&old).iter().all(|endpoint| endpoint.is_usable(NOW)));
}

#[test]
fn checks_that_are_new_find_the_servers_up_and_checks_that_are_gone_leave_them_up() {
    let meters = Meters::new();
    let health = Some(HealthCheck::of_path("/"));
    let unchecked = Upstream::new(settings(&[1]), None, &meters);
    let checked = Upstream::new(Settings { health, ..settings(&[1]) }, Some(&unchecked), &meters);
    assert!(checked.is_available());
    set_up(&endpoints(&checked)[0], false);
    assert!(!checked.is_available());
    assert!(Upstream::new(settings(&[1]), Some(&checked), &meters).is_available());
}

#[test]
fn the_metrics_of_a_server_end_with_its_last_request() {
    let meters = Meters::new();
    let old = Upstream::new(settings(&[1, 1]), None, &meters);
    let leaving = endpoints(&old)[1].clone();
    let lease = Lease::take(leaving.clone(), NOW);
    drop(leaving);
    let new = Upstream::new(settings(&[1]), Some(&old), &meters);
    drop(old);
    assert!(meters.render().contains("10.0.0.2:80"), "a request is in flight to it");
    drop(lease);
    let text = meters.render();
    assert!(!text.contains("10.0.0.2:80"), "{text}");
    assert!(text.contains("upstream_server_up{upstream=\"users\",server=\"10.0.0.1:80\"} 1\n"), "{text}");
    drop(new);
    let text = meters.render();
    assert!(!text.contains("users"), "{text}");
}

#[test]
fn a_server_written_twice_has_one_set_of_metrics_and_one_state() {
    let meters = Meters::new();
    let twice = || Settings::new("users", [("10.0.0.1:80", 1), ("10.0.0.1:80", 1)]);
    let old = Upstream::new(twice(), None, &meters);
    let new = Upstream::new(twice(), Some(&old), &meters);
    drop(old);
    let _lease = new.pick(&Tried::default(), Affinity::default()).unwrap();
    let in_flight: Vec<usize> = endpoints(&new).iter().map(|endpoint| endpoint.in_flight()).collect();
    assert_eq!(in_flight, [1, 1]);
    let text = meters.render();
    assert!(text.contains("upstream_in_flight{upstream=\"users\",server=\"10.0.0.1:80\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_queue_is_the_same_after_a_reload() {
    let meters = Meters::new();
    let mut one_at_a_time = settings(&[1]);
    one_at_a_time.limits.max_connections = 1;
    one_at_a_time.limits.max_pending = 0;
    let old = Upstream::new(one_at_a_time.clone(), None, &meters);
    let _permit = old.admit().await.unwrap();
    assert!(Upstream::new(one_at_a_time.clone(), Some(&old), &meters).admit().await.is_err());
    one_at_a_time.limits.max_connections = 2;
    assert!(Upstream::new(one_at_a_time, Some(&old), &meters).admit().await.is_ok());
}

// ── background ──

/// Checks so frequent that a test sees several.
fn quick_checks() -> HealthCheck {
    let (interval, timeout) = (Duration::from_millis(10), Duration::from_secs(1));
    HealthCheck { interval, timeout, ..HealthCheck::of_path("/healthz") }
}

fn checked(origin: &Origin, meters: &Meters) -> Arc<Upstream> {
    let place = origin.place();
    let settings = Settings { health: Some(quick_checks()), ..Settings::new("users", [(place.as_str(), 1)]) };
    Upstream::new(settings, None, meters)
}

#[tokio::test]
async fn a_server_is_down_until_its_first_check_and_goes_and_comes_with_its_health() {
    let meters = Meters::new();
    let origin = Origin::start(Says::status(200)).await;
    let upstream = checked(&origin, &meters);
    assert_eq!(
        upstream.pick(&Tried::default(), Affinity::default()).unwrap_err(),
        NoServer::Down("users".into())
    );
    assert_eq!(upstream.snapshot().servers[0].reason.as_deref(), Some("no health check has passed yet"));

    upstream.start();
    eventually("up", || upstream.is_available()).await;
    let shown = |up| {
        let series = format!("upstream=\"users\",server=\"{}\"", origin.place());
        meters.render().contains(&format!("upstream_server_up{{{series}}} {up}\n"))
    };
    eventually("shown as up", || shown(1)).await;

    origin.now_says(Says::status(503));
    eventually("down", || !upstream.is_available()).await;
    eventually("shown as down", || shown(0)).await;
    let reason_is = |reason| upstream.snapshot().servers[0].reason.as_deref() == Some(reason);
    eventually("the reason is told", || reason_is("answered 503")).await;
    let view = upstream.snapshot().servers.remove(0);
    assert_eq!(view.state, State::Down);
    assert!(view.last_check.is_some_and(|check| !check.passed));

    origin.now_says(Says::Nothing);
    eventually("the reason changes", || reason_is("no answer within 1s")).await;

    origin.now_says(Says::status(204));
    eventually("up again", || upstream.is_available()).await;
    assert_eq!(upstream.snapshot().servers[0].state, State::Up);
}

#[tokio::test]
async fn a_server_that_refuses_is_down_and_its_neighbour_is_chosen() {
    let origin = Origin::start(Says::status(200)).await;
    let (good, refusing) = (origin.place(), refusing_address().await.to_string());
    let settings = Settings::new("users", [(refusing.as_str(), 1), (good.as_str(), 1)]);
    let upstream = upstream_of(Settings { health: Some(quick_checks()), ..settings });
    upstream.start();
    eventually("the first check of both", || {
        upstream.snapshot().servers.iter().all(|server| server.last_check.is_some())
    })
    .await;
    for _ in 0..100 {
        assert_eq!(upstream.pick(&Tried::default(), Affinity::default()).unwrap().server().name(), good);
    }
    let reason = upstream.snapshot().servers[0].reason.clone().unwrap();
    assert!(reason.starts_with("cannot connect: "), "{reason}");
}

#[tokio::test]
async fn checks_end_with_the_upstream_and_pass_to_its_successor() {
    let meters = Meters::new();
    let origin = Origin::start(Says::status(200)).await;
    let old = checked(&origin, &meters);
    old.start();
    eventually("up", || old.is_available()).await;

    let new = Upstream::new(old.settings().clone(), Some(&old), &meters);
    assert!(new.is_available(), "known from before");
    new.start();
    // The old one is alive still, for its requests, and yet checks no more: once the new one is gone, nobody does.
    drop(new);
    let mut seen = origin.requests().len();
    let mut unchanged = 0;
    let began = Instant::now();
    while unchanged < 20 && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = origin.requests().len();
        unchanged = if now == seen { unchanged + 1 } else { 0 };
        seen = now;
    }
    assert_eq!(unchanged, 20, "checks every 10 ms would be seen in 100 ms");
    assert!(old.is_available());
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses_and_is_unresolved_until_looked_up() {
    let origin = Origin::start(Says::status(200)).await;
    let place = format!("localhost:{}", origin.address().port());
    let upstream = upstream_of(Settings::new("users", [(place.as_str(), 1)]));
    assert_eq!(
        upstream.pick(&Tried::default(), Affinity::default()).unwrap_err(),
        NoServer::Unresolved("users".into())
    );
    let view = upstream.snapshot().servers.remove(0);
    assert_eq!((view.state, view.address), (State::Unresolved, None));
    assert_eq!(view.reason.as_deref(), Some("not looked up yet"));

    upstream.start();
    eventually("resolved", || upstream.is_available()).await;
    let lease = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
    assert_eq!(lease.server().name(), place);
    assert_eq!(lease.server().address(), &Address::Inet(origin.address()));

    let reloaded = Upstream::new(upstream.settings().clone(), Some(&upstream), &Meters::new());
    assert!(reloaded.is_available(), "a reload does not forget the addresses");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_unresolved_with_the_reason() {
    // RFC 6761 §6.4: `.invalid` never resolves.
    let upstream = upstream_of(Settings::new("users", [("users.invalid:80", 1), ("10.0.0.1:80", 1)]));
    upstream.start();
    eventually("looked up", || {
        let reason = upstream.snapshot().servers[0].reason.clone();
        reason.is_some_and(|reason| reason.starts_with("the name does not resolve: "))
    })
    .await;
    assert_eq!(upstream.snapshot().servers[0].state, State::Unresolved);
    assert_eq!(upstream.pick(&Tried::default(), Affinity::default()).unwrap().server().name(), "10.0.0.1:80");
}

#[test]
fn addresses_that_a_name_keeps_keep_their_state() {
    let upstream = upstream_of(Settings {
        health: Some(HealthCheck::of_path("/")),
        ..Settings::new("users", [("users:80", 2)])
    });
    let stands_for = |addresses: &[&str]| stands_for(&upstream, addresses);
    stands_for(&["10.0.0.1:80", "10.0.0.2:80"]);
    set_up(&endpoints(&upstream)[1], true);
    let lease = upstream.pick(&Tried::default(), Affinity::default()).unwrap();

    stands_for(&["10.0.0.2:80", "10.0.0.3:80"]);
    let now = endpoints(&upstream);
    let state: Vec<_> = now.iter().map(|e| (e.address().to_string(), e.is_up(), e.in_flight())).collect();
    assert_eq!(state, [("10.0.0.2:80".to_owned(), true, 1), ("10.0.0.3:80".to_owned(), false, 0)]);
    assert!(now.iter().all(|endpoint| endpoint.weight() == 2));
    drop(lease);
    assert_eq!(now[0].in_flight(), 0);
}

#[test]
fn a_lookup_that_finds_an_address_again_changes_nothing_of_it() {
    let slow_start = Duration::from_secs(60);
    let upstream = upstream_of(Settings { slow_start, ..Settings::new("users", [("users:80", 1)]) });
    stands_for(&upstream, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    let before = endpoints(&upstream);
    fail(&upstream, &before[0], 5, NOW);
    before[1].vitals().come_back(NOW);
    let _lease = Lease::take(before[1].clone(), NOW);
    let state = |endpoint: &Arc<Endpoint>| {
        let usable = endpoint.is_usable(NOW);
        (endpoint.id(), usable, endpoint.in_flight(), endpoint.warmth(NOW))
    };
    let states: Vec<_> = before.iter().map(state).collect();
    assert!(!states[0].1 && states[1].2 == 1 && states[1].3 < states[2].3);

    stands_for(&upstream, &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]);
    let now = endpoints(&upstream);
    assert_eq!(now[..3].iter().map(state).collect::<Vec<_>>(), states);

    let server = &upstream.servers[0];
    server.resolution.store(Arc::new(server.resolution.load().after(Err(LookupFailed::NoAddresses))));
    upstream.publish();
    assert_eq!(endpoints(&upstream)[..3].iter().map(state).collect::<Vec<_>>(), states, "nor one that fails");
}

/// Has the first server's name stand for these addresses.
fn stands_for(upstream: &Upstream, addresses: &[&str]) {
    let places: Vec<Place> =
        addresses.iter().map(|address| Address::Inet(address.parse().unwrap()).into()).collect();
    found(upstream, places);
}

fn found(upstream: &Upstream, places: Vec<Place>) {
    let answer = Answer { places, holds: Duration::from_secs(1), trouble: None };
    let server = &upstream.servers[0];
    server.resolution.store(Arc::new(server.resolution.load().after(Ok(answer))));
    upstream.publish();
}

#[test]
fn a_record_of_a_later_priority_is_a_backup_and_weights_multiply() {
    let upstream = upstream_of(Settings::new("users", [("srv://_http._tcp.users", 2)]));
    let place = |last: u8, backup, weight| Place {
        address: Address::Inet(SocketAddr::from(([10, 0, 0, last], 80))),
        backup,
        weight,
        host: None,
    };
    let places = vec![place(1, false, 3), place(2, true, 1)];
    found(&upstream, places);
    let view = upstream.snapshot().servers;
    assert_eq!((view[0].weight, view[0].backup), (6, false));
    assert_eq!((view[1].weight, view[1].backup), (2, true));

    let first = upstream.pick_with(&Tried::default(), Affinity::default(), NOW, &mut Rng::new()).unwrap();
    assert_eq!(first.server().address().to_string(), "10.0.0.1:80");
    let mut tried = Tried::default();
    tried.add(&first);
    let next = upstream.pick_with(&tried, Affinity::default(), NOW, &mut Rng::new()).unwrap();
    assert_eq!(next.server().address().to_string(), "10.0.0.2:80");
}

#[test]
fn the_snapshot_says_how_every_server_stands() {
    let upstream =
        upstream_of(Settings::new("users", [("10.0.0.1:80", 3), ("10.0.0.2:80", 1), ("nowhere", 1)]));
    let all = endpoints(&upstream);
    all[1].vitals().conduct.eject(&Outlier::default(), Moment::now());
    let _lease = Lease::take(all[0].clone(), NOW);
    let view = serde_json::to_value(upstream.snapshot()).unwrap();
    assert_eq!(view["name"], "users");
    let servers = view["servers"].as_array().unwrap();
    assert_eq!(
        servers[0],
        serde_json::json!({
            "server": "10.0.0.1:80", "address": "10.0.0.1:80", "weight": 3, "backup": false, "state": "up", "in_flight": 1,
            "ejections": 0,
        })
    );
    assert_eq!((&servers[1]["state"], &servers[1]["ejections"]), (&"ejected".into(), &1.into()));
    assert!(
        servers[1]["reason"].as_str().unwrap().starts_with("its answers failed; left alone for another ")
    );
    assert_eq!(servers[2]["state"], "unresolved");
    assert!(servers[2]["reason"].as_str().unwrap().contains("port"));
}

#[tokio::test]
async fn a_replaced_upstream_has_no_say_in_the_metrics() {
    let meters = Meters::new();
    let old = Upstream::new(settings(&[1, 1]), None, &meters);
    let sick = endpoints(&old)[0].clone();
    let new = Upstream::new(Settings { outlier: None, ..settings(&[1, 1]) }, Some(&old), &meters);
    new.start();
    fail(&old, &sick, 5, Moment::now());
    assert!(!sick.is_usable(Moment::now()), "the old one still has its rules");
    let text = meters.render();
    assert!(text.contains("upstream_server_up{upstream=\"users\",server=\"10.0.0.1:80\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_metrics_show_when_an_ejection_begins_and_ends() {
    let meters = Meters::new();
    let outlier = Some(Outlier { ejection_time: Duration::from_millis(50), ..Outlier::default() });
    let upstream = Upstream::new(Settings { outlier, ..settings(&[1, 1]) }, None, &meters);
    upstream.start();
    let shown = |up| {
        let line = format!("upstream_server_up{{upstream=\"users\",server=\"10.0.0.1:80\"}} {up}\n");
        meters.render().contains(&line)
    };
    assert!(shown(1));
    fail(&upstream, &endpoints(&upstream)[0], 5, Moment::now());
    assert!(shown(0));
    assert!(
        meters.render().contains("upstream_ejections_total{upstream=\"users\",server=\"10.0.0.1:80\"} 1\n")
    );
    eventually("shown as back", || shown(1)).await;
}
