//! What is counted together, which requests are counted, and when.

use serde_json::json;

use crate::support::cached::{ask, get, is_hit};
use crate::support::{
    Answer, Cached, Client, Gate, Gateway, Issuer, PATIENCE, Raw, Reply, eventually, must, plain,
};

/// A gateway that answers by itself, at `/NAME/*` for each route with its limits; `top` are keys before the first table.
async fn gateway(top: &str, routes: &[(&str, &str)]) -> Gateway {
    let table = |(name, limit): &(&str, &str)| {
        format!(
            "[routes.{name}]\npath = \"/{name}/*\"\nrate_limit = {limit}\nrespond = {{ body = \"fine\" }}\n"
        )
    };
    Gateway::start(&(plain() + top + "\n" + &routes.iter().map(table).collect::<String>())).await
}

/// With what statuses requests of one client are answered, one after the other: a method, a path and fields, in lines.
async fn statuses(gateway: &Gateway, requests: &[(&str, &str, &str)]) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (method, path, fields) in requests {
        let mut client = Raw::tcp(gateway.http()).await;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n{fields}\r\n");
        statuses.push(client.ask(request).await.status);
    }
    statuses
}

fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {token}"))]
}

async fn as_caller(client: &Client, path: &str, token: &str) -> Answer {
    let [(name, value)] = &bearer(token);
    get(client, path, &[(name, value)]).await
}

// ── what is counted together ────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn requests_with_the_same_key_share_a_count_and_others_do_not() {
    let from = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let (one, other) = (from("192.0.2.1"), from("192.0.2.2"));
    let with = |client: &str, field: &str| format!("{client}{field}\r\n");
    let tenant = with(&one, "X-Tenant: acme");
    let cookie = with(&one, "Cookie: a=b; session=7");
    // A key, a request, one that is counted with it, and one that is not.
    let rows = [
        (
            "\"header:x-tenant\"",
            tenant.clone(),
            with(&other, "X-Tenant: acme"),
            with(&one, "X-Tenant: other"),
        ),
        ("\"header:x-tenant\"", one.clone(), one.clone(), other.clone()),
        ("\"cookie:session\"", cookie, with(&other, "Cookie: session=7"), with(&one, "Cookie: session=8")),
        ("\"cookie:session\"", one.clone(), with(&one, "Cookie: other=7"), other.clone()),
        (
            "[\"client_ip\", \"header:x-tenant\"]",
            tenant.clone(),
            tenant.clone(),
            with(&other, "X-Tenant: acme"),
        ),
        ("[\"client_ip\", \"header:x-tenant\"]", tenant.clone(), tenant, with(&one, "X-Tenant: other")),
        ("[\"route\", \"header:x-tenant\"]", one.clone(), one.clone(), with(&one, "X-Tenant: other")),
        ("\"client_ip\"", one.clone(), with(&one, "X-Tenant: any"), other.clone()),
    ];
    for (key, first, with_it, apart) in rows {
        let limit = format!("{{ rate = \"1/h\", key = {key} }}");
        let gateway = gateway("trusted_proxies = [\"127.0.0.1/32\"]", &[("users", &limit)]).await;
        let asked = [first, with_it, apart].map(|fields| ("GET", "/users", fields));
        let asked = asked.each_ref().map(|(method, path, fields)| (*method, *path, &**fields));
        assert_eq!(statuses(&gateway, &asked).await, [200, 429, 200], "{key} {asked:?}");
    }
}

