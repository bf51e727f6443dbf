//! The pipe against real servers: what answers, what fails, how soon it is given up and comes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::boot::fleet::tests::address_at;
use crate::redis_server::{Cluster, Passage, Redis as Server, Watched, Way, until};

fn pipe_to(url: &str) -> Redis {
    secure_pipe_to(url, None)
}

fn secure_pipe_to(url: &str, ca: Option<Vec<u8>>) -> Redis {
    let address = address_at(url);
    let settings = Settings { address, ca, patience: PATIENCE, prefix: "tg".to_owned() };
    Redis::new(settings, Counters::unread())
}

async fn ping(redis: &Redis) -> Result<(), Away> {
    redis.call("ping", &cmd("PING")).await
}

async fn set(redis: &Redis, key: &str) -> Result<(), Away> {
    redis.call("set", cmd("SET").arg(key).arg("1")).await
}

async fn comes_back(redis: &Redis) {
    until("redis is back", async || ping(redis).await.is_ok()).await;
}

/// Calls until they are refused at once; how many it took.
async fn calls_until_open(redis: &Redis) -> usize {
    for call in 0..100 {
        let began = Instant::now();
        let outcome = ping(redis).await;
        // A busy machine is given some time of its own.
        assert!(began.elapsed() < PATIENCE * 10, "a call took {:?}", began.elapsed());
        if outcome == Err(Away::Open) {
            return call;
        }
    }
    panic!("the breaker never opened");
}

#[tokio::test]
async fn the_first_call_connects_and_is_answered() {
    let server = Server::start().await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    assert_eq!(redis.inner.counters.ok.get(), 1);
    assert!(!redis.is_open());
}

#[tokio::test]
async fn tls_and_a_user_of_the_acl() {
    let (server, ca) = Server::start_secure().await;
    let url = format!("rediss://gate:s%40crEt@localhost:{}", server.port);
    let redis = secure_pipe_to(&url, Some(ca.clone()));
    comes_back(&redis).await;
    assert_eq!(set(&redis, "tg:a").await, Ok(()));
    assert_eq!(set(&redis, "other").await, Err(Away::Refused(No::Forbidden)));
    assert_eq!(ping(&redis).await, Ok(()), "a refused call is not a fault of the server");

    let stranger = secure_pipe_to(&url.replace("s%40crEt", "guess"), Some(ca));
    let unsigned = secure_pipe_to(&url, None);
    for redis in [stranger, unsigned] {
        until("it is given up", async || ping(&redis).await == Err(Away::Open)).await;
        assert!(ping(&redis).await.is_err());
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_not_waited_for() {
    let mut server = Server::start().await;
    let redis = pipe_to(&server.url());
    server.kill9();
    assert!(calls_until_open(&redis).await <= 3);
    server.restart().await;
    comes_back(&redis).await;
}

#[tokio::test]
async fn a_killed_server_costs_few_calls_and_comes_back() {
    let mut server = Server::start().await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    server.kill9();
    assert!(calls_until_open(&redis).await <= 3);
    assert_eq!(redis.inner.counters.breaker.get(), 1);
    let began = Instant::now();
    for _ in 0..10_000 {
        let _ = ping(&redis).await;
    }
    assert!(began.elapsed() < Duration::from_secs(1), "refusing 10,000 took {:?}", began.elapsed());
    server.restart().await;
    comes_back(&redis).await;
    assert_eq!(redis.inner.counters.breaker.get(), 0);
}

#[tokio::test]
async fn a_paused_server_costs_three_times_the_patience_and_comes_back() {
    let server = Server::start().await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    server.pause();
    let began = Instant::now();
    assert_eq!(calls_until_open(&redis).await, 3);
    assert!(began.elapsed() < PATIENCE * 5, "{:?}", began.elapsed());
    // Tries to connect meanwhile do not bring it back.
    until("it was tried", async || began.elapsed() > Duration::from_millis(1500)).await;
    assert!(redis.is_open());
    server.resume();
    comes_back(&redis).await;
}

#[tokio::test]
async fn a_slow_server_is_given_up_and_a_moment_of_slowness_forgiven() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]).await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    let slow = redis.call::<()>("sleep", cmd("DEBUG").arg("SLEEP").arg("0.08")).await;
    assert_eq!(slow, Err(Away::Late));
    comes_back(&redis).await;
    assert!(!redis.is_open(), "one late call is forgiven");
    let _ = redis.call::<()>("sleep", cmd("DEBUG").arg("SLEEP").arg("0.5")).await;
    assert!(calls_until_open(&redis).await <= 2);
    comes_back(&redis).await;
}

