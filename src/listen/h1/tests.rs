//! Heads cut out of a stream of bytes, and answers as bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, duplex};

use super::ahead::{Ahead, Next};
use super::answer;
use super::head::{Extent, extent, is_plain, legible, read};
use crate::listen::head::Limits;
use crate::listen::ready::{Ready, Sent};

const LIMITS: Limits = Limits { size: 4096, fields: 20 };
const GET: &str = "GET /a?b HTTP/1.1\r\nHost: a.test\r\nAccept:  */* \r\n\r\n";

#[test]
fn a_head_ends_with_an_empty_line_and_lines_end_in_cr_lf() {
    assert_eq!(extent(GET.as_bytes(), 0), Extent::Whole(GET.len()));
    assert_eq!(extent(format!("{GET}{GET}").as_bytes(), 0), Extent::Whole(GET.len()));
    assert_eq!(extent(format!("\r\n{GET}").as_bytes(), 0), Extent::Whole(GET.len() + 2));
    for part in ["", "\r", "\r\n", "\r\nG", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n\r"] {
        assert_eq!(extent(part.as_bytes(), 0), Extent::Part, "{part:?}");
    }
    for strange in ["\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: b\n\r\n", "A\r\n\n"] {
        assert_eq!(extent(strange.as_bytes(), 0), Extent::Strange, "{strange:?}");
    }
}

#[test]
fn a_request_is_read_as_it_is() {
    let head = read(GET.as_bytes(), LIMITS).unwrap();
    let request = &head.request;
    assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("GET", "/a?b"));
    assert_eq!(
        (&request.headers["host"], &request.headers["accept"]),
        (&"a.test".parse().unwrap(), &"*/*".parse().unwrap())
    );
    assert!(is_plain(request) && !head.last);
}

#[test]
fn a_length_is_written_as_everybody_writes_it() {
    for (came, goes) in [("0", "0"), ("000", "0"), ("0010", "10"), ("17", "17")] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {came}\r\n\r\n");
        assert_eq!(read(text.as_bytes(), LIMITS).unwrap().request.headers["content-length"], goes);
    }
}

#[test]
fn a_client_says_whether_it_asks_for_more() {
    // RFC 9112 section 9.3
    for (version, connection, last, left) in [
        ("1.1", "x: y", false, None),
        ("1.1", "Connection: Keep-Alive", false, None),
        ("1.1", "Connection: close", true, None),
        ("1.1", "Connection: keep-alive, CLOSE", true, None),
        ("1.1", "Connection: x", false, Some("x")),
        ("1.1", "Connection: x, close", true, Some("x, close")),
        ("1.1", "Connection: x\r\nConnection: close", true, Some("x")),
        ("1.0", "x: y", true, None),
        ("1.0", "Connection: keep-alive", false, None),
        ("1.0", "Connection: keep-alive, close", true, None),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n\r\n");
        let head = read(text.as_bytes(), LIMITS).unwrap();
        let said = head.request.headers.get("connection").map(|said| said.to_str().unwrap());
        assert_eq!((head.last, said), (last, left), "{text:?}");
    }
}

#[test]
fn an_old_client_expects_nothing() {
    let text = |version| format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    let expects =
        |version| read(text(version).as_bytes(), LIMITS).unwrap().request.headers.contains_key("expect");
    assert!(expects("1.1") && !expects("1.0"));
}

#[test]
fn what_asks_for_more_than_an_answer_is_not_plain() {
    let is_plain = |text: String| is_plain(&read(text.as_bytes(), LIMITS).unwrap().request);
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    assert!(is_plain(with("A: b")) && is_plain(with("Connection: close")));
    for field in [
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Upgrade: websocket",
        "Connection: keep-alive\r\nConnection: x",
    ] {
        assert!(!is_plain(with(field)), "{field}");
    }
    for line in ["POST / HTTP/1.1", "GET / HTTP/1.0", "GET http://a/ HTTP/1.1", "OPTIONS * HTTP/1.1"] {
        assert!(!is_plain(format!("{line}\r\nHost: a\r\n\r\n")), "{line}");
    }
    assert!(is_plain("\r\nHEAD //x HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n".to_owned()));
}