#[tokio::test]
async fn a_route_and_a_word_are_counted_whoever_asks() {
    let word = r#"{ rate = "2/h", key = "const:writes" }"#;
    let other = r#"{ rate = "2/h", key = "const:other" }"#;
    let route = r#"{ rate = "2/h", key = "route" }"#;
    let routes = [("users", word), ("orders", word), ("other", other), ("one", route), ("two", route)];
    let gateway = gateway("trusted_proxies = [\"127.0.0.1/32\"]", &routes).await;
    let client = |last: u8| format!("X-Forwarded-For: 192.0.2.{last}\r\n");
    let clients = [client(1), client(2), client(3)];
    let [one, two, three] = clients.each_ref().map(|fields| &**fields);

    let asked =
        [("GET", "/users", one), ("GET", "/orders", two), ("GET", "/orders", three), ("GET", "/other", one)];
    assert_eq!(
        statuses(&gateway, &asked).await,
        [200, 200, 429, 200],
        "routes with the same word count together"
    );
    let asked = [("GET", "/one", one), ("GET", "/one", two), ("GET", "/one", three), ("GET", "/two", one)];
    assert_eq!(statuses(&gateway, &asked).await, [200, 200, 429, 200], "each route counts for itself");
}

#[tokio::test]
async fn callers_are_counted_by_what_is_vouched_for() {
    let issuer = Issuer::start().await;
    let rules = r#"
[routes.all]
upstream = "ORIGIN"
auth = { providers = "idp", methods = "unsafe" }
rate_limit = { rate = "2/h", key = "jwt:org.tenant" }
"#;
    let cached = Cached::over("", &(issuer.provider("") + rules)).await;
    let token = |sub: &str, tenant: &str| issuer.token(json!({ "sub": sub, "org": { "tenant": tenant } }));
    let (ada, bob) = (token("ada", "acme"), token("bob", "acme"));

    assert_eq!(as_caller(&cached.http1, "/", &ada).await.status, 200);
    assert_eq!(as_caller(&cached.http2, "/", &bob).await.status, 200, "the same tenant");
    for caller in [&ada, &bob] {
        let refused = as_caller(&cached.http2, "/", caller).await;
        assert_eq!((refused.status, refused.json()["reason"].as_str()), (429, Some("limit-exceeded")));
    }
    assert_eq!(as_caller(&cached.http1, "/", &token("ada", "other")).await.status, 200, "another tenant");
    // Who does not say who it is, or is not believed, is counted by its address.
    assert_eq!(get(&cached.http1, "/", &[]).await.status, 200);
    assert_eq!(as_caller(&cached.http1, "/", "x.y.z").await.status, 200);
    assert_eq!(get(&cached.http2, "/", &[]).await.status, 429);
}

#[tokio::test]
async fn who_guesses_pays_for_each_guess_and_a_good_caller_behind_the_same_address_does_not_pay_for_it() {
    let issuer = Issuer::start().await;
    let routes = r#"
[routes.by-address]
path = "/address/*"
upstream = "ORIGIN"
auth = "idp"
rate_limit = "3/h"
[routes.by-caller]
path = "/caller/*"
upstream = "ORIGIN"
auth = "idp"
rate_limit = { rate = "3/h", key = "jwt:sub" }
"#;
    let cached = Cached::over("", &(issuer.provider("") + routes)).await;
    let good = issuer.token(json!({}));
    for path in ["/address/", "/caller/"] {
        let mut guesses = Vec::new();
        for guess in ["x.y.z", "a.b.c", "", "d.e.f", "g.h.i"] {
            guesses.push(as_caller(&cached.http1, path, guess).await.status);
        }
        assert_eq!(guesses, [401, 401, 401, 429, 429], "{path}");
    }
    assert_eq!(as_caller(&cached.http2, "/address/", &good).await.status, 429, "by its address");
    assert_eq!(as_caller(&cached.http2, "/caller/", &good).await.status, 200, "by who it is");
}

// ── which requests ──────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_rule_is_for_its_methods() {
    let writes = r#"[{ rate = "1/h", methods = "unsafe" }, { rate = "2/h", methods = ["OPTIONS"] }]"#;
    let gateway = gateway("", &[("users", writes)]).await;
    let asked = ["GET", "POST", "DELETE", "GET", "OPTIONS", "OPTIONS", "OPTIONS", "PATCH"];
    let asked = asked.map(|method| (method, "/users", ""));
    assert_eq!(statuses(&gateway, &asked).await, [200, 200, 429, 200, 200, 200, 429, 429]);

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask("GET /users HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(answer.field("ratelimit"), None, "no rule has counted it");
    let answer = client.ask("PUT /users HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").await;
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("limit `users`: ask again in "), "{detail}");
}

