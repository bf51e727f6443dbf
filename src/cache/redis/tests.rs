//! The second tier against real servers: three nodes over one key, large bodies, and what may be found in Redis.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};

use super::super::stored::{Body, Pieces, Stamp, Terms, VARIANTS_MAX};
use super::super::vary::Selecting;
use super::*;
use crate::boot::fleet::tests::address_at;
use crate::cache::Rules;
use crate::redis::{Counters, PATIENCE, Settings};
use crate::redis_server::{Cluster, Redis as Server, Watched, until};

const KEY: Key = Key(*b"0123456789abcdef");
const KIND: u64 = 7;
const LEASE_TTL: Duration = Duration::from_secs(5);

fn redis_at(url: &str) -> Redis {
    let address = address_at(url);
    // More patience than in life: a busy machine is no fault of what is tested here.
    let settings = Settings { address, ca: None, patience: 20 * PATIENCE, prefix: "tg".to_owned() };
    Redis::new(settings, Counters::unread())
}

fn tier_at(url: &str) -> Arc<Tier> {
    Arc::new(Tier::new(redis_at(url), 8 << 20, Box::new(|_, _| true), TierCounters::default()))
}

/// A tier whose tasks run, and which hears of others.
fn node(url: &str) -> Arc<Tier> {
    let tier = tier_at(url);
    let running = Arc::clone(&tier);
    tokio::spawn(async move { running.run().await });
    tier
}

async fn listeners(server: &Server, count: usize) {
    let what = format!("tg:fills\n{count}");
    until("all listen", async || server.cli(&["PUBSUB", "NUMSUB", "tg:fills"]) == what).await;
}

fn stored(body: &[u8]) -> Stored {
    let now = SystemTime::now();
    Stored {
        status: StatusCode::OK,
        headers: HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"1\""))]),
        terms: Terms {
            born: now,
            fresh_until: now + Duration::from_secs(60),
            validate_always: false,
            never_stale: false,
            while_revalidate: Duration::ZERO,
            if_error: Duration::from_secs(30),
            if_unreachable: Duration::ZERO,
            for_authorized: false,
            immutable: false,
        },
        selecting: Selecting::default(),
        body: Body::Whole(Pieces::new(vec![Bytes::copy_from_slice(body)])),
        forms: crate::cache::forms::Forms::default(),
        tags: Arc::new([]),
        stamp: Stamp(7),
        seen: Stamp(0),
        stored: now,
        url: "https://a.test/".into(),
    }
}

fn chosen_by(language: &str, body: &[u8]) -> Stored {
    let vary = HeaderMap::from_iter([(http::header::VARY, HeaderValue::from_static("accept-language"))]);
    let request =
        HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, HeaderValue::from_str(language).unwrap())]);
    Stored { selecting: Selecting::of(&vary, &Rules::default(), &request).unwrap(), ..stored(body) }
}

fn large(byte: u8) -> Vec<u8> {
    let mut body = vec![byte; 5 * CHUNK + 77];
    body.iter_mut().enumerate().for_each(|(at, byte)| *byte = byte.wrapping_add(at.to_le_bytes()[1]));
    body
}

async fn bodies(tier: &Tier) -> Vec<Option<Vec<u8>>> {
    let found = tier.look(&KEY).await.unwrap();
    let mut bodies = Vec::new();
    for entry in &found.variants {
        bodies.push(tier.whole(&KEY, entry).await.unwrap().map(|stored| match &stored.body {
            Body::Whole(pieces) => pieces.segments().concat(),
            Body::Parts { .. } => panic!("parts were stored by nobody"),
        }));
    }
    bodies
}

async fn version(tier: &Tier) -> u64 {
    tier.look(&KEY).await.unwrap().version
}

async fn take(tier: &Tier, seen: u64) -> Token {
    match tier.lease(&KEY, KIND, seen, LEASE_TTL).await.unwrap() {
        Lease::Taken(token) => token,
        Lease::Held(_) => panic!("the lease is held"),
        Lease::Changed(found) => panic!("changed to {}", found.version),
    }
}

#[tokio::test]
async fn what_one_node_stores_another_finds() {
    let server = Server::start().await;
    let (one, two) = (tier_at(&server.url()), tier_at(&server.url()));
    assert!(bodies(&two).await.is_empty());
    for body in [b"small".to_vec(), large(3)] {
        assert_eq!(one.store(&KEY, &stored(&body), None).await, Ok(Written::Written));
        assert_eq!(bodies(&two).await, [Some(body)]);
    }
    // 60 s fresh, 30 s stale, 600 s to validate.
    let ttl: u64 = server.cli(&["TTL", &names().heads]).parse().unwrap();
    assert!((680..=690).contains(&ttl), "{ttl}");
}

