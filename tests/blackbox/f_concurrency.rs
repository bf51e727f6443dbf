//! How many requests may be under way at once, and that a seat is free again however its request ends.

use serde_json::json;

use crate::support::cached::{ask, get, is_hit};
use crate::support::speaker::{self, Speaker};
use crate::support::{
    Answer, Cached, Certs, Gate, Gateway, Issuer, Origin, PATIENCE, Raw, Reply, eventually, https, must,
    plain,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A gateway before this origin, with a route for everything that has these lines in it.
fn config(origin: &Origin, route: &str) -> String {
    let top = plain() + "trusted_proxies = [\"127.0.0.1/32\"]\nwatch = false\nlog.access = \"json\"\n";
    format!("{top}[routes.all]\nupstream = \"{}\"\n{route}\n", origin.address())
}

async fn start(origin: &Origin, route: &str) -> Gateway {
    Gateway::start(&config(origin, route)).await
}

fn request(path: &str, client: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: {client}\r\n\r\n")
}

/// Asks on a connection of its own.
async fn get_for(gateway: &Gateway, path: &str, client: &str) -> Answer {
    Raw::tcp(gateway.http()).await.ask(request(path, client)).await
}

/// A request that is sent, and whose answer is not read yet.
async fn underway(gateway: &Gateway, path: &str, client: &str) -> Raw {
    let mut raw = Raw::tcp(gateway.http()).await;
    raw.send(request(path, client)).await;
    raw
}

/// Waits until so many seats are taken.
async fn seats(gateway: &Gateway, wanted: u64) {
    let taken = async || gateway.count("tidegate_concurrency_seats{route=\"all\"}").await == wanted;
    eventually(PATIENCE, &format!("{wanted} seats are taken"), taken).await;
}

async fn count(gateway: &Gateway, outcome: &str) -> u64 {
    gateway
        .count(&format!("tidegate_concurrency_decisions_total{{route=\"all\",outcome=\"{outcome}\"}}"))
        .await
}

/// What is common to all refusals, and what this one says.
async fn refused(gateway: &Gateway, answer: &Answer, status: u16, code: &str, detail: &str) {
    let problem = answer.json();
    assert_eq!((answer.status, problem["reason"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(problem["detail"], detail);
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert!(answer.field("proxy-status").unwrap().ends_with(&format!("details=\"{code}\"")));
    let line = gateway.access_line(answer).await;
    assert_eq!((line["reason"].as_str(), line["route"].as_str()), (Some(code), Some("all")));
}

#[tokio::test]
async fn a_route_has_so_many_at_once_whoever_asks() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let gateway = start(&origin, "concurrency = 2").await;

    let mut held =
        [underway(&gateway, "/slow", "192.0.2.1").await, underway(&gateway, "/slow", "192.0.2.2").await];
    seats(&gateway, 2).await;
    let full = get_for(&gateway, "/", "192.0.2.3").await;
    refused(&gateway, &full, 503, "route-full", "limit `all-concurrency`: at most 2 at once").await;

    gate.open();
    for raw in &mut held {
        assert_eq!(raw.answer().await.1, b"slow");
    }
    seats(&gateway, 0).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.3").await.status, 200);
    assert_eq!((count(&gateway, "admitted").await, count(&gateway, "refused").await), (3, 1));
    assert_eq!(origin.requests("/"), 1, "the one that was refused did not come through");
}

#[tokio::test]
async fn each_client_has_its_own_seats_and_every_rule_holds() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let rules = r#"concurrency = [2, { limit = 1, key = "client_ip" }]"#;
    let gateway = start(&origin, rules).await;

    let _one = underway(&gateway, "/slow", "192.0.2.1").await;
    seats(&gateway, 2).await;
    let again = get_for(&gateway, "/", "192.0.2.1").await;
    let detail = "limit `all-concurrency-2`: at most 1 at once";
    refused(&gateway, &again, 429, "concurrency-exceeded", detail).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.2").await.status, 200, "another client");
    seats(&gateway, 2).await;

    let _two = underway(&gateway, "/slow", "192.0.2.2").await;
    seats(&gateway, 4).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.3").await.status, 503, "the route is full");
    assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 503, "the first rule that refuses decides");
}

#[tokio::test]
async fn requests_one_after_the_other_never_meet_themselves() {
    let origin = Origin::start("one").await;
    let gateway = start(&origin, "concurrency = 1\ncache = \"60s\"").await;
    let mut client = Raw::tcp(gateway.http()).await;
    for turn in 0..60 {
        let path = ["/stored", "/other"][turn % 2];
        assert_eq!(client.ask(request(path, "192.0.2.1")).await.status, 200, "{turn}");
    }
    seats(&gateway, 0).await;
}

#[tokio::test]
async fn what_is_stored_needs_a_seat_as_well() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let gateway = start(&origin, "concurrency = 1\ncache = \"60s\"").await;
    assert_eq!(get_for(&gateway, "/stored", "192.0.2.1").await.status, 200);
    seats(&gateway, 0).await;

    let mut held = underway(&gateway, "/slow", "192.0.2.1").await;
    seats(&gateway, 1).await;
    let full = get_for(&gateway, "/stored", "192.0.2.1").await;
    refused(&gateway, &full, 503, "route-full", "limit `all-concurrency`: at most 1 at once").await;
    gate.open();
    held.answer().await;
    seats(&gateway, 0).await;
    let stored = get_for(&gateway, "/stored", "192.0.2.1").await;
    assert!(stored.status == 200 && is_hit(&stored), "{stored:?}");
}

