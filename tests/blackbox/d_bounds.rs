//! Bodies and connections as they come: what is in order passes whole, what is too much or too slow does not.

use std::time::{Duration, Instant};

use crate::d_heads::{GET, before, is_problem, sent};
use crate::support::{Gate, Origin, PATIENCE, Raw, Reply, eventually};

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
        let request =
            format!("POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}{GET}");
        let answer = sent(&gateway, request).await;
        assert!(!answer.contains("HTTP/1.1 200"), "{body:?}: {answer}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[tokio::test]
async fn chunk_extensions_have_a_bound_a_line_and_they_and_trailers_one_in_all() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let extended = |length: usize, chunks: usize| {
        let chunk = format!("1;a={}\r\nx\r\n", "b".repeat(length));
        chunk.repeat(chunks) + "0\r\n\r\n"
    };
    let trailed = |length: usize, lines: usize| {
        let line = format!("X-Sum: {}\r\n", "b".repeat(length));
        format!("1\r\nx\r\n0\r\n{}\r\n", line.repeat(lines))
    };
    let post = "POST /up HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";

    for within in [extended(900, 1), extended(900, 8), trailed(1100, 1), trailed(900, 8)] {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(format!("{post}{within}")).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "), "{} bytes", within.len());
        client.send(GET).await;
        assert!(client.answer().await.0.starts_with("HTTP/1.1 200 "), "the next request is found");
    }
    let whole = origin.requests("/up");
    for beyond in [extended(1100, 1), extended(900, 10), trailed(8200, 1), trailed(900, 10)] {
        let answer = sent(&gateway, format!("{post}{beyond}{GET}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{} bytes: {answer}", beyond.len());
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!((whole, origin.requests("/up")), (4, 4), "none came to its end");
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let origin = Origin::start("one").await;
    for user in 1..=3 {
        origin.answer(&format!("/users/{user}"), Reply::ok(format!("user {user}")));
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
    eventually(Duration::from_secs(10), "the place is free again", async || {
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

#[tokio::test]
async fn a_body_that_trickles_is_a_408_though_it_never_stops() {
    let origin = Origin::start("one").await;
    let rate = "downstream.body_timeout = \"400ms\"\ndownstream.min_body_rate = \"1KiB\"";
    let gateway = before(&origin, rate).await;
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(format!("POST /slow HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n")).await;
        let piece = if framing.ends_with("chunked") { "1\r\na\r\n" } else { "a" };
        let mut sent = 0;
        while !client.has_answer_within(Duration::from_millis(50)).await {
            client.offer(piece).await;
            sent += 1;
            assert!(sent < 400, "it is still being read");
        }
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("\"reason\":\"request-timeout\""), "{head}");
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/late", Reply::ok("late").behind(&gate));
    let gateway = before(&origin, "").await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST /late HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello").await;
    client.close_side().await;
    eventually(PATIENCE, "the origin is asked", async || origin.requests("/late") == 1).await;
    gate.open();
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nlate"), "{answer}");
    assert_eq!(origin.seen()[0].body, b"hello");
}

#[tokio::test]
async fn a_client_that_is_refused_in_the_middle_of_its_upload_can_read_why() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    for framing in ["Content-Length: 3000000", "Transfer-Encoding : chunked"] {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n")).await;
        // More than the sockets hold: it is read on, or the client would be cut off before it reads.
        client.send(vec![b'a'; 3_000_000]).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 4") && head.contains("connection: close"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("\"reason\":"), "{head}");
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_comes_before_its_body_was_asked_for_is_the_last() {
    let origin = Origin::start("one").await;
    let gateway = before(&origin, "").await;
    let mut client = Raw::tcp(gateway.http()).await;
    // Whether the body will come, nobody knows: what is sent next could be either.
    let expects = "Expect: 100-continue\r\nContent-Length: 2000";
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\n{expects}\r\n\r\n")).await;
    client.send(GET).await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_head_that_stops_is_a_408_that_is_told() {
    let origin = Origin::start("one").await;
    let top = "downstream.header_timeout = \"300ms\"\nlog.access = \"json\"";
    let gateway = before(&origin, top).await;
    for first in ["", GET] {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(format!("{first}GET /slow HTTP/1.1\r\nHost: a.test\r\n")).await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        let late = &answer[answer.rfind("HTTP/1.1 ").unwrap()..];
        assert!(late.starts_with("HTTP/1.1 408 ") && is_problem(late, "request-timeout"), "{answer}");
    }
    let told = async || {
        let lines = gateway.access_lines();
        lines.iter().filter(|line| line["status"] == 408 && line["reason"] == "request-timeout").count() == 2
    };
    eventually(PATIENCE, "it is logged", told).await;
    assert_eq!(gateway.count("tidegate_refusals_total{route=\"-\",reason=\"request-timeout\"}").await, 2);
}