#[tokio::test]
async fn a_server_that_is_slow_again_and_again_is_not_taken_for_well_in_between() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]).await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    let (over, url) = (Arc::new(AtomicBool::new(false)), server.url());
    let ended = over.clone();
    let slow = std::thread::spawn(move || {
        let client = ::redis::Client::open(url).unwrap();
        while !ended.load(Ordering::Relaxed) {
            // Between two slow commands there is a moment, as there is with clients that do other things as well.
            std::thread::park_timeout(Duration::from_millis(1));
            let mut link = client.get_connection().unwrap();
            let () = cmd("DEBUG").arg("SLEEP").arg("0.1").query(&mut link).unwrap();
        }
    });
    until("it is given up", async || ping(&redis).await == Err(Away::Open)).await;
    let mut states = redis.inner.state.subscribe();
    let mut up = 0;
    let watch = async {
        while states.changed().await.is_ok() {
            up += usize::from(matches!(*states.borrow_and_update(), State::Up(_)));
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(3), watch).await);
    over.store(true, Ordering::Relaxed);
    slow.join().unwrap();
    assert_eq!(up, 0);
    comes_back(&redis).await;
}

#[tokio::test]
async fn a_black_hole_is_given_up() {
    let hole = Way::blackhole().await;
    let redis = pipe_to(&hole.url());
    assert_eq!(calls_until_open(&redis).await, 3);
}

#[tokio::test]
async fn a_way_that_swallows_lies_or_ends_is_given_up_and_used_again() {
    let server = Server::start().await;
    let way = Way::to(server.port).await;
    let redis = pipe_to(&way.url());
    assert_eq!(ping(&redis).await, Ok(()));
    for passage in [Passage::Hole, Passage::Lies, Passage::Cut, Passage::Lies, Passage::Hole] {
        way.set(passage);
        assert!(calls_until_open(&redis).await <= 4);
        way.set(Passage::Open);
        comes_back(&redis).await;
    }
}

#[tokio::test]
async fn a_closed_idle_connection_costs_one_call_at_most() {
    let server = Server::start().await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    let began = Instant::now();
    until("the connection has settled", async || began.elapsed() > Duration::from_millis(1100)).await;
    server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let _ = ping(&redis).await;
    assert_eq!(ping(&redis).await, Ok(()), "connected anew within the patience of the next");
    assert!(!redis.is_open());
}

#[tokio::test]
async fn a_full_server_refuses_writes_and_is_still_read() {
    let server = Server::start_with(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]).await;
    let redis = pipe_to(&server.url());
    comes_back(&redis).await;
    let fill = async |at: u64| {
        redis.call::<()>("set", cmd("SET").arg(format!("tg:{at}")).arg(vec![0_u8; 64 << 10])).await
    };
    let mut at = 0;
    while fill(at).await.is_ok() {
        at += 1;
        assert!(at < 100, "it is never full");
    }
    for at in 100..110 {
        assert_eq!(fill(at).await, Err(Away::Refused(No::Full)));
        let read: Result<Vec<u8>, _> = redis.call("get", cmd("GET").arg("tg:0")).await;
        assert_eq!(read.map(|read| read.len()), Ok(64 << 10));
    }
}

#[tokio::test]
async fn no_more_calls_wait_than_may() {
    let server = Server::start().await;
    let redis = pipe_to(&server.url());
    assert_eq!(ping(&redis).await, Ok(()));
    server.pause();
    let calls: Vec<_> = (0..CALLS_MAX + 50)
        .map(|_| {
            let redis = redis.clone();
            tokio::spawn(async move { ping(&redis).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.unwrap());
    }
    server.resume();
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(Away::Busy)).count();
    assert_eq!(busy, 50);
    comes_back(&redis).await;
}

#[tokio::test]
async fn a_sentinel_s_new_master_is_found() {
    let mut watched = Watched::start().await;
    let redis = pipe_to(&watched.url());
    comes_back(&redis).await;
    assert_eq!(set(&redis, "tg:a").await, Ok(()));
    watched.servers[0].kill9();
    until("writes go to the new master", async || set(&redis, "tg:b").await.is_ok()).await;
    assert_eq!(watched.servers[1].cli(&["GET", "tg:b"]), "1");
}

#[tokio::test]
async fn a_cluster_is_followed_where_slots_move() {
    let cluster = Cluster::start().await;
    let redis = pipe_to(&cluster.url());
    comes_back(&redis).await;
    for key in 0..50 {
        assert_eq!(set(&redis, &format!("tg:{key}")).await, Ok(()));
    }
    cluster.move_slot_of("tg:7");
    let read: Result<String, _> = redis.call("get", cmd("GET").arg("tg:7")).await;
    assert_eq!(read.as_deref(), Ok("1"));
    assert_eq!(set(&redis, "tg:7").await, Ok(()));
}

#[tokio::test]
async fn a_dead_node_of_a_cluster_does_not_hold_up_calls_for_long() {
    let mut cluster = Cluster::start().await;
    let redis = pipe_to(&cluster.url());
    comes_back(&redis).await;
    cluster.nodes[1].kill9();
    let mut waited = Duration::ZERO;
    for call in 0..2000 {
        let began = Instant::now();
        let _ = set(&redis, &format!("tg:{call}")).await;
        waited += began.elapsed();
    }
    assert!(waited < Duration::from_secs(2), "2,000 calls took {waited:?}");
}
