//! The instant in which the process is told to end, with requests on every connection: each is answered whole, or its
//! client can tell that nobody has begun with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::h2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame,
};
use crate::support::speaker::{self, Speaker};
use crate::support::{Certs, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, h2, https, must, pass};

const ACK: u8 = 1;
/// What a stream is reset with that nobody has begun with (RFC 9113 section 8.7).
const REFUSED_STREAM: u8 = 7;
/// Longer than any test waits: whoever ends has not waited for it.
const LONG_GRACE: &str = "shutdown_grace = \"10m\"\n";

/// Plain and under TLS, what is below `/kept` from memory, everything else from the origin.
async fn before(origin: &Origin, certs: &Certs) -> Gateway {
    let listen = "listen = [\"https://127.0.0.1:0\", { url = \"http://127.0.0.1:0\", redirect = false }]";
    let top = https(certs).replace("listen = [\"https://127.0.0.1:0\"]", listen);
    let server = origin.address();
    let routes = format!(
        "[routes.all]\nupstream = \"{server}\"\n[routes.kept]\npath = \"/kept/*\"\ncache = \"60s\"\nupstream = \"{server}\"\n"
    );
    Gateway::start(&format!("{top}{LONG_GRACE}{routes}")).await
}

/// Where the request goes: to memory each third time, else to a place of its own.
fn path(client: usize, number: u32) -> String {
    if number.is_multiple_of(3) { "/kept/page".to_owned() } else { format!("/{client}/{number}") }
}

/// Asks for one thing after the other until the connection ends; what was asked for and not answered.
async fn asks(mut line: Raw, client: usize, answered: Arc<AtomicUsize>) -> Vec<String> {
    for number in 0.. {
        let path = path(client, number);
        line.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let head = line.head().await;
        if head.is_empty() {
            return vec![path];
        }
        assert!(head.ends_with("\r\n\r\n") && head.starts_with("HTTP/1.1 200 "), "{path}: {head:?}");
        let body = line.take("one answers".len()).await;
        assert_eq!(body.as_deref(), Some(&b"one answers"[..]), "{path}: the answer is whole");
        answered.fetch_add(1, Ordering::Relaxed);
        if head.to_ascii_lowercase().contains("connection: close") {
            assert!(line.rest().await.is_empty());
            break;
        }
    }
    Vec::new()
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Nothing,
    Part,
    All,
    Refused,
}

/// Asks for ten things at a time on HTTP/2 until the connection ends, though it was told to stop if it is `deaf`; what was
/// asked for and not answered.
async fn asks_for_many(mut line: Raw, client: usize, deaf: bool, answered: Arc<AtomicUsize>) -> Vec<String> {
    let room = frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes());
    line.send([PREFACE, &room].concat()).await;
    let mut streams = BTreeMap::new();
    let (mut last, mut next) = (None, 1);
    loop {
        let goes_on = last.is_none_or(|last| deaf && last >= next);
        for stream in (next..next + 20).step_by(2).filter(|_| goes_on) {
            let path = path(client, stream / 2);
            let fields =
                [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", &*path)];
            line.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))).await;
            streams.insert(stream, (path, Came::Nothing));
        }
        next += 20;
        let open = |streams: &BTreeMap<_, (String, Came)>, last: Option<u32>| {
            let awaited = |stream: u32| last.is_none_or(|last| stream <= last);
            streams
                .iter()
                .any(|(&stream, (_, came))| awaited(stream) && matches!(came, Came::Nothing | Came::Part))
        };
        while open(&streams, last) || !goes_on {
            if !reads_frame(&mut line, &mut streams, &mut last, &answered).await {
                return unanswered(streams, last);
            }
        }
    }
}

