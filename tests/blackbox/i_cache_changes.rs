//! What is forgotten when something changes, and what is never stored: fields of one request, failures.

use serde_json::Value;

use crate::support::cached::{ask, get, is_hit, status, url};
use crate::support::client::Answer;
use crate::support::{Cached, Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, https};

// ── what changes, and what is not stored ────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_change_that_succeeded_makes_the_next_get_a_miss() {
    let cached = Cached::start().await;
    let rows: [(&str, u16, Option<&str>, bool); 12] = [
        ("POST", 200, None, true),
        ("PUT", 204, None, true),
        ("PATCH", 200, None, true),
        ("DELETE", 204, None, true),
        ("PURGE", 200, None, true),
        ("POST", 303, None, true),
        ("POST", 400, None, false),
        ("PUT", 409, None, false),
        ("DELETE", 500, None, false),
        ("OPTIONS", 204, None, false),
        ("POST", 201, Some("/LOCATED"), true),
        ("POST", 201, Some("https://b.test/LOCATED"), false),
    ];
    for (client, place) in cached.clients() {
        for (number, (method, code, location, forgotten)) in rows.into_iter().enumerate() {
            let path = format!("{place}/{number}");
            // Where a location is named, that is what is forgotten as well.
            let watched = if location.is_some() { format!("{path}/located") } else { path.clone() };
            cached.origin.answer_by(&watched, |seen| Reply::ok(seen.method.clone()).fresh_for(60));
            get(client, &watched, &[]).await;
            assert!(is_hit(&get(client, &watched, &[]).await));

            let mut reply = Reply::new(code, "changed").fresh_for(60);
            if let Some(location) = location {
                reply = reply.field("location", &location.replace("/LOCATED", &watched));
            }
            cached.origin.answer(&path, reply.clone());
            let changed = ask(client, method, &path, &[]).await;
            assert_eq!((changed.status, is_hit(&changed)), (code, false), "{method} {code}");
            assert!(status(&changed).starts_with("tidegate; fwd=method"), "{changed:?}");
            cached.origin.answer_by(&watched, |_| Reply::ok("GET").fresh_for(60));

            let next = get(client, &watched, &[]).await;
            assert_eq!(is_hit(&next), !forgotten, "{method} {code} {location:?} {next:?}");
            assert_eq!(next.text(), "GET", "what a {method} was answered is stored for nobody");
        }
    }
}

#[tokio::test]
async fn a_change_forgets_all_variants() {
    let cached = Cached::start().await;
    cached.origin.answer("/page", Reply::ok("page").fresh_for(60).field("vary", "x-theme"));
    let themes: [&[(&str, &str)]; 3] = [&[("x-theme", "dark")], &[("x-theme", "light")], &[]];
    for client in [&cached.http1, &cached.http2] {
        for hit in [false, true] {
            for theme in themes {
                assert_eq!(is_hit(&get(client, "/page", theme).await), hit, "{theme:?}");
            }
        }
        ask(client, "DELETE", "/page", &[]).await;
    }
}

#[tokio::test]
async fn a_route_without_a_cache_caches_nothing_whatever_the_defaults_say() {
    let cached = Cached::over(
        "",
        "[defaults]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n[routes.on]\npath = \"/on\"\n[routes.off]\npath = \"/off\"\ncache = false\n",
    )
    .await;
    for client in [&cached.http1, &cached.http2] {
        for _ in 0..2 {
            let off = get(client, "/off", &[]).await;
            assert_eq!((off.status, off.field("cache-status"), off.field("age")), (200, None, None));
            get(client, "/on", &[]).await;
        }
    }
    assert_eq!((cached.origin.requests("/off"), cached.origin.requests("/on")), (4, 1));
    assert!(cached.gateway.metric("tidegate_cache_requests_total{route=\"off\"}").await < 0.5);
    let line = cached.gateway.access_line_of("/off", |_| true).await;
    assert_eq!(line["cache"], Value::Null);
}

