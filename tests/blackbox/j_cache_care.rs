//! What operators do with the cache: look into it, warm it, try rules; and what it does by itself in the background.

use std::time::Duration;

use crate::support::cached::{get, is_hit, look, numbered, status, ttl, url};
use crate::support::fleet::found_in;
use crate::support::origin::Seen;
use crate::support::redis::Redis;
use crate::support::{Answer, Cached, Fleet, Gateway, PATIENCE, Reply, eventually, pass};

// ── looking ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_look_into_the_cache_says_what_is_held_where_and_what_would_become_of_a_request() {
    let redis = Redis::start().await;
    let fleet =
        Fleet::start(&redis.url(), 2, "cache = { ttl = \"60s\", vary = [\"cookie\", \"x-plan\"] }").await;
    let [one, two] = &fleet.nodes[..] else { panic!("two nodes") };
    let none = look(&one.gateway, "/a", &[]).await;
    assert_eq!(none["verdict"]["outcome"], "miss");
    assert_eq!((&none["memory"], &none["redis"]), (&serde_json::json!([]), &serde_json::json!([])));

    let reply =
        Reply::ok("the body is a secret").field("cache-tag", "users, user 7").field("x-secret", "a secret");
    fleet.origin.answer("/a", reply.field("cache-control", "public, max-age=50, stale-if-error=7"));
    for plan in ["free", "paid"] {
        one.get_with("/a", &[("cookie", "id=secret"), ("x-plan", plan), ("authorization", "Bearer secret")])
            .await;
    }
    let fields = ["Cookie: id=secret", "X-Plan: free"];
    eventually(PATIENCE, "both are shared", async || {
        look(&one.gateway, "/a", &fields).await["redis"].as_array().is_some_and(|held| held.len() == 2)
    })
    .await;
    for (node, held) in [(one, 2), (two, 0)] {
        let seen = look(&node.gateway, "/a", &fields).await;
        assert_eq!(seen["memory"].as_array().unwrap().len(), held);
        assert_eq!(seen["verdict"]["outcome"], if held > 0 { "hit" } else { "miss" }, "{seen}");
        assert!(!seen.to_string().contains("secret"), "{seen}");
        let entry = seen["redis"].as_array().unwrap().iter().find(|entry| entry["suits"] == true).unwrap();
        assert_eq!((&entry["status"], &entry["url"]), (&200.into(), &url("/a").into()));
        assert!((45..=50).contains(&entry["ttl"].as_i64().unwrap()), "{entry}");
        assert!((0..=5).contains(&entry["age"].as_i64().unwrap()), "{entry}");
        assert_eq!((&entry["length"], &entry["stale"]["if_error"]), (&20.into(), &7.into()));
        assert_eq!(entry["cache_tag"], serde_json::json!(["users, user 7"]));
        assert_eq!(entry["purged"], serde_json::Value::Null);
    }
    let other = look(&one.gateway, "/a", &["X-Plan: none"]).await;
    assert!(other["verdict"]["why"].as_str().unwrap().contains("other request fields"), "{other}");

    one.purges("{\"tag\": \"user 7\", \"soft\": true}").await;
    let soft = look(&one.gateway, "/a", &fields).await;
    assert_eq!((&soft["memory"][0]["purged"], &soft["redis"][0]["purged"]), (&"soft".into(), &"soft".into()));
    one.purges("{\"tag\": \"user 7\"}").await;
    let gone = look(&one.gateway, "/a", &fields).await;
    assert_eq!((&gone["redis"][0]["purged"], &gone["verdict"]["outcome"]), (&"hard".into(), &"miss".into()));

    for (query, why) in [("url=/a", "in full"), ("url=https://b.test/a&x=y", "not known")] {
        let refused = one.gateway.admin_get(&format!("/cache?{query}")).await;
        assert!(refused.status == 400 && refused.text().contains(why), "{query}: {}", refused.text());
    }
}

