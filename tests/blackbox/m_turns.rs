//! Turns with an upstream: who pauses lets others go first, and who leaves is waited for by nobody.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::task::JoinHandle;

use crate::support::client::Answer;
use crate::support::{Certs, Client, Gate, Gateway, Origin, PATIENCE, Raw, Reply, eventually, group, must};

const URL: &str = "https://a.test/";

/// A gateway before this server, for one request at a time.
async fn one_by_one(certs: &Certs, origin: &Origin, settings: &str, road: &str) -> Gateway {
    let settings = format!(
        "outlier_detection = false\nlimits = {{ max_connections = 1, max_pending = 9 }}\n\
         retries = {{ on = [\"503\"] }}\n{settings}"
    );
    Gateway::start(&(group(certs, &[origin.address().to_string()], &settings) + road)).await
}

/// An origin that is busy, and asks for longer than any test lasts.
async fn busy() -> Origin {
    let origin = Origin::start("one").await;
    origin.answer("/", Reply::new(503, "busy").field("retry-after", "29"));
    origin
}

#[tokio::test]
async fn who_pauses_for_long_lets_others_go_first() {
    let certs = Certs::for_names(&["a.test"]);
    for road in ["", "cache = true\n"] {
        let origin = busy().await;
        let gateway = one_by_one(&certs, &origin, "", road).await;
        let client = Client::http2(&gateway, &certs);

        let pausing = tokio::spawn(client.get_later(URL));
        eventually(PATIENCE, "the first is answered", async || origin.requests("/") == 1).await;
        let other = client.get("https://a.test/other").await;

        assert_eq!((other.status, other.text()), (200, "one answers"), "{road}");
        assert_eq!(origin.requests("/"), 1, "{road}: the first pauses still");
        pausing.abort();
    }
}

#[tokio::test]
async fn who_has_paused_takes_a_turn_again() {
    let certs = Certs::for_names(&["a.test"]);
    let (origin, gate) = (Origin::start("one").await, Gate::closed());
    let asked = AtomicUsize::new(0);
    origin.answer_by("/", move |_| match asked.fetch_add(1, Relaxed) {
        0 => Reply::new(503, "busy").field("retry-after", "1"),
        _ => Reply::ok("well again"),
    });
    origin.answer("/other", Reply::ok("other").behind(&gate));
    let gateway = one_by_one(&certs, &origin, "timeouts = { connect = \"1m\" }", "").await;
    let client = Client::http2(&gateway, &certs);

    let paused = tokio::spawn(client.get_later(URL));
    eventually(PATIENCE, "the first is answered", async || origin.requests("/") == 1).await;
    let other = tokio::spawn(client.get_later("https://a.test/other"));
    eventually(PATIENCE, "the first waits for its turn", async || pending(&gateway).await == 1).await;
    eventually(PATIENCE, "as the other has it", async || origin.requests("/other") == 1).await;
    assert_eq!(origin.requests("/"), 1);
    gate.open();
    assert_eq!(must("the other", other).await.unwrap().text(), "other");
    assert_eq!(must("the first", paused).await.unwrap().text(), "well again");
}

async fn pending(gateway: &Gateway) -> u64 {
    gateway.count("tidegate_upstream_pending").await
}

async fn in_flight(gateway: &Gateway) -> u64 {
    gateway.count("tidegate_requests_in_flight").await
}

/// A client that asks, until it leaves.
enum Asking {
    Http1(Raw),
    Http2(JoinHandle<Answer>),
}

impl Asking {
    async fn by(version: u8, gateway: &Gateway, certs: &Certs) -> Self {
        if version == 2 {
            return Self::Http2(tokio::spawn(Client::http2(gateway, certs).get_later(URL)));
        }
        let mut client = Raw::tls(gateway.https(), "a.test", certs).await;
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        Self::Http1(client)
    }

    fn leave(self) {
        match self {
            Self::Http1(client) => drop(client),
            Self::Http2(asking) => asking.abort(),
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_another_try_is_due_ends_its_request() {
    let certs = Certs::for_names(&["a.test"]);
    for version in [1, 2] {
        let origin = busy().await;
        let gateway = one_by_one(&certs, &origin, "", "").await;

        let client = Asking::by(version, &gateway, &certs).await;
        eventually(PATIENCE, "it is answered", async || origin.requests("/") == 1).await;
        client.leave();
        eventually(PATIENCE, "it is over", async || in_flight(&gateway).await == 0).await;
        assert_eq!(origin.requests("/"), 1, "HTTP/{version}: nobody waits for another try");
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_up_its_place_in_the_queue() {
    let certs = Certs::for_names(&["a.test"]);
    for version in [1, 2] {
        let (origin, gate) = (Origin::start("one").await, Gate::closed());
        origin.answer("/held", Reply::ok("held").behind(&gate));
        let gateway = one_by_one(&certs, &origin, "timeouts = { connect = \"1m\" }", "").await;

        let held = tokio::spawn(Client::http2(&gateway, &certs).get_later("https://a.test/held"));
        eventually(PATIENCE, "there is no place", async || origin.requests("/held") == 1).await;
        let client = Asking::by(version, &gateway, &certs).await;
        eventually(PATIENCE, "the next waits", async || pending(&gateway).await == 1).await;
        client.leave();
        eventually(PATIENCE, "nobody waits", async || pending(&gateway).await == 0).await;
        gate.open();
        assert_eq!(must("the answer", held).await.unwrap().text(), "held");
        assert_eq!(origin.requests("/"), 0, "HTTP/{version}");
    }
}
