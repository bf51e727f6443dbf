//! HTTP/2 clients that send what costs us more than them: each is told to go, and others are served.

use std::time::Duration;

use crate::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::support::{Certs, Gate, Gateway, Origin, Raw, Reply, eventually, h2, https, must};

/// A payload that begins with the length of its padding.
const PADDED: u8 = 8;
const ENHANCE_YOUR_CALM: Option<u8> = Some(11);
const FLOODS: &str = "tidegate_http2_connections_ended_total{reason=\"flood\"}";
const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", "/fine")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "a.test"), (":path", "/up")];

struct Scene {
    certs: Certs,
    origin: Origin,
    gateway: Gateway,
}

impl Scene {
    /// `more` are lines of `[downstream]`.
    async fn set(more: &str) -> Self {
        let certs = Certs::for_names(&["a.test"]);
        let origin = Origin::start("one").await;
        let (top, server) = (https(&certs), origin.address());
        let config =
            format!("{top}[downstream]\n{more}\n[routes.all]\nupstream = \"{server}\"\ncache = true\n");
        let gateway = Gateway::start(&config).await;
        Self { certs, origin, gateway }
    }

    /// A connection on which nothing was said yet.
    async fn connect(&self) -> Raw {
        Raw::tls_offering("h2", self.gateway.https(), "a.test", &self.certs).await
    }

    /// A connection on which this is said after what each begins with.
    async fn says(&self, bytes: &[u8]) -> Raw {
        let mut client = self.connect().await;
        client.send([PREFACE, bytes].concat()).await;
        client
    }

    /// Somebody else asks, and is answered.
    async fn serves_others(&self) {
        let mut client = self.says(&h2::request(&GET)).await;
        assert_eq!(h2::verdict(&mut client).await, "200");
    }

    /// So many connections are counted as floods, the last once it is closed on both sides.
    async fn counts(&self, floods: u64) {
        let what = format!("{floods} floods are counted");
        let counted = async || self.gateway.count(FLOODS).await == floods;
        eventually(Duration::from_secs(20), &what, counted).await;
    }
}

fn get(stream: u32) -> Vec<u8> {
    h2::frame(HEADERS, END_STREAM | END_HEADERS, stream, &h2::block(&GET))
}

