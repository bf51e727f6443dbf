//! HTTP/2 clients that send and take slowly: who keeps us waiting is let go, and who waits for a turn is not.

use std::time::Duration;

use crate::support::h2::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::support::{Certs, Gateway, Origin, PATIENCE, Raw, Reply, Wire, eventually, h2, https, pass};

const CANCEL: &[u8] = &[0, 0, 0, 8];
/// More than a connection's window of 64 KiB.
const LARGE: usize = 1 << 20;
/// Between two moves of a client.
const PAUSE: Duration = Duration::from_millis(50);

async fn gateway(certs: &Certs, server: std::net::SocketAddr, downstream: &str, route: &str) -> Gateway {
    let top = https(certs);
    let downstream = format!("downstream = {{ {downstream} }}\nlog.access = \"json\"");
    Gateway::start(&format!("{top}{downstream}\n[routes.all]\n{route}\nupstream = \"{server}\"\n")).await
}

async fn connect(gateway: &Gateway, certs: &Certs) -> Raw {
    let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", certs).await;
    client.send(PREFACE).await;
    client
}

fn head(method: &str, path: &str, flags: u8, stream: u32) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", "a.test"), (":path", path)];
    h2::frame(HEADERS, END_HEADERS | flags, stream, &h2::block(&fields))
}

fn room(stream: u32, bytes: u32) -> Vec<u8> {
    h2::frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

/// Makes the same move again and again, until a frame comes that is wanted; panics when it goes on for too long.
async fn moves_until(client: &mut Raw, bytes: &[u8], is: impl Fn(&h2::Frame) -> bool) -> h2::Frame {
    for _ in 0..600 {
        while client.has_answer_within(PAUSE).await {
            let frame = h2::read(client).await.expect("the connection goes on");
            if is(&frame) {
                return frame;
            }
        }
        client.send(bytes).await;
    }
    panic!("it is still let go on");
}

/// All of an answer's body on a stream, to its end.
async fn body(client: &mut Raw, stream: u32) -> usize {
    let mut length = 0;
    loop {
        let (kind, flags, of, payload) = h2::read(client).await.expect("the connection goes on");
        assert!(kind != RST_STREAM || of != stream, "{payload:?}");
        if kind == DATA && of == stream {
            length += payload.len();
        }
        if of == stream && flags & END_STREAM != 0 {
            return length;
        }
    }
}

async fn goes_on(client: &mut Raw) {
    client.send(h2::frame(PING, 0, 0, &[7; 8])).await;
    while h2::read(client).await.expect("the connection goes on").0 != PING {}
}

const SLOW_BODIES: &str = "body_timeout = \"400ms\", min_body_rate = \"1KiB\"";

#[tokio::test]
async fn a_body_that_trickles_is_a_408_though_it_never_stops() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = gateway(&certs, origin.address(), SLOW_BODIES, "").await;
    let mut client = connect(&gateway, &certs).await;
    client.send(head("POST", "/slow", 0, 1)).await;
    let drop = h2::frame(DATA, 0, 1, b"a");
    let (.., block) = moves_until(&mut client, &drop, |frame| frame.0 == HEADERS).await;
    assert_eq!(h2::status(&block), 408);
    goes_on(&mut client).await;
    let told = async || {
        let lines = gateway.access_lines();
        lines.iter().any(|line| line["status"] == 408 && line["reason"] == "request-timeout")
    };
    eventually(PATIENCE, "it is logged", told).await;
    assert_eq!(gateway.count("tidegate_refusals_total{reason=\"request-timeout\"}").await, 1);
}

#[tokio::test]
async fn a_body_that_trickles_behind_the_begin_of_its_answer_breaks_that_off() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Wire::start(|_, mut line| async move {
        line.head().await;
        line.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
        line.closed().await;
    })
    .await;
    let gateway = gateway(&certs, origin.address(), SLOW_BODIES, "").await;
    let mut client = connect(&gateway, &certs).await;
    client.send(head("POST", "/slow", 0, 1)).await;
    let drop = h2::frame(DATA, 0, 1, b"a");
    let (.., block) = moves_until(&mut client, &drop, |frame| frame.0 == HEADERS).await;
    assert_eq!(h2::status(&block), 200);
    let (.., code) = moves_until(&mut client, &drop, |frame| frame.0 == RST_STREAM).await;
    assert_eq!(code, CANCEL);
    goes_on(&mut client).await;
}