fn names() -> Names {
    Names::of("tg", &KEY)
}

#[tokio::test]
async fn variants_are_kept_apart_the_newest_first_and_no_more_than_may_be() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    for at in 0..VARIANTS_MAX + 3 {
        let answer = Stored {
            stored: SystemTime::now() + Duration::from_secs(at as u64),
            ..chosen_by(&format!("x-{at}"), &large(at.to_le_bytes()[0]))
        };
        assert_eq!(tier.store(&KEY, &answer, None).await, Ok(Written::Written));
    }
    let found = tier.look(&KEY).await.unwrap();
    assert_eq!(found.variants.len(), VARIANTS_MAX);
    let request = |language: &'static str| {
        HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, HeaderValue::from_static(language))])
    };
    assert!(found.select(&request("x-2")).is_none(), "the oldest went");
    let newest = found.select(&request("x-34")).unwrap();
    assert_eq!(newest.stored.selecting, found.variants[0].stored.selecting);
    assert!(tier.whole(&KEY, newest).await.unwrap().is_some());
}

#[tokio::test]
async fn replaced_content_goes_soon_and_a_304_writes_the_head_alone() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let first = stored(&large(1));
    tier.store(&KEY, &first, None).await.unwrap();
    let old = names().chunk(&field_of(&first), entry::content(&first.body), 5);
    let mut newer = first.clone();
    newer.headers.insert("x-new", HeaderValue::from_static("1"));
    newer.terms.fresh_until += Duration::from_secs(1000);
    let sent = |server: &Server| -> u64 {
        let stats = server.cli(&["INFO", "stats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_input_bytes:"));
        line.unwrap().trim().parse().unwrap()
    };
    let before = sent(&server);
    assert_eq!(tier.freshen(&KEY, &newer, None).await, Ok(Written::Written));
    assert!(sent(&server) - before < 10_000, "the content was not sent again");
    assert_eq!(bodies(&tier).await, [Some(large(1))]);
    let lives: u64 = server.cli(&["TTL", &old]).parse().unwrap();
    assert!(lives > 1000, "the chunks live as long as the new head: {lives}");

    tier.store(&KEY, &stored(&large(2)), None).await.unwrap();
    let left: u64 = server.cli(&["TTL", &old]).parse().unwrap();
    assert!(left <= 10, "{left}");
    assert_eq!(bodies(&tier).await, [Some(large(2))]);

    server.flushall();
    assert_eq!(
        tier.freshen(&KEY, &newer, None).await,
        Ok(Written::Written),
        "the content is sent where it is gone"
    );
    assert_eq!(bodies(&tier).await, [Some(large(1))]);
}

#[tokio::test]
async fn an_older_answer_does_not_take_the_place_of_a_newer() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let older = stored(b"older");
    let newer = Stored { stored: older.stored + Duration::from_millis(5), ..stored(b"newer") };
    tier.store(&KEY, &newer, None).await.unwrap();
    assert_eq!(tier.store(&KEY, &older, None).await, Ok(Written::Newer));
    assert_eq!(bodies(&tier).await, [Some(b"newer".to_vec())]);
}

#[tokio::test]
async fn three_nodes_over_one_key_fetch_once_per_version() {
    let server = Server::start().await;
    let nodes = [node(&server.url()), node(&server.url()), node(&server.url())];
    listeners(&server, 3).await;
    for round in 0..20_u8 {
        let mut tasks = Vec::new();
        let seen = version(&nodes[0]).await;
        for node in nodes.iter().cycle().take(9) {
            let node = Arc::clone(node);
            tasks.push(tokio::spawn(async move {
                match node.lease(&KEY, KIND, seen, LEASE_TTL).await.unwrap() {
                    Lease::Taken(token) => {
                        let written = node.store(&KEY, &stored(&[round]), Some(&token)).await;
                        assert_eq!(written, Ok(Written::Written));
                        1
                    }
                    Lease::Held(waiter) => {
                        let told = waiter.wait(tokio::time::Instant::now() + LEASE_TTL).await;
                        assert!(matches!(told, Told::Verdict(Verdict::Stored) | Told::Vacant), "{told:?}");
                        assert_ne!(version(&node).await, seen);
                        0
                    }
                    Lease::Changed(found) => {
                        assert_ne!(found.version, seen);
                        0
                    }
                }
            }));
        }
        let mut fetched = 0;
        for task in tasks {
            fetched += task.await.unwrap();
        }
        assert_eq!(fetched, 1, "round {round}");
    }
}

