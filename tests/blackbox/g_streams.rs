//! What flows: upgraded connections, streams of events, bodies of all sizes, and answers that have none.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::passing::{before, before_tls, get};
use crate::support::speaker::{self, Speaker};
use crate::support::{Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, must, plain};

/// Answers a WebSocket handshake, and from then on says everything twice.
async fn echo_twice(mut stream: TcpStream) {
    let head = speaker::head(&mut stream).await.to_ascii_lowercase();
    let asked = head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n");
    if !asked || !head.contains("\r\nsec-websocket-key: dghl") {
        let _ = stream.write_all(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n").await;
        return;
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let _ = stream.write_all(switch.as_bytes()).await;
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        let _ = stream.write_all(&[&bytes[..count], &bytes[..count]].concat()).await;
    }
}

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_passed_through_both_ways_until_one_side_ends_it() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Speaker::start(echo_twice).await;
    let gateway = before_tls(origin.address(), &certs).await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send(HANDSHAKE).await;
    let head = client.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for word in ["\u{81}\u{5}hello", "again", "GET / HTTP/1.1\r\n\r\n"] {
        client.send(word).await;
        assert_eq!(client.bytes(2 * word.len()).await, word.repeat(2).as_bytes());
    }
    drop(client);

    let quiet = async || gateway.count("tidegate_requests_in_flight").await == 0;
    eventually(PATIENCE, "the upgraded request ends", quiet).await;
}

/// A server may agree before it has been told that no body comes.
#[tokio::test]
async fn a_websocket_lasts_however_quickly_its_server_agrees() {
    let origin = Speaker::start(echo_twice).await;
    let gateway = before(origin.address(), "").await;
    for _ in 0..60 {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(HANDSHAKE).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        client.send("word").await;
        assert_eq!(client.bytes(8).await, b"wordword");
    }
}

#[tokio::test]
async fn a_websocket_hears_its_client_while_its_server_never_pauses() {
    let flood = Speaker::start(|mut stream| async move {
        speaker::head(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switch.as_bytes()).await;
        let (mut reads, mut writes) = stream.split();
        let mut word = [0; 4];
        tokio::select! {
            _ = reads.read_exact(&mut word) => {}
            () = async { while writes.write_all(&[b'x'; 8 << 10]).await.is_ok() {} } => {}
        }
    })
    .await;
    let gateway = before(flood.address(), "").await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(HANDSHAKE).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    client.bytes(1 << 20).await;
    client.send("stop").await;
    must("the server hears it", async { while client.take(64 << 10).await.is_some() {} }).await;
}

