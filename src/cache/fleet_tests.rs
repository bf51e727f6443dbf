//! A node's part in the fleet: what it doubts, whom it tells, and what it waits for before it ends.

use std::time::Duration;

use super::super::marker::Source;
use super::super::memory::tests::{key, stored};
use super::super::said::Newer;
use super::*;
use crate::boot::fleet::tests::address_at;
use crate::redis::{Counters, PATIENCE, Settings};
use crate::redis_server::{Passage, Redis as Server, Way, until};
use crate::telemetry::Meters;

/// A node whose tasks do not run yet.
fn node(url: &str) -> &'static Tiers {
    let settings =
        Settings { address: address_at(url), ca: None, patience: 4 * PATIENCE, prefix: "tg".to_owned() };
    let joining = Joining {
        shares: true,
        blind_max: Duration::from_secs(30),
        max_object: 1 << 20,
        counters: TierCounters::default(),
        queue: Gauge::default(),
    };
    let redis = Redis::new(settings, Counters::unread());
    Tiers::new(1 << 20, &Meters::new(), Some((redis, joining)))
}

/// A node that hears of purges.
async fn seeing(url: &str) -> &'static Tiers {
    let node = node(url);
    tokio::spawn(node.run());
    until("the node sees the log", async || node.fleet().is_some()).await;
    node
}

/// As another node shared it, which had read the log as far as that.
fn shared(stamp: u64) -> Arc<Stored> {
    Arc::new(Stored { stamp: Stamp(stamp), tags: [5].into(), ..stored(10) })
}

/// Ahead of everything that a node here has read.
const AHEAD: u64 = 1 << 40;

fn of_url(number: u64) -> Purge {
    Purge { target: Target::Url(key(number)), soft: false }
}

#[tokio::test]
async fn what_others_shared_is_doubted_from_the_moment_of_a_purge_whatever_the_stamps_say() {
    let hole = Way::blackhole().await;
    let node = node(&hole.url());
    let (one, other) = (key(1), key(2));
    node.purge(&of_url(1), PurgeOrigin::Admin);
    // Nothing has run since: the task that tells has not been polled.
    assert!(node.refuses(&one, &shared(AHEAD)) && !node.refuses(&other, &shared(AHEAD)));
    // Another's purge is read meanwhile, and the answer is from just then.
    let later = Purge { target: Target::Tag(9), soft: false };
    node.purges.note_at(&later, Stamp(AHEAD));
    assert!(node.refuses(&one, &shared(AHEAD)));
    node.adopt(one, &shared(AHEAD));
    node.adopt(other, &shared(AHEAD));
    assert!(node.peek(&one).is_none() && node.peek(&other).is_some());
    // What this node fetches after its own purge is not doubted.
    node.keep(one, &Arc::new(Stored { stamp: node.purges.stamp(), ..stored(10) }));
    assert!(node.peek(&one).is_some());
}

#[tokio::test]
async fn a_purge_that_waits_is_doubted_until_its_place_is_known_and_then_found_by_it() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let (node, other) = (seeing(&way.url()).await, seeing(&server.url()).await);
    way.set(Passage::Hole);
    let (told, _) = node.purge_and_tell(&of_url(1), PurgeOrigin::Admin).await;
    assert_eq!(told, Told::Later);
    // An answer from before the purge of a node that has read more of the log.
    let early = shared(other.purges.stamp().0 + 7);
    let looked = std::time::Instant::now();
    // Meanwhile it is sent, in vain, time and again.
    while looked.elapsed() < Duration::from_secs(1) {
        assert!(node.refuses(&key(1), &early), "after {:?}", looked.elapsed());
        tokio::task::yield_now().await;
    }
    way.set(Passage::Open);
    let fleet = node.fleet.as_ref().unwrap();
    until("it is told", async || {
        assert!(node.refuses(&key(1), &early));
        fleet.bus.is_told()
    })
    .await;
    assert!(node.refuses(&key(1), &early), "now by its place");
    until("the other hears", async || other.refuses(&key(1), &early)).await;
    assert!(!node.refuses(&key(1), &shared(node.purges.stamp().0)));
}