#[tokio::test]
async fn a_look_tells_of_everything_that_keeps_an_answer_from_being_used() {
    let cached = Cached::with("cache = \"60s\"").await;
    let (origin, gateway) = (&cached.origin, &cached.gateway);
    origin.answer("/a", Reply::ok("0123456789").field("etag", "\"a\""));
    origin.answer("/private", Reply::ok("mine").field("cache-control", "private"));
    origin.answer("/part", Reply::new(206, "01").field("content-range", "bytes 0-1/10").fresh_for(60));
    for (path, fields) in [("/a", None), ("/private", None), ("/part", Some(("range", "bytes=0-1")))] {
        assert!(!is_hit(&get(&cached.http1, path, fields.as_slice()).await), "{path}");
    }
    let rows: [(&str, &[&str], &str, &str); 11] = [
        ("/a", &[], "hit", "fresh"),
        ("/a", &["Range: bytes=0-1"], "hit", "fresh"),
        ("/a", &["Cache-Control: no-cache"], "miss", "asks for better"),
        ("/a", &["Cache-Control: no-store"], "bypass", "past the cache: no-store"),
        ("/a", &["If-Match: \"a\""], "bypass", "past the cache: precondition"),
        ("/a", &["Authorization: Bearer a"], "miss", "callers who say who they are"),
        ("/private", &[], "bypass", "could not be kept"),
        ("/private", &["Cache-Control: only-if-cached"], "refused", "could not be kept"),
        ("/part", &["Range: bytes=0-1"], "hit", "fresh"),
        ("/part", &["Range: bytes=4-5"], "miss", "not all of its bytes"),
        ("/part", &["Cache-Control: only-if-cached"], "refused", "not all of its bytes"),
    ];
    for (path, fields, outcome, why) in rows {
        let seen = look(gateway, path, fields).await;
        let verdict = &seen["verdict"];
        assert_eq!(verdict["outcome"], outcome, "{path} {fields:?}: {verdict}");
        assert!(verdict["why"].as_str().unwrap().contains(why), "{path} {fields:?}: {verdict}");
        let fields: Vec<_> = fields.iter().filter_map(|field| field.split_once(": ")).collect();
        let answer = get(&cached.http1, path, &fields).await;
        assert_eq!(is_hit(&answer), outcome == "hit", "{path} {fields:?}: {}", status(&answer));
    }
}

// ── warming ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn warming_stores_what_a_list_names_and_counts_what_became_of_each_line() {
    let cached = Cached::with("cache = \"60s\"").await;
    let ca = cached.gateway.folder().join("ca.pem");
    std::fs::write(&ca, cached.certs.authority_pem()).unwrap();
    cached.origin.answer("/private", Reply::ok("mine").field("cache-control", "private"));
    cached.origin.answer("/missing", Reply::new(404, "none"));
    cached.origin.answer("/languages", Reply::ok("text").field("vary", "accept-language"));
    assert_eq!(get(&cached.http1, "/there", &[]).await.status, 200);
    let to = format!("https://{}", cached.gateway.https());
    let warm = async |lines: &str| {
        let list = cached.gateway.folder().join("list.txt");
        std::fs::write(&list, lines).unwrap();
        let (list, ca) = (list.to_str().unwrap(), ca.to_str().unwrap());
        Gateway::run(&["warm", list, "--to", &to, "--ca", ca, "-H", "Accept-Language: de"]).await
    };
    let lines = "# pages\nhttps://a.test/one\nhttps://a.test/two # the second\nhttps://a.test/there\n\
        https://a.test/languages\nhttps://a.test/private\n";
    let (code, wrote) = warm(lines).await;
    assert_eq!(code, Some(0), "{wrote}");
    assert!(wrote.contains("3 stored, 1 hit, 1 not stored (1 private), 0 failed"), "{wrote}");
    for path in ["/one", "/two", "/there"] {
        assert!(is_hit(&get(&cached.http2, path, &[]).await), "{path}");
    }
    assert!(is_hit(&get(&cached.http2, "/languages", &[("accept-language", "de")]).await));

    let lines = "https://a.test/one\nhttps://a.test/missing\nno url\nhttps://c.test/\n";
    let (code, wrote) = warm(lines).await;
    assert_eq!(code, Some(1), "{wrote}");
    assert!(wrote.contains("0 stored, 1 hit, 0 not stored, 2 failed; 1 line is no URL"), "{wrote}");
    assert!(wrote.contains("line 3: ") && wrote.contains("line 2: https://a.test/missing: 404"), "{wrote}");
    let (code, wrote) = Gateway::run(&["warm", "/no/such/list", "--to", &to]).await;
    assert!(code == Some(2) && wrote.contains("/no/such/list"), "{code:?} {wrote}");
}

// ── by itself ───────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn answers_are_fetched_ahead_of_their_end_and_the_fleet_has_them_too() {
    let redis = Redis::start().await;
    let fleet = Fleet::start(&redis.url(), 2, "cache = { ttl = \"4s\", refresh_ahead = \"3900ms\" }").await;
    fleet.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body")));
    // Each use is a hit, and now and then one of them has it fetched anew.
    fleet.nodes[0].get("/a").await;
    eventually(PATIENCE, "it is fetched ahead", async || {
        let answer = fleet.nodes[0].get("/a").await;
        assert!(is_hit(&answer), "{}", status(&answer));
        fleet.origin.requests("/a") > 1
    })
    .await;
    let ahead = "tidegate_cache_background_fetches_total{reason=\"ahead\"}";
    assert!(fleet.nodes[0].gateway.metric(ahead).await >= 1.0);
    eventually(PATIENCE, "the new one is served", async || {
        fleet.nodes[0].get("/a").await.field("x-number") != Some("0")
    })
    .await;
    let other = fleet.nodes[1].get("/a").await;
    assert!(found_in(&other) == "redis" && other.field("x-number") != Some("0"), "{other:?}");

    // What lives shorter than that is left alone.
    fleet.origin.answer("/short", Reply::ok("body").fresh_for(3));
    for _ in 0..30 {
        fleet.nodes[0].get("/short").await;
    }
    assert_eq!(fleet.origin.requests("/short"), 1);
}