#[tokio::test]
async fn the_waiting_wake_within_milliseconds() {
    let server = Server::start().await;
    let (holder, other) = (node(&server.url()), node(&server.url()));
    listeners(&server, 2).await;
    let mut worst = Duration::ZERO;
    for verdict in [Verdict::Stored, Verdict::Uncacheable, Verdict::Failed] {
        let seen = version(&holder).await;
        let token = take(&holder, seen).await;
        let Lease::Held(waiter) = other.lease(&KEY, KIND, seen, LEASE_TTL).await.unwrap() else {
            panic!("not held")
        };
        let deadline = tokio::time::Instant::now() + LEASE_TTL;
        let waiting = tokio::spawn(async move { (waiter.wait(deadline).await, Instant::now()) });
        tokio::task::yield_now().await;
        let began = Instant::now();
        match verdict {
            Verdict::Stored => drop(holder.store(&KEY, &stored(b"x"), Some(&token)).await.unwrap()),
            verdict => holder.release(&KEY, &token, verdict).await.unwrap(),
        }
        let (told, at) = waiting.await.unwrap();
        assert_eq!(told, Told::Verdict(verdict));
        worst = worst.max(at - began);
    }
    assert!(worst < Duration::from_millis(90), "before the next glance: {worst:?}");
    assert!(other.waiting.is_empty(), "nobody waits any more");
}

#[tokio::test]
async fn requests_of_another_kind_have_a_lease_of_their_own() {
    let server = Server::start().await;
    let (holder, other) = (node(&server.url()), node(&server.url()));
    listeners(&server, 2).await;
    let mut tokens = Vec::new();
    for kind in [1, 2] {
        let Lease::Taken(token) = holder.lease(&KEY, kind, 0, LEASE_TTL).await.unwrap() else {
            panic!("held by another kind")
        };
        tokens.push(token);
    }
    let Lease::Held(waiter) = other.lease(&KEY, 2, 0, LEASE_TTL).await.unwrap() else { panic!("not held") };
    holder.release(&KEY, &tokens[0], Verdict::Uncacheable).await.unwrap();
    holder.release(&KEY, &tokens[1], Verdict::Failed).await.unwrap();
    let told = waiter.wait(tokio::time::Instant::now() + LEASE_TTL).await;
    assert_eq!(told, Told::Verdict(Verdict::Failed), "what became of the other kind is not for it");
}

#[tokio::test]
async fn a_dead_holder_s_lease_runs_out() {
    let server = Server::start().await;
    let (holder, other) = (tier_at(&server.url()), tier_at(&server.url()));
    let Lease::Taken(dead) = holder.lease(&KEY, KIND, 0, Duration::from_millis(300)).await.unwrap() else {
        panic!()
    };
    let Lease::Held(waiter) = other.lease(&KEY, KIND, 0, LEASE_TTL).await.unwrap() else { panic!() };
    let told = waiter.wait(tokio::time::Instant::now() + LEASE_TTL).await;
    assert_eq!(told, Told::Vacant, "found without hearing a word");
    let token = take(&other, 0).await;
    // The dead one comes back, and must not release what is another's.
    holder.release(&KEY, &dead, Verdict::Failed).await.unwrap();
    let again = holder.lease(&KEY, KIND, 0, LEASE_TTL).await.unwrap();
    assert!(matches!(again, Lease::Held(_)));
    drop((token, again));
}

