//! Bytes as they come: odd heads are refused, slow ones cut, bounds kept; what is in order passes whole.

use std::time::{Duration, Instant};

use crate::support::{Certs, Gateway, Origin, Raw, https};

/// A gateway in the clear that sends everything to the origin; `more` are top-level keys.
async fn before(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&format!(
        "listen = [\"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{more}\n\
         [routes.all]\nmax_body = \"1KiB\"\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await
}

const GET: &str = "GET /fine HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// Rides behind heads that are to be refused: no parser may take it for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn is_problem(answer: &str, reason: &str) -> bool {
    let fields = answer.to_ascii_lowercase();
    fields.contains("content-type: application/problem+json")
        && fields.contains("connection: close")
        && answer.contains(&format!("\"reason\":\"{reason}\""))
}

/// Sends bytes on a connection of their own, and reads until the gateway closes it.
async fn sent(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> String {
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(bytes).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

#[tokio::test]
async fn heads_that_two_parsers_could_read_in_two_ways_are_refused() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let post =
        |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
    let get = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n{SMUGGLED}");
    let line = |line: &str| format!("{line}\r\nHost: a.test\r\n\r\n{SMUGGLED}");
    let cases = [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        post("Content-Length: 5\r\nContent-Length: 5"),
        post("Content-Length: 5\r\nContent-Length: 6"),
        post("Content-Length: 5, 5"),
        post("Content-Length: +5"),
        post("Content-Length: -5"),
        post("Content-Length: 0x5"),
        post("Content-Length: 5 5"),
        post("Content-Length: 99999999999999999999"),
        post("Content-Length:"),
        post("Transfer-Encoding: chunked, gzip"),
        post("Transfer-Encoding: xchunked"),
        post("Transfer-Encoding: \"chunked\""),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        post("Transfer-Encoding : chunked"),
        post("Transfer-Encoding\t: chunked"),
        post("X: a\r\n Transfer-Encoding: chunked"),
        post("X: a\nTransfer-Encoding: chunked"),
        post("X: a\rTransfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked\x0b"),
        post("Transfer-Encoding: \x0bchunked"),
        format!("POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
        get("X: a"),
        get("Host: a.test\r\nHost: a.test"),
        get("Host: a.test\r\nHost: b.test"),
        get("Host: a.test, b.test"),
        get("Host: a test"),
        get("Host: user@a.test"),
        get("Host: a.test/b"),
        get("Host:"),
        get("Host: a.test\r\nX: a\0b"),
        get("Host: a.test\r\nX\0: a"),
        get("Host: a.test\r\nX: a\x07b"),
        get("Host: a.test\r\nX: a\x7fb"),
        get("Host: a.test\r\nX: a\r\n folded"),
        get("Host: a.test\r\nX: a\r\n\tfolded"),
        get(" Host: a.test"),
        get("Host : a.test"),
        get("Host: a.test\r\nX y: a"),
        get("Host: a.test\r\n: nameless"),
        get("Host: a.test\r\nno colon"),
        "GET / HTTP/1.1\nHost: a.test\n\n".to_owned() + SMUGGLED,
        "GET / HTTP/1.1\r\nHost: a.test\n\r\n".to_owned() + SMUGGLED,
        "GET / HTTP/1.1\r\nHost: a.test\r\n\n".to_owned() + SMUGGLED,
        line("GET /"),
        line("GET  / HTTP/1.1"),
        line("GET / x HTTP/1.1"),
        line("GET\t/ HTTP/1.1"),
        line("G@T / HTTP/1.1"),
        line("GET / HTTP/1.1 "),
        line("GET / HTTP/2.0"),
        line("GET / HTTP/1.2"),
        line("GET / http/1.1"),
        line("GET /\0 HTTP/1.1"),
        line("CONNECT a.test:443 HTTP/1.1"),
        line("\r\n\r\n\r\nGET / HTTP/1.1 junk"),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n".to_owned() + SMUGGLED,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned() + SMUGGLED,
    ];

    for case in cases {
        let answer = sent(&gateway, &case).await;

        // 405 is for CONNECT, 501 for codings that are not known here; empty where there was nothing to answer to.
        let known = ["HTTP/1.1 400 ", "HTTP/1.1 405 ", "HTTP/1.1 501 "];
        let refused = answer.is_empty() || known.iter().any(|status| answer.starts_with(status));
        assert!(refused, "{case:?}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            usize::from(!answer.is_empty()),
            "{case:?}: {answer}"
        );
        assert!(origin.seen().is_empty(), "{case:?} reached the origin as {:?}", origin.seen());
    }
    // And still serves.
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.1, b"one answers");
}

#[tokio::test]
async fn a_refused_head_gets_a_problem_that_says_why() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad-request", "`Host` is missing"),
        ("GET / HTTP/1.1\nHost: a.test\r\n\r\n", 400, "bad-request", "does not end in CR LF"),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            400,
            "bad-request",
            "`Content-Length` is repeated",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "bad-request",
            "both `Content-Length` and `Transfer-Encoding`",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            "transfer-coding-unknown",
            "a transfer coding other than `chunked`",
        ),
    ];

    for (head, status, reason, detail) in cases {
        let answer = sent(&gateway, head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}: {answer}");
        assert!(is_problem(&answer, reason) && answer.contains(detail), "{head:?}: {answer}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_refused_with_431() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "downstream.max_header_size = \"2KiB\"\ndownstream.max_headers = 10").await;
    let fields = |count: usize, length: usize| {
        let field = |number| format!("X-{number}: {}\r\n", "a".repeat(length));
        format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", (1..count).map(field).collect::<String>())
    };

    let answer = sent(&gateway, fields(3, 1500)).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && is_problem(&answer, "head-too-large"), "{answer}");
    let answer = sent(&gateway, fields(11, 10)).await;
    assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains("too many fields"), "{answer}");
    let answer = sent(&gateway, format!("GET /{} HTTP/1.1\r\nHost: a.test\r\n\r\n", "a".repeat(3000))).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") && is_problem(&answer, "target-too-long"), "{answer}");
    // So large that no parser of ours sees its end.
    let answer = sent(&gateway, fields(3, 2 << 20)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(origin.seen().is_empty());

    let mut client = Raw::tcp(gateway.http()).await;
    client.send(fields(10, 10)).await;
    assert_eq!(client.answer().await.1, b"one answers", "as many as are allowed");
}

