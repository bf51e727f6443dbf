//! What is at hand and what needs a session, on one HTTP/1 connection.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::room::{PATIENCE, REQUEST, Room, SHORT, ask, ended, wide};
use crate::listen::Bounds;

const AT_HAND: &str = "GET /at-hand HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Sends all at once, and reads up to the end of the connection; the status of each answer and whether it was at hand.
async fn talk(room: &Room, text: &str) -> Vec<(String, bool)> {
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    tcp.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, tcp.read_to_end(&mut bytes)).await.expect("an end in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let answers = text.split("HTTP/1.1 ").skip(1);
    answers.map(|answer| (answer[..3].to_owned(), answer.ends_with("\r\n\r\nat hand"))).collect()
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_order_whichever_way() {
    let room = Room::open(wide());
    let body = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    let chunks =
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for order in [
        &[AT_HAND, AT_HAND, REQUEST][..],
        &[REQUEST, AT_HAND, REQUEST, AT_HAND],
        &[body, AT_HAND, body],
        &[AT_HAND, chunks, AT_HAND, chunks, AT_HAND],
    ] {
        let answers = talk(&room, &(order.concat() + LAST)).await;
        assert_eq!(answers.len(), order.len() + 1, "{order:?}");
        assert!(answers.iter().all(|(status, _)| status == "200"), "{answers:?}");
    }
}

#[tokio::test]
async fn a_connection_goes_from_one_way_to_the_other_and_back() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    let mut tls = room.connect("localhost", &room.client(&["http/1.1"])).await.unwrap();
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    for text in [AT_HAND, REQUEST, AT_HAND, post, AT_HAND, REQUEST, AT_HAND] {
        for answer in [ask(&mut tcp, text).await, ask(&mut tls, text).await] {
            assert_eq!(answer.ends_with("\r\n\r\nat hand"), text == AT_HAND, "{text} got {answer}");
        }
    }
}

#[tokio::test]
async fn an_upload_in_pieces_leaves_the_next_request_where_it_begins() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    for (head, rest) in [
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe", "llo"),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
            "llo\r\n0\r\n\r\n",
        ),
    ] {
        let answer = ask(&mut tcp, head).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The rest, and the next request with it.
        assert!(ask(&mut tcp, &format!("{rest}{AT_HAND}")).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_length_beyond_all_bounds_is_a_length_all_the_same() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    let text = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\nhello";
    assert!(ask(&mut tcp, text).await.starts_with("HTTP/1.1 "));
}

#[tokio::test]
async fn a_head_that_begins_behind_another_has_its_deadline() {
    let room = Room::open(Bounds { header_timeout: SHORT, ..wide() });
    for before in [AT_HAND, REQUEST] {
        let mut tcp = TcpStream::connect(room.http).await.unwrap();
        ask(&mut tcp, &format!("{before}GET / HT")).await;
        let lived = ended(&mut tcp).await;
        assert!(lived < PATIENCE / 2, "cut after {lived:?}");
    }
}

#[tokio::test]
async fn each_wait_for_a_request_may_last_as_long_as_the_idle_timeout() {
    let room = Room::open(Bounds { idle_timeout: SHORT * 2, ..wide() });
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    for text in [AT_HAND, REQUEST, AT_HAND] {
        sleep_until(Instant::now() + SHORT).await;
        ask(&mut tcp, text).await;
    }
    let lived = ended(&mut tcp).await;
    assert!(lived >= SHORT && lived < PATIENCE / 2, "idle for {lived:?}");
}
