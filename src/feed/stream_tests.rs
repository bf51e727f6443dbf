//! A stream against services that say what they are told to say.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::{Feed, Settings, Source, Template};
use super::*;
use crate::cache::Tiers;
use crate::redis_server::until;
use crate::telemetry::meters::Meters;

/// A service that is asked for its events by one node.
struct Service {
    listener: TcpListener,
    tiers: &'static Tiers,
    feed: Arc<Feed>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap()).parse().unwrap();
        let settings = Settings {
            source: Source::Stream(Stream { url, token: None, roots: None }),
            tags: vec![Template::of("user:{id}")],
            upstream: None,
            unheard_max: Duration::from_secs(10),
        };
        let meters = Meters::new();
        let tiers = Tiers::new(1 << 20, &meters, None);
        Self { listener, tiers, feed: Feed::start(tiers, Some(settings), &meters) }
    }

    /// The next that asks: its connection, and the place that it names.
    async fn asked(&self) -> (TcpStream, Option<String>) {
        let (mut connection, _) = self.listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let place = request.lines().find_map(|line| line.strip_prefix("last-event-id: "));
        (connection, place.map(str::to_owned))
    }

    /// Answers the next with a stream that says this first; the stream, and the place that was named.
    async fn streams(&self, text: &str) -> (TcpStream, Option<String>) {
        let (mut connection, place) = self.asked().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        connection.write_all(format!("{head}{text}").as_bytes()).await.unwrap();
        (connection, place)
    }

    /// Has the node listen up to place 5 and lose the stream.
    async fn breaks_off(&self) {
        let (stream, place) = self.streams("id: 5\n\n").await;
        assert_eq!(place, None);
        until("it is heard", async || self.is_heard()).await;
        assert_eq!(self.count("missed"), 1, "at the start");
        drop(stream);
        until("the stream is lost", async || !self.is_heard()).await;
    }

    fn is_heard(&self) -> bool {
        self.tiers.hearing.unheard_since().is_none()
    }

    fn count(&self, what: &str) -> u64 {
        self.feed.view()[what].as_u64().unwrap()
    }

    async fn counts(&self, what: &str, wanted: u64) {
        until(&format!("{what}: {wanted}"), async || self.count(what) == wanted).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_there_again_is_trusted_once_it_has_told_all() {
    let service = Service::start().await;
    service.breaks_off().await;
    let since = service.tiers.hearing.unheard_since();

    let (mut stream, place) = service.streams("id: 5\n\nid: 6\ndata: {\"id\":1}\n\n").await;
    assert_eq!(place.as_deref(), Some("5"));
    service.counts("events", 1).await;
    assert_eq!(service.tiers.hearing.unheard_since(), since, "there may be more to come");
    stream.write_all(b":\n\n").await.unwrap();
    until("all is told", async || service.is_heard()).await;
    assert_eq!(service.count("missed"), 1, "and nothing was missed");
}

#[tokio::test]
async fn a_service_that_answers_and_tells_nothing_is_not_trusted_again() {
    let service = Service::start().await;
    service.breaks_off().await;
    let since = service.tiers.hearing.unheard_since();
    for _ in 0..3 {
        let (stream, place) = service.streams("retry: 1\nid: 5\n\n").await;
        assert_eq!(place.as_deref(), Some("5"));
        drop(stream);
    }
    drop(service.asked().await);
    assert_eq!(service.tiers.hearing.unheard_since(), since);
}

#[test]
fn all_is_told_where_a_sign_of_life_comes_and_after_a_while_nobody_knows() {
    let (event, sign) = (Block { data: Some(Vec::new()), ..Block::default() }, Block::default());
    let sign = Block { comment: true, ..sign };
    let place = Block { id: Some("7".to_owned()), ..Block::default() };
    let (soon, late) = (Duration::ZERO, CATCHES_UP_WITHIN);
    let rows = [
        (&sign, soon, Some(true)),
        (&sign, late, Some(true)),
        (&event, soon, None),
        (&event, late, Some(false)),
        (&place, soon, None),
        (&place, late, None),
    ];
    for (block, after, wanted) in rows {
        assert_eq!(has_told_all(block, after), wanted, "{block:?} {after:?}");
    }
}

#[tokio::test]
async fn a_place_that_is_refused_is_given_up() {
    for status in [400, 404, 410, 412, 416] {
        let service = Service::start().await;
        service.breaks_off().await;
        let (mut connection, place) = service.asked().await;
        assert_eq!(place.as_deref(), Some("5"));
        let head = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        connection.write_all(head.as_bytes()).await.unwrap();
        let (_stream, place) = service.streams("id: 1\n\n").await;
        assert_eq!(place, None, "{status}");
        service.counts("missed", 2).await;
    }
    let service = Service::start().await;
    service.breaks_off().await;
    let (mut connection, _) = service.asked().await;
    connection.write_all(b"HTTP/1.1 503 Later\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    let (_, place) = service.asked().await;
    assert_eq!(place.as_deref(), Some("5"), "who is not well now may know it later");
}

#[tokio::test]
async fn an_empty_id_is_no_place() {
    let service = Service::start().await;
    drop(service.streams("id: 5\n\nid:\ndata: {\"id\":1}\n\n").await);
    service.counts("events", 1).await;
    let (_stream, place) = service.streams("id: 7\n\n").await;
    assert_eq!(place, None);
    service.counts("missed", 2).await;
}

#[test]
fn a_gap_in_the_places_is_seen() {
    let rows = [
        (None, "7", true, false),
        (Some("6"), "7", true, false),
        (Some("6"), "6", true, false),
        (Some("6"), "5", true, true),
        (Some("6"), "5", false, true),
        (Some("6"), "8", true, true),
        (Some("6"), "6", false, false),
        (Some("6"), "7", false, true),
        (Some("a"), "7", true, false),
        (Some("6"), "b", true, false),
    ];
    for (last, next, is_event, wanted) in rows {
        let place = Place(last.map(str::to_owned));
        assert_eq!(place.leaves_out(next, is_event), wanted, "{last:?} {next} {is_event}");
    }
}