/// Sends a head byte after byte, and never its end; gives up when the gateway has closed.
async fn drip(client: &mut Raw) {
    let began = Instant::now();
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\nX: ").await;
    while !client.is_closed_within(Duration::from_millis(50)).await {
        assert!(began.elapsed() < Duration::from_secs(20), "a slow head is still being read");
        client.send("a").await;
    }
}

#[tokio::test]
async fn a_slow_head_is_cut_on_the_first_and_on_the_second_request_of_a_connection() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let top =
        https(&certs).replace("listen = [", "listen = [{ url = \"http://127.0.0.1:0\", redirect = false }, ");
    let gateway = Gateway::start(&format!(
        "{top}downstream.header_timeout = \"300ms\"\n[routes.all]\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await;

    let mut connections = [Raw::tcp(gateway.http()).await, Raw::tls(gateway.https(), "a.test", &certs).await];
    for client in &mut connections {
        client.send(GET).await;
        assert_eq!(client.answer().await.1, b"one answers");
        drip(client).await;
    }
    drip(&mut Raw::tcp(gateway.http()).await).await;
    drip(&mut Raw::tls(gateway.https(), "a.test", &certs).await).await;

    assert_eq!(gateway.metric("tidegate_request_head_failures_total{reason=\"timeout\"}").await, 4.0);
    assert_eq!(origin.requests("/slow"), 0);
}

#[tokio::test]
async fn a_chunked_body_is_forwarded_whole() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let mut client = Raw::tcp(gateway.http()).await;

    client.send("POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab").await;
    client.send("c\r\n4;name=value\r\ndefg\r\nA\r\n0123456789\r\n").await;
    client.send("0\r\n\r\n").await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "));
    client.send(GET).await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "), "the next request is found");

    let seen = origin.seen();
    assert_eq!(seen[0].body, b"abcdefg0123456789");
    assert_eq!((seen[1].target.as_str(), seen.len()), ("/fine", 2));
}

