//! What a choice heeds besides weights: keys and cookies, tiers, warmth, drains, and whether too few are up.

use super::*;
use crate::upstream::affinity::{Sticky, StickySecret};
use crate::upstream::group::Tier;

fn pick(upstream: &Upstream, affinity: Affinity, rng: &mut Rng) -> Arc<Endpoint> {
    upstream.pick_with(&Tried::default(), affinity, NOW, rng).unwrap().server().clone()
}

fn key(key: u64) -> Affinity {
    Affinity { key: Some(key), server: None }
}

/// Keys as hashes are: spread over all numbers.
fn keys(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|number| xxhash_rust::xxh3::xxh3_64(&number.to_be_bytes()))
}

fn names(upstream: &Upstream) -> Vec<String> {
    keys(20_000).map(|it| pick(upstream, key(it), &mut Rng::new()).name().to_owned()).collect()
}

fn all_up(settings: Settings) -> Arc<Upstream> {
    let upstream = upstream_of(Settings { health: Some(HealthCheck::of_path("/")), ..settings });
    for endpoint in endpoints(&upstream) {
        set_up(&endpoint, true);
    }
    upstream.take_stock(NOW);
    upstream
}

fn go(upstream: &Upstream, endpoint: &Endpoint, up: bool) {
    set_up(endpoint, up);
    upstream.take_stock(NOW);
}

// ── hash ──

#[test]
fn a_key_stays_with_its_server_and_only_those_of_one_that_goes_move() {
    let upstream = all_up(Settings { balance: hash(None), ..settings(&[1, 1, 2, 1]) });
    let before = names(&upstream);
    assert_eq!(before, names(&upstream));

    let gone = &endpoints(&upstream)[1];
    go(&upstream, gone, false);
    let meanwhile = names(&upstream);
    for (before, now) in before.iter().zip(&meanwhile) {
        assert!(now != gone.name() && (before == now || before == gone.name()), "{before} {now}");
    }
    // What it had is spread over the rest by weight.
    let moved: Vec<_> =
        before.iter().zip(&meanwhile).filter(|(before, now)| before != now).map(|(_, now)| now).collect();
    let heavy = moved.iter().filter(|name| ***name == "10.0.0.3:80").count();
    assert!((moved.len() * 45 / 100..moved.len() * 55 / 100).contains(&heavy), "{heavy} of {}", moved.len());

    go(&upstream, gone, true);
    assert_eq!(before, names(&upstream));
}