// ── the ways out ────────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn a_seat_is_free_when_its_client_has_gone_or_its_server_fails() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    origin.answer("/cut", Reply::ok("x").cut_after(0));
    origin.answer("/torn", Reply::ok("x".repeat(100)).cut_after(90));
    origin.answer("/stream", Reply::ok("x".repeat(5000)).chunked().paused_after(2000, &gate));
    let gateway = start(&origin, "concurrency = 1\ntimeouts = { first_byte = \"500ms\" }").await;
    let free = async |what: &str| {
        seats(&gateway, 0).await;
        assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 200, "after {what}");
        seats(&gateway, 0).await;
    };

    let client = underway(&gateway, "/slow", "192.0.2.1").await;
    seats(&gateway, 1).await;
    drop(client);
    free("a client that left").await;

    assert_eq!(get_for(&gateway, "/cut", "192.0.2.1").await.status, 502);
    free("a server that broke off").await;
    assert_eq!(get_for(&gateway, "/slow", "192.0.2.1").await.status, 504);
    free("a server that was silent").await;
    drop(underway(&gateway, "/torn", "192.0.2.1").await.rest().await);
    free("an answer that was torn").await;

    let mut client = underway(&gateway, "/stream", "192.0.2.1").await;
    client.head().await;
    seats(&gateway, 1).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 503, "until its last byte");
    gate.open();
    drop(client);
    free("a stream whose client left").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhalf").await;
    seats(&gateway, 1).await;
    drop(client);
    free("a body that broke off").await;
}

#[tokio::test]
async fn a_websocket_has_its_seat_until_it_ends() {
    let echo = Speaker::start(|mut stream| async move {
        speaker::head(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switch.as_bytes()).await;
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            let _ = stream.write_all(&bytes[..count]).await;
        }
    })
    .await;
    let (top, at) = (plain(), echo.address());
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{at}\"\nconcurrency = 1\n")).await;
    let handshake = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for _ in 0..2 {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(handshake).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        client.send("word").await;
        assert_eq!(client.bytes(4).await, b"word");
        assert_eq!(Raw::tcp(gateway.http()).await.ask(handshake).await.status, 503);
        drop(client);
        seats(&gateway, 0).await;
    }
}