/// Takes the next frame in; false at the end.
async fn reads_frame(
    line: &mut Raw,
    streams: &mut BTreeMap<u32, (String, Came)>,
    last: &mut Option<u32>,
    answered: &AtomicUsize,
) -> bool {
    let Some(head) = line.take(9).await else { return false };
    let length = head[..3].iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let Some(payload) = line.take(length).await else { return false };
    let (kind, flags) = (head[3], head[4]);
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let stream = number(&head[5..9]);
    match kind {
        SETTINGS | PING if flags & ACK == 0 => {
            let echo = if kind == PING { &payload[..] } else { &[] };
            line.send(frame(kind, ACK, 0, echo)).await;
        }
        GOAWAY => {
            assert_eq!(number(&payload[4..8]), 0, "nothing was wrong");
            *last = Some(number(&payload[..4]));
        }
        RST_STREAM => {
            assert_eq!(payload[3], REFUSED_STREAM, "stream {stream}");
            streams.get_mut(&stream).unwrap().1 = Came::Refused;
        }
        HEADERS | DATA => {
            assert!(kind == DATA || payload[0] == 0x88, "200, and not {payload:?}");
            let ended = flags & END_STREAM != 0;
            answered.fetch_add(usize::from(ended), Ordering::Relaxed);
            streams.get_mut(&stream).unwrap().1 = if ended { Came::All } else { Came::Part };
        }
        _ => {}
    }
    true
}

/// Each stream was answered whole, or the client was told that it was not begun with.
fn unanswered(streams: BTreeMap<u32, (String, Came)>, last: Option<u32>) -> Vec<String> {
    let mut left = Vec::new();
    for (stream, (path, came)) in streams {
        match came {
            Came::All => {}
            Came::Refused => left.push(path),
            Came::Nothing if last.is_some_and(|last| stream > last) => left.push(path),
            Came::Nothing | Came::Part => panic!("{came:?} of stream {stream}, the last is {last:?}"),
        }
    }
    left
}

#[tokio::test]
async fn each_request_of_that_instant_is_answered_whole_or_was_not_begun() {
    let certs = Certs::for_names(&["a.test"]);
    for round in 0..4 {
        let origin = Origin::start("one").await;
        let mut gateway = before(&origin, &certs).await;
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for client in 0..16 {
            let answered = answered.clone();
            clients.push(match client % 4 {
                0 => tokio::spawn(asks(Raw::tcp(gateway.http()).await, client, answered)),
                1 => tokio::spawn(asks(Raw::tls(gateway.https(), "a.test", &certs).await, client, answered)),
                kind => {
                    let line = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
                    tokio::spawn(asks_for_many(line, client, kind == 2, answered))
                }
            });
        }
        let busy = async || answered.load(Ordering::Relaxed) > 200;
        eventually(PATIENCE, "all are at it", busy).await;
        pass(Duration::from_millis(7 * round)).await;

        gateway.process().signal(Signal::TERM);
        let mut left = Vec::new();
        for client in clients {
            left.extend(client.await.unwrap());
        }
        assert_eq!(gateway.process().ended().await.code(), Some(0));
        let seen = origin.seen();
        for path in left.iter().filter(|path| !path.starts_with("/kept")) {
            assert!(seen.iter().all(|seen| seen.target != *path), "{path} was begun and not answered");
        }
    }
}

#[tokio::test]
async fn who_had_begun_to_ask_is_answered_however_long_that_takes() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gate = Gate::closed();
    origin.answer("/slow", Reply::ok("at last").behind(&gate));
    let mut gateway = before(&origin, &certs).await;
    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n").await;
    // Another connection that was made later is served, so the first bytes of this one have been read, or soon are.
    let mut other = Raw::tcp(gateway.http()).await;
    assert_eq!(other.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status, 200);
    drop(other);

    gateway.process().signal(Signal::TERM);
    let address = gateway.http();
    let refuses = async || TcpStream::connect(address).await.is_err();
    eventually(PATIENCE, "new connections are refused", refuses).await;
    client.send("\r\n").await;
    eventually(PATIENCE, "the origin is asked", async || origin.requests("/slow") == 1).await;
    // Longer than idle connections are waited for.
    pass(Duration::from_millis(2500)).await;
    gate.open();
    let (head, body) = client.answer().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"at last", "{head}");
    assert_eq!(gateway.process().ended().await.code(), Some(0));
}

