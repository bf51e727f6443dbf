//! What somebody from outside tried: claims, stalls and silences that must harm nobody else.

use std::time::Duration;

use crate::support::cached::{get, is_hit};
use crate::support::wire::Wire;
use crate::support::{
    Cached, Certs, Client, Gateway, Origin, PATIENCE, Raw, Reply, eventually, group, https, must, plain,
};

/// A gateway over these servers, in the clear, with these lines of its upstream and these before all else.
async fn before(servers: &[String], top: &str, settings: &str) -> Gateway {
    let certs = Certs::for_names(&["a.test"]);
    let routes = group(&certs, servers, settings).replacen(&https(&certs), "", 1);
    Gateway::start(&format!("{}{top}\n{routes}", plain())).await
}

#[tokio::test]
async fn answers_that_vary_by_what_the_gateway_writes_are_not_shared() {
    let cached = Cached::with("cache = \"60s\"").await;
    for name in ["x-forwarded-for", "X-Forwarded-Proto", "via", "x-request-id", "forwarded", "x_user"] {
        let path = format!("/{name}");
        let (cc, vary) = (("cache-control", "public, max-age=60"), name.to_owned());
        cached.origin.answer(&path, Reply::ok("for one").field(cc.0, cc.1).field("vary", &vary));
        for _ in 0..2 {
            let answer = get(&cached.http2, &path, &[]).await;
            assert!(!is_hit(&answer), "{name}: {:?}", answer.field("cache-status"));
        }
        assert_eq!(cached.origin.requests(&path), 2, "{name}");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_claims_gets_into_no_answer_for_others() {
    let top = "trusted_proxies = [\"127.0.0.1/32\"]";
    let cached = Cached::over(top, "[routes.all]\ncache = \"60s\"\nupstream = \"ORIGIN\"\n").await;
    cached
        .origin
        .answer_by("/", |seen| Reply::ok(seen.field("x-forwarded-host").unwrap_or("none").as_bytes()));

    let poisoned = get(&cached.http2, "/", &[("x-forwarded-host", "evil.example")]).await;
    let honest = get(&cached.http2, "/", &[]).await;

    assert_eq!((poisoned.text(), honest.text()), ("evil.example", "a.test"));
    assert!(!is_hit(&honest));
    assert!(is_hit(&get(&cached.http2, "/", &[("x-forwarded-host", "evil.example")]).await), "kept apart");
    assert!(is_hit(&get(&cached.http2, "/", &[]).await));
}

#[tokio::test]
async fn an_answer_to_a_request_with_a_cookie_is_not_kept_on_the_routes_word_alone() {
    let cached = Cached::with("cache = \"60s\"").await;
    cached.origin.answer_by("/page", |seen| Reply::ok(seen.field("cookie").unwrap_or("nobody").as_bytes()));
    cached.origin.answer("/logo", Reply::ok("for all").field("cache-control", "public, max-age=60"));

    let alice = get(&cached.http2, "/page", &[("cookie", "user=alice")]).await;
    let bob = get(&cached.http2, "/page", &[("cookie", "user=bob")]).await;
    assert_eq!((alice.text(), bob.text()), ("user=alice", "user=bob"));
    assert!(alice.field("cache-status").is_some_and(|status| status.ends_with("detail=cookie")));

    get(&cached.http2, "/logo", &[("cookie", "user=alice")]).await;
    assert!(is_hit(&get(&cached.http2, "/logo", &[("cookie", "user=bob")]).await), "the origin said public");
}

#[tokio::test]
async fn an_upload_that_stalls_is_its_clients_fault_and_no_servers() {
    let server = Wire::start(|_, mut line| async move {
        line.head().await;
        line.closed().await; // waits for the body, as servers do
    })
    .await;
    let settings = "timeouts = { first_byte = \"300ms\", idle = \"300ms\" }\n\
                    outlier_detection = { consecutive_errors = 1, max_ejected = \"100%\" }";
    let gateway = before(&[server.address().to_string()], "", settings).await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nfour").await;
    let (head, body) = client.answer().await;

    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("request-timeout"), "{body:?}");
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
}

#[tokio::test]
async fn silence_on_a_stream_of_events_is_no_failure() {
    let server = Wire::start(|_, mut line| async move {
        line.request().await;
        let head =
            "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\nConnection: close\r\n\r\ndata: 1\n\n";
        line.say(head).await;
        line.closed().await;
    })
    .await;
    let settings = "timeouts = { first_byte = \"300ms\", idle = \"300ms\" }\n\
                    outlier_detection = { consecutive_errors = 1, max_ejected = \"100%\" }";
    let gateway = before(&[server.address().to_string()], "", settings).await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.is_closed_within(PATIENCE).await);

    let over = async || gateway.count("tidegate_requests_in_flight").await == 0;
    eventually(PATIENCE, "the stream is over", over).await;
    assert_eq!(gateway.count("tidegate_upstream_requests_total{outcome=\"error\"}").await, 0);
}

#[tokio::test]
async fn a_failure_after_an_interim_answer_is_told() {
    let server = Wire::start(|_, mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        // And gone.
    })
    .await;
    let gateway = before(&[server.address().to_string()], "", "retries = { attempts = 1 }").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("PUT / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn what_flows_after_a_change_of_protocol_is_no_request_body() {
    let server = Wire::start(|_, mut line| async move {
        line.head().await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        line.say(switch).await;
        line.closed().await;
    })
    .await;
    let gateway = before(&[server.address().to_string()], "[defaults]\nmax_body = \"100B\"\n", "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.send("x".repeat(1000)).await;
    assert!(!client.is_closed_within(Duration::from_millis(300)).await, "cut off at max_body");
}

#[tokio::test]
async fn a_client_that_takes_no_bytes_is_let_go() {
    let top = "downstream = { send_timeout = \"300ms\" }";
    let config = format!("{}{top}\n[routes.all]\nredirect = {{ to = \"/elsewhere\" }}\n", plain());
    let gateway = Gateway::start(&config).await;

    // Answers without bodies, asked for faster than they are taken, until no buffer on the way takes more.
    let mut client = Raw::tcp(gateway.http()).await;
    let requests = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".repeat(200);
    let flood = async { while client.offer(&requests).await {} };
    must("an end to the connection", flood).await;

    let gone = async || gateway.count("tidegate_connections_open").await == 0;
    eventually(PATIENCE, "the connection is closed", gone).await;
}

#[tokio::test]
async fn traces_are_refused() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = Gateway::start(&group(&certs, &[origin.address().to_string()], "")).await;
    let client = Client::http2(&gateway, &certs);

    let answer = client.send(client.request("TRACE", "https://a.test/").header("cookie", "secret=1")).await;

    assert_eq!(answer.status, 405);
    assert!(origin.seen().is_empty());
}