#[test]
fn of_a_refused_head_is_told_what_can_be_read() {
    for (bytes, method, target) in [
        (&b"POST /a?b HTTP/1.1\nHost"[..], "POST", "/a?b"),
        (b"GET /a b HTTP/1.1\r\n", "GET", "/a"),
        (b"\r\nGET", "GET", "*"),
        (b"", "-", "*"),
        (b"\x16\x03\x01", "-", "*"),
        (b"G@T /<", "-", "*"),
    ] {
        let told = legible(bytes);
        assert_eq!((told.method.as_str(), told.uri.to_string().as_str()), (method, target), "{bytes:?}");
    }
    assert_eq!(legible(&[b'a'; 9000]).method, "-");
}

/// Gives so many bytes at a time.
struct Dripping<'a>(&'a [u8], usize);

impl AsyncRead for Dripping<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(self.1.min(self.0.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn requests_are_told_apart_however_their_bytes_arrive() {
    let all = format!("{GET}\r\n{GET}{GET}rest");
    for at_a_time in 1..all.len() {
        let mut client = Dripping(all.as_bytes(), at_a_time);
        let mut ahead = Ahead::default();
        for length in [GET.len(), GET.len() + 2, GET.len()] {
            assert_eq!(ahead.next(&mut client, 4096).await, Next::Head(length), "{at_a_time} at a time");
            assert!(ahead.bytes()[..length].ends_with(GET.as_bytes()));
            ahead.answered(length);
        }
        assert_eq!(ahead.next(&mut client, 4096).await, Next::Unfinished, "it breaks off");
        assert_eq!(ahead.take_after(1), "est");
        assert_eq!(ahead.next(&mut client, 4096).await, Next::Nothing);
        ahead.give_back(GET.as_bytes());
        assert_eq!(ahead.next(&mut client, 4096).await, Next::Head(GET.len()));
    }
}

#[tokio::test]
async fn what_is_too_large_is_no_head() {
    let mut ahead = Ahead::default();
    assert_eq!(ahead.next(&mut Dripping(&[b'a'; 9000], 100), 4096).await, Next::Other);
    assert!(ahead.bytes().len() < 4096 + 200);
}

proptest! {
    #[test]
    fn where_a_head_ends_does_not_depend_on_what_was_seen_before(
        bytes in "(GET / HTTP/1.1\r\n)?([a:\r\n]{0,6}(\r\n)?){0,8}",
        seen in any::<prop::sample::Index>(),
    ) {
        let whole = extent(bytes.as_bytes(), 0);
        let seen = seen.index(bytes.len() + 1);
        if extent(&bytes.as_bytes()[..seen], 0) == Extent::Part {
            prop_assert_eq!(extent(bytes.as_bytes(), seen), whole);
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, LIMITS);
        let _ = legible(&bytes);
    }
}

fn ready(status: StatusCode, body: &[&'static [u8]]) -> Ready {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers.insert("etag", "\"a\"".parse().unwrap());
    Ready { head: head.into(), body: body.iter().map(|piece| Bytes::from_static(piece)).collect() }
}

/// What a client gets that has room for so much at a time.
async fn sent(ready: &Ready, room: usize) -> (Sent, Vec<u8>) {
    let (mut ours, mut theirs) = duplex(room);
    let reading = async {
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let sending = async {
        let sent = answer::send(&mut ours, ready, false).await;
        drop(ours);
        sent
    };
    tokio::join!(sending, reading)
}

#[tokio::test]
async fn an_answer_arrives_whole_whatever_its_size() {
    static LONG: [u8; 10_000] = [7; 10_000];
    let head: &[u8] = b"HTTP/1.1 200 OK\r\netag: \"a\"\r\nconnection: keep-alive\r\n\r\n";
    let bodies: [&[&'static [u8]]; 3] = [&[], &[b"short", b"er"], &[&LONG, b"", &LONG]];
    for body in bodies {
        for room in [1, 100, 100_000] {
            let (sent, bytes) = sent(&ready(StatusCode::OK, body), room).await;
            assert!(bytes == [head, &body.concat()].concat());
            let length = body.concat().len() as u64;
            assert_eq!(sent, Sent { status: 200, bytes: length, whole: true });
        }
    }
    let (_, bytes) = sent(&ready(StatusCode::NOT_MODIFIED, &[]), 100).await;
    assert!(bytes.starts_with(b"HTTP/1.1 304 Not Modified\r\n"));
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart() {
    let (mut ours, theirs) = duplex(100);
    drop(theirs);
    let sent = answer::send(&mut ours, &ready(StatusCode::OK, &[b"body"]), true).await;
    assert_eq!(sent, Sent { status: 200, bytes: 0, whole: false });
}