#[tokio::test]
async fn the_rule_that_refuses_is_named() {
    let rules = r#"["100/h", { rate = "1/h", key = "header:x-tenant" }]"#;
    let gateway = gateway("", &[("users", rules)]).await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.ask("GET /users HTTP/1.1\r\nHost: a.test\r\nX-Tenant: a\r\n\r\n").await;
    let refused = client.ask("GET /users HTTP/1.1\r\nHost: a.test\r\nX-Tenant: a\r\n\r\n").await;
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("limit `users-2`: ask again in "), "{detail}");
    assert!(refused.field("ratelimit").unwrap().starts_with("\"users-2\";r=0;"), "{refused:?}");
}

#[tokio::test]
async fn a_rule_that_observes_counts_and_tells_and_refuses_nobody() {
    let rules = r#"[{ rate = "2/h", observe = true }, "4/h"]"#;
    let gateway = gateway("", &[("users", rules)]).await;
    assert_eq!(statuses(&gateway, &[("GET", "/users", ""); 5]).await, [200, 200, 200, 200, 429]);

    let count = |outcome| format!("tidegate_limit_decisions_total{{route=\"users\",outcome=\"{outcome}\"}}");
    assert_eq!(gateway.count(&count("would_refuse")).await, 3);
    assert_eq!(gateway.count(&count("refused")).await, 1);
    let told = async || gateway.output().contains("an observed limit would have refused");
    eventually(PATIENCE, "a line in the log", told).await;
    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask("GET /users HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(answer.field("ratelimit-policy"), Some("\"users-2\";q=4;w=3600"));
}

// ── when ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A caching route with these limits.
async fn caching(limits: &str) -> Cached {
    Cached::with(&format!("cache = true\nrate_limit = {limits}")).await
}