#[tokio::test]
async fn a_lease_is_renewed_by_its_holder_alone() {
    let server = Server::start().await;
    let (holder, other) = (tier_at(&server.url()), tier_at(&server.url()));
    let token = take(&holder, 0).await;
    assert_eq!(holder.renew(&KEY, &token, 4 * LEASE_TTL).await, Ok(true));
    let left = async || server.cli(&["PTTL", &names().lease(KIND)]).parse::<i64>().unwrap();
    assert!(left().await > 15_000, "{}", left().await);
    let foreign = Token { word: "0".repeat(32), kind: KIND };
    assert_eq!(other.renew(&KEY, &foreign, Duration::from_millis(1)).await, Ok(false));
    assert!(left().await > 15_000);
    holder.release(&KEY, &token, Verdict::Failed).await.unwrap();
    assert_eq!(holder.renew(&KEY, &token, LEASE_TTL).await, Ok(false));
    assert_eq!(server.cli(&["DBSIZE"]), "0", "what was given back is not taken again");
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline() {
    let server = Server::start().await;
    let (holder, other) = (tier_at(&server.url()), tier_at(&server.url()));
    let _token = take(&holder, 0).await;
    let Lease::Held(waiter) = other.lease(&KEY, KIND, 0, LEASE_TTL).await.unwrap() else { panic!() };
    let began = Instant::now();
    let told = waiter.wait(tokio::time::Instant::now() + Duration::from_millis(250)).await;
    assert_eq!(told, Told::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn what_cannot_be_read_is_a_miss() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let answer = stored(&large(1));
    let (heads, field) = (names().heads, field_of(&answer));
    let chunk = names().chunk(&field, entry::content(&answer.body), 2);

    for (what, command) in [
        ("a chunk that is missing", vec!["DEL", &chunk]),
        ("a chunk that is another", vec!["SET", &chunk, "TGB\u{1}foreign"]),
        ("a chunk that is corrupt", vec!["SETRANGE", &chunk, "5000", "xx"]),
        (
            "a chunk that is no string",
            vec!["EVAL", "redis.call('DEL',KEYS[1]) redis.call('HSET',KEYS[1],'a','b')", "1", &chunk],
        ),
    ] {
        tier.store(&KEY, &answer, None).await.unwrap();
        server.cli(&command);
        assert_eq!(bodies(&tier).await, [None], "{what}");
        server.flushall();
    }
    for (what, head) in [("foreign", "hello"), ("older", "TGH\u{7f}"), ("nothing", ""), ("newer", "TGH\u{4}")]
    {
        tier.store(&KEY, &answer, None).await.unwrap();
        server.cli(&["HSET", &heads, &field, head]);
        assert!(bodies(&tier).await.is_empty(), "{what}");
        tier.store(&KEY, &answer, None).await.unwrap();
        assert_eq!(bodies(&tier).await, [Some(large(1))], "{what} is replaced");
    }
    assert!(tier.counters.unreadable.get() >= 8);
    server.cli(&["DEL", &heads]);
    server.cli(&["SET", &heads, "a string"]);
    assert!(tier.look(&KEY).await.is_err(), "a key of another type");
}

#[tokio::test]
async fn a_purge_takes_all_of_a_url() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    tier.store(&KEY, &chosen_by("a", &large(1)), None).await.unwrap();
    tier.store(&KEY, &chosen_by("b", b"small"), None).await.unwrap();
    tier.store(&Key([1; 16]), &stored(b"another"), None).await.unwrap();
    let seen = version(&tier).await;
    tier.purge_url(&KEY).await.unwrap();
    assert!(bodies(&tier).await.is_empty());
    assert_eq!(server.cli(&["DBSIZE"]), "1");
    let lease = tier.lease(&KEY, KIND, seen, LEASE_TTL).await.unwrap();
    assert!(matches!(lease, Lease::Changed(found) if found.variants.is_empty()));
    tier.store(&KEY, &stored(b"x"), None).await.unwrap();
    assert!(version(&tier).await > seen);
}

#[tokio::test]
async fn what_was_fetched_after_a_purge_is_newer_whatever_the_clocks_say() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let ahead = Stored { stored: SystemTime::now() + Duration::from_secs(60), ..stored(b"before") };
    tier.store(&KEY, &ahead, None).await.unwrap();
    assert_eq!(tier.store(&KEY, &stored(b"as late"), None).await, Ok(Written::Newer));
    let after = Stored { stamp: Stamp(8), ..stored(b"after") };
    assert_eq!(tier.store(&KEY, &after, None).await, Ok(Written::Written));
    assert_eq!(bodies(&tier).await, [Some(b"after".to_vec())]);
}