#[tokio::test]
async fn redirects_and_fixed_words_of_the_gateway_are_not_for_the_store() {
    let certs = Certs::for_names(&["a.test"]);
    let listen = https(&certs)
        .replace("[\"https://127.0.0.1:0\"]", "[\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]");
    let gateway = Gateway::start(&format!(
        "{listen}[defaults]\ncache = \"60s\"\n[routes.words]\nrespond = {{ body = \"words\" }}\n"
    ))
    .await;
    let mut plain = Raw::tcp(gateway.http()).await;
    for _ in 0..2 {
        plain.send("GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let (head, _) = plain.answer().await;
        assert!(head.starts_with("HTTP/1.1 308") && !head.to_lowercase().contains("age:"), "{head}");
    }
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let words = client.get(&url("/a")).await;
        assert_eq!((words.status, words.text(), words.field("age")), (200, "words", None));
    }
    assert!(gateway.metric("tidegate_cache_requests_total").await < 0.5);
}

// ── fields ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn fields_of_a_request_or_a_connection_are_not_replayed() {
    let cached = Cached::with(
        "cache = true\nrate_limit = \"100/h\"\nresponse_headers = { set = { x-edge = \"yes\" }, remove = [\"x-secret\"] }",
    )
    .await;
    for (client, place) in cached.clients() {
        let path = format!("{place}/users");
        let reply = Reply::ok("ada").fresh_for(60).field("x-secret", "1").field("via", "1.1 origin");
        let reply = reply.field("connection", "x-hop").field("x-hop", "1").field("keep-alive", "timeout=5");
        let reply = reply.field("proxy-authenticate", "Basic").field("x-request-id", "of-the-origin");
        cached.origin.answer(&path, reply.field("cache-status", "inner; hit"));

        let miss = get(client, &path, &[]).await;
        let hit = get(client, &path, &[]).await;

        let asked = cached.origin.seen().pop().unwrap();
        assert_eq!(miss.field("x-request-id"), asked.field("x-request-id"));
        assert_ne!(miss.field("x-request-id"), hit.field("x-request-id"));
        let left = |answer: &Answer| {
            let field =
                answer.field("ratelimit").unwrap_or_else(|| panic!("no RateLimit: {answer:?}")).to_owned();
            let left = field.split(';').find_map(|part| part.strip_prefix("r="));
            left.expect(&field).parse::<u32>().unwrap()
        };
        assert_eq!(left(&hit) + 1, left(&miss), "a hit is charged as well: {hit:?}");
        for answer in [&miss, &hit] {
            assert_eq!((answer.field("x-edge"), answer.field("x-secret")), (Some("yes"), None));
            for name in ["x-hop", "keep-alive", "proxy-authenticate"] {
                assert_eq!(answer.field(name), None, "{name} {answer:?}");
            }
            assert_eq!(answer.fields.get_all("x-request-id").iter().count(), 1);
            assert_eq!(answer.fields.get_all("date").iter().count(), 1);
            let all = |name: &str| {
                let values = answer.fields.get_all(name).iter().map(|value| value.to_str().unwrap());
                values.collect::<Vec<_>>().join(", ")
            };
            assert_eq!(all("via").matches("1.1 ").count(), 2, "the origin's and ours, each once: {answer:?}");
            let statuses = all("cache-status");
            assert!(statuses.starts_with("inner; hit, tidegate; "), "{statuses}");
            assert_eq!(statuses.matches("tidegate").count(), 1, "{statuses}");
        }
    }
}

#[tokio::test]
async fn limits_are_charged_on_hits_and_each_refusal_says_what_the_cache_did() {
    let cached = Cached::with("cache = \"60s\"\nrate_limit = \"3/h\"\nmax_body = \"1KiB\"").await;
    get(&cached.http1, "/users", &[]).await;
    assert!(is_hit(&get(&cached.http2, "/users", &[]).await));
    let large = cached.http2.request("POST", &url("/users")).body("x".repeat(2000));
    let large = cached.http2.send(large).await;
    assert_eq!((large.status, status(&large)), (413, "tidegate; detail=body-too-large"));

    for client in [&cached.http1, &cached.http2] {
        let refused = get(client, "/users", &[]).await;
        assert_eq!((refused.status, status(&refused)), (429, "tidegate; detail=limit-exceeded"));
        assert!(
            refused.field("retry-after").is_some() && refused.field("ratelimit").is_some(),
            "{refused:?}"
        );
    }
    assert_eq!(cached.origin.requests("/users"), 1);
}