#[tokio::test]
async fn a_reload_makes_no_room_and_loses_none() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let gateway = start(&origin, "concurrency = 5").await;
    let mut held =
        [underway(&gateway, "/slow", "192.0.2.1").await, underway(&gateway, "/slow", "192.0.2.1").await];
    seats(&gateway, 2).await;

    gateway.rewrite(&config(&origin, "concurrency = 2"));
    let admin = gateway.admin().to_string();
    let reloaded = Gateway::run(&["reload", "--admin", &admin]).await;
    assert_eq!(reloaded.0, Some(0), "{}", reloaded.1);
    assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 503, "two are under way from before");
    gate.open();
    for raw in &mut held {
        raw.answer().await;
    }
    seats(&gateway, 0).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 200);
}

// ── which requests ──────────────────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn streams_of_one_connection_are_counted_and_one_that_is_given_up_is_free() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let route = format!("[routes.all]\nupstream = \"{}\"\nconcurrency = 1\n", origin.address());
    let gateway = Gateway::start(&(https(&certs) + &route)).await;
    let client = crate::support::Client::http2(&gateway, &certs);
    let url = |path| format!("https://a.test:{}{path}", gateway.https().port());

    let held = tokio::spawn(client.get_later(&url("/slow")));
    seats(&gateway, 1).await;
    assert_eq!(client.get(&url("/")).await.status, 503);
    held.abort();
    seats(&gateway, 0).await;
    assert_eq!(client.get(&url("/")).await.status, 200);
}

#[tokio::test]
async fn callers_are_counted_by_what_is_vouched_for() {
    let (issuer, gate) = (Issuer::start().await, Gate::closed());
    let rules = r#"
[routes.all]
upstream = "ORIGIN"
auth = "idp"
concurrency = { limit = 1, key = "jwt:tenant", methods = ["GET"] }
"#;
    let cached = Cached::over("", &(issuer.provider("") + rules)).await;
    cached.origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let bearer =
        |sub: &str, tenant: &str| format!("Bearer {}", issuer.token(json!({ "sub": sub, "tenant": tenant })));
    let (ada, bob, eve) = (bearer("ada", "acme"), bearer("bob", "acme"), bearer("eve", "other"));

    let as_ada = [("authorization", &*ada)];
    let slow = get(&cached.http1, "/slow", &as_ada);
    let meanwhile = async {
        seats(&cached.gateway, 1).await;
        let full = get(&cached.http2, "/", &[("authorization", &bob)]).await;
        assert_eq!((full.status, full.json()["reason"].as_str()), (429, Some("concurrency-exceeded")));
        assert_eq!(
            ask(&cached.http2, "POST", "/", &[("authorization", &bob)]).await.status,
            200,
            "another method"
        );
        assert_eq!(get(&cached.http2, "/", &[("authorization", &eve)]).await.status, 200, "another tenant");
        assert_eq!(get(&cached.http2, "/", &[]).await.status, 401, "who is not let in takes no seat");
        seats(&cached.gateway, 1).await;
        gate.open();
    };
    let (slow, ()) = must("both end", async { tokio::join!(slow, meanwhile) }).await;
    assert_eq!(slow.status, 200);
    seats(&cached.gateway, 0).await;
}

#[tokio::test]
async fn a_rule_that_observes_counts_and_tells_and_refuses_nobody() {
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    origin.answer("/slow", Reply::ok("slow").behind(&gate));
    let gateway = start(&origin, "concurrency = { limit = 1, observe = true }").await;
    let mut held = underway(&gateway, "/slow", "192.0.2.1").await;
    seats(&gateway, 1).await;
    assert_eq!(get_for(&gateway, "/", "192.0.2.1").await.status, 200);
    assert_eq!((count(&gateway, "would_refuse").await, count(&gateway, "refused").await), (1, 0));
    let told = async || gateway.output().contains("an observed limit would have refused");
    eventually(PATIENCE, "a line in the log", told).await;
    gate.open();
    held.answer().await;
    seats(&gateway, 0).await;
}