#[tokio::test]
async fn what_is_withdrawn_goes_unless_a_newer_one_has_come() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let old = chosen_by("a", &large(1));
    tier.store(&KEY, &old, None).await.unwrap();
    tier.store(&KEY, &chosen_by("b", b"small"), None).await.unwrap();
    let seen = version(&tier).await;
    tier.withdraw(&KEY, &old).await.unwrap();
    assert_eq!(bodies(&tier).await, [Some(b"small".to_vec())]);
    assert!(version(&tier).await > seen, "who looked before looks again");
    let chunk = names().chunk(&field_of(&old), entry::content(&old.body), 5);
    assert!(server.cli(&["TTL", &chunk]).parse::<u64>().unwrap() <= 10);

    let newer = Stored { stored: old.stored + Duration::from_secs(1), ..chosen_by("a", b"newer") };
    tier.store(&KEY, &newer, None).await.unwrap();
    tier.withdraw(&KEY, &old).await.unwrap();
    assert_eq!(bodies(&tier).await.len(), 2);
}

#[tokio::test]
async fn a_variant_that_a_newer_one_tells_apart_is_not_found() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    tier.store(&KEY, &stored(b"for all"), None).await.unwrap();
    let newer = Stored { stored: SystemTime::now() + Duration::from_secs(1), ..chosen_by("de", b"newer") };
    tier.store(&KEY, &newer, None).await.unwrap();
    assert_eq!(bodies(&tier).await, [Some(b"newer".to_vec())]);
}

#[tokio::test]
async fn what_is_purged_while_it_is_fetched_is_not_written() {
    static PURGED: AtomicBool = AtomicBool::new(false);
    let server = Server::start().await;
    let valid = Box::new(|_: &Key, _: &Stored| !PURGED.load(Ordering::SeqCst));
    let tier = Tier::new(redis_at(&server.url()), 1 << 20, valid, TierCounters::default());
    let token = take(&tier, 0).await;
    PURGED.store(true, Ordering::SeqCst);
    assert_eq!(tier.store(&KEY, &stored(b"x"), Some(&token)).await, Ok(Written::Refused));
    assert_eq!(server.cli(&["DBSIZE"]), "0", "the lease went, too");
    PURGED.store(false, Ordering::SeqCst);
    let (token, too_large) = (take(&tier, 0).await, stored(&vec![0; (1 << 20) + 1]));
    assert_eq!(tier.store(&KEY, &too_large, Some(&token)).await, Ok(Written::Refused));
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

#[tokio::test]
async fn writing_behind_is_bounded_and_drops_are_counted() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    for at in 0..20_u8 {
        tier.store_behind(Key([at; 16]), Arc::new(stored(&vec![at; 4 << 20])), false);
    }
    assert_eq!(tier.counters.dropped.get(), 5, "15 of 4 MiB and a little are less than 64 MiB");
    let running = Arc::clone(&tier);
    tokio::spawn(async move { running.run().await });
    assert!(tier.drained(Duration::from_secs(20)).await);
    for at in 0..15_u8 {
        assert_eq!(tier.look(&Key([at; 16])).await.unwrap().variants.len(), 1);
    }
    server.pause();
    for at in 0..20_u8 {
        tier.store_behind(Key([at; 16]), Arc::new(stored(b"x")), false);
    }
    assert!(tier.drained(Duration::from_secs(20)).await, "a paused server holds up nothing for long");
    assert!(tier.counters.dropped.get() > 5);
    server.resume();
}

#[tokio::test]
async fn an_answer_of_more_bytes_than_may_wait_is_written_behind_alone_and_its_renewal_beside_others() {
    let server = Server::start().await;
    let tier = Tier::new(redis_at(&server.url()), 1 << 30, Box::new(|_, _| true), TierCounters::default());
    let large = Arc::new(stored(&vec![1; usize::try_from(QUEUE_BYTES).unwrap() + 1]));
    tier.store_behind(KEY, Arc::clone(&large), false);
    assert_eq!((tier.queued(), tier.counters.dropped.get()), (1, 0));
    tier.store_behind(Key([1; 16]), Arc::new(stored(b"x")), false);
    assert_eq!((tier.queued(), tier.counters.dropped.get()), (1, 1), "there is no place beside it");

    let tier = Tier::new(redis_at(&server.url()), 1 << 30, Box::new(|_, _| true), TierCounters::default());
    tier.store_behind(Key([1; 16]), Arc::new(stored(b"x")), false);
    tier.store_behind(KEY, Arc::clone(&large), true);
    assert_eq!((tier.queued(), tier.counters.dropped.get()), (2, 0));
    tier.store_behind(KEY, large, false);
    assert_eq!((tier.queued(), tier.counters.dropped.get()), (2, 1));
}

