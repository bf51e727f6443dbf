//! Several nodes over one Redis: what one has stored serves all, and one of them fetches for all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::cached::{ask, get, is_hit, numbered, status, ttl, url};
use crate::support::fleet::{found_in, join_all};
use crate::support::origin::Seen;
use crate::support::redis::{Cluster, Redis, Watched};
use crate::support::{Fleet, Gate, Node, PATIENCE, Reply, eventually, https, must, pass};

// ── what is shared ──────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn what_one_node_stored_the_others_serve_and_a_restarted_one_at_once() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::start(&redis.url(), 3, "cache = \"60s\"").await;
    let large = "0123456789".repeat(300_000);
    for (path, body) in [("/small", "small".to_owned()), ("/large", large)] {
        fleet.origin.answer(path, Reply::ok(body.clone()).field("x-own", path));
        let first = fleet.nodes[0].get(path).await;
        assert_eq!(status(&first), "tidegate; fwd=uri-miss; fwd-status=200; stored");
        for (node, places) in [(0, ["memory", "memory"]), (1, ["redis", "memory"]), (2, ["redis", "memory"])]
        {
            for place in places {
                let answer = fleet.nodes[node].get(path).await;
                assert_eq!(found_in(&answer), place, "{path} on {node}: {}", status(&answer));
                assert!(answer.status == 200 && answer.text() == body, "{path} on {node}");
                assert_eq!(answer.field("x-own"), Some(path));
            }
        }
        fleet.restart(2).await;
        let answer = fleet.nodes[2].get(path).await;
        assert_eq!((found_in(&answer), answer.text() == body), ("redis", true), "{}", status(&answer));
        assert_eq!(fleet.origin.requests(path), 1, "{path}");
    }
    for (node, wanted) in [(0, 0.0), (1, 2.0)] {
        let series = "tidegate_cache_requests_total{outcome=\"hit-redis\"}";
        assert_eq!(fleet.nodes[node].gateway.metric(series).await, wanted);
    }
}

#[tokio::test]
async fn every_variant_is_shared_and_served_to_whom_it_suits() {
    let redis = Redis::start().await;
    let fleet =
        Fleet::start(&redis.url(), 2, "cache = { ttl = \"60s\", key = { headers = [\"x-tenant\"] } }").await;
    let by_language = |seen: &Seen| {
        let words = format!("{:?} {:?}", seen.field("accept-language"), seen.field("x-tenant"));
        Reply::ok(words).field("vary", "accept-language")
    };
    fleet.origin.answer_by("/words", by_language);
    let mut asked = Vec::new();
    for language in ["de", "en", "fr"] {
        asked.extend(["one", "two"].map(|tenant| [("accept-language", language), ("x-tenant", tenant)]));
    }
    for (node, place) in [(0, ""), (1, "redis"), (1, "memory"), (0, "memory")] {
        for fields in &asked {
            let answer = fleet.nodes[node].get_with("/words", fields).await;
            let words = format!("{:?} {:?}", Some(fields[0].1), Some(fields[1].1));
            assert_eq!((answer.text(), found_in(&answer)), (&*words, place), "{fields:?} on {node}");
        }
    }
    assert_eq!(fleet.origin.requests("/words"), 6);
}

#[tokio::test]
async fn larger_answers_than_the_fleet_shares_stay_with_each_node() {
    let redis = Redis::start().await;
    let routes = "[routes.all]\ncache = { ttl = \"60s\", max_object = \"4MiB\" }\nupstream = \"ORIGIN\"\n";
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url], "10s", "cache.max_object = \"1MiB\"", routes).await;
    let body = "x".repeat(2 << 20);
    for (path, reply) in
        [("/length", Reply::ok(body.clone())), ("/chunked", Reply::ok(body.clone()).chunked())]
    {
        fleet.origin.answer(path, reply);
        for node in &fleet.nodes {
            assert!(!is_hit(&node.get(path).await));
            let answer = node.get(path).await;
            assert_eq!((found_in(&answer), answer.text() == body), ("memory", true), "{path}");
        }
        assert_eq!(fleet.origin.requests(path), 2, "{path}");
    }
    assert_eq!(redis.cli(&["KEYS", "tidegate:{*"]), "");
}

