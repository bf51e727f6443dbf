//! Slow heads are cut, odd heads are refused, and nothing else is.

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::room::{PATIENCE, REQUEST, Room, SHORT, ask, ended, wide};
use crate::listen::Bounds;

/// With a deadline short enough to meet.
fn strict() -> Room {
    Room::open(Bounds { header_timeout: SHORT, ..wide() })
}

/// Sends a head byte by byte, and never its end, until the other side ends the connection.
async fn drip(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let began = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        write.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await.unwrap();
        let mut next = Instant::now();
        loop {
            next += SHORT / 10;
            sleep_until(next).await;
            if write.write_all(b"a").await.is_err() || write.flush().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = ended(&mut read) => {}
        () = sending => {}
    }
    let lived = began.elapsed();
    assert!(lived >= SHORT / 2 && lived < PATIENCE / 2, "cut after {lived:?}");
}

#[tokio::test]
async fn a_slow_head_is_cut_at_the_deadline_on_the_first_request() {
    let room = strict();
    drip(&mut TcpStream::connect(room.http).await.unwrap()).await;
    room.shows("tidegate_request_head_failures_total{reason=\"timeout\"} 1").await;

    drip(&mut room.connect("localhost", &room.client(&[])).await.unwrap()).await;
    room.shows("tidegate_request_head_failures_total{reason=\"timeout\"} 2").await;
}

#[tokio::test]
async fn a_slow_head_is_cut_at_the_deadline_on_the_second_request() {
    let room = strict();
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    ask(&mut tcp, REQUEST).await;
    drip(&mut tcp).await;
    room.shows("tidegate_request_head_failures_total{reason=\"timeout\"} 1").await;

    let mut tls = room.connect("localhost", &room.client(&["http/1.1"])).await.unwrap();
    ask(&mut tls, REQUEST).await;
    drip(&mut tls).await;
    room.shows("tidegate_request_head_failures_total{reason=\"timeout\"} 2").await;
}

#[tokio::test]
async fn an_idle_connection_is_not_cut_at_the_deadline() {
    let room = strict();
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    for _ in 0..2 {
        ask(&mut tcp, REQUEST).await;
        sleep_until(Instant::now() + SHORT * 2).await;
    }
    assert!(ask(&mut tcp, REQUEST).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_in_two_pieces_arrives_and_leaves_no_deadline_behind() {
    let room = strict();
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    let (first, second) = REQUEST.split_at(10);
    for _ in 0..2 {
        tcp.write_all(first.as_bytes()).await.unwrap();
        sleep_until(Instant::now() + SHORT / 3).await;
        assert!(ask(&mut tcp, second).await.starts_with("HTTP/1.1 200"));
        sleep_until(Instant::now() + SHORT).await;
    }
}

#[tokio::test]
async fn the_body_of_a_request_answered_early_is_no_part_of_the_next_head() {
    let room = strict();
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    ask(&mut tcp, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello").await;
    tcp.write_all(b"world").await.unwrap();
    // The clock of the drained body must not run on.
    sleep_until(Instant::now() + SHORT * 2).await;
    assert!(ask(&mut tcp, REQUEST).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_http2_client_that_asks_for_nothing_is_cut() {
    let room = strict();
    let mut silent = room.connect("localhost", &room.client(&["h2"])).await.unwrap();
    let lived = ended(&mut silent).await;
    assert!(lived >= SHORT / 2 && lived < PATIENCE / 2, "cut after {lived:?}");
    room.shows("tidegate_request_head_failures_total{reason=\"timeout\"} 1").await;
}

#[tokio::test]
async fn an_http2_client_that_has_asked_is_left_to_its_idle_timeout() {
    let room = strict();
    let client = room.browser().build().unwrap();
    let url = room.url();
    client.get(&url).send().await.unwrap().text().await.unwrap();
    sleep_until(Instant::now() + SHORT * 2).await;
    client.get(&url).send().await.unwrap().text().await.unwrap();
    room.shows("tidegate_connections_total{listener=\"https\"} 1").await;
}

#[tokio::test]
async fn an_http2_connection_is_closed_when_idle_for_long() {
    let room = Room::open(Bounds { idle_timeout: SHORT, ..wide() });
    let client = room.browser().build().unwrap();
    client.get(room.url()).send().await.unwrap().text().await.unwrap();
    room.shows("tidegate_connections_open{listener=\"https\"} 0").await;
}

#[tokio::test]
async fn an_http2_head_has_the_same_bounds() {
    let room = Room::open(wide());
    let client = room.browser().build().unwrap();
    let large = client.get(room.url()).header("x", "a".repeat(5000)).send().await.unwrap();
    assert_eq!(large.status(), 431);
    let mut many = client.get(room.url());
    for _ in 0..30 {
        many = many.header("x", "a");
    }
    let many = many.send().await.unwrap();
    assert_eq!(many.status(), 431);
    assert_eq!(many.text().await.unwrap(), "too-many-fields");
}

#[tokio::test]
async fn odd_heads_are_refused_by_their_reasons() {
    let room = Room::open(wide());
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(5000));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", "400", "host-missing"),
        ("GET / HTTP/1.1\nHost: localhost\r\n\r\n", "400", "bad-line-end"),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
            "length-and-encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "400",
            "transfer-encoding-unknown",
        ),
        (&long, "431", "head-too-large"),
    ];
    for (head, status, reason) in cases {
        let mut tcp = TcpStream::connect(room.http).await.unwrap();
        let text = ask(&mut tcp, head).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status}")) && text.ends_with(reason),
            "{head:?}: {text}"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_refused_is_counted() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    let text = ask(&mut tcp, "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    room.shows("tidegate_request_head_failures_total{reason=\"malformed\"} 1").await;
}
