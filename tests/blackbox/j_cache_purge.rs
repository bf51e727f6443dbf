//! Purges: what they meet, who may order them, and that every node hears of them, late or at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::cached::{ask, get, is_hit, numbered, status};
use crate::support::fleet::found_in;
use crate::support::origin::Seen;
use crate::support::redis::{Passage, Redis, Way};
use crate::support::{
    Cached, Certs, Fleet, Gate, Gateway, Node, PATIENCE, Reply, eventually, https, must, pass,
};

/// The number of the origin's answer.
async fn number(node: &Node, path: &str) -> u32 {
    number_with(node, path, &[]).await
}

async fn number_with(node: &Node, path: &str, fields: &[(&str, &str)]) -> u32 {
    let answer = node.get_with(path, fields).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.field("x-number").unwrap_or_else(|| panic!("{path}: {answer:?}")).parse().unwrap()
}

/// Waits until a node serves another answer than this one, or than none; how long that took.
async fn another(node: &Node, path: &str, than: u32) -> Duration {
    let began = Instant::now();
    while number(node, path).await == than {
        assert!(began.elapsed() < PATIENCE, "{path} is never purged");
    }
    began.elapsed()
}

/// Answers with validators and a number of its own; a 304 has one, too.
fn validated(seen: &Seen) -> Reply {
    match seen.field("if-none-match") {
        Some(_) => Reply::new(304, "").field("etag", "\"1\""),
        None => Reply::ok("body").field("etag", "\"1\""),
    }
}

// ── what is met ─────────────────────────────────────────────────────────────────────────────────────────────────