#[tokio::test]
async fn a_part_that_one_node_has_is_not_taken_for_the_whole_by_another() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    let part = |seen: &Seen| {
        let reply = match seen.field("range") {
            Some(_) => Reply::new(206, "01").field("content-range", "bytes 0-1/10"),
            None => Reply::ok("0123456789"),
        };
        reply.field("cache-control", "max-age=60").field("etag", "\"a\"")
    };
    fleet.origin.answer_by("/parts", part);
    for _ in 0..2 {
        let answer = fleet.nodes[0].get_with("/parts", &[("range", "bytes=0-1")]).await;
        assert_eq!((answer.status, answer.text()), (206, "01"));
    }
    let whole = fleet.nodes[1].get("/parts").await;
    assert_eq!((whole.status, whole.text(), is_hit(&whole)), (200, "0123456789", false));
}

#[tokio::test]
async fn a_part_that_one_node_confirms_leaves_the_whole_to_the_others() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    let reply = |seen: &Seen| {
        let reply = match (seen.field("range"), seen.field("if-none-match")) {
            (_, Some(_)) => Reply::new(304, ""),
            (Some(_), _) => Reply::new(206, "01").field("content-range", "bytes 0-1/10"),
            _ => Reply::ok("0123456789"),
        };
        reply.field("cache-control", "max-age=60").field("etag", "\"a\"")
    };
    fleet.origin.answer_by("/parts", reply);
    let part = [("range", "bytes=0-1")];
    fleet.nodes[0].get_with("/parts", &part).await;
    fleet.nodes[1].get("/parts").await;
    let confirmed = fleet.nodes[0].get_with("/parts", &[part[0], ("cache-control", "no-cache")]).await;
    assert_eq!(status(&confirmed), "tidegate; fwd=request; fwd-status=304; stored");
    // What it had written behind is in Redis when it has ended.
    fleet.restart(0).await;
    fleet.restart(1).await;
    let whole = fleet.nodes[1].get("/parts").await;
    assert_eq!((found_in(&whole), whole.text()), ("redis", "0123456789"), "{}", status(&whole));
}

/// Waits until so many URLs are in Redis.
async fn shared(redis: &Redis, count: usize) {
    let are = async || redis.cli(&["KEYS", "tidegate:{*}"]).lines().count() == count;
    eventually(PATIENCE, "the fleet has them", are).await;
}

#[tokio::test]
async fn head_and_ranges_are_served_from_what_the_fleet_has() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    let rows: [(&str, &str, Fields<'_>, u16, &str); 6] = [
        ("/head", "HEAD", &[], 200, ""),
        ("/part", "GET", &[("range", "bytes=2-4")], 206, "234"),
        ("/end", "GET", &[("range", "bytes=-2"), ("if-range", "\"a\"")], 206, "89"),
        ("/other", "GET", &[("range", "bytes=2-4"), ("if-range", "\"b\"")], 200, "0123456789"),
        ("/beyond", "GET", &[("range", "bytes=20-")], 416, ""),
        ("/only", "HEAD", &[("cache-control", "only-if-cached")], 200, ""),
    ];
    for (at, (path, method, fields, code, text)) in rows.into_iter().enumerate() {
        fleet.origin.answer(path, Reply::ok("0123456789").field("etag", "\"a\"").fresh_for(60));
        fleet.nodes[0].get(path).await;
        shared(&redis, at + 1).await;
        for place in ["redis", "memory"] {
            let answer = must(path, ask(&fleet.nodes[1].client, method, path, fields)).await;
            assert_eq!((answer.status, answer.text()), (code, text), "{path}: {answer:?}");
            assert_eq!(found_in(&answer), place, "{path}: {}", status(&answer));
            assert!(method != "HEAD" || answer.field("content-length") == Some("10"), "{answer:?}");
        }
        let whole = fleet.nodes[1].get(path).await;
        assert_eq!((found_in(&whole), whole.text()), ("memory", "0123456789"), "{path}");
        assert_eq!(fleet.origin.requests(path), 1, "{path}");
    }
}