#[tokio::test]
async fn a_body_that_waits_for_its_turn_is_no_slow_one() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let gateway = gateway(&certs, origin.address(), SLOW_BODIES, "").await;
    let mut client = connect(&gateway, &certs).await;
    client.send([head("POST", "/second", 0, 1), head("POST", "/first", 0, 3)].concat()).await;
    let piece = h2::frame(DATA, 0, 3, &[7; 2048]);
    for _ in 0..40 {
        client.send(&piece).await;
        pass(PAUSE).await;
    }
    client.send(h2::frame(DATA, END_STREAM, 3, &[])).await;
    client.send(h2::frame(DATA, END_STREAM, 1, b"at last")).await;
    for _ in 0..2 {
        let (.., block) = moves_until(&mut client, &[], |frame| frame.0 == HEADERS).await;
        assert!(matches!(block[0], 0x88 | 0xbe..), "both are answered: {block:?}");
    }
    let seen = origin.seen();
    let body = |path: &str| seen.iter().find(|seen| seen.target == path).unwrap().body.len();
    assert_eq!((body("/first"), body("/second")), (40 * 2048, 7));
}

const SLOW_ANSWERS: &str = "send_timeout = \"400ms\", min_send_rate = \"1KiB\"";

#[tokio::test]
async fn who_makes_room_by_the_byte_is_let_go() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/large", Reply::ok(vec![7; LARGE]).fresh_for(60));
    let gateway = gateway(&certs, origin.address(), SLOW_ANSWERS, "cache = true").await;
    for round in ["from the origin", "from memory"] {
        let mut client = connect(&gateway, &certs).await;
        client.send(h2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
        client.send(head("GET", "/large", END_STREAM, 1)).await;
        let (.., code) = moves_until(&mut client, &room(1, 1), |frame| frame.0 == RST_STREAM).await;
        assert_eq!(code, CANCEL, "{round}");
        goes_on(&mut client).await;
        let told = async || {
            let lines = gateway.access_lines();
            lines.iter().any(|line| line["path"] == "/large" && line["reason"] == "client-left")
        };
        eventually(PATIENCE, "it is logged", told).await;
    }
    assert_eq!(gateway.count("tidegate_send_timeouts_total").await, 2);
}

#[tokio::test]
async fn an_answer_that_waits_for_its_turn_is_not_let_go() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/large", Reply::ok(vec![7; LARGE]).fresh_for(60));
    let gateway = gateway(&certs, origin.address(), SLOW_ANSWERS, "cache = true").await;
    for round in ["from the origin", "from memory"] {
        let mut client = connect(&gateway, &certs).await;
        client.send(h2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
        client
            .send([head("GET", "/large", END_STREAM, 1), head("GET", "/large", END_STREAM, 3)].concat())
            .await;
        // Forty times in two seconds, which is four times as much as both have to take.
        let some = [room(0, 4096), room(3, 4096)].concat();
        for _ in 0..40 {
            client.send(&some).await;
            let mut came = 0;
            while came < 4096 {
                let (kind, _, stream, payload) = h2::read(&mut client).await.expect("the connection goes on");
                assert_ne!(kind, RST_STREAM, "{round}: {stream} {payload:?}");
                came += if kind == DATA { payload.len() } else { 0 };
            }
            pass(PAUSE).await;
        }
        client.send([room(0, 1 << 30), room(1, 1 << 30)].concat()).await;
        assert_eq!(body(&mut client, 1).await, LARGE, "{round}");
        client.send(room(3, 1 << 30)).await;
        assert_eq!(body(&mut client, 3).await, LARGE - 40 * 4096, "{round}");
    }
}

/// Clients, and what each asks for at once without room for a byte of it.
const CLIENTS: usize = 4;
const STREAMS: u32 = 90;

#[tokio::test]
async fn answers_that_nobody_has_room_for_stay_with_their_servers() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/large", Reply::ok(vec![b'a'; LARGE]));
    let gateway = gateway(&certs, origin.address(), "", "").await;
    let no_room = h2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let asks = (0..STREAMS).flat_map(|at| head("GET", "/large", END_STREAM, 2 * at + 1)).collect::<Vec<_>>();
    let before = gateway.resident();

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = connect(&gateway, &certs).await;
        client.send(&no_room).await;
        client.send(&asks).await;
        clients.push(client);
    }
    for client in &mut clients {
        let mut heads = 0;
        while heads < STREAMS {
            let (kind, ..) = h2::read(client).await.expect("the connection goes on");
            heads += u32::from(kind == HEADERS);
        }
    }
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(gateway.resident());
        pass(PAUSE).await;
    }
    let grown = most.saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for {CLIENTS} connections");
}