#[tokio::test]
async fn by_miss_only_what_the_cache_does_not_answer_is_counted() {
    for (limits, name) in [
        (r#"{ rate = "3/h", charge = "miss", key = "route" }"#, "all"),
        (r#"["100/h", { rate = "3/h", charge = "miss", key = "route" }]"#, "all-2"),
    ] {
        let cached = caching(limits).await;
        for path in ["/a", "/b"] {
            cached.origin.answer(path, Reply::ok(path).fresh_for(60));
        }
        for path in ["/a", "/b"] {
            let miss = get(&cached.http1, path, &[]).await;
            let left = if path == "/a" { 2 } else { 1 };
            let standing = miss.field("ratelimit").unwrap();
            assert!(standing.starts_with(&format!("\"{name}\";r={left};")), "{standing}");
        }
        for _ in 0..5 {
            assert!(is_hit(&get(&cached.http1, "/a", &[]).await));
            assert!(is_hit(&get(&cached.http2, "/b", &[]).await));
        }
        // What goes past the cache asks a server, too.
        assert_eq!(ask(&cached.http2, "POST", "/c", &[]).await.status, 200);
        for (client, method) in [(&cached.http1, "GET"), (&cached.http2, "GET"), (&cached.http1, "POST")] {
            let refused = ask(client, method, "/new", &[]).await;
            assert_eq!(refused.status, 429, "{method}");
            assert!(refused.field("ratelimit").unwrap().starts_with(&format!("\"{name}\";r=0;")));
            assert!(refused.json()["detail"].as_str().unwrap().starts_with(&format!("limit `{name}`")));
        }
        assert_eq!(cached.origin.requests("/new"), 0);
        assert!(is_hit(&get(&cached.http2, "/a", &[]).await), "what is stored is served beyond the limit");
        let refused = "tidegate_limit_decisions_total{route=\"all\",outcome=\"refused\"}";
        assert_eq!(cached.gateway.count(refused).await, 3);
    }
}

#[tokio::test]
async fn who_shares_a_fetch_is_not_counted_by_miss() {
    let cached = caching(r#"{ rate = "1/h", charge = "miss" }"#).await;
    let gate = Gate::closed();
    cached.origin.answer("/slow", Reply::ok("slow").fresh_for(60).behind(&gate));
    let ask = || Box::pin(get(&cached.http2, "/slow", &[]));
    let open = async {
        cached.in_flight(3).await;
        gate.open();
    };
    let (one, two, three, ()) =
        must("all are answered", async { tokio::join!(ask(), ask(), ask(), open) }).await;
    for answer in [one, two, three] {
        assert_eq!((answer.status, answer.text()), (200, "slow"));
    }
    assert_eq!(get(&cached.http1, "/other", &[]).await.status, 429, "one fetch was counted");
}

#[tokio::test]
async fn hits_are_counted_by_who_asks() {
    let issuer = Issuer::start().await;
    let rules = r#"
[routes.all]
upstream = "ORIGIN"
cache = true
auth = "idp"
rate_limit = ["100/h", { rate = "3/h", key = "jwt:sub" }]
"#;
    let cached = Cached::over("", &(issuer.provider("") + rules)).await;
    let public = Reply::ok("for all").field("cache-control", "public, max-age=60");
    cached.origin.answer("/public", public);
    let token = |sub: &str| issuer.token(json!({ "sub": sub }));
    let (ada, bob) = (token("ada"), token("bob"));
    for left in ["2", "1", "0"] {
        let answer = as_caller(&cached.http1, "/public", &ada).await;
        assert!(
            answer.field("ratelimit").unwrap().starts_with(&format!("\"all-2\";r={left};")),
            "{answer:?}"
        );
    }
    assert_eq!(as_caller(&cached.http1, "/public", &ada).await.status, 429, "of what is stored, too");
    assert_eq!(as_caller(&cached.http2, "/public", &ada).await.status, 429);
    for client in [&cached.http1, &cached.http2] {
        assert!(is_hit(&as_caller(client, "/public", &bob).await));
    }
    assert_eq!(cached.origin.requests("/public"), 1);
}

#[tokio::test]
async fn every_answer_tells_the_standing_here_whatever_its_server_says_of_its_own() {
    let issuer = Issuer::start().await;
    let rules = r#"
[routes.all]
upstream = "ORIGIN"
cache = true
auth = { providers = "idp", methods = "unsafe" }
rate_limit = "20/h"
"#;
    let cached = Cached::over("", &(issuer.provider("") + rules)).await;
    let said = |reply: Reply| {
        reply.field("ratelimit", "\"origin\";r=7;t=1").field("ratelimit-policy", "\"origin\";q=7;w=1")
    };
    cached.origin.answer("/a", said(Reply::ok("it").field("etag", "\"1\"").fresh_for(60)));
    cached.origin.answer("/broken", said(Reply::new(500, "no")));
    let rows = [
        ("GET", "/a", ("accept", "*/*"), 200),
        ("GET", "/a", ("accept", "*/*"), 200),
        ("HEAD", "/a", ("accept", "*/*"), 200),
        ("GET", "/a", ("if-none-match", "\"1\""), 304),
        ("GET", "/a", ("range", "bytes=0-0"), 206),
        ("GET", "/broken", ("accept", "*/*"), 500),
        ("POST", "/a", ("accept", "*/*"), 401),
        ("POST", "/a", ("authorization", "Bearer x.y.z"), 401),
    ];
    for (left, (method, path, field, status)) in (0..20).rev().zip(rows) {
        let answer = ask(&cached.http2, method, path, &[field]).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.all("ratelimit-policy"), ["\"all\";q=20;w=3600"], "{answer:?}");
        let [standing] = answer.all("ratelimit")[..] else { panic!("one standing: {answer:?}") };
        assert!(standing.starts_with(&format!("\"all\";r={left};t=")), "{left}: {answer:?}");
    }
}