#[tokio::test]
async fn large_bodies_of_the_fleet_are_cut_as_well() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    let body = "0123456789".repeat(100_000);
    fleet.origin.answer("/large", Reply::ok(body.clone()));
    fleet.nodes[0].get("/large").await;
    shared(&redis, 1).await;
    let parts = [("range", "bytes=500000-500003,999998-")];
    let answer = fleet.nodes[1].get_with("/large", &parts).await;
    assert_eq!((answer.status, found_in(&answer)), (206, "redis"), "{}", status(&answer));
    assert!(answer.text().contains("bytes 500000-500003/1000000\r\n\r\n0123\r\n"), "{answer:?}");
    assert!(answer.text().contains("bytes 999998-999999/1000000\r\n\r\n89\r\n"), "{answer:?}");
    assert_eq!(fleet.origin.requests("/large"), 1);
}

#[tokio::test]
async fn a_newer_part_is_not_put_aside_for_an_older_whole_of_the_fleet() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    fleet.origin.answer("/a", Reply::ok("0123456789").field("etag", "\"old\"").fresh_for(60));
    fleet.nodes[0].get("/a").await;
    shared(&redis, 1).await;
    let part = |range: &'static str, text: &'static str| {
        let range = format!("bytes {range}/10");
        Reply::new(206, text).field("content-range", &range).field("etag", "\"new\"").fresh_for(60)
    };
    fleet.origin.answer_by("/a", move |seen| match seen.field("range") {
        Some("bytes=0-1") => part("0-1", "ab"),
        _ => part("4-5", "ef"),
    });
    let newest = [("range", "bytes=0-1"), ("cache-control", "no-cache")];
    assert_eq!(fleet.nodes[1].get_with("/a", &newest).await.text(), "ab");
    let next = fleet.nodes[1].get_with("/a", &[("range", "bytes=4-5")]).await;
    assert_eq!((next.text(), is_hit(&next)), ("ef", false), "{}", status(&next));
}

#[tokio::test]
async fn what_the_fleet_has_stands_in_for_the_answer_to_a_head() {
    let redis = Redis::start().await;
    let routes = "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\nretries = { attempts = 1 }\n\
        [routes.all]\ncache = { stale_if_unreachable = \"1h\" }\nupstream = \"one\"\n";
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url], "10s", "", routes).await;
    let stale = Reply::ok("words").field("cache-control", "max-age=100").field("age", "200");
    fleet.origin.answer("/a", stale.field("etag", "\"a\""));
    fleet.nodes[0].get("/a").await;
    shared(&redis, 1).await;
    fleet.origin.answer("/a", Reply::ok("no").cut_after(0));
    for method in ["HEAD", "GET"] {
        let answer = must(method, ask(&fleet.nodes[1].client, method, "/a", &[])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("content-length"), Some("5"));
        assert!(status(&answer).starts_with("tidegate; fwd=stale; ttl=-"), "{}", status(&answer));
    }
}

#[tokio::test]
async fn what_its_origin_withdraws_is_not_found_with_the_fleet_either() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    // Why the origin is asked again, and what it says then.
    let rows = [
        ("/confirmed", Reply::new(304, "").field("cache-control", "private")),
        ("/every", Reply::new(304, "").field("vary", "*").fresh_for(60)),
        ("/replaced", Reply::ok("mine").field("cache-control", "private")),
    ];
    for (path, then) in rows {
        let then = then.field("etag", "\"1\"");
        fleet.origin.answer_by(path, move |seen| match seen.field("if-none-match") {
            Some(_) => then.clone(),
            None => Reply::ok("for all").field("etag", "\"1\"").fresh_for(3600),
        });
        fleet.nodes[0].get(path).await;
        assert_eq!(found_in(&fleet.nodes[1].get(path).await), "redis", "{path}");
        let withdrawn = fleet.nodes[1].get_with(path, &[("cache-control", "no-cache")]).await;
        assert!(!is_hit(&withdrawn), "{path}");
        fleet.restart(1).await;
        let next = fleet.nodes[1].get(path).await;
        assert!(!is_hit(&next), "{path}: {}", status(&next));
    }
}