const ROUTES: &str = "
[routes.tagged]
path = \"/tagged/*\"
cache = { ttl = \"60s\", tags = [\"of-the-route\"] }
upstream = \"ORIGIN\"
[routes.keyed]
path = \"/keyed/*\"
cache = { ttl = \"60s\", key = { headers = [\"x-tenant\"], cookies = [\"cur\"], query = [\"page\"] } }
upstream = \"ORIGIN\"
[routes.swr]
path = \"/swr/*\"
cache = { ttl = \"60s\", stale_while_revalidate = \"60s\" }
upstream = \"ORIGIN\"
[routes.all]
cache = \"60s\"
upstream = \"ORIGIN\"
";

async fn fleet(redis: &Redis, count: usize) -> Fleet {
    let url = redis.url();
    Fleet::over(&vec![&*url; count], "10s", "", ROUTES).await
}

#[tokio::test]
async fn every_kind_of_purge_meets_what_it_names_on_every_node_and_nothing_else() {
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 3).await;
    let rows = [
        ("/url", "\"url\": \"https://a.test/url\""),
        ("/url?b=1", "\"url\": \"HTTPS://A.test:443/%75rl?b=1\""),
        ("/cache-tag", "\"tag\": \"user 7\""),
        ("/surrogate-key", "\"tag\": \"user:8\""),
        ("/tagged/one", "\"tag\": \"of-the-route\""),
        ("/prefix/one", "\"prefix\": \"https://a.test/prefix/\""),
        ("/keyed/a?page=1&b=2", "\"url\": \"https://a.test/keyed/a?page=1\""),
        ("/everything", "\"all\": true"),
    ];
    let tagged = |seen: &Seen| {
        let reply = validated(seen);
        match &*seen.target {
            "/cache-tag" => reply.field("cache-tag", "users, user 7"),
            "/surrogate-key" => reply.field("surrogate-key", "users user:8"),
            _ => reply,
        }
    };
    fleet.origin.answer_by("/bystander", numbered(tagged));
    let mut slowest = Duration::ZERO;
    for (path, order) in rows {
        let bare = path.split('?').next().unwrap();
        fleet.origin.answer_by(bare, numbered(tagged));
        for soft in [false, true] {
            // Each of them has both in memory.
            let mut held = 0;
            for node in fleet.nodes.iter().chain(&fleet.nodes) {
                held = number(node, path).await;
                number(node, "/bystander").await;
            }
            let bystander = number(&fleet.nodes[2], "/bystander").await;
            let asked = fleet.origin.requests(bare);
            assert_eq!(fleet.nodes[1].purges(&format!("{{{order}, \"soft\": {soft}}}")).await, "told");
            // On the node that was told it holds at once; on the others soon.
            let first = fleet.nodes[1].get(path).await;
            let wanted =
                if soft { "tidegate; fwd=stale; fwd-status=304; stored" } else { "fwd-status=200; stored" };
            assert!(status(&first).contains(wanted), "{order} {soft}: {}", status(&first));
            for node in [0, 2] {
                slowest = slowest.max(another(&fleet.nodes[node], path, held).await);
            }
            let seen = fleet.origin.seen();
            let last = seen.iter().rfind(|seen| seen.target.starts_with(bare)).unwrap();
            assert_eq!(last.field("if-none-match").is_some(), soft, "{order}");
            assert!(fleet.origin.requests(bare) <= asked + 3, "{order}");
            let others = number(&fleet.nodes[2], "/bystander").await;
            assert_eq!(others == bystander, !order.contains("all"), "{order} {soft}");
        }
    }
    println!("the slowest purge took {slowest:?} to reach another node");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test]
async fn a_purge_by_url_meets_all_variants_whatever_tells_them_apart() {
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 2).await;
    for path in ["/varied", "/keyed/varied"] {
        let reply = numbered(|_: &Seen| Reply::ok("body").field("vary", "accept-language"));
        fleet.origin.answer_by(path, reply);
        let mut variants = vec![];
        for language in ["de", "en"] {
            for (tenant, cookie) in [("one", "cur=eur"), ("two", "cur=usd; id=7")] {
                variants.push([("accept-language", language), ("x-tenant", tenant), ("cookie", cookie)]);
            }
        }
        if path == "/varied" {
            // Cookies are told apart on the other route alone, and answers to them are not kept here.
            variants = vec![
                [("accept-language", "de"), ("x-a", ""), ("x-b", "")],
                [("accept-language", "en"), ("x-a", ""), ("x-b", "")],
            ];
        }
        let mut held = Vec::new();
        for fields in &variants {
            for node in [0, 1, 0, 1] {
                let answer = fleet.nodes[node].get_with(path, fields).await;
                held.push(answer.field("x-number").unwrap().to_owned());
            }
        }
        assert_eq!(fleet.origin.requests(path), variants.len(), "{path}");
        fleet.nodes[0].purges(&format!("{{\"url\": \"https://a.test{path}\"}}")).await;
        for fields in &variants {
            for node in [0, 1] {
                eventually(PATIENCE, "each variant is gone", async || {
                    let number = number_with(&fleet.nodes[node], path, fields).await;
                    !held.contains(&number.to_string())
                })
                .await;
            }
        }
    }
}

#[tokio::test]
async fn softly_purged_answers_are_served_while_they_are_fetched_where_that_is_allowed() {
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 2).await;
    fleet.origin.answer_by("/swr/a", numbered(|_: &Seen| Reply::ok("body")));
    for node in [0, 1, 0, 1] {
        assert_eq!(number(&fleet.nodes[node], "/swr/a").await, 0);
    }
    fleet.nodes[0].purges("{\"url\": \"https://a.test/swr/a\", \"soft\": true}").await;
    let stale = fleet.nodes[0].get("/swr/a").await;
    assert_eq!((found_in(&stale), stale.field("x-number")), ("while-revalidate", Some("0")));
    for node in &fleet.nodes {
        another(node, "/swr/a", 0).await;
    }
    assert!(fleet.origin.requests("/swr/a") <= 3);
}

// ── orders ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_order_that_cannot_be_obeyed_says_why() {
    let certs = Certs::for_names(&["a.test"]);
    let routes = "[routes.plain]\nhost = \"a.test\"\npath = \"/plain\"\nrespond = { body = \"x\" }\n\
        [routes.all]\nhost = \"a.test\"\nupstream = \"127.0.0.1:9\"\ncache = \"60s\"\n";
    let node = Node::start(&(https(&certs) + routes), &certs).await;
    let rows = [
        ("", "JSON object"),
        ("[]", "JSON object"),
        ("{}", "name one of"),
        ("{\"all\": false}", "`all` is true"),
        ("{\"all\": true, \"tag\": \"a\"}", "name one of"),
        ("{\"ulr\": \"https://a.test/\"}", "ulr"),
        ("{\"url\": \"/users\"}", "in full"),
        ("{\"url\": \"https://other.test/\"}", "no route takes"),
        ("{\"url\": \"https://a.test/plain\"}", "does not cache"),
        ("{\"tag\": \"a,b\"}", "one at a time"),
        ("{\"prefix\": \"a.test/\"}", "in full"),
    ];
    for (order, why) in rows {
        let answer = node.purge(order).await;
        assert_eq!(answer.status, 400, "{order}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(why), "{order}: {}", answer.text());
    }
    assert_eq!(node.purges("{\"url\": \"https://a.test/x\"}").await, "alone");
    let by_get = node.gateway.admin_get("/purge").await;
    assert_eq!(by_get.status, 405, "{}", by_get.text());
}

