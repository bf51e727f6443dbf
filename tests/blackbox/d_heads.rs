//! Bytes as they come: odd heads are refused, slow ones cut, bounds kept; what is in order passes whole.

use std::time::{Duration, Instant};

use crate::support::{Certs, Gateway, Origin, Raw, h2, https};

/// A gateway in the clear that sends everything to the origin; `more` are top-level keys.
pub(crate) async fn before(origin: &Origin, more: &str) -> Gateway {
    Gateway::start(&format!(
        "listen = [\"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{more}\n\
         [routes.all]\nmax_body = \"1KiB\"\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await
}

/// A request that is in order.
pub(crate) const GET: &str = "GET /fine HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// Rides behind heads that are to be refused: no parser may take it for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Whether an answer is a problem with this reason, and the last on its connection.
pub(crate) fn is_problem(answer: &str, reason: &str) -> bool {
    let fields = answer.to_ascii_lowercase();
    fields.contains("content-type: application/problem+json")
        && fields.contains("connection: close")
        && answer.contains(&format!("\"reason\":\"{reason}\""))
}

/// Sends bytes on a connection of their own, and reads until the gateway closes it.
pub(crate) async fn sent(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> String {
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(bytes).await;
    String::from_utf8_lossy(&client.rest().await).into_owned()
}

/// Fields that leave the end of a body in doubt.
const FRAMING: &[&str] = &[
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 5 5",
    "Content-Length: 99999999999999999999",
    "Content-Length:",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "X: a\r\n Transfer-Encoding: chunked",
    "X: a\nTransfer-Encoding: chunked",
    "X: a\rTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\x0b",
    "Transfer-Encoding: \x0bchunked",
];

/// Fields that are malformed, or name no host or two.
const FIELDS: &[&str] = &[
    "X: a",
    "Host: a.test\r\nHost: a.test",
    "Host: a.test\r\nHost: b.test",
    "Host: a.test, b.test",
    "Host: a test",
    "Host: user@a.test",
    "Host: a.test/b",
    "Host:",
    "Host: a.test\r\nX: a\0b",
    "Host: a.test\r\nX\0: a",
    "Host: a.test\r\nX: a\x07b",
    "Host: a.test\r\nX: a\x7fb",
    "Host: a.test\r\nX: a\r\n folded",
    "Host: a.test\r\nX: a\r\n\tfolded",
    " Host: a.test",
    "Host : a.test",
    "Host: a.test\r\nX y: a",
    "Host: a.test\r\n: nameless",
    "Host: a.test\r\nno colon",
];

/// Request lines that are none.
const LINES: &[&str] = &[
    "GET /",
    "GET  / HTTP/1.1",
    "GET\t/ HTTP/1.1",
    "G@T / HTTP/1.1",
    "GET / HTTP/1.1 ",
    "GET / HTTP/2.0",
    "GET / HTTP/1.2",
    "GET / http/1.1",
    "GET users HTTP/1.1",
    "GET ?users HTTP/1.1",
    "GET a.test:443 HTTP/1.1",
    "GET * HTTP/1.1",
    "GET %20/ HTTP/1.1",
    "GET /users#part HTTP/1.1",
    "GET ftp://a.test/ HTTP/1.1",
    "GET http://b.test/ HTTP/1.1",
    "GET http:///users HTTP/1.1",
    "GET http://user@a.test/ HTTP/1.1",
    "CONNECT a.test:443 HTTP/1.1",
    "\r\n\r\n\r\nGET / HTTP/1.1 junk",
];

/// Whether a head is refused, or its connection closed, and nothing of it reaches the origin.
async fn is_kept_out(gateway: &Gateway, origin: &Origin, case: String) {
    let answer = sent(gateway, &case).await;
    // 405 is for CONNECT; empty where there was nothing to answer to.
    let known = ["HTTP/1.1 400 ", "HTTP/1.1 405 "];
    assert!(answer.is_empty() || known.iter().any(|status| answer.starts_with(status)), "{case:?}: {answer}");
    assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{case:?}: {answer}");
    assert!(origin.seen().is_empty(), "{case:?} reached the origin as {:?}", origin.seen());
}

#[tokio::test]
async fn heads_that_leave_the_end_of_a_body_in_doubt_are_refused() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    for fields in FRAMING {
        let case = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n{SMUGGLED}");
        is_kept_out(&gateway, &origin, case).await;
    }
    let chunked = "Host: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    is_kept_out(&gateway, &origin, format!("POST / HTTP/1.0\r\n{chunked}{SMUGGLED}")).await;
}

#[tokio::test]
async fn malformed_fields_are_refused() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    for fields in FIELDS {
        is_kept_out(&gateway, &origin, format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n{SMUGGLED}")).await;
    }
    for ends in [["\n", "\n", "\n"], ["\r\n", "\n", "\r\n"], ["\r\n", "\r\n", "\n"], ["\r", "\r\n", "\r\n"]] {
        let [first, second, third] = ends;
        is_kept_out(&gateway, &origin, format!("GET / HTTP/1.1{first}Host: a.test{second}{third}{SMUGGLED}"))
            .await;
    }
}

#[tokio::test]
async fn what_is_no_request_line_is_refused() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    for line in LINES {
        is_kept_out(&gateway, &origin, format!("{line}\r\nHost: a.test\r\n\r\n{SMUGGLED}")).await;
    }
    for other in ["\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        is_kept_out(&gateway, &origin, format!("{other}{SMUGGLED}")).await;
    }
    // And still serves.
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(GET).await;
    assert_eq!(client.answer().await.1, b"one answers");
}

#[tokio::test]
async fn odd_heads_over_http2_are_refused_as_well() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let top = https(&certs);
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{}\"\n", origin.address())).await;
    let [method, scheme, host, path] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/users")];
    let with = |field| vec![method, scheme, host, path, field];
    let to = |path| vec![method, scheme, host, (":path", path)];
    let cases = [
        (vec![method, scheme, path], "400"),
        (with(("host", "b.test")), "400"),
        (to("*"), "400"),
        (to(""), "reset"),
        (to("users"), "reset"),
        (to("/a b"), "reset"),
        (to("/a\0b"), "reset"),
        (with(("transfer-encoding", "chunked")), "reset"),
        (with(("connection", "close")), "reset"),
        (with(("content-length", "5")), "reset"),
        (with(("X-Upper", "a")), "reset"),
        (with(("x", "a\r\ny: b")), "reset"),
        (with(("x y", "a")), "reset"),
    ];

    for (fields, expected) in cases {
        let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
        client.send([h2::PREFACE, &h2::request(&fields)].concat()).await;
        assert_eq!(h2::verdict(&mut client).await, expected, "{fields:?}");
        assert!(origin.seen().is_empty(), "{fields:?} reached the origin");
    }
    let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
    client.send([h2::PREFACE, &h2::request(&with(("x", "a")))].concat()).await;
    assert_eq!(h2::verdict(&mut client).await, "200");
    assert_eq!(origin.seen()[0].target, "/users");
}