#[tokio::test]
async fn what_a_304_tells_apart_is_told_apart_on_every_node() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    fleet.origin.answer_by("/words", |seen| match seen.field("if-none-match") {
        Some("\"de\"") if seen.field("accept-language") == Some("de") => {
            Reply::new(304, "").field("etag", "\"de\"").field("vary", "accept-language").fresh_for(60)
        }
        _ => Reply::ok(seen.field("accept-language").unwrap_or("none")).field("etag", "\"de\"").fresh_for(60),
    });
    let of = |language| [("accept-language", language)];
    fleet.nodes[0].get_with("/words", &of("de")).await;
    let confirmed = [("accept-language", "de"), ("cache-control", "no-cache")];
    fleet.nodes[0].get_with("/words", &confirmed).await;
    fleet.restart(0).await;
    let french = fleet.nodes[1].get_with("/words", &of("fr")).await;
    assert_eq!((french.text(), is_hit(&french)), ("fr", false), "{}", status(&french));
}

#[tokio::test]
async fn what_needs_validation_at_each_use_is_not_asked_for_in_turns() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = true").await;
    let reply = || Reply::ok("x").field("cache-control", "no-cache").field("etag", "\"a\"");
    fleet.origin.answer("/each", reply());
    for node in &fleet.nodes {
        node.get("/each").await;
    }
    let (gate, path) = (Gate::closed(), "/each");
    fleet.origin.answer(path, reply().behind(&gate));
    let before = fleet.origin.requests(path);
    let all = join_all((0..6).map(|number| fleet.nodes[number % 2].get(path)));
    let open = async {
        let together = async || fleet.origin.requests(path) == before + 6;
        // Sooner than one of those who wait for another would ask by itself.
        eventually(Duration::from_secs(4), "all of them ask at once", together).await;
        gate.open();
    };
    let (answers, ()) = must("all are answered", async { tokio::join!(all, open) }).await;
    assert!(answers.iter().all(|answer| answer.text() == "x"));
}

#[tokio::test]
async fn who_wants_nothing_but_what_is_stored_gets_what_the_fleet_has() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    fleet.origin.answer("/stored", Reply::ok("stored"));
    fleet.nodes[0].get("/stored").await;
    shared(&redis, 1).await;
    let only = [("cache-control", "only-if-cached")];
    let answer = fleet.nodes[1].get_with("/stored", &only).await;
    assert_eq!((answer.text(), found_in(&answer)), ("stored", "redis"));
    assert_eq!(fleet.nodes[1].get_with("/nothing", &only).await.status, 504);
}

type Fields<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn what_is_private_never_reaches_redis_and_authorized_answers_keep_their_rules() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    let known = [("authorization", "Bearer secret")];
    let rows: [(&str, Fields<'_>, Fields<'_>); 6] = [
        ("/private", &[], &[("cache-control", "private, max-age=60")]),
        ("/no-store", &[], &[("cache-control", "no-store")]),
        ("/cookie", &[], &[("set-cookie", "id=secret")]),
        ("/known", &known, &[("cache-control", "max-age=60")]),
        ("/told", &[("cache-control", "no-store")], &[("cache-control", "max-age=60")]),
        ("/star", &[], &[("vary", "*")]),
    ];
    for (path, fields, answered) in rows {
        let reply =
            answered.iter().fold(Reply::ok("secret"), |reply, (name, value)| reply.field(name, value));
        fleet.origin.answer(path, reply);
        for node in [0, 1, 0] {
            assert!(!is_hit(&fleet.nodes[node].get_with(path, fields).await), "{path}");
        }
        assert_eq!(fleet.origin.requests(path), 3, "{path}");
    }
    // Leases are given back a moment after the answer.
    let empty = async || redis.cli(&["KEYS", "*{*"]).is_empty();
    eventually(PATIENCE, "nothing of any URL is in Redis", empty).await;

    // RFC 9111 §3.5: `public` permits it; an answer to somebody unknown is for the unknown alone.
    let public = Reply::ok("for all").field("cache-control", "public, max-age=60");
    fleet.origin.answer("/public", public);
    fleet.nodes[0].get_with("/public", &known).await;
    shared(&redis, 1).await;
    for fields in [&[][..], &known] {
        assert!(is_hit(&fleet.nodes[1].get_with("/public", fields).await), "{fields:?}");
    }
    fleet.nodes[0].get("/unknown").await;
    shared(&redis, 2).await;
    assert!(!is_hit(&fleet.nodes[1].get_with("/unknown", &known).await));
    assert_eq!(found_in(&fleet.nodes[1].get("/unknown").await), "redis");
    assert_eq!((fleet.origin.requests("/public"), fleet.origin.requests("/unknown")), (1, 2));
}