#[tokio::test]
async fn the_command_line_purges_and_says_so() {
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 2).await;
    let admin = fleet.nodes[0].gateway.admin().to_string();
    fleet.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body").field("cache-tag", "users")));
    let rows: [(&[&str], &str); 4] = [
        (&["--url", "https://a.test/a"], "purged https://a.test/a"),
        (&["--tag", "users", "--soft"], "marked what carries the tag `users` stale"),
        (&["--prefix", "https://a.test/"], "purged what begins with https://a.test/"),
        (&["--all"], "purged everything"),
    ];
    for (words, line) in rows {
        let mut held = 0;
        for node in [0, 1, 0, 1] {
            held = number(&fleet.nodes[node], "/a").await;
        }
        let words = [&["purge", "--admin", &admin], words].concat();
        let (code, wrote) = Gateway::run(&words).await;
        assert!(code == Some(0) && wrote.starts_with(line), "{words:?}: {code:?} {wrote}");
        assert!(wrote.contains("other gateways are told"), "{wrote}");
        for node in &fleet.nodes {
            another(node, "/a", held).await;
        }
    }
    let rows: [(&[&str], i32, &str); 4] = [
        (&["--admin", &admin, "--url", "https://a.test/a", "--all"], 2, "cannot be used with"),
        (&["--admin", &admin, "--url", "/a"], 2, "in full"),
        (&["--admin", "127.0.0.1:1", "--all"], 1, "cannot connect"),
        (&["--admin", &admin], 2, "required"),
    ];
    for (words, wanted, says) in rows {
        let (code, wrote) = Gateway::run(&[&["purge"], words].concat()).await;
        assert!(code == Some(wanted) && wrote.contains(says), "{words:?}: {code:?} {wrote}");
    }
}

#[tokio::test]
async fn the_method_purge_is_obeyed_where_it_is_turned_on_and_for_those_that_may() {
    let redis = Redis::start().await;
    let url = redis.url();
    let top = "trusted_proxies = [\"127.0.0.1/32\"]\ncache = { purge_method = true, purge_from = [\"10.1.0.0/16\"] }";
    let fleet = Fleet::over(&[&url, &url], "10s", top, ROUTES).await;
    fleet.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body")));
    let one = [("x-forwarded-for", "10.1.2.3")];
    for node in [0, 1, 0, 1] {
        assert_eq!(number_with(&fleet.nodes[node], "/a", &one).await, 0);
    }
    for from in ["10.2.0.1", "127.0.0.1", "::1"] {
        let refused = ask(&fleet.nodes[0].client, "PURGE", "/a", &[("x-forwarded-for", from)]).await;
        assert!(refused.status == 403 && refused.text().contains("may-not-purge"), "{from}: {refused:?}");
        assert_eq!(number_with(&fleet.nodes[0], "/a", &one).await, 0, "{from}");
    }
    let obeyed = ask(&fleet.nodes[0].client, "PURGE", "/a", &one).await;
    assert_eq!((obeyed.status, obeyed.text()), (200, "purged\n"), "{obeyed:?}");
    for node in &fleet.nodes {
        let gone = async || number_with(node, "/a", &one).await > 0;
        eventually(PATIENCE, "it is gone", gone).await;
    }
    assert!(fleet.origin.seen().iter().all(|seen| seen.method == "GET"), "the origin never saw it");
}

#[tokio::test]
async fn the_method_purge_is_like_any_other_where_it_is_not_turned_on() {
    let cached = Cached::with("cache = \"60s\"").await;
    let answer = ask(&cached.http1, "PURGE", "/a", &[]).await;
    assert_eq!((answer.status, answer.text()), (200, "one answers"));
    assert_eq!(cached.origin.seen()[0].method, "PURGE");
}