#[tokio::test]
async fn frames_that_manage_a_connection_have_a_bound() {
    let scene = Scene::set("").await;
    let floods = [
        ("PING", h2::frame(PING, 0, 0, &[7; 8])),
        ("PING, answered", h2::frame(PING, 1, 0, &[7; 8])),
        ("SETTINGS", h2::frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS that change", h2::frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 16, 0])),
        ("PRIORITY", h2::frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])),
        ("WINDOW_UPDATE", h2::frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("WINDOW_UPDATE, one stream", h2::frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        ("RST_STREAM", h2::frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("a kind that nobody knows", h2::frame(0x42, 0, 0, &[])),
    ];
    for (name, frame) in &floods {
        let mut client = scene.says(&get(1)).await;
        client.send(frame.repeat(5_000)).await;
        assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM, "{name}");
    }
    scene.serves_others().await;
    scene.counts(floods.len() as u64).await;
    let told = scene.gateway.wrote().matches("an HTTP/2 client floods").count();
    assert_eq!(told, 1, "it is said once, however many there are");
}

#[tokio::test]
async fn a_lively_client_is_no_flood() {
    let scene = Scene::set("").await;
    let mut client = scene.connect().await;
    client.send(PREFACE).await;
    for _ in 0..900 {
        client.send(h2::frame(PING, 0, 0, &[7; 8])).await;
    }
    client.send(h2::request(&GET)).await;
    assert_eq!(h2::verdict(&mut client).await, "200");
    scene.counts(0).await;
}

#[tokio::test]
async fn requests_that_are_given_up_at_once_have_a_bound() {
    let scene = Scene::set("").await;
    let mut client = scene.connect().await;
    client.send(PREFACE).await;
    let resets = (0..2_000).flat_map(|number| {
        let stream = 2 * number + 1;
        [get(stream), h2::frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    client.send(resets.collect::<Vec<_>>()).await;
    assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM);
    scene.counts(1).await;
    scene.serves_others().await;
}

#[tokio::test]
async fn requests_that_we_are_made_to_give_up_have_a_bound() {
    let scene = Scene::set("").await;
    // Each breaks its stream by a frame that the standard forbids (RFC 9113 sections 6.9.1 and 5.3.1).
    let broken = [
        ("too much room", h2::frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("its own parent", h2::frame(PRIORITY, 0, 0, &[0; 5])),
    ];
    for (name, frame) in broken {
        let mut client = scene.connect().await;
        client.send(PREFACE).await;
        let requests = (0..4_000_u32).flat_map(|number| {
            let stream = 2 * number + 1;
            let mut frame = frame.clone();
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
            if frame[3] == PRIORITY {
                frame[9..13].copy_from_slice(&stream.to_be_bytes());
            }
            [get(stream), frame].concat()
        });
        client.send(requests.collect::<Vec<_>>()).await;
        assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM, "{name}");
    }
    scene.counts(2).await;
    let asked = scene.origin.seen().len();
    assert!(asked < 4_000, "{asked} requests reached the origin");
    scene.serves_others().await;
}

#[tokio::test]
async fn so_many_requests_are_served_at_once_and_the_next_is_refused_alone() {
    const REFUSED_STREAM: u8 = 7;
    let scene = Scene::set("").await;
    let gate = Gate::closed();
    scene.origin.answer("/held", Reply::ok("held").behind(&gate));
    let held = [GET[0], GET[1], GET[2], (":path", "/held")];
    let ask = |stream| h2::frame(HEADERS, END_STREAM | END_HEADERS, stream, &h2::block(&held));
    let mut client = scene.says(&(0..102).flat_map(|number| ask(2 * number + 1)).collect::<Vec<_>>()).await;

    let mut refused = Vec::new();
    while refused.len() < 2 {
        let (kind, _, stream, payload) = h2::read(&mut client).await.expect("the connection goes on");
        assert_ne!(kind, HEADERS, "nobody has answered yet");
        if kind == RST_STREAM {
            refused.push((stream, payload[3]));
        }
    }
    assert_eq!(refused, [(201, REFUSED_STREAM), (203, REFUSED_STREAM)]);

    gate.open();
    let mut answered = 0;
    while answered < 100 {
        let (kind, ..) = h2::read(&mut client).await.expect("the connection goes on");
        assert_ne!(kind, RST_STREAM);
        answered += usize::from(kind == HEADERS);
    }
    client.send(get(205)).await;
    assert_eq!(h2::verdict(&mut client).await, "200", "there is room again");
    scene.counts(0).await;
}

#[tokio::test]
async fn malformed_requests_are_refused_alone_and_have_a_bound() {
    let scene = Scene::set("").await;
    let malformed = h2::block(&[GET[0], GET[1], GET[2], GET[3], ("connection", "close")]);
    let ask = |number: u32| h2::frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &malformed);
    let mut client = scene.says(&(0..20).flat_map(ask).collect::<Vec<_>>()).await;
    client.send(get(41)).await;
    assert_eq!(h2::verdict(&mut client).await, "reset");
    let mut resets = 1;
    loop {
        let (kind, _, stream, _) = h2::read(&mut client).await.expect("the connection goes on");
        match kind {
            RST_STREAM => resets += 1,
            HEADERS => break assert_eq!(stream, 41),
            _ => {}
        }
    }
    assert_eq!(resets, 20);

    let mut client = scene.says(&(0..40).flat_map(ask).collect::<Vec<_>>()).await;
    assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM);
    assert_eq!(scene.origin.seen().len(), 1);
    scene.serves_others().await;
}

#[tokio::test]
async fn fields_without_an_end_have_a_bound() {
    let scene = Scene::set("").await;
    let begin = h2::frame(HEADERS, END_STREAM, 1, &h2::block(&GET));
    let field = h2::block(&[("x", &"a".repeat(100))]);
    for (name, more) in [("empty", &[][..]), ("a byte", &[0]), ("fields", &field)] {
        let mut client = scene.says(&begin).await;
        client.send(h2::frame(CONTINUATION, 0, 1, more).repeat(10_000)).await;
        assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM, "{name}");
    }
    scene.counts(3).await;
    assert!(scene.origin.seen().is_empty());
    scene.serves_others().await;
}