#[tokio::test]
async fn what_is_confirmed_on_one_node_is_fresh_on_all_and_its_body_is_not_sent_again() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 3, "cache = true").await;
    let body = "0123456789".repeat(100_000);
    let whole = body.clone();
    fleet.origin.answer_by("/a", move |seen| match seen.field("if-none-match") {
        Some("\"1\"") => Reply::new(304, "").field("etag", "\"1\"").fresh_for(60),
        _ => Reply::ok(whole.clone()).field("etag", "\"1\"").fresh_for(1),
    });
    fleet.nodes[0].get("/a").await;
    assert_eq!(found_in(&fleet.nodes[1].get("/a").await), "redis");
    pass(Duration::from_millis(1200)).await;
    let taken = received(&redis);
    // It has nothing in memory: what it confirms comes from Redis.
    let confirmed = fleet.nodes[2].get("/a").await;
    assert_eq!(status(&confirmed), "tidegate; fwd=uri-miss; fwd-status=304; stored");
    for node in [0, 1] {
        let answer = fleet.nodes[node].get("/a").await;
        assert_eq!((found_in(&answer), answer.text() == body), ("redis", true), "{}", status(&answer));
        assert!(ttl(&answer) > 50, "{}", status(&answer));
    }
    assert!(confirmed.status == 200 && confirmed.text() == body);
    let sent = received(&redis) - taken;
    assert!(sent < 100_000, "{sent} bytes were sent to Redis for a confirmed head");
    let asked: Vec<_> =
        fleet.origin.seen().iter().map(|seen| seen.field("if-none-match").is_some()).collect();
    assert_eq!(asked, [false, true]);
}

/// How many bytes a server was sent so far.
fn received(redis: &Redis) -> u64 {
    let info = redis.cli(&["INFO", "stats"]);
    let line = info.lines().find_map(|line| line.trim().strip_prefix("total_net_input_bytes:"));
    line.expect("it counts").parse().unwrap()
}

// ── one fetch for all ───────────────────────────────────────────────────────────────────────────────────────────

/// All nodes are asked so many times each for a path, at once; `then` is awaited once all of them wait.
async fn ask_all(
    fleet: &Fleet,
    path: &str,
    each: u32,
    then: impl Future<Output = ()>,
) -> Vec<crate::support::Answer> {
    let asked = fleet.nodes.iter().flat_map(|node| (0..each).map(|_| get(&node.client, path, &[])));
    let waited = async {
        for node in &fleet.nodes {
            let waits = async || node.gateway.metric("tidegate_requests_in_flight").await >= f64::from(each);
            eventually(PATIENCE, "all wait", waits).await;
        }
        then.await;
    };
    must("all are answered", async { tokio::join!(join_all(asked), waited) }).await.0
}

#[tokio::test]
async fn a_missing_and_an_expired_answer_are_fetched_once_for_the_fleet() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 3, "cache = true").await;
    let body = "0123456789".repeat(30_000);
    let rows = [
        ("/etag", Reply::ok(body.clone()).field("etag", "\"1\"")),
        ("/plain", Reply::ok(body.clone())),
        ("/chunked", Reply::ok(body.clone()).chunked()),
    ];
    for round in 1..=2 {
        for (path, reply) in &rows {
            let gate = Gate::closed();
            fleet.origin.answer(path, reply.clone().fresh_for(2).behind(&gate));
            let asked = || fleet.origin.requests(path);
            let open = async {
                eventually(PATIENCE, "one asks", async || asked() >= round).await;
                gate.open();
            };
            let answers = ask_all(&fleet, path, 4, open).await;
            assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == body), "{path}");
            assert_eq!(asked(), round, "{path}");
        }
        if round == 1 {
            pass(Duration::from_millis(2100)).await;
        }
    }
    let mut joined = 0.0;
    for node in &fleet.nodes {
        joined += node.gateway.metric("tidegate_cache_joins_total{scope=\"fleet\"}").await;
    }
    assert!(joined > 0.0, "nodes that waited for another's fetch are counted");
}