#[tokio::test]
async fn a_chunked_body_that_is_malformed_never_ends_well() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;

    for body in [
        "z\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "-3\r\nabc\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\n",
    ] {
        let request = format!(
            "POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
        );
        let answer = sent(&gateway, request).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{body:?}: {answer}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let origin = Origin::start("one").await;
    for user in 1..=3 {
        origin.answer(&format!("/users/{user}"), crate::support::Reply::ok(format!("user {user}")));
    }
    let gateway = before(&origin, "").await;
    let mut client = Raw::tcp(gateway.http()).await;

    client
        .send(
            "GET /users/1 HTTP/1.1\r\nHost: a.test\r\n\r\n\
             POST /users/2 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\nbody\
             GET /users/3 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        )
        .await;

    for user in 1..=3 {
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(String::from_utf8(body).unwrap(), format!("user {user}"));
    }
    assert_eq!(origin.seen()[1].body, b"body");
}

#[tokio::test]
async fn one_address_has_its_share_of_connections_and_others_theirs() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "downstream.max_connections_per_ip = 2").await;
    let mut two = [Raw::tcp(gateway.http()).await, Raw::tcp(gateway.http()).await];
    for client in &mut two {
        client.send(GET).await;
        assert_eq!(client.answer().await.1, b"one answers");
    }

    assert_eq!(sent(&gateway, GET).await, "", "a third is closed unanswered");
    assert_eq!(gateway.metric("tidegate_connections_refused_total{reason=\"per_ip\"}").await, 1.0);
    let mut other = Raw::tcp_from("127.0.0.2".parse().unwrap(), gateway.http()).await;
    other.send(GET).await;
    assert_eq!(other.answer().await.1, b"one answers");

    let [first, _second] = two;
    drop(first);
    crate::support::eventually(Duration::from_secs(10), "the place is free again", async || {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(GET).await;
        client.head().await.starts_with("HTTP/1.1 200 ")
    })
    .await;
}

#[tokio::test]
async fn all_clients_together_have_a_bound() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "downstream.max_connections = 1").await;
    let mut only = Raw::tcp(gateway.http()).await;
    only.send(GET).await;
    assert_eq!(only.answer().await.1, b"one answers");

    let mut other = Raw::tcp_from("127.0.0.2".parse().unwrap(), gateway.http()).await;
    other.send(GET).await;
    assert_eq!(other.rest().await, b"");

    assert_eq!(gateway.metric("tidegate_connections_refused_total{reason=\"total\"}").await, 1.0);
    only.send(GET).await;
    assert_eq!(only.answer().await.1, b"one answers", "who is in stays in");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_a_while_and_then_closed() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "downstream.idle_timeout = \"1s\"").await;
    let mut client = Raw::tcp(gateway.http()).await;
    for _ in 0..2 {
        client.send(GET).await;
        assert_eq!(client.answer().await.1, b"one answers");
    }

    let began = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(began.elapsed() > Duration::from_millis(500), "closed after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_body_that_stops_coming_is_a_408() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "downstream.body_timeout = \"300ms\"").await;

    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let answer = sent(&gateway, format!("POST /up HTTP/1.1\r\nHost: a.test\r\n{framing}")).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && is_problem(&answer, "request-timeout"), "{answer}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_body_over_its_bound_is_a_413_before_the_upload_or_in_the_middle() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;

    let announced = "POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1025\r\n\r\n";
    let answer = sent(&gateway, announced).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && is_problem(&answer, "body-too-large"), "{answer}");

    let chunk = format!("400\r\n{}\r\n", "a".repeat(1024));
    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(&chunk).await;
    client.send(&chunk).await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && is_problem(&answer, "body-too-large"), "{answer}");
    assert!(origin.seen().is_empty(), "no origin saw one of them whole");

    let mut client = Raw::tcp(gateway.http()).await;
    client
        .send(format!(
            "POST /up HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1024\r\n\r\n{}",
            "a".repeat(1024)
        ))
        .await;
    assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "), "as large as is allowed");
}

#[tokio::test]
async fn a_client_that_expects_to_be_told_to_go_on_is_told() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let head = |length: usize| {
        format!(
            "PUT /up HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };

    let mut client = Raw::tcp(gateway.http()).await;
    client.send(head(5)).await;
    let go_on = client.head().await;
    assert!(go_on.starts_with("HTTP/1.1 100 "), "{go_on}");
    client.send("hello").await;
    let (answer, _) = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(origin.seen()[0].body, b"hello");

    let answer = sent(&gateway, head(2000)).await;
    assert!(
        answer.starts_with("HTTP/1.1 413 "),
        "or told at once that it may spare itself the trouble: {answer}"
    );
}
