//! Heads cut out of a stream of bytes, and answers as bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf, duplex};

use super::ahead::{Ahead, Next};
use super::answer;
use super::head::{Extent, content_length, extent, plain};
use crate::listen::at_once::{Ready, Sent};
use crate::listen::head::Limits;

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
fn a_plain_request_is_read_as_it_is() {
    let request = plain(GET.as_bytes(), LIMITS).unwrap();
    assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("GET", "/a?b"));
    assert_eq!(
        (&request.headers["host"], &request.headers["accept"]),
        (&"a.test".parse().unwrap(), &"*/*".parse().unwrap())
    );
    assert!(plain(b"\r\nHEAD //x HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", LIMITS).is_some());
}

#[test]
fn what_asks_for_more_than_an_answer_is_not_plain() {
    let with = |field: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
    assert!(plain(with("A: b").as_bytes(), LIMITS).is_some());
    for field in [
        "Content-Length: 0",
        "Transfer-Encoding: chunked",
        "Expect: 100-continue",
        "Upgrade: websocket",
        "Connection: close",
        "Connection: keep-alive\r\nConnection: x",
        "Host: b",
        "A : b",
        "A: b\x01",
    ] {
        assert!(plain(with(field).as_bytes(), LIMITS).is_none(), "{field}");
    }
    for line in
        ["POST / HTTP/1.1", "GET / HTTP/1.0", "GET http://a/ HTTP/1.1", "GET * HTTP/1.1", "GET  / HTTP/1.1"]
    {
        assert!(plain(format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), LIMITS).is_none(), "{line}");
    }
    assert!(plain(GET.as_bytes(), Limits { size: 20, fields: 20 }).is_none());
}

#[test]
fn the_length_of_a_request_is_known_where_its_head_says_it() {
    let length = |fields: &str| {
        content_length(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes(), LIMITS)
    };
    assert_eq!(length(""), Some(0));
    assert_eq!(length("content-LENGTH:\t17 \r\n"), Some(17));
    assert_eq!(length("Content-Length: 18446744073709551615\r\n"), Some(u64::MAX));
    assert_eq!(length("Transfer-Encoding: chunked\r\n"), None);
    assert_eq!(length("Content-Length: 1\r\nContent-Length: 1\r\n"), None);
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
        assert_eq!(ahead.next(&mut client, 4096).await, Next::Other, "it breaks off");
        assert_eq!(ahead.take(), "rest");
        assert_eq!(ahead.next(&mut client, 4096).await, Next::Nothing);
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
        let _ = plain(&bytes, LIMITS);
        let _ = content_length(&bytes, LIMITS);
    }
}

fn ready(status: StatusCode, body: &[&'static [u8]]) -> Ready {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers.insert("etag", "\"a\"".parse().unwrap());
    Ready { head, body: body.iter().map(|piece| Bytes::from_static(piece)).collect() }
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
        let sent = answer::send(&mut ours, ready).await;
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
    let sent = answer::send(&mut ours, &ready(StatusCode::OK, &[b"body"])).await;
    assert_eq!(sent, Sent { status: 200, bytes: 0, whole: false });
}