#[tokio::test]
async fn variants_do_not_wait_for_one_another_and_are_one_fetch_each_for_the_fleet() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    let body = "0123456789".repeat(30_000);
    for (path, known) in [("/known", true), ("/new", false)] {
        let gate = Gate::closed();
        let (held, whole) = (gate.clone(), body.clone());
        let reply = move |seen: &Seen| {
            let reply = Reply::ok(whole.clone()).field("vary", "accept-language");
            if seen.field("accept-language") == Some("de") { reply.paused_after(1000, &held) } else { reply }
        };
        fleet.origin.answer_by(path, reply);
        if known {
            fleet.nodes[0].get_with(path, &[("accept-language", "en")]).await;
        }
        let before = fleet.origin.requests(path);
        let slow = fleet.nodes[0].client.request("GET", &url(path)).header("accept-language", "de");
        let mut slow = must("a head", slow.send()).await.unwrap();
        // What the first answer of a URL is told apart by, other nodes hear with its end.
        let nodes = if known { [0, 0, 1, 1].as_slice() } else { &[0, 0, 0] };
        let french = [("accept-language", "fr")];
        let answers = join_all(nodes.iter().map(|at| fleet.nodes[*at].get_with(path, &french))).await;
        assert!(answers.iter().all(|answer| answer.text() == body), "{path}");
        assert_eq!(fleet.origin.requests(path) - before, 2, "{path}");
        assert!(is_hit(&fleet.nodes[0].get_with(path, &french).await), "{path}");
        gate.open();
        while must("a piece", slow.chunk()).await.unwrap().is_some() {}
    }
}

#[tokio::test]
async fn who_says_who_it_is_and_who_does_not_fetch_beside_one_another() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = \"60s\"").await;
    let ask = async |node: usize, path: &'static str, who: &'static str| {
        fleet.nodes[node].get_with(path, &[("authorization", who)]).await
    };
    // What the origin says of an answer to somebody in particular; and whose answers it holds back.
    for (path, control, slow) in [
        ("/a", "max-age=60", "nobody"),
        ("/b", "private, max-age=60", "nobody"),
        ("/c", "max-age=60", "one"),
        ("/d", "private, max-age=60", "one"),
    ] {
        let gate = Gate::closed();
        let held = gate.clone();
        fleet.origin.answer_by(path, move |seen| {
            let who = seen.field("authorization").unwrap_or("nobody").to_owned();
            let control = if who == "nobody" { "max-age=60" } else { control };
            let reply = Reply::ok(who.clone()).field("cache-control", control);
            if who == slow { reply.behind(&held) } else { reply }
        });
        let (nobodys, ones) = if slow == "nobody" {
            // Each of those who say who they are has its own, on every node, while the others wait.
            let waits = join_all([0, 0, 1, 1].map(|node| fleet.nodes[node].get(path)));
            let others = async {
                eventually(PATIENCE, "it is at the origin", async || fleet.origin.requests(path) == 1).await;
                let mut ones = Vec::new();
                for (node, who) in [(0, "one"), (0, "two"), (1, "one"), (1, "two")] {
                    let answer = must(path, ask(node, path, who)).await;
                    assert_eq!((answer.text(), is_hit(&answer)), (who, false), "{path}: {answer:?}");
                    ones.push(answer);
                }
                gate.open();
                ones
            };
            must("all are answered", Box::pin(async { tokio::join!(waits, others) })).await
        } else {
            // One fetch serves all who do not, while somebody waits on every node.
            let waits = join_all([0, 1].map(|node| ask(node, path, "one")));
            let others = async {
                eventually(PATIENCE, "it is at the origin", async || fleet.origin.requests(path) > 0).await;
                let all = join_all([0, 0, 1, 1].map(|node| fleet.nodes[node].get(path)));
                let nobodys = must(path, Box::pin(all)).await;
                gate.open();
                nobodys
            };
            let (ones, nobodys) =
                must("all are answered", Box::pin(async { tokio::join!(waits, others) })).await;
            (nobodys, ones)
        };
        assert!(nobodys.iter().all(|answer| answer.text() == "nobody"), "{path}: {nobodys:?}");
        assert!(ones.iter().all(|answer| answer.text() != "nobody" && !is_hit(answer)), "{path}: {ones:?}");
        let seen = fleet.origin.seen();
        let shared = seen.iter().filter(|seen| seen.target == path && seen.field("authorization").is_none());
        assert_eq!(shared.count(), 1, "{path}: one fetch for all who say nothing");
        let own = must(path, ask(1, path, "two")).await;
        assert_eq!((own.text(), is_hit(&own)), ("two", false), "{path}: {own:?}");
        let hit = fleet.nodes[1].get(path).await;
        assert_eq!((hit.text(), is_hit(&hit)), ("nobody", true), "{path}: {hit:?}");
    }
}