#[tokio::test]
async fn failures_of_the_upstream_say_what_the_cache_did_and_are_not_stored() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\noutlier_detection = false\ntimeouts = { first_byte = \"300ms\", idle = \"300ms\" }\nretries = { attempts = 1 }\n[routes.all]\ncache = \"60s\"\nupstream = \"one\"\n",
    )
    .await;
    let never = Gate::closed();
    for (client, place) in cached.clients() {
        let rows = [
            ("reset", Reply::ok("x").cut_after(0), 502, "tidegate; fwd=uri-miss"),
            ("late", Reply::ok("x").behind(&never), 504, "tidegate; fwd=uri-miss"),
            ("503", Reply::new(503, "x"), 503, "tidegate; fwd=uri-miss; fwd-status=503; detail=status"),
        ];
        for (name, reply, code, wanted) in rows {
            let path = format!("{place}/{name}");
            cached.origin.answer(&path, reply);
            let failed = get(client, &path, &[]).await;
            assert_eq!((failed.status, status(&failed)), (code, wanted), "{name}");
            cached.origin.answer(&path, Reply::ok("well again"));
            let next = get(client, &path, &[]).await;
            assert_eq!((next.status, next.text()), (200, "well again"), "{name}");
            assert!(is_hit(&get(client, &path, &[]).await), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_stored_is_served_while_no_server_is_healthy_and_the_rest_is_a_503() {
    let cached = Cached::over(
        "",
        "[upstreams.one]\nservers = [\"ORIGIN\"]\nhealth = { path = \"/healthz\", interval = \"100ms\", timeout = \"100ms\", unhealthy_threshold = 1 }\n[routes.all]\ncache = \"60s\"\nupstream = \"one\"\n",
    )
    .await;
    cached.gateway.ready().await;
    get(&cached.http1, "/stored", &[]).await;
    cached.origin.answer("/healthz", Reply::new(500, "unwell"));
    for (client, place) in cached.clients() {
        let path = format!("{place}/other");
        eventually(PATIENCE, "the server is down", async || {
            get(client, &path, &[("cache-control", "no-store")]).await.status == 503
        })
        .await;
        let refused = get(client, &path, &[]).await;
        assert_eq!((refused.status, status(&refused)), (503, "tidegate; fwd=uri-miss"));
        assert!(is_hit(&get(client, "/stored", &[]).await));
    }
}

#[tokio::test]
async fn what_the_second_server_answers_is_stored_like_any_other() {
    let broken = Origin::start("broken").await;
    let first = broken.address();
    let cached = Cached::over(
        "",
        &format!("[upstreams.two]\nservers = [\"{first}\", \"ORIGIN\"]\nbalance = \"round_robin\"\nretries = {{ attempts = 3, budget = \"100%\" }}\n[routes.all]\ncache = true\nupstream = \"two\"\n"),
    )
    .await;
    for (client, place) in cached.clients() {
        for number in 0..4 {
            let path = format!("{place}/{number}");
            broken.answer(&path, Reply::ok("x").cut_after(0));
            cached.origin.answer(&path, Reply::ok("whole").fresh_for(60));
            let answer = get(client, &path, &[]).await;
            assert_eq!((answer.status, answer.text()), (200, "whole"));
            assert_eq!(status(&answer), "tidegate; fwd=uri-miss; fwd-status=200; stored");
            assert!(is_hit(&get(client, &path, &[]).await));
        }
    }
    assert!(!broken.seen().is_empty(), "the broken server was never tried");
}