/// Until it is closed: whoever speaks on it is not cut off by the end of the process, nor does the process wait for longer.
#[tokio::test]
async fn a_websocket_goes_on_through_the_drain_and_ends_it() {
    let origin = Speaker::start(|mut stream| async move {
        speaker::head(&mut stream).await;
        let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(switch.as_bytes()).await;
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            let _ = stream.write_all(&bytes[..count]).await;
        }
    })
    .await;
    let certs = Certs::for_names(&["a.test"]);
    let listen = https(&certs);
    let config = format!("{listen}{LONG_GRACE}[routes.all]\nupstream = \"{}\"\n", origin.address());
    let mut gateway = Gateway::start(&config).await;
    let mut client = Raw::tls(gateway.https(), "a.test", &certs).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 "));

    gateway.process().signal(Signal::TERM);
    let drains =
        async || gateway.admin_get("/ready").await.json()["missing"] == serde_json::json!(["draining"]);
    eventually(PATIENCE, "it drains", drains).await;
    for word in ["still", "here"] {
        client.send(word).await;
        assert_eq!(client.bytes(word.len()).await, word.as_bytes());
    }
    assert_eq!(gateway.count("tidegate_websockets_open").await, 1);
    drop(client);
    assert!(gateway.process().ended().await.success());
}

/// Less than the system takes of an answer whose client takes nothing of it, so that it is written long before it is taken.
const LARGE: usize = 2 << 20;

#[tokio::test]
async fn who_takes_its_last_answer_slowly_over_http2_has_all_of_it() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/large", Reply::ok(vec![b'a'; LARGE]));
    let mut gateway = before(&origin, &certs).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let tcp = must("a connection", socket.connect(gateway.https())).await.unwrap();
    let mut client = Raw::tls_over(tcp, "h2", "a.test", &certs).await;
    let room = [0x3f, 0xff, 0xff, 0];
    let fields = [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/large")];
    let setting = frame(SETTINGS, 0, 0, &[&[0, 4][..], &room].concat());
    let asked = [PREFACE, &setting, &frame(WINDOW_UPDATE, 0, 0, &room), &h2::request(&fields)].concat();
    client.send(asked).await;
    while h2::read(&mut client).await.expect("an answer").0 != HEADERS {}

    gateway.process().signal(Signal::TERM);
    let mut came = 0;
    loop {
        let (kind, flags, _, payload) = h2::read(&mut client).await.expect("all of it");
        if kind == PING && flags & ACK == 0 {
            client.send(frame(PING, ACK, 0, &payload)).await;
        }
        came += if kind == DATA { payload.len() } else { 0 };
        if kind == DATA && flags & END_STREAM != 0 {
            break;
        }
        // A connection that is closed by now resets who sends anything, and what it was sent is lost.
        client.send(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
        pass(Duration::from_millis(50)).await;
    }
    assert_eq!(came, LARGE);
    drop(client);
    assert_eq!(gateway.process().ended().await.code(), Some(0));
}

/// Who has connected when the process is told to end is answered: whether it was accepted, in the middle of its handshake,
/// or neither.
#[tokio::test]
async fn who_came_before_the_end_is_answered_also_where_nobody_has_accepted_it_yet() {
    const CLIENTS: usize = 40;
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let mut gateway = before(&origin, &certs).await;
    let (http, https) = (gateway.http(), gateway.https());
    gateway.process().signal(Signal::STOP);

    // The system accepts them; the process, which stands still, does not.
    let mut plain = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Raw::tcp(http).await;
        client.send("GET /plain HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        plain.push(client);
    }
    let mut tcp = Vec::new();
    for _ in 0..CLIENTS {
        tcp.push(must("a connection", TcpStream::connect(https)).await.unwrap());
    }
    let certs = Arc::new(certs);
    let secure: Vec<_> = tcp
        .into_iter()
        .enumerate()
        .map(|(number, tcp)| {
            let certs = certs.clone();
            tokio::spawn(async move {
                if number % 2 == 0 {
                    let mut client = Raw::tls_over(tcp, "http/1.1", "a.test", &certs).await;
                    return client.ask("GET /tls HTTP/1.1\r\nHost: a.test\r\n\r\n").await.status == 200;
                }
                let mut client = Raw::tls_over(tcp, "h2", "a.test", &certs).await;
                let fields =
                    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/h2")];
                client.send([PREFACE, &h2::request(&fields)].concat()).await;
                let answered = loop {
                    match h2::read(&mut client).await {
                        Some((HEADERS, .., payload)) => break payload[0] == 0x88,
                        Some(_) => {}
                        None => break false,
                    }
                };
                // It is told to go once it has its answer.
                drop(client);
                answered
            })
        })
        .collect();
    // Their greetings are on the way.
    pass(Duration::from_millis(200)).await;
    gateway.process().signal(Signal::TERM);
    gateway.process().signal(Signal::CONT);

    for client in &mut plain {
        let (head, body) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"one answers", "{head:?}");
    }
    drop(plain);
    for client in secure {
        assert!(client.await.unwrap());
    }
    assert_eq!(gateway.process().ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_handshake_that_has_begun_is_waited_for() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let mut gateway = before(&origin, &certs).await;
    let mut tcp = TcpStream::connect(gateway.https()).await.unwrap();
    // Its client speaks by way of this pair, so that its greeting can be held back.
    let (client, mut wire) = tokio::io::duplex(64 << 10);
    let connector = tokio_rustls::TlsConnector::from(certs.client(&["http/1.1"]));
    let asks = tokio::spawn(async move {
        let mut client = connector.connect("a.test".try_into().unwrap(), client).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    });
    let mut greeting = [0; 50];
    wire.read_exact(&mut greeting).await.unwrap();
    tcp.write_all(&greeting).await.unwrap();
    let arrives = async || gateway.count("tidegate_connections_arriving").await == 1;
    eventually(PATIENCE, "it has come", arrives).await;

    gateway.process().signal(Signal::TERM);
    let address = gateway.https();
    eventually(PATIENCE, "no more are accepted", async || TcpStream::connect(address).await.is_err()).await;
    // Longer than who has said nothing is waited for, and longer than idle connections are.
    pass(Duration::from_millis(2500)).await;
    let relayed = tokio::io::copy_bidirectional(&mut wire, &mut tcp);
    let _ = must("all is said", relayed).await;
    let answer = asks.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("one answers"), "{answer:?}");
    drop((wire, tcp));
    assert_eq!(gateway.process().ended().await.code(), Some(0));
}