#[tokio::test]
async fn a_fetch_that_takes_longer_than_a_lease_is_waited_for_by_the_fleet() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 3, "cache = \"60s\"").await;
    let body = "0123456789".repeat(30_000);
    for (path, amid) in [("/head", false), ("/body", true)] {
        let gate = Gate::closed();
        let reply = Reply::ok(body.clone());
        let reply = if amid { reply.paused_after(100_000, &gate) } else { reply.behind(&gate) };
        fleet.origin.answer(path, reply);
        let open = async {
            // A lease is for 2 s.
            pass(Duration::from_millis(3500)).await;
            gate.open();
        };
        let answers = ask_all(&fleet, path, 2, open).await;
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == body), "{path}");
        assert_eq!(fleet.origin.requests(path), 1, "{path}");
    }
}

#[tokio::test]
async fn when_the_node_that_fetches_dies_another_takes_over() {
    let redis = Redis::start().await;
    let mut fleet = Fleet::start(&redis.url(), 3, "cache = \"60s\"").await;
    let count = AtomicUsize::new(0);
    let never = Gate::closed();
    fleet.origin.answer_by("/a", move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::ok("never").behind(&never),
        _ => Reply::ok("from another"),
    });
    let mut leader = fleet.nodes.remove(0);
    let lost = leader.client.request("GET", &url("/a")).send();
    let lost = tokio::spawn(lost);
    eventually(PATIENCE, "it fetches", async || fleet.origin.requests("/a") == 1).await;
    let began = Instant::now();
    let answers = ask_all(&fleet, "/a", 3, async { leader.gateway.process().kill() }).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.text() == "from another"));
    // The lease is good for 2 s, and whoever waits is served within 5 s.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let asked = fleet.origin.requests("/a");
    assert!((2..=3).contains(&asked), "{asked} requests");
    assert!(must("the client of the dead node hears of it", lost).await.unwrap().is_err());
}

#[tokio::test]
async fn an_answer_for_one_alone_or_none_at_all_releases_everybody_at_once() {
    let redis = Redis::start().await;
    let routes = "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\n\
        [routes.all]\ncache = \"60s\"\nupstream = \"one\"\n";
    let url = redis.url();
    let fleet = Fleet::over(&[&url, &url, &url], "10s", "", routes).await;
    let rows = [
        ("/private", Reply::ok("mine").field("cache-control", "private"), 200),
        ("/error", Reply::new(500, "no"), 500),
        ("/reset", Reply::ok("no").cut_after(0), 502),
    ];
    for (path, reply, code) in rows {
        let gate = Gate::closed();
        let held = gate.clone();
        fleet.origin.answer_by(path, numbered(move |_| reply.clone().behind(&held)));
        let mut opened = None;
        let open = async {
            gate.open();
            opened = Some(Instant::now());
        };
        let answers = ask_all(&fleet, path, 2, open).await;
        let took = opened.unwrap().elapsed();
        assert!(answers.iter().all(|answer| answer.status == code && !is_hit(answer)), "{path}: {answers:?}");
        assert!(took < Duration::from_millis(2500), "{path}: {took:?}, as long as a lease");
        let mut numbers: Vec<_> = answers.iter().filter_map(|answer| answer.field("x-number")).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert!(code != 200 || numbers.len() == 6, "{path}: each has an answer of its own: {numbers:?}");
    }
}