#[tokio::test]
async fn few_bytes_that_stand_for_many_fields_are_not_unpacked() {
    let scene = Scene::set("").await;
    // A field of 3 KB that is remembered (RFC 7541 section 6.2.1), and then stands in one byte, thousands of times.
    let mut bomb = h2::block(&GET);
    bomb.extend([0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    bomb.extend([b'a'; 3_000]);
    bomb.extend([0xbe; 12_000]);
    let mut client = scene.says(&h2::frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
    assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM);
    assert!(scene.origin.seen().is_empty());
    scene.counts(1).await;
    scene.serves_others().await;
}

#[tokio::test]
async fn pieces_of_a_body_without_anything_in_them_have_a_bound() {
    let scene = Scene::set("").await;
    let nothing = [
        ("empty", h2::frame(DATA, 0, 1, &[])),
        ("the length of no padding", h2::frame(DATA, PADDED, 1, &[0])),
        ("padding", h2::frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
    ];
    for (name, frame) in &nothing {
        let mut client = scene.says(&h2::frame(HEADERS, END_HEADERS, 1, &h2::block(&POST))).await;
        client.send(frame.repeat(5_000)).await;
        assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM, "{name}");
    }
    scene.counts(nothing.len() as u64).await;
    scene.serves_others().await;
}

/// As gRPC clients end each body: by a frame of its own, with nothing in it.
#[tokio::test]
async fn bodies_that_end_with_an_empty_frame_are_no_flood() {
    let scene = Scene::set("").await;
    let mut client = scene.says(&[]).await;
    for round in 0..60 {
        let posts = (0..50).flat_map(|number| {
            let stream = 100 * round + 2 * number + 1;
            let head = h2::frame(HEADERS, END_HEADERS, stream, &h2::block(&POST));
            [head, h2::frame(DATA, 0, stream, b"body"), h2::frame(DATA, END_STREAM, stream, &[])].concat()
        });
        client.send(posts.collect::<Vec<_>>()).await;
        let mut ended = 0;
        while ended < 50 {
            let (kind, flags, ..) = h2::read(&mut client).await.expect("the connection goes on");
            ended += usize::from(matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0);
        }
    }
    scene.counts(0).await;
}

#[tokio::test]
async fn windows_that_change_without_an_end_have_a_bound() {
    let scene = Scene::set("").await;
    let changes: Vec<u8> =
        (0..2_000_u32).flat_map(|number| [0, 4, 0, 0, 0, 1 + (number % 2) as u8]).collect();
    let mut client = scene.says(&h2::frame(SETTINGS, 0, 0, &changes)).await;
    assert_eq!(h2::farewell(&mut client).await, ENHANCE_YOUR_CALM, "in a single frame");
    scene.counts(1).await;
    scene.serves_others().await;
}

#[tokio::test]
async fn a_connection_and_each_head_must_begin_and_end_in_time() {
    let scene = Scene::set("header_timeout = \"300ms\"").await;
    let patience = Duration::from_secs(20);
    let mut silent = scene.connect().await;
    assert!(silent.is_closed_within(patience).await, "without a preface");
    let mut half = scene.connect().await;
    half.send(&PREFACE[..20]).await;
    assert!(half.is_closed_within(patience).await, "with half of one");
    let mut greeted = scene.says(&[]).await;
    assert!(!greeted.is_closed_within(Duration::from_millis(900)).await, "who has begun may wait to ask");

    let mut client = scene.says(&h2::request(&GET)).await;
    assert_eq!(h2::verdict(&mut client).await, "200");
    client.send(h2::frame(HEADERS, END_STREAM, 3, &h2::block(&GET))).await;
    assert!(client.is_closed_within(patience).await, "with a head that has no end");
    let mut client = scene.says(&get(1)[..20]).await;
    assert!(client.is_closed_within(patience).await, "with a frame that has no end");
    assert_eq!(scene.gateway.count("tidegate_request_head_failures_total{reason=\"timeout\"}").await, 4);
}

#[tokio::test]
async fn who_takes_nothing_is_let_go_and_holds_up_no_other() {
    let scene = Scene::set("send_timeout = \"300ms\"").await;
    scene.origin.answer("/fine", Reply::ok(vec![7; 1 << 20]).fresh_for(60));
    let no_room = h2::frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    for round in ["from the origin", "from memory"] {
        let mut client = scene.connect().await;
        let asked = [&PREFACE[..24], &no_room, &get(1), &get(3)].concat();
        client.send(asked).await;
        let mut given_up = 0;
        while given_up < 2 {
            let head = must("an answer", client.take(9)).await.expect("the connection goes on");
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            client.take(length).await.unwrap();
            given_up += usize::from(head[3] == RST_STREAM);
            assert_ne!(head[3], DATA, "{round}: there is no room");
        }
        client.send(h2::frame(PING, 0, 0, &[7; 8])).await;
        assert!(client.take(17).await.is_some(), "{round}: the connection goes on");
    }
}

#[tokio::test]
async fn trailers_are_fields_and_no_head() {
    let scene = Scene::set("").await;
    let with = |trailer: (&str, &str)| {
        let asked = [
            h2::frame(HEADERS, END_HEADERS, 1, &h2::block(&POST)),
            h2::frame(DATA, 0, 1, b"body"),
            h2::frame(HEADERS, END_STREAM | END_HEADERS, 1, &h2::block(&[trailer])),
        ];
        asked.concat()
    };
    // RFC 9113 sections 8.1 and 8.2.2
    let refused =
        [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"), (":path", "/other")];
    for field in refused {
        let mut client = scene.says(&with(field)).await;
        assert_eq!(h2::verdict(&mut client).await, "reset", "{field:?}");
    }
    let whole = scene.origin.seen();
    assert!(whole.iter().all(|seen| seen.body != b"body"), "{whole:?}");
    let mut client = scene.says(&with(("x", "y"))).await;
    assert_eq!(h2::verdict(&mut client).await, "200");
    let seen = scene.origin.seen().pop().unwrap();
    assert_eq!((&*seen.target, &*seen.body, seen.field("x")), ("/up", &b"body"[..], None));
    scene.serves_others().await;
}
