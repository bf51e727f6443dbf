//! What passes between a client and an origin, what stays behind, and what the gateway adds.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;

use crate::support::passing::{before, before_tls, get};
use crate::support::{Certs, Client, Origin, PATIENCE, Raw, Reply, Speaker, eventually};

#[tokio::test]
async fn fields_for_one_hop_go_no_further_upstream() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let status = get(
        &gateway,
        &[
            "Connection: keep-alive, X-Hop , te",
            "Connection: x-other, Authorization, x-forwarded-for",
            "X-Hop: 1",
            "X-Other: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic cHJveHk6c2VjcmV0",
            "TE: gzip",
            "Trailer: x-late",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
            "Authorization: Bearer stays",
            "X-Stays: 1",
        ],
    )
    .await
    .status;

    assert_eq!(status, 200);
    let seen = &origin.seen()[0];
    for gone in [
        "x-hop",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "transfer-encoding",
    ] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
    assert_eq!((seen.field("authorization"), seen.field("x-stays")), (Some("Bearer stays"), Some("1")));
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"], "a client cannot name the gateway's word away");
}

#[tokio::test]
async fn fields_for_one_hop_go_no_further_downstream() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let reply = Reply::ok("x")
        .field("connection", "keep-alive, x-hop, cache-control")
        .field("x-hop", "1")
        .field("keep-alive", "timeout=5")
        .field("proxy-authenticate", "Basic")
        .field("proxy-connection", "keep-alive")
        .field("trailer", "x-late")
        .field("upgrade", "h2c")
        .field("cache-control", "private")
        .field("set-cookie", "a=1")
        .field("set-cookie", "b=2");
    origin.answer("/", reply);
    let gateway = before_tls(origin.address(), &certs).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        let answer = client.get("https://a.test/").await;

        assert_eq!((answer.status, answer.text()), (200, "x"));
        for gone in ["x-hop", "keep-alive", "proxy-authenticate", "proxy-connection", "trailer", "upgrade"] {
            assert_eq!(answer.field(gone), None, "{gone} in {:?}", answer.version);
        }
        let own = answer.field("connection").unwrap_or("keep-alive");
        assert_eq!(own, "keep-alive", "what it says of its own connection is the gateway's");
        assert_eq!(answer.field("cache-control"), Some("private"), "what caches must obey stays");
        assert_eq!(answer.all("set-cookie"), ["a=1", "b=2"]);
    }
}

#[tokio::test]
async fn the_origin_is_told_who_asks_and_a_strangers_word_is_dropped() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "trusted_proxies = [\"10.0.0.0/8\"]").await;

    get(
        &gateway,
        &[
            "X-Forwarded-For: 192.0.2.1",
            "x-forwarded-for: 192.0.2.2",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil.test",
            "X-Forwarded-Port: 1",
            "X-Forwarded-Prefix: /evil",
            "X-Forwarded-Server: evil",
            "Forwarded: for=192.0.2.3;proto=https",
            "X-Real-IP: 192.0.2.4",
            "X-Request-Id: theirs",
        ],
    )
    .await;

    let seen = &origin.seen()[0];
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["a.test"]);
    assert_eq!(seen.all("x-forwarded-port"), [gateway.http().port().to_string()]);
    assert_ne!(seen.field("x-request-id"), Some("theirs"));
    for gone in ["x-forwarded-prefix", "x-forwarded-server", "forwarded", "x-real-ip"] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_passed_on_with_its_address_appended() {
    let origin = Origin::start("one").await;
    let gateway =
        before(origin.address(), "trusted_proxies = [\"127.0.0.1/32\"]\nlog.access = \"json\"").await;

    let answer = get(
        &gateway,
        &[
            "X-Forwarded-For: 192.0.2.1, 192.0.2.2",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Host: www.test",
            "X-Forwarded-Port: 443",
            "X-Request-Id: edge-42",
        ],
    )
    .await;

    let seen = &origin.seen()[0];
    assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["www.test"]);
    assert_eq!(seen.all("x-forwarded-port"), ["443"]);
    assert_eq!(seen.all("x-request-id"), ["edge-42"]);
    assert_eq!(answer.all("x-request-id"), ["edge-42"]);
    assert_eq!(gateway.access_line(&answer).await["client"], "192.0.2.2");
}

#[tokio::test]
async fn names_with_underscores_are_dropped_whoever_sends_them() {
    let origin = Origin::start("one").await;
    for top in ["", "trusted_proxies = [\"127.0.0.1/32\"]"] {
        let gateway = before(origin.address(), top).await;
        get(&gateway, &["X_Forwarded_For: 192.0.2.1", "Any_Thing: 1", "X-Stays: 1"]).await;
    }

    for seen in origin.seen() {
        assert!(seen.fields.iter().all(|(name, _)| !name.contains('_')), "{:?}", seen.fields);
        assert_eq!(seen.field("x-stays"), Some("1"));
    }
}

#[tokio::test]
async fn via_grows_both_ways() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::ok("x").field("via", "1.0 inner"));
    let gateway = before_tls(origin.address(), &certs).await;

    for (client, version) in
        [(Client::http1(&gateway, &certs), "1.1"), (Client::http2(&gateway, &certs), "2")]
    {
        let answer = client.send(client.request("GET", "https://a.test/").header("via", "1.1 outer")).await;

        let seen = origin.seen().pop().unwrap();
        let name = seen.all("via")[1].strip_prefix(&format!("{version} ")).unwrap().to_owned();
        assert!(name.starts_with("tidegate-"), "{name}");
        assert_eq!(seen.all("via"), ["1.1 outer", &format!("{version} {name}")]);
        assert_eq!(answer.all("via"), ["1.0 inner", &format!("1.1 {name}")]);
    }
}