#[tokio::test]
async fn a_purge_meets_what_was_adopted_before_it_at_once() {
    let hole = Way::blackhole().await;
    let node = node(&hole.url());
    node.adopt(key(1), &shared(AHEAD));
    node.purge(&Purge { target: Target::Tag(5), soft: false }, PurgeOrigin::Admin);
    let held = node.peek(&key(1)).unwrap();
    assert!(node.purges.covers(&key(1), &held.variants[0]).is_some());
}

#[tokio::test]
async fn others_are_told_though_whoever_gave_the_order_leaves() {
    let server = Server::start().await;
    let (node, other) = (node(&server.url()), seeing(&server.url()).await);
    let early = shared(other.purges.stamp().0);
    assert_eq!(other.meets(&key(1), &early), None);
    server.pause();
    let (purge, patience) = (of_url(1), Duration::from_millis(20));
    let left = tokio::time::timeout(patience, node.purge_and_tell(&purge, PurgeOrigin::Admin)).await;
    assert!(left.is_err(), "it is not told yet");
    server.resume();
    tokio::spawn(node.run());
    until("the other hears", async || other.meets(&key(1), &early).is_some()).await;
}

#[tokio::test]
async fn who_hears_of_an_event_by_the_log_knows_how_to_ask() {
    let server = Server::start().await;
    let (node, other) = (seeing(&server.url()).await, seeing(&server.url()).await);
    let early = shared(other.purges.stamp().0);
    let said = Said { name: Some("e".to_owned()), newer: Newer::of("users", "abc") };
    let purge = Purge { target: Target::Tag(5), soft: false };
    node.purge_heard(said.clone(), std::slice::from_ref(&purge));
    until("the other hears", async || other.meets(&key(1), &early).is_some()).await;
    until("it is noted", async || other.fleet.as_ref().unwrap().has_place(&said, &purge)).await;
    let fetched = shared(other.purges.stamp().0);
    assert!(other.purge_heard(said, std::slice::from_ref(&purge)).is_none());
    assert_eq!(other.meets(&key(1), &fetched), None, "what was fetched since is not met again");
    assert!(other.purge_heard(Said::default(), &[purge]).is_some());
    assert!(other.meets(&key(1), &fetched).is_some(), "one without a name may be another one");
    for node in [node, other] {
        let ahead = node.writes.ahead([Source::of("users")].into_iter(), Duration::from_secs(60));
        assert_eq!(ahead.tokens, [Box::from("abc")]);
    }
}

#[tokio::test]
async fn what_a_write_outdates_is_told_though_its_client_leaves_and_the_process_ends() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let node = seeing(&way.url()).await;
    way.set(Passage::Hole);
    let written = Written { source: Source::of("users"), begun: Stamp(0), tokens: vec!["abc".into()] };
    let client = node.outdate(Some(written), vec![Target::Url(key(1))]);
    assert!(tokio::time::timeout(Duration::from_millis(1), client).await.is_err(), "it is not told yet");
    for _ in 0..10 {
        assert!(!node.drained(Duration::from_millis(20)).await);
    }
    way.set(Passage::Open);
    assert!(node.drained(Duration::from_secs(20)).await);
    assert!(server.cli(&["XREVRANGE", "tg:purges", "+", "-", "COUNT", "1"]).contains("hard url"));
}

#[tokio::test]
async fn a_node_is_drained_once_the_others_are_told_and_answers_are_written() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let node = seeing(&way.url()).await;
    assert!(node.drained(Duration::ZERO).await, "there is nothing to wait for");
    way.set(Passage::Hole);
    node.purge(&of_url(1), PurgeOrigin::Unsafe);
    node.fleet.as_ref().unwrap().tier.store_behind(key(2), shared(1), false);
    for _ in 0..10 {
        assert!(!node.drained(Duration::from_millis(50)).await);
    }
    way.set(Passage::Open);
    assert!(node.drained(Duration::from_secs(20)).await);
    assert!(server.cli(&["XREVRANGE", "tg:purges", "+", "-", "COUNT", "1"]).contains("hard url"));
}

#[test]
fn a_clock_that_was_set_back_is_no_time_at_all() {
    assert_eq!(time_since(millis(SystemTime::now()) + 60_000), Duration::ZERO);
    assert!(time_since(millis(SystemTime::now()) - 60_000) >= Duration::from_secs(60));
}