#[tokio::test]
async fn a_route_that_observes_counts_and_stores_but_answers_from_the_origin() {
    let cached = Cached::with("cache = { ttl = \"60s\", observe = true }").await;
    cached.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body")));
    for number in ["0", "1", "2"] {
        let answer = get(&cached.http1, "/a", &[]).await;
        assert_eq!(answer.field("x-number"), Some(number));
        assert!(!is_hit(&answer), "{}", status(&answer));
    }
    let seen = look(&cached.gateway, "/a", &[]).await;
    assert_eq!(seen["memory"].as_array().unwrap().len(), 1);
    assert_eq!(seen["verdict"]["outcome"], "bypass");
    assert!(seen["verdict"]["why"].as_str().unwrap().contains("only observes"), "{seen}");
}

#[tokio::test]
async fn answers_that_say_no_are_kept_for_the_negative_ttl_alone() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\nretries = { attempts = 1 }\n\
        [routes.all]\ncache = { ttl = \"60s\", negative_ttl = \"2s\" }\nupstream = \"one\"\n",
    )
    .await;
    for code in [404, 405, 410, 414, 451, 500, 502, 503, 504] {
        let path = format!("/{code}");
        cached.origin.answer_by(&path, numbered(move |_: &Seen| Reply::new(code, "no")));
        let first = get(&cached.http1, &path, &[]).await;
        let hit = get(&cached.http2, &path, &[]).await;
        assert!(
            hit.status == code && is_hit(&hit) && ttl(&hit) <= 2,
            "{code}: {} {}",
            status(&first),
            status(&hit)
        );
        assert_eq!(hit.field("x-number"), Some("0"));
    }
    cached.origin.answer("/403", Reply::new(403, "no"));
    get(&cached.http1, "/403", &[]).await;
    assert!(!is_hit(&get(&cached.http1, "/403", &[]).await));
    pass(Duration::from_millis(2100)).await;
    assert!(!is_hit(&get(&cached.http1, "/404", &[]).await));
}

#[tokio::test]
async fn a_fetch_in_the_background_costs_its_client_nothing() {
    let cached =
        Cached::with("cache = { stale_while_revalidate = \"60s\" }\nrate_limit = { rate = \"6/h\" }").await;
    cached.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body").fresh_for(1)));
    let left = |answer: &Answer| {
        let limit = answer.field("ratelimit").unwrap();
        limit.split(';').find_map(|part| part.strip_prefix("r=")).unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(left(&get(&cached.http1, "/a", &[]).await), 5);
    let mut budget = 5;
    for fetches in 2..=3 {
        pass(Duration::from_millis(1100)).await;
        let stale = get(&cached.http1, "/a", &[]).await;
        budget -= 1;
        assert_eq!((found_in(&stale), left(&stale)), ("while-revalidate", budget), "{stale:?}");
        eventually(PATIENCE, "it is fetched", async || cached.origin.requests("/a") == fetches).await;
    }
    // A stored answer is charged like any other, and at the limit it is refused like any other.
    for wanted in [200, 200, 200, 429] {
        assert_eq!(get(&cached.http1, "/a", &[]).await.status, wanted);
    }
}

#[tokio::test]
async fn by_miss_neither_a_stale_answer_nor_the_fetch_behind_it_is_charged() {
    let cached = Cached::with(
        "cache = { stale_while_revalidate = \"60s\" }\nrate_limit = { rate = \"1/h\", charge = \"miss\" }",
    )
    .await;
    cached.origin.answer_by("/a", numbered(|_: &Seen| Reply::ok("body").fresh_for(1)));
    assert_eq!(get(&cached.http1, "/a", &[]).await.status, 200);
    for fetches in 2..=3 {
        pass(Duration::from_millis(1100)).await;
        let stale = get(&cached.http1, "/a", &[]).await;
        assert_eq!((found_in(&stale), stale.field("ratelimit")), ("while-revalidate", None), "{stale:?}");
        eventually(PATIENCE, "it is fetched", async || cached.origin.requests("/a") == fetches).await;
    }
    assert_eq!(get(&cached.http1, "/b", &[]).await.status, 429, "the first alone was counted");
}