#[tokio::test]
async fn a_request_that_comes_back_to_the_gateway_is_ended() {
    // The gateway's port is known once it runs, its upstream before: a relay stands in between.
    let target = Arc::new(OnceLock::new());
    let to = Arc::clone(&target);
    let relay = Speaker::start(move |mut stream: TcpStream| {
        let to = Arc::clone(&to);
        async move {
            let mut there = TcpStream::connect(*to.get().unwrap()).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
        }
    })
    .await;
    let gateway = before(relay.address(), "log.access = \"json\"").await;
    target.set(gateway.http()).unwrap();

    let answer = get(&gateway, &[]).await;

    assert_eq!((answer.status, answer.json()["reason"].as_str()), (508, Some("loop")));
    // Requests are counted a moment after their answers.
    let counted = async || {
        let refused = gateway.count("tidegate_refusals_total{reason=\"loop\"}").await;
        refused == 1 && gateway.count("tidegate_requests_total").await == 2
    };
    eventually(PATIENCE, "once around is counted, and no more", counted).await;
}

#[tokio::test]
async fn gateways_in_a_row_are_no_loop() {
    let origin = Origin::start("one").await;
    let inner = before(origin.address(), "trusted_proxies = [\"127.0.0.1/32\"]").await;
    let outer = before(inner.http(), "").await;

    let answer = get(&outer, &[]).await;

    assert_eq!(answer.status, 200);
    let seen = &origin.seen()[0];
    assert_eq!(seen.all("via").len(), 2, "{:?}", seen.all("via"));
    assert_ne!(seen.all("via")[0], seen.all("via")[1]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1, 127.0.0.1"]);
    assert_eq!(seen.field("x-request-id"), answer.field("x-request-id"), "one id all the way");
}

#[tokio::test]
async fn a_request_has_one_id_in_answer_upstream_and_log() {
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::ok("x").field("x-request-id", "the-origins-own"));
    let gateway = before(origin.address(), "log.access = \"json\"").await;

    let (one, other) = (get(&gateway, &["X-Request-Id: mine"]).await, get(&gateway, &[]).await);

    for (answer, seen) in [&one, &other].into_iter().zip(origin.seen()) {
        let ids = answer.all("x-request-id");
        assert_eq!(ids, seen.all("x-request-id"));
        assert!(uuid::Uuid::parse_str(ids[0]).is_ok_and(|id| id.get_version_num() == 7), "{ids:?}");
        assert_eq!(gateway.access_line(answer).await["request_id"], ids[0]);
    }
    assert_ne!(one.field("x-request-id"), other.field("x-request-id"));
}

#[tokio::test]
async fn over_http2_host_and_cookies_reach_the_origin_as_http1_has_them() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = before_tls(origin.address(), &certs).await;

    let client = Client::http2(&gateway, &certs);
    let request =
        client.request("GET", "https://a.test/x").header("cookie", "a=1").header("cookie", "b=2; c=3");
    assert_eq!(client.send(request).await.status, 200);

    let seen = &origin.seen()[0];
    assert_eq!(seen.all("cookie"), ["a=1; b=2; c=3"]);
    assert_eq!(seen.all("host"), ["a.test"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert!(seen.fields.iter().all(|(name, _)| !name.starts_with(':')), "{:?}", seen.fields);
}

#[tokio::test]
async fn trailers_are_asked_for_by_those_who_get_them_and_nothing_else_is_by_te() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    for (te, asked) in [("gzip;q=0.5, trailers", Some("trailers")), ("gzip", None)] {
        get(&gateway, &[&format!("TE: {te}"), "Connection: TE"]).await;
        let seen = origin.seen().pop().unwrap();
        assert_eq!((seen.field("te"), seen.field("connection")), (asked, asked.map(|_| "TE")));
    }
}

#[tokio::test]
async fn options_of_the_server_itself_and_unknown_methods_are_passed_on() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    for (method, target) in [
        ("OPTIONS", "*"),
        ("OPTIONS", "/x"),
        ("PROPFIND", "/x"),
        ("BREW", "/pot"),
        ("M-SEARCH", "/x"),
        ("get", "/x"),
    ] {
        let answer = client.ask(format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{method}");
        let seen = origin.seen().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (method, target));
    }
}

#[tokio::test]
async fn options_go_as_many_servers_further_as_they_may() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    for target in ["*", "/x"] {
        let ask =
            |left: &str| format!("OPTIONS {target} HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: {left}\r\n\r\n");
        let answer = client.ask(ask("0")).await;
        assert_eq!((answer.status, answer.field("content-length")), (204, None), "{target}");
        assert!(origin.seen().iter().all(|seen| seen.target != target), "{target} went on");

        for (left, seen) in [("1", "0"), ("10", "9"), ("many", "many")] {
            assert_eq!(client.ask(ask(left)).await.status, 200);
            assert_eq!(origin.seen().pop().unwrap().all("max-forwards"), [seen]);
        }
    }
    // Whatever else goes to its server, and says the same to it.
    client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: 0\r\n\r\n").await;
    assert_eq!(origin.seen().pop().unwrap().all("max-forwards"), ["0"]);
}

#[tokio::test]
async fn connect_opens_no_tunnel() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address())).await;

    assert!(answer.status >= 400, "{}", answer.status);
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[tokio::test]
async fn an_old_client_gets_an_answer_it_can_read() {
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::ok("abc").chunked());
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await;
    let answer = String::from_utf8(client.rest().await).unwrap();

    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(body, "abc", "HTTP/1.0 knows no chunks");
}