// ── unsafe requests ─────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn an_unsafe_request_invalidates_its_places_on_every_node() {
    // RFC 9111 §4.4.
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 2).await;
    let places = ["/target", "/location", "/content", "/keyed/location"];
    let failed = std::sync::Arc::new(AtomicBool::new(false));
    for path in places {
        let failed = failed.clone();
        fleet.origin.answer_by(
            path,
            numbered(move |seen| match &*seen.method {
                "GET" => Reply::ok("body"),
                _ if failed.load(Ordering::Relaxed) => Reply::new(409, "no").field("location", "/location"),
                "PUT" => Reply::new(201, "").field("location", "/keyed/location"),
                _ => Reply::new(204, "").field("location", "/location").field("content-location", "/content"),
            }),
        );
    }
    let rows: [(&str, &[usize]); 5] = [
        ("POST", &[0, 1, 2]),
        ("PUT", &[0, 3]),
        ("DELETE", &[0, 1, 2]),
        ("PATCH", &[0, 1, 2]),
        ("FREEZE", &[0, 1, 2]),
    ];
    for (method, met) in rows {
        for fails in [true, false] {
            failed.store(fails, Ordering::Relaxed);
            let mut held = [0; 4];
            for node in fleet.nodes.iter().chain(&fleet.nodes) {
                for (path, held) in places.iter().zip(&mut held) {
                    *held = number(node, path).await;
                }
            }
            ask(&fleet.nodes[0].client, method, "/target", &[]).await;
            for (at, path) in places.iter().enumerate() {
                if !fails && met.contains(&at) {
                    assert_ne!(
                        number(&fleet.nodes[0], path).await,
                        held[at],
                        "{method} {path}: here at once"
                    );
                    another(&fleet.nodes[1], path, held[at]).await;
                }
            }
            for (at, path) in places.iter().enumerate().filter(|(at, _)| fails || !met.contains(at)) {
                for node in &fleet.nodes {
                    assert_eq!(number(node, path).await, held[at], "{method} {path}");
                }
            }
        }
    }
}