#[tokio::test]
async fn a_target_is_read_in_one_way_and_written_anew() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let mut client = Raw::tcp(gateway.http()).await;

    for (target, seen) in [
        ("/users?a=b", "/users?a=b"),
        ("http://a.test/users", "/users"),
        ("HTTPS://a.test/users?a", "/users?a"),
        ("http://A.test:80/users", "/users"),
        // Escaped in what is routed and forwarded alike.
        ("/a\"b", "/a%22b"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n{GET}")).await;
        for expected in [seen, "/fine"] {
            let (head, _) = client.answer().await;
            assert!(head.starts_with("HTTP/1.1 200 "), "{target}: {head}");
            assert_eq!(origin.seen().last().unwrap().target, expected);
        }
    }
    assert_eq!(origin.seen().len(), 10);
    for target in ["/a\0b", "/a b", "/a\tb", "/a\x7fb", "/\u{e4}", "/a\rb", "/a<b"] {
        let answer = sent(&gateway, format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && is_problem(&answer, "bad-request"),
            "{target:?}: {answer}"
        );
    }
    assert_eq!(origin.seen().len(), 10);
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
            400,
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
    let answer = sent(&gateway, format!("{} / HTTP/1.1\r\nHost: a.test\r\n\r\n", "A".repeat(3000))).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("request line"), "{answer}");
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