#[tokio::test]
async fn who_does_not_heed_that_it_is_to_go_does_not_hold_up_the_end() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let mut gateway = before(&origin, &certs).await;
    let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
    client.send([PREFACE, &frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes())].concat()).await;
    let asks = |stream: u32| {
        let fields =
            [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/kept/page")];
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&fields))
    };
    // Ten at a time, so that there is always one under way; it never says that it has heard anything.
    client.send((0..10).flat_map(|number| asks(2 * number + 1)).collect::<Vec<_>>()).await;
    let (mut next, mut last, mut refused) = (21, None, 0);
    while let Some((kind, flags, stream, payload)) = h2::read(&mut client).await {
        match kind {
            GOAWAY => last = Some(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            RST_STREAM => {
                assert_eq!(payload[3], REFUSED_STREAM);
                assert!(last.is_some_and(|last| stream > last), "{stream} is not begun with");
                refused += 1;
            }
            HEADERS | DATA if flags & END_STREAM == 0 => continue,
            HEADERS | DATA => {}
            _ => continue,
        }
        if stream > 0 {
            client.send(asks(next)).await;
            next += 2;
            if next == 101 {
                // Once: a second signal would end it at once.
                gateway.process().signal(Signal::TERM);
            }
        }
    }
    // The first farewell names no stream; the second does, although nobody has said that the first was heard.
    assert!(last.is_some_and(|last| last < next) && refused < 1_000, "{last:?} {refused}");
    drop(client);
    assert_eq!(gateway.process().ended().await.code(), Some(0));
}