/// What follows lasts longer than that.
#[tokio::test]
async fn a_server_has_first_byte_to_agree_to_a_websocket() {
    let mute = Speaker::start(|mut stream| async move {
        speaker::head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let echo = Speaker::start(echo_twice).await;
    let (mute, echo) = (mute.address(), echo.address());
    let bound = "timeouts = { first_byte = \"100ms\" }";
    let gateway = Gateway::start(&format!(
        "{}\n[upstreams.both]\nservers = [\"{mute}\", \"{echo}\"]\nbalance = \"round_robin\"\n{bound}\n\
         retries = {{ on = [\"timeout\"] }}\n\
         [routes.both]\npath = \"/chat\"\nupstream = \"both\"\n\
         [routes.mute]\npath = \"/mute\"\nupstream = \"{mute}\"\n{bound}\n",
        plain()
    ))
    .await;

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask(HANDSHAKE.replace("/chat", "/mute")).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (504, &"upstream-timeout".into()));

    // One of the two, at least, is sent to the mute one first.
    for _ in 0..2 {
        let mut client = Raw::tcp(gateway.http()).await;
        client.send(HANDSHAKE).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101 "));
        let agreed = Instant::now();
        while agreed.elapsed() < Duration::from_millis(300) {
            client.send("word").await;
            assert_eq!(client.bytes(8).await, b"wordword");
        }
    }
    assert!(gateway.count("tidegate_upstream_retries_total{reason=\"timeout\"}").await >= 1);
}

/// Whoever ends it is told by the metrics.
async fn closed_by(gateway: &Gateway, reason: &str, count: u64) {
    let series = format!("tidegate_websockets_closed_total{{route=\"all\",reason=\"{reason}\"}}");
    eventually(PATIENCE, reason, async || gateway.count(&series).await == count).await;
    assert_eq!(gateway.count("tidegate_websockets_open{route=\"all\"}").await, 0);
}

#[tokio::test]
async fn websockets_are_counted_open_and_by_who_ends_them() {
    let gate = Gate::closed();
    let ends = gate.clone();
    let origin = Speaker::start(move |mut stream| {
        let gate = ends.clone();
        async move {
            if speaker::head(&mut stream).await.starts_with("GET /ends") {
                let _ =
                    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n").await;
                let _ = stream.write_all(b"Upgrade: websocket\r\n\r\n").await;
                gate.opened().await;
            } else {
                let _ = stream.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let gateway = before(origin.address(), "log.access = \"json\"\n").await;

    let mut client = Raw::tcp(gateway.http()).await;
    assert_eq!(client.ask(HANDSHAKE).await.status, 403);
    assert_eq!(gateway.count("tidegate_websockets_total").await, 0);

    let open = async || gateway.count("tidegate_websockets_open{route=\"all\"}").await == 1;
    let handshake = HANDSHAKE.replace("/chat", "/ends");
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(&handshake).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    eventually(PATIENCE, "it is open", open).await;
    drop(client);
    closed_by(&gateway, "client", 1).await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send(&handshake).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    eventually(PATIENCE, "it is open", open).await;
    gate.open();
    assert!(client.rest().await.is_empty());
    closed_by(&gateway, "server", 1).await;
    assert_eq!(gateway.count("tidegate_websockets_total{route=\"all\"}").await, 2);
}

#[tokio::test]
async fn a_websocket_on_which_neither_side_speaks_is_closed() {
    let origin = Speaker::start(echo_twice).await;
    let config = format!(
        "{}log.access = \"json\"\n[routes.all]\nwebsocket_idle = \"1s\"\nupstream = \"{}\"\n",
        plain(),
        origin.address()
    );
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(HANDSHAKE).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert!(client.rest().await.is_empty());
    closed_by(&gateway, "idle", 1).await;
    let line = gateway.access_line_of("/chat", |_| true).await;
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"websocket-idle".into()));
    assert_eq!(gateway.count("tidegate_refusals_total").await, 0);
}

/// As stock tickers do: the client says nothing once it has asked.
#[tokio::test]
async fn a_websocket_on_which_one_side_speaks_goes_on() {
    let origin = Speaker::start(|mut stream| async move {
        speaker::head(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switch.as_bytes()).await;
        let began = Instant::now();
        let mut beat = tokio::time::interval(Duration::from_millis(50));
        while began.elapsed() < Duration::from_secs(3) {
            beat.tick().await;
            if stream.write_all(b"tick").await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"done").await;
    })
    .await;
    let config =
        format!("{}[routes.all]\nwebsocket_idle = \"1s\"\nupstream = \"{}\"\n", plain(), origin.address());
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.send(HANDSHAKE).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));
    assert!(client.rest().await.ends_with(b"done"));
    closed_by(&gateway, "server", 1).await;
}

#[tokio::test]
async fn an_upgrade_to_anything_else_is_not_passed_on() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let answer =
        get(&gateway, &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"]).await;

    assert_eq!((answer.status, answer.text()), (200, "one answers"));
    let seen = &origin.seen()[0];
    assert_eq!((seen.field("upgrade"), seen.field("http2-settings")), (None, None));
}

#[tokio::test]
async fn an_origin_that_does_not_upgrade_answers_as_usual() {
    let origin = Origin::start("one").await;
    origin.answer("/chat", Reply::new(403, "no"));
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    let answer = client.ask(HANDSHAKE).await;

    assert_eq!((answer.status, answer.text()), (403, "no"));
}

/// An event stream whose second event is sent once the gate opens.
async fn events(gate: Gate) -> Speaker {
    Speaker::start(move |mut stream| {
        let gate = gate.clone();
        async move {
            speaker::head(&mut stream).await;
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await;
            gate.opened().await;
            let _ = stream.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await;
        }
    })
    .await
}

#[tokio::test]
async fn events_of_a_server_are_passed_on_as_they_come() {
    let certs = Certs::for_names(&["a.test"]);

    let gate = Gate::closed();
    let origin = events(gate.clone()).await;
    let gateway = before_tls(origin.address(), &certs).await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET /events HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.head().await.contains("text/event-stream"));
    assert_eq!(client.chunk().await, b"data: 1\n\n");
    gate.open();
    assert_eq!((client.chunk().await.as_slice(), client.chunk().await.len()), (b"data: 2\n\n".as_slice(), 0));

    let gate = Gate::closed();
    let origin = events(gate.clone()).await;
    let gateway = before_tls(origin.address(), &certs).await;
    let request = Client::http2(&gateway, &certs).request("GET", "https://a.test/events");
    let mut response = must("the head", request.send()).await.unwrap();
    assert_eq!(must("an event", response.chunk()).await.unwrap().unwrap(), "data: 1\n\n");
    gate.open();
    assert_eq!(must("an event", response.chunk()).await.unwrap().unwrap(), "data: 2\n\n");
    while let Some(left) = must("the end", response.chunk()).await.unwrap() {
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn the_head_of_an_answer_is_not_held_back_while_its_server_pauses() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Speaker::start(move |mut stream| {
        let gate = held.clone();
        async move {
            speaker::head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
            gate.opened().await;
            let _ = stream.write_all(b"the answer").await;
        }
    })
    .await;
    let certs = Certs::for_names(&["a.test"]);
    let gateway = before_tls(origin.address(), &certs).await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 10"));
    gate.open();
    assert_eq!(client.bytes(10).await, b"the answer");
}

#[tokio::test]
async fn a_body_is_passed_on_while_it_is_sent() {
    let gate = Gate::closed();
    let opens = gate.clone();
    let origin = Speaker::start(move |mut stream| {
        let opens = opens.clone();
        async move {
            speaker::head(&mut stream).await;
            let mut part = [0; 8];
            // The first chunk, its size line included, before the client has sent a second.
            let _ = stream.read_exact(&mut part).await;
            opens.open();
            let mut rest = Vec::new();
            while !rest.ends_with(b"0\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                rest.push(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await;
    must("the first chunk arrives", gate.opened()).await;
    assert_eq!(client.ask("3\r\ntwo\r\n0\r\n\r\n").await.status, 200);
}

/// Says every three bytes of a body that it reads.
async fn echo_by_three(mut stream: TcpStream) {
    let head = speaker::head(&mut stream).await.to_ascii_lowercase();
    assert!(head.contains("content-length: 9"), "{head}");
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").await;
    let mut word = [0; 3];
    while stream.read_exact(&mut word).await.is_ok() {
        let _ = stream.write_all(&word).await;
    }
}

#[tokio::test]
async fn both_sides_are_heard_word_by_word() {
    let origin = Speaker::start(echo_by_three).await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    for word in ["one", "two", "six"] {
        client.send(word).await;
        assert_eq!(client.bytes(3).await, word.as_bytes());
    }
}

/// Bytes in which a lost, doubled or moved piece shows.
fn large() -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()
    };
    std::iter::repeat_with(next).take(5 * 1024 * 1024).flatten().collect()
}

#[tokio::test]
async fn large_bodies_arrive_whole_both_ways() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let body = large();
    origin.answer("/length", Reply::ok(body.clone()));
    origin.answer("/chunks", Reply::ok(body.clone()).chunked());
    let gateway = before_tls(origin.address(), &certs).await;

    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        for path in ["length", "chunks"] {
            let request = client.request("POST", &format!("https://a.test/{path}")).body(body.clone());
            let answer = client.send(request).await;
            assert_eq!(answer.status, 200);
            assert!(
                answer.body == body,
                "{path}: {} bytes came back in {:?}",
                answer.body.len(),
                answer.version
            );
            assert!(origin.seen().last().unwrap().body == body, "{path}: the origin saw another body");
        }
    }
}

#[tokio::test]
async fn a_chunked_body_arrives_whole_and_the_connection_goes_on() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = client.ask(format!("{head}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Late: 1\r\n\r\n")).await;
    assert_eq!((answer.status, origin.seen()[0].body.as_slice()), (200, b"abcde".as_slice()));
    assert_eq!(client.ask("GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 200);
    assert_eq!(origin.requests("/next"), 1);
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_a_body_is_told_to_go_on() {
    let origin = Origin::start("one").await;
    let gateway = before(origin.address(), "").await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 100 "), "{head}");
    assert_eq!(client.ask("body").await.status, 200);
    assert_eq!(origin.seen()[0].body, b"body");
}

#[tokio::test]
async fn head_tells_of_a_body_and_sends_none() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::ok("x".repeat(1234)));
    origin.answer("/none", Reply::new(204, ""));
    origin.answer("/same", Reply::new(304, "").field("etag", "\"1\""));
    let gateway = before_tls(origin.address(), &certs).await;

    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    for _ in 0..2 {
        let answer = client.ask("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("1234")));
    }
    assert_eq!(client.ask("GET /none HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 204);
    assert_eq!(client.ask("GET /same HTTP/1.1\r\nHost: a.test\r\n\r\n").await.field("etag"), Some("\"1\""));
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.body.len(), 1234);
    let client = Client::http2(&gateway, &certs);
    let answer = client.send(client.request("HEAD", "https://a.test/")).await;
    assert_eq!((answer.status, answer.field("content-length"), answer.body.len()), (200, Some("1234"), 0));
}