// ── before and after ────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_neither_stored_nor_served_after_it() {
    let redis = Redis::start().await;
    let fleet = fleet(&redis, 2).await;
    let rows = [
        ("url", "{\"url\": \"https://a.test/url/PURGER\"}"),
        ("tag", "{\"tag\": \"of-PURGER\"}"),
        ("prefix", "{\"prefix\": \"https://a.test/prefix/\"}"),
        ("all", "{\"all\": true}"),
        ("soft", "{\"url\": \"https://a.test/soft/PURGER\", \"soft\": true}"),
    ];
    for (kind, order) in rows {
        for purger in 0..2 {
            let path = format!("/{kind}/{purger}");
            let (gate, tag) = (Gate::closed(), format!("of-{purger}"));
            let before = Reply::ok("before").field("cache-tag", &tag).behind(&gate);
            fleet.origin.answer(&path, before);
            let node = &fleet.nodes[0];
            let heard = async || node.gateway.metric("tidegate_cache_purges_total{origin=\"fleet\"}").await;
            let waiting = async |count: f64| {
                let is = async || node.gateway.metric("tidegate_requests_in_flight").await == count;
                eventually(PATIENCE, "requests wait", is).await;
            };
            let change = async {
                waiting(1.0).await;
                eventually(PATIENCE, "the origin is asked", async || fleet.origin.requests(&path) == 1).await;
                fleet.origin.answer(&path, Reply::ok("after").field("cache-tag", &tag));
                let known = heard().await;
                fleet.nodes[purger].purges(&order.replace("PURGER", &purger.to_string())).await;
                if purger > 0 {
                    eventually(PATIENCE, "it hears", async || heard().await > known).await;
                }
                let late = async {
                    waiting(2.0).await;
                    gate.open();
                };
                let ((), late) = tokio::join!(late, get(&node.client, &path, &[]));
                late
            };
            let (first, late) =
                must(&path, Box::pin(async { tokio::join!(get(&node.client, &path, &[]), change) })).await;
            assert_eq!((first.text(), late.text()), ("before", "after"), "{path}");
            for node in &fleet.nodes {
                let next = node.get(&path).await;
                assert!(is_hit(&next) && next.text() == "after", "{path}: {next:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_was_cut_off_catches_up_and_its_own_purges_arrive_later() {
    let redis = Redis::start().await;
    let way = Way::to(redis.port).await;
    let (direct, by_way) = (redis.url(), way.url());
    let fleet = Fleet::over(&[&direct, &by_way], "1s", "", ROUTES).await;
    let [near, far] = &fleet.nodes[..] else { panic!("two nodes") };
    for path in ["/theirs", "/own"] {
        fleet.origin.answer_by(path, numbered(|_: &Seen| Reply::ok("body")));
        for node in [near, far, near, far] {
            assert_eq!(number(node, path).await, 0);
        }
    }
    way.set(Passage::Cut);
    far.left().await;
    assert_eq!(near.purges("{\"url\": \"https://a.test/theirs\"}").await, "told");
    another(near, "/theirs", 0).await;
    assert_eq!(far.purges("{\"url\": \"https://a.test/own\"}").await, "later");
    another(far, "/own", 0).await;
    // Neither has heard of the other's.
    assert_eq!(number(far, "/theirs").await, 0);
    assert_eq!(number(near, "/own").await, 0);
    let unsent = async || far.gateway.metric("tidegate_redis_write_queue").await;
    assert_eq!(unsent().await, 1.0);
    way.set(Passage::Open);
    far.joined().await;
    another(far, "/theirs", 0).await;
    another(near, "/own", 0).await;
    eventually(PATIENCE, "nothing waits", async || unsent().await == 0.0).await;
    // It was for once: what was fetched since stays.
    let healed = number(near, "/own").await;
    assert_eq!((number(near, "/own").await, number(far, "/theirs").await > 0), (healed, true));
}

#[tokio::test]
async fn a_node_that_ends_tells_the_others_first() {
    let redis = Redis::start().await;
    let way = Way::to(redis.port).await;
    let (direct, by_way) = (redis.url(), way.url());
    let mut fleet = Fleet::over(&[&direct, &by_way], "1s", "", ROUTES).await;
    for path in ["/a", "/b"] {
        fleet.origin.answer_by(path, numbered(|_: &Seen| Reply::ok("body")));
    }
    for node in [0, 1, 0, 1] {
        assert_eq!(number(&fleet.nodes[node], "/a").await, 0);
    }
    let mut ending = fleet.nodes.remove(1);
    way.set(Passage::Cut);
    assert_eq!(ask(&ending.client, "PUT", "/a", &[]).await.status, 200);
    assert_eq!(number(&fleet.nodes[0], "/a").await, 0, "it has not heard of it");
    let back = async {
        pass(Duration::from_millis(200)).await;
        way.set(Passage::Open);
    };
    let (ended, ()) = tokio::join!(ending.gateway.stop(), back);
    assert!(ended.success(), "{ended}\n{}", ending.gateway.output());
    another(&fleet.nodes[0], "/a", 0).await;

    // A Redis that stays away is not waited for.
    let config = fleet.nodes[0].gateway.folder().join("tidegate.toml");
    let config = std::fs::read_to_string(config).unwrap().replace(&direct, &by_way);
    let mut ending = Node::start(&config, &fleet.certs).await;
    way.set(Passage::Cut);
    assert_eq!(ask(&ending.client, "PUT", "/b", &[]).await.status, 200);
    let began = Instant::now();
    assert!(ending.gateway.stop().await.success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(ending.gateway.output().contains("ended before the fleet had every purge"));
}

#[tokio::test]
async fn nodes_that_share_no_answers_share_their_purges_all_the_same() {
    let redis = Redis::start().await;
    let url = redis.url();
    let routes = "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n";
    let fleet = Fleet::over(&[&url, &url], "10s", "cache.redis = false", routes).await;
    fleet.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body").field("cache-tag", "news")));
    let [one, other] = &fleet.nodes[..] else { panic!("two nodes") };
    for order in ["{\"url\": \"https://a.test/a\"}", "{\"tag\": \"news\"}", "{\"all\": true}"] {
        let held = [number(one, "/a").await, number(other, "/a").await];
        assert_ne!(held[0], held[1], "each has its own");
        assert_eq!(one.purges(order).await, "told", "{order}");
        another(one, "/a", held[0]).await;
        another(other, "/a", held[1]).await;
    }
    let keys = redis.cli(&["KEYS", "*"]);
    let of_others = ["tidegate:tickets:", "tidegate:limit:", "tidegate:marker-key"];
    let is_of_cache = |key: &&str| !of_others.iter().any(|others| key.starts_with(others));
    let of_cache: Vec<_> = keys.lines().filter(is_of_cache).collect();
    assert_eq!(of_cache, ["tidegate:purges"], "and no answer is there");
}
