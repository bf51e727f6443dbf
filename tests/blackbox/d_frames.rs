//! What HTTP/2 allows a client to send, frame by frame, and what must come of it: the conversations of `tests/http2`.

use crate::support::frames::talks;
use crate::support::h2::{DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM};
use crate::support::{Certs, Gateway, Origin, PATIENCE, Raw, Reply, eventually, h2, https};

async fn play(file: &str) {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    origin.answer("/a", Reply::ok("five!"));
    let (top, server) = (https(&certs), origin.address());
    let gateway = Gateway::start(&format!("{top}[routes.all]\nupstream = \"{server}\"\n")).await;
    let mut wrong = Vec::new();
    for talk in talks(&format!("http2/{file}")) {
        let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
        if let Err(why) = talk.play(&mut client).await {
            wrong.push(format!("{}: {why}", talk.title));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn frames() {
    play("frames.txt").await;
}

#[tokio::test]
async fn messages() {
    play("messages.txt").await;
}

#[tokio::test]
async fn packed_fields() {
    play("hpack.txt").await;
}

/// Whether there is an answer or not: who looks into the log sees what was asked, and the metrics count it.
#[tokio::test]
async fn what_is_refused_for_its_form_is_told_counted_and_logged_like_any_other_refusal() {
    let certs = Certs::for_names(&["a.test"]);
    let origin = Origin::start("one").await;
    let (top, server) = (https(&certs), origin.address());
    let config = format!("{top}log.access = \"json\"\n[routes.all]\nupstream = \"{server}\"\n");
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::tls_offering("h2", gateway.https(), "a.test", &certs).await;
    client.send(h2::PREFACE).await;

    let large = "x".repeat(40_000);
    let cases = [
        ("/large", ("x", &*large), 431, "head-too-large"),
        ("/elsewhere", ("host", "b.test"), 400, "bad-request"),
        ("/foreign", ("connection", "close"), 0, "bad-request"),
    ];
    for (stream, (path, field, status, reason)) in (1..).step_by(2).zip(cases) {
        let asked =
            [(":method", "GET"), (":scheme", "https"), (":authority", "a.test"), (":path", path), field];
        client.send(in_frames(stream, &h2::block(&asked))).await;
        let (told, body) = answer(&mut client, stream).await;
        assert_eq!(told, status, "{path}");

        let line = gateway.access_line_of(path, |_| true).await;
        let logged = (&line["status"], &line["reason"], &line["protocol"], &line["method"]);
        assert_eq!(logged, (&status.into(), &reason.into(), &"HTTP/2".into(), &"GET".into()));
        if status > 0 {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()), "{path}");
            assert_eq!(problem["request_id"], line["request_id"]);
        }
        let counted = async || {
            let answers = format!("tidegate_requests_total{{route=\"-\",status=\"{status}\"}}");
            gateway.count(&answers).await == 1
        };
        eventually(PATIENCE, "it is counted", counted).await;
    }
    for (reason, times) in [("head-too-large", 1), ("bad-request", 2)] {
        let refused = format!("tidegate_refusals_total{{route=\"-\",reason=\"{reason}\"}}");
        assert_eq!(gateway.count(&refused).await, times);
    }
    assert!(origin.seen().is_empty());
}

/// A request without a body, whose fields may take several frames.
fn in_frames(stream: u32, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16_384).peekable();
    let (mut kind, mut bytes) = (HEADERS, Vec::new());
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let ends = if kind == HEADERS { END_STREAM } else { 0 };
        bytes.extend(h2::frame(kind, last | ends, stream, piece));
        kind = h2::CONTINUATION;
    }
    bytes
}

/// Status and body of the answer on a stream; 0 if it was reset.
async fn answer(client: &mut Raw, on: u32) -> (u16, Vec<u8>) {
    let (mut status, mut body) = (0, Vec::new());
    loop {
        let (kind, flags, stream, payload) = h2::read(client).await.expect("the connection goes on");
        match kind {
            HEADERS if stream == on => status = h2::status(&payload),
            DATA if stream == on => body.extend(&payload),
            RST_STREAM if stream == on => return (0, body),
            _ => continue,
        }
        if flags & END_STREAM > 0 {
            return (status, body);
        }
    }
}