// ── Redis that moves ────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_fleet_follows_its_service_to_another_master() {
    let mut watched = Watched::start().await;
    let fleet = Fleet::start(&watched.url(), 2, "cache = \"60s\"").await;
    fleet.nodes[0].get("/a").await;
    assert_eq!(found_in(&fleet.nodes[1].get("/a").await), "redis");
    watched.servers[0].kill9();
    let mut number = 0;
    // Every answer on the way is right, and in the end both share again.
    eventually(PATIENCE, "they share by the new master", async || {
        number += 1;
        let path = format!("/new/{number}");
        for node in [0, 1] {
            let answer = fleet.nodes[node].get(&path).await;
            assert_eq!((answer.status, answer.text()), (200, "one answers"), "{answer:?}");
        }
        fleet.origin.requests(&path) == 1
    })
    .await;
    assert_eq!(fleet.nodes[0].purges("{\"all\": true}").await, "told");
}

#[tokio::test]
async fn a_slot_that_moves_costs_no_answer() {
    let cluster = Cluster::start().await;
    let fleet = Fleet::start(&cluster.url(), 2, "cache = \"60s\"").await;
    fleet.nodes[0].get("/a").await;
    assert_eq!(found_in(&fleet.nodes[1].get("/a").await), "redis");
    let keys = |node: &Redis| node.cli(&["KEYS", "tidegate:{*}"]);
    let key = cluster.nodes.iter().map(keys).find(|key| !key.is_empty()).expect("it is in one of them");
    for slot_of in [&*key, "tidegate:purges"] {
        cluster.move_slot_of(slot_of);
        let mut number = 0;
        eventually(PATIENCE, "they share", async || {
            number += 1;
            let path = format!("/{}/{number}", slot_of.len());
            for node in &fleet.nodes {
                let answer = node.get(&path).await;
                assert_eq!((answer.status, answer.text()), (200, "one answers"), "{answer:?}");
            }
            fleet.origin.requests(&path) == 1
        })
        .await;
        eventually(PATIENCE, "purges arrive", async || {
            assert_eq!(fleet.nodes[1].get("/a").await.status, 200);
            fleet.nodes[0].purges("{\"url\": \"https://a.test/a\"}").await;
            let gone = async || !is_hit(&fleet.nodes[1].get("/a").await);
            gone().await
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_that_hears_of_no_purges_takes_nothing_of_those_it_waited_for() {
    let redis = Redis::start().await;
    assert_eq!(redis.cli(&["ACL", "SETUSER", "deaf", "on", ">word", "~*", "&*", "+@all"]), "OK");
    let (url, folder) = (redis.url(), tempfile::tempdir().unwrap());
    let password = folder.path().join("password");
    std::fs::write(&password, "word").unwrap();
    let mut fleet = Fleet::start(&url, 1, "cache = \"60s\"").await;
    let deaf = format!(
        "redis = {{ url = {url:?}, timeout = \"10s\", username = \"deaf\", password = {{ file = {password:?} }} }}"
    );
    let route = format!("[routes.all]\ncache = \"60s\"\nupstream = \"{}\"", fleet.origin.address());
    let config = format!("{}{deaf}\n{route}\n", https(&fleet.certs));
    fleet.nodes.push(Node::start(&config, &fleet.certs).await);
    fleet.nodes[1].joined().await;
    let gate = Gate::closed();
    let held = gate.clone();
    fleet.origin.answer_by("/a", numbered(move |_| Reply::ok("x").behind(&held)));
    let leads = fleet.nodes[0].get("/a");
    let waits = async {
        eventually(PATIENCE, "one fetches", async || fleet.origin.requests("/a") == 1).await;
        fleet.nodes[1].get("/a").await
    };
    let deafen = async {
        let asks = async || fleet.nodes[1].gateway.metric("tidegate_requests_in_flight").await == 1.0;
        eventually(PATIENCE, "the other waits", asks).await;
        assert_eq!(redis.cli(&["ACL", "SETUSER", "deaf", "-xread"]), "OK");
        let reads = |line: &&str| line.contains(" user=deaf ") && line.contains(" cmd=xread ");
        for line in redis.cli(&["CLIENT", "LIST"]).lines().filter(reads) {
            let id = line.split(' ').find_map(|word| word.strip_prefix("id=")).expect("each has one");
            redis.cli(&["CLIENT", "KILL", "ID", id]);
        }
        fleet.nodes[1].left().await;
        gate.open();
    };
    let (first, second, ()) =
        must("both are answered", Box::pin(async { tokio::join!(leads, waits, deafen) })).await;
    assert_eq!((first.field("x-number"), second.field("x-number")), (Some("0"), Some("1")));
}
