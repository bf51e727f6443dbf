//! What HTTP/2 allows a client to send, frame by frame, and what must come of it: the conversations of `tests/http2`.

use crate::support::frames::talks;
use crate::support::{Certs, Gateway, Origin, Raw, Reply, https};

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