#[test]
fn few_keys_move_when_the_list_changes() {
    for servers in [3, 5, 10, 50] {
        let all = settings(&vec![1; servers]);
        let before = names(&upstream_of(Settings { balance: hash(None), ..all.clone() }));
        for gone in [0, servers / 2, servers - 1] {
            let mut fewer = Settings { balance: hash(None), ..all.clone() };
            fewer.servers.remove(gone);
            let after = names(&upstream_of(fewer));
            let moved = before.iter().zip(&after).filter(|(one, other)| one != other).count();
            let (moved, due) = (moved * 1000 / before.len(), 1000 / servers);
            assert!(
                moved <= due + 15,
                "{gone} of {servers} servers goes: {moved} of 1000 keys, not {due}, move"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_moves_with_a_server_is_its_share_also_where_weights_differ(
        weights in prop::collection::vec(1_u16..8, 2..20), gone: prop::sample::Index,
    ) {
        let all = Settings { balance: hash(None), ..settings(&weights) };
        let gone = gone.index(weights.len());
        let mut fewer = all.clone();
        fewer.servers.remove(gone);
        let (before, after) = (names(&upstream_of(all)), names(&upstream_of(fewer)));
        let moved = before.iter().zip(&after).filter(|(one, other)| one != other).count() * 1000 / before.len();
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        let due = usize::from(weights[gone]) * 1000 / total;
        prop_assert!(moved <= due + 30, "{moved} of 1000 keys, not {due}, move");
    }
}

#[test]
fn every_gateway_finds_the_same_server_whatever_the_order_of_its_list() {
    let places = ["a.test:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let group = |order: &[usize]| {
        let settings = Settings::new("users", order.iter().map(|at| (places[*at], 1)));
        names(&upstream_of(Settings { balance: hash(None), ..settings }))
    };
    let (one, other) = (group(&[1, 2, 3]), group(&[3, 1, 2]));
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert!(same * 100 >= one.len() * 98, "{same} of {}", one.len());
}

#[test]
fn requests_without_a_key_go_to_who_is_less_busy() {
    let upstream = balanced(hash(Some(25)), &[1, 1]);
    let busy = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
    for _ in 0..100 {
        let next = upstream.pick(&Tried::default(), Affinity::default()).unwrap();
        assert_ne!(next.server().id(), busy.server().id());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_server_gets_more_than_its_bound(
        weights in prop::collection::vec(1_u16..8, 2..12),
        percent in 0_u8..=100,
        hot in prop::collection::vec(any::<u64>(), 1..4),
        down in any::<u16>(),
        seed: u64,
    ) {
        let upstream = all_up(Settings { balance: hash(Some(percent)), ..settings(&weights) });
        let all = endpoints(&upstream);
        for (at, endpoint) in all.iter().enumerate().skip(1) {
            set_up(endpoint, down & (1 << at) == 0);
        }
        upstream.take_stock(NOW);
        let usable: u64 =
            all.iter().filter(|it| it.is_usable(NOW)).map(|it| u64::from(it.weight())).sum();
        let mut rng = Rng::with_seed(seed);
        let mut in_flight = VecDeque::new();
        for _ in 0..600 {
            let affinity = key(hot[rng.usize(..hot.len())]);
            let load = in_flight.len() as u64;
            let lease = upstream.pick_with(&Tried::default(), affinity, NOW, &mut rng).unwrap();
            let server = lease.server();
            let most = ((load + 1) * (100 + u64::from(percent)) * u64::from(server.weight()))
                .div_ceil(100 * usable);
            prop_assert!(server.in_flight() as u64 <= most.max(10), "{} of {most}", server.in_flight());
            in_flight.push_back(lease);
            if in_flight.len() > 400 || rng.u8(..) < 40 {
                in_flight.pop_front();
            }
        }
    }
}

// ── ewma ──

#[test]
fn a_slow_server_gets_little_and_is_tried_again() {
    let upstream = balanced(EWMA, &[1, 1]);
    let all = endpoints(&upstream);
    let mut rng = Rng::with_seed(1);
    let mut share = |now: Moment| {
        let mut slow = 0;
        for _ in 0..1000 {
            let lease = upstream.pick_with(&Tried::default(), Affinity::default(), now, &mut rng).unwrap();
            slow += usize::from(lease.server().id() == all[0].id());
        }
        slow
    };
    let decay = Duration::from_secs(10);
    let note = |endpoint: &Endpoint, millis, now| {
        endpoint.vitals().latency.note(Duration::from_millis(millis), decay, now);
    };
    note(&all[0], 200, NOW);
    note(&all[1], 5, NOW);
    assert_eq!(share(NOW), 0, "there is nobody waiting at the other");

    // The other keeps answering; what is known of this one fades.
    let later = NOW.plus(Duration::from_secs(60));
    note(&all[1], 5, later);
    assert_eq!(share(later), 1000, "nothing bad is left to be said of it");
}

#[test]
fn of_equally_fast_servers_the_queue_decides() {
    let upstream = balanced(EWMA, &[1, 3]);
    let all = endpoints(&upstream);
    for endpoint in &all {
        endpoint.vitals().latency.note(Duration::from_millis(10), Duration::from_secs(10), NOW);
    }
    let mut rng = Rng::with_seed(3);
    let leases: Vec<Lease> = (0..400)
        .map(|_| upstream.pick_with(&Tried::default(), Affinity::default(), NOW, &mut rng).unwrap())
        .collect();
    assert!((290..=310).contains(&all[1].in_flight()), "{} of {}", all[1].in_flight(), leases.len());
}

#[test]
fn what_fails_at_once_is_not_fast() {
    let upstream = balanced(EWMA, &[1, 1]);
    let all = endpoints(&upstream);
    Lease::take(all[0].clone(), NOW).failed_at(Failure::Connect, NOW);
    Lease::take(all[1].clone(), NOW).answered(Duration::from_millis(400));
    let now = Moment::now();
    let wait = |at: usize, now| all[at].expected_wait(Duration::from_secs(10), now);
    assert!(wait(0, NOW) > 900_000.0);
    assert!(wait(1, now) < 500_000.0);
}

// ── sticky ──

fn sticky(settings: Settings) -> Settings {
    let attributes = String::new();
    let sticky = Sticky { cookie: "lb".to_owned(), attributes, secret: StickySecret::OfProcess };
    Settings { sticky: Some(sticky), ..settings }
}

#[test]
fn a_cookie_leads_to_its_server_while_that_may_be_chosen() {
    for balance in all_ways() {
        let upstream = all_up(sticky(Settings { balance, ..settings(&[1, 9, 9]) }));
        let mine = endpoints(&upstream)[0].clone();
        let affinity = Affinity { key: Some(7), server: mine.token() };
        let mut rng = Rng::with_seed(1);
        for _ in 0..100 {
            assert_eq!(pick(&upstream, affinity, &mut rng).id(), mine.id());
        }
        let mut tried = Tried::default();
        tried.add(&Lease::take(mine.clone(), NOW));
        let other = upstream.pick_with(&tried, affinity, NOW, &mut rng).unwrap();
        assert_ne!(other.server().id(), mine.id(), "not twice");

        upstream.drain(mine.name(), true).unwrap();
        assert_ne!(pick(&upstream, affinity, &mut rng).id(), mine.id());
        upstream.drain(mine.name(), false).unwrap();
        go(&upstream, &mine, false);
        assert_ne!(pick(&upstream, affinity, &mut rng).id(), mine.id());
        go(&upstream, &mine, true);
        assert_eq!(pick(&upstream, affinity, &mut rng).id(), mine.id());
    }
}

// ── tiers, panic, drains ──

/// Some primaries, then two backups.
fn with_backups(primaries: usize) -> Settings {
    let mut settings = settings(&vec![1; primaries + 2]);
    settings.servers[primaries..].iter_mut().for_each(|server| server.backup = true);
    settings
}

proptest! {
    #[test]
    fn nobody_is_chosen_while_a_better_one_is_left(
        states in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..12),
        panic_below in 0_u8..=100,
        way in 0_usize..5,
        seed: u64,
    ) {
        let mut settings = settings(&vec![1; states.len()]);
        for (server, (_, _, _, backup)) in settings.servers.iter_mut().zip(&states) {
            server.backup = *backup;
        }
        let (balance, panic_below) = (all_ways()[way].clone(), Share(panic_below));
        let health = Some(HealthCheck::of_path("/"));
        let upstream = upstream_of(Settings { balance, panic_below, health, ..settings });
        let all = endpoints(&upstream);
        for (endpoint, (up, ejected, drained, _)) in all.iter().zip(&states) {
            set_up(endpoint, *up);
            if *ejected {
                endpoint.vitals().conduct.eject(&Outlier::default(), NOW);
            }
            endpoint.server().draining.store(*drained, Relaxed);
        }
        upstream.take_stock(NOW);
        let of = |tier| all.iter().filter(move |it| it.tier() == tier);
        let usable = |tier| of(tier).filter(|it| it.is_usable(NOW)).count();
        let open = |tier| of(tier).filter(|it| !it.is_draining()).count();
        let in_use = if usable(Tier::Primary) == 0 && usable(Tier::Backup) > 0 { Tier::Backup } else { Tier::Primary };
        let panics = usable(in_use) * 100 < open(in_use) * usize::from(panic_below.0);
        let mut rng = Rng::with_seed(seed);
        let affinity = keyed(&mut rng);

        match upstream.pick_with(&Tried::default(), affinity, NOW, &mut rng) {
            Ok(lease) => {
                let server = lease.server();
                prop_assert!(!server.is_draining());
                prop_assert_eq!(server.tier(), in_use);
                prop_assert!(panics || server.is_usable(NOW), "{:?}", states);
            }
            Err(_) => prop_assert!(usable(in_use) == 0 && !panics, "{:?}", states),
        }
    }
}

#[test]
fn a_retry_asks_a_backup_before_the_same_server_twice_but_not_for_a_connection_found_closed() {
    let upstream = all_up(with_backups(1));
    let mut tried = Tried::default();
    tried.add(&upstream.pick(&tried, Affinity::default()).unwrap());
    let next = upstream.pick(&tried, Affinity::default()).unwrap();
    assert_eq!(next.server().tier(), Tier::Backup);
    tried.found_closed();
    let next = upstream.pick(&tried, Affinity::default()).unwrap();
    assert_eq!(next.server().tier(), Tier::Primary);
}

#[test]
fn who_was_only_found_closed_is_asked_again_before_who_failed() {
    for (balance, seed) in all_ways().into_iter().flat_map(|way| (0..20).map(move |seed| (way.clone(), seed)))
    {
        let upstream = balanced(balance, &[1, 1]);
        let mut rng = Rng::with_seed(seed);
        let affinity = keyed(&mut rng);
        let mut pick = |tried: &Tried| upstream.pick_with(tried, affinity, NOW, &mut rng).unwrap();
        let mut tried = Tried::default();
        let failed = pick(&tried);
        tried.add(&failed);
        let closed = pick(&tried);
        tried.add(&closed);
        tried.spare();
        assert_eq!(pick(&tried).server().id(), closed.server().id());

        // Also once more was heard of others.
        let mut tried = Tried::default();
        tried.add(&closed);
        tried.found_closed();
        tried.add(&failed);
        assert_eq!(pick(&tried).server().id(), closed.server().id());
    }
}

#[test]
fn a_request_that_begins_anew_has_all_its_tries_and_every_server() {
    let upstream = all_up(with_backups(1));
    let mut tried = Tried::default();
    tried.add(&upstream.pick(&tried, Affinity::default()).unwrap());
    tried.begin_anew();
    assert_eq!((tried.count(), tried.counted(), tried.is_empty()), (1, 0, true));
    let next = upstream.pick(&tried, Affinity::default()).unwrap();
    assert_eq!(next.server().tier(), Tier::Primary);
    tried.add(&next);
    assert_eq!((tried.count(), tried.counted()), (2, 1));
}

#[test]
fn a_group_that_panics_is_used_whole_and_says_so_until_enough_are_back() {
    let meters = Meters::new();
    let settings =
        Settings { panic_below: Share(50), health: Some(HealthCheck::of_path("/")), ..settings(&[1; 4]) };
    let upstream = Upstream::new(settings, None, &meters);
    let all = endpoints(&upstream);
    let panics = || {
        let shown = meters.render().contains("upstream_panic_mode{upstream=\"users\"} 1\n");
        assert_eq!(shown, upstream.snapshot().panic);
        shown
    };
    assert!(panics(), "nobody is up yet");
    go(&upstream, &all[0], true);
    assert!(panics());
    let counts = shares(&upstream, 0, &mut Rng::with_seed(1));
    assert!(counts.iter().all(|count| *count > PICKS / 5), "{counts:?}");
    go(&upstream, &all[1], true);
    assert!(!panics());
    let counts = shares(&upstream, 0, &mut Rng::with_seed(1));
    assert!(counts[2] == 0 && counts[3] == 0, "{counts:?}");
    // One that is drained is not missed.
    upstream.drain("10.0.0.3:80", true).unwrap();
    go(&upstream, &all[1], false);
    assert!(panics(), "one of three");
    upstream.drain("10.0.0.4:80", true).unwrap();
    assert!(!panics(), "one of two");
}

#[test]
fn a_drain_outlives_a_reload_and_ends_with_it_undone() {
    let meters = Meters::new();
    let old = Upstream::new(settings(&[1, 1]), None, &meters);
    let lease = old.pick(&Tried::default(), Affinity::default()).unwrap();
    let (mine, other) = (lease.server().name().to_owned(), 1);
    let done = old.drain(&mine, true).unwrap();
    assert_eq!((done.in_flight, done.usable), (1, other));
    assert_eq!(old.drain("10.9.9.9:80", true), None);

    let new = Upstream::new(
        Settings { slow_start: Duration::from_secs(9), ..settings(&[1, 1]) },
        Some(&old),
        &meters,
    );
    for _ in 0..100 {
        assert_ne!(new.pick(&Tried::default(), Affinity::default()).unwrap().server().name(), mine);
    }
    let gauge = |name: &str| format!("upstream_server_{name}{{upstream=\"users\",server=\"{mine}\"}} 1\n");
    assert!(meters.render().contains(&gauge("draining")));
    // A request of the old configuration is told of what the new one is told.
    new.drain(&mine, false).unwrap();
    assert!(!old.group().endpoints().iter().any(|endpoint| endpoint.is_draining()));
    new.take_stock(Moment::now());
    assert!(!meters.render().contains(&gauge("draining")) && meters.render().contains(&gauge("up")));

    new.drain("10.0.0.1:80", true).unwrap();
    new.drain("10.0.0.2:80", true).unwrap();
    assert!(matches!(new.pick(&Tried::default(), Affinity::default()), Err(NoServer::Draining(_))));
}

// ── slow start ──

#[test]
fn a_server_that_is_back_takes_its_share_step_by_step() {
    for balance in all_ways() {
        let slow_start = Duration::from_secs(100);
        let upstream =
            upstream_of(Settings { balance: balance.clone(), slow_start, ..settings(&[1, 1, 1, 1]) });
        let back = endpoints(&upstream)[2].clone();
        back.vitals().come_back(NOW);
        let share = |now: Moment| {
            let mut rng = Rng::with_seed(11);
            let mut count = 0;
            for _ in 0..20_000 {
                let affinity = keyed(&mut rng);
                let lease = upstream.pick_with(&Tried::default(), affinity, now, &mut rng).unwrap();
                count += usize::from(lease.server().id() == back.id());
            }
            count * 1000 / 20_000
        };
        let at = |seconds| share(NOW.plus(Duration::from_secs(seconds)));
        let (first, half, whole) = (at(0), at(50), at(100));
        assert!((20..45).contains(&first), "{balance:?}: {first} of 1000 at first");
        assert!((110..175).contains(&half), "{balance:?}: {half} of 1000 after half of the time");
        assert!((230..270).contains(&whole), "{balance:?}: {whole} of 1000 in the end");
    }
}

#[test]
fn an_ejection_that_ends_is_a_return_and_a_group_of_newcomers_is_in_nobodys_shadow() {
    let settings = Settings { slow_start: Duration::from_secs(100), ..settings(&[1, 1]) };
    let upstream = upstream_of(settings.clone());
    let all = endpoints(&upstream);
    assert_eq!(all[0].warmth(NOW), 1024);
    all[0].vitals().conduct.eject(&Outlier::default(), NOW);
    let back = NOW.plus(Duration::from_secs(30));
    assert!(all[0].warmth(back) < 110);
    assert_eq!(all[0].warmth(back.plus(Duration::from_secs(50))), 512);
    assert_eq!(all[0].warmth(back.plus(Duration::from_secs(100))), 1024);

    // A server that joins is new, and the others are not.
    let mut more = settings;
    more.servers.push(ServerSettings::new("10.0.0.9:80", 1));
    let joined = endpoints(&Upstream::new(more, Some(&upstream), &Meters::new()));
    let now = Moment::now();
    assert!(joined[2].warmth(now) < 110);
    assert_eq!(joined[1].warmth(now), 1024);
}