#[tokio::test]
async fn looks_at_one_key_are_one_call() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    tier.store(&KEY, &stored(b"x"), None).await.unwrap();
    let calls = |server: &Server| -> u64 {
        let stats = server.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    server.pause();
    let looks: Vec<_> = (0..100)
        .map(|_| {
            let tier = Arc::clone(&tier);
            tokio::spawn(async move { tier.look(&KEY).await.map(|found| found.variants.len()) })
        })
        .collect();
    // The first one leaves while it waits; the others must not be left waiting for it.
    tokio::task::yield_now().await;
    looks[0].abort();
    tokio::task::yield_now().await;
    server.resume();
    for look in looks.into_iter().skip(1) {
        assert_eq!(look.await.unwrap(), Ok(1));
    }
    assert!(calls(&server) <= 2, "{}", calls(&server));
    assert!(tier.looking.lock().is_empty());
}

#[tokio::test]
async fn all_of_it_works_in_a_cluster_while_a_slot_moves() {
    let cluster = Cluster::start().await;
    let (one, two) = (node(&cluster.url()), node(&cluster.url()));
    until("the cluster is there", async || one.look(&KEY).await.is_ok()).await;
    one.store(&KEY, &stored(&large(1)), None).await.unwrap();
    assert_eq!(bodies(&two).await, [Some(large(1))]);
    cluster.move_slot_of(&names().heads);
    assert_eq!(bodies(&two).await, [Some(large(1))]);
    let token = take(&one, version(&one).await).await;
    let Lease::Held(waiter) = two.lease(&KEY, KIND, version(&two).await, LEASE_TTL).await.unwrap() else {
        panic!()
    };
    one.store(&KEY, &stored(&large(2)), Some(&token)).await.unwrap();
    let told = waiter.wait(tokio::time::Instant::now() + LEASE_TTL).await;
    assert!(matches!(told, Told::Verdict(Verdict::Stored) | Told::Vacant));
    assert_eq!(bodies(&two).await, [Some(large(2))]);
    two.purge_url(&KEY).await.unwrap();
    assert!(bodies(&one).await.is_empty());
}

#[tokio::test]
async fn a_failover_costs_misses_and_the_waiting_are_heard_again() {
    let mut watched = Watched::start().await;
    let tier = node(&watched.url());
    until("it is there", async || tier.look(&KEY).await.is_ok()).await;
    watched.servers[0].kill9();
    until("it is stored", async || tier.store(&KEY, &stored(b"x"), None).await.is_ok()).await;
    assert_eq!(bodies(&tier).await, [Some(b"x".to_vec())]);
    listeners(&watched.servers[1], 1).await;
}

#[test]
fn kept_while_it_may_be_used() {
    let mut answer = stored(b"x");
    let now = answer.stored;
    assert_eq!(kept(&answer, now), Duration::from_secs(60 + 30 + 600));
    assert_eq!(kept(&answer, now + Duration::from_secs(70)), Duration::from_secs(20 + 600));
    answer.headers.clear();
    assert_eq!(kept(&answer, now), Duration::from_secs(90));
    assert_eq!(kept(&answer, now + Duration::from_secs(100)), Duration::from_secs(1));
    answer.terms.fresh_until = now + Duration::from_secs(1 << 40);
    assert_eq!(kept(&answer, now), Duration::from_secs(30 * 86_400));
}

/// Prints what single steps cost; the bounds are far above it.
#[tokio::test]
async fn figures() {
    let server = Server::start().await;
    let tier = tier_at(&server.url());
    let mut lines = Vec::new();
    for (what, body) in [("1 KiB", vec![1; 1 << 10]), ("1 MiB", vec![1; 1 << 20])] {
        let answer = stored(&body);
        let (mut store, mut look, mut whole) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..100 {
            let began = Instant::now();
            tier.store(&KEY, &answer, None).await.unwrap();
            store += began.elapsed();
            let began = Instant::now();
            let found = tier.look(&KEY).await.unwrap();
            look += began.elapsed();
            tier.whole(&KEY, &found.variants[0]).await.unwrap().unwrap();
            whole += began.elapsed();
        }
        assert!(look / 100 < Duration::from_millis(20) && store / 100 < Duration::from_millis(200));
        lines.push(format!(
            "{what}: store {:?}, look {:?}, with content {:?}",
            store / 100,
            look / 100,
            whole / 100
        ));
    }
    println!("{}", lines.join("\n"));
}
