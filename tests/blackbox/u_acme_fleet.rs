//! A fleet that obtains its certificates together: one node orders, any of them shows what is to be proved, all serve.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::support::handshake::{handshake, is_served, leaf};
use crate::support::pebble::{LONG, Pebble, Relay};
use crate::support::redis::Redis;
use crate::support::{Gateway, PATIENCE, eventually, pass};

const ISSUED: &str = "tidegate_acme_orders_total{outcome=\"issued\"}";
const PROOFS: &str = "tidegate_acme_proofs_total";

struct Site {
    relay: Relay,
    pebble: Pebble,
    redis: Redis,
    client: Arc<ClientConfig>,
    challenge: &'static str,
}

impl Site {
    async fn open(challenge: &'static str) -> Self {
        let relay = Relay::open().await;
        let pebble = Pebble::start(&relay, LONG).await;
        let client = pebble.client().await;
        Self { relay, pebble, redis: Redis::start().await, client, challenge }
    }

    async fn node(&self) -> Gateway {
        let acme = self.pebble.acme(&format!(", storage = \"redis\", challenge = \"{}\"", self.challenge));
        Gateway::start(&format!(
            "listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
             redis = {{ url = \"{}\", timeout = \"10s\" }}\n{acme}\
             [routes.a]\nhost = \"a.test\"\nrespond = {{ status = 200, body = \"fine\" }}\n",
            self.redis.url()
        ))
        .await
    }

    fn lead_to(&self, node: &Gateway) {
        self.relay.point(node.http(), node.https());
    }

    async fn shown(&self, node: &Gateway) -> CertificateDer<'static> {
        let mut found = None;
        eventually(PATIENCE, "a certificate of the authority is shown", async || {
            found = handshake(node.https(), "a.test", &self.client).await.ok();
            found.is_some()
        })
        .await;
        let mut stream = found.unwrap();
        is_served(&mut stream).await;
        leaf(&stream)
    }

    fn key(&self, name: &str) -> String {
        format!("tidegate:acme:{}:{name}", self.pebble.name())
    }
}

/// The first node orders, the second is asked for the proof, the third only watches.
async fn one_orders_and_another_proves(challenge: &'static str) {
    let site = Site::open(challenge).await;
    let orders = site.node().await;
    site.relay.is_asked().await;
    let (proves, watches) = (site.node().await, site.node().await);
    site.lead_to(&proves);

    let certificate = site.shown(&orders).await;
    for node in [&proves, &watches] {
        assert_eq!(site.shown(node).await, certificate);
    }
    let issued = async || orders.metric(ISSUED).await == 1.0;
    eventually(PATIENCE, "the order is counted", issued).await;
    assert_eq!((orders.metric(PROOFS).await, watches.metric(PROOFS).await), (0.0, 0.0));
    assert!(proves.metric(PROOFS).await >= 1.0);
    for node in [&proves, &watches] {
        assert_eq!(node.metric("tidegate_acme_orders_total").await, 0.0);
    }
}

#[tokio::test]
async fn one_node_orders_another_answers_the_request_and_all_serve() {
    one_orders_and_another_proves("http-01").await;
}

#[tokio::test]
async fn one_node_orders_another_answers_the_handshake_and_all_serve() {
    one_orders_and_another_proves("tls-alpn-01").await;
}

#[tokio::test]
async fn a_node_that_dies_while_it_orders_is_followed_by_another() {
    let site = Site::open("http-01").await;
    let mut dies = site.node().await;
    site.relay.is_asked().await;
    dies.process().kill();
    let follows = site.node().await;
    assert!(
        !site.redis.cli(&["GET", &site.key("lock")]).is_empty(),
        "the lock outlives the node for a while"
    );
    site.lead_to(&follows);
    site.shown(&follows).await;
    assert_eq!(follows.metric(ISSUED).await, 1.0);
}

#[tokio::test]
async fn what_a_node_ordered_and_did_not_live_to_fetch_another_fetches() {
    let site = Site::open("http-01").await;
    let mut dies = site.node().await;
    site.relay.is_asked().await;
    let draft = site.redis.cli(&["GET", &site.key("a.test.order.json")]);
    site.lead_to(&dies);
    let certificate = site.shown(&dies).await;
    dies.process().kill();
    // As if it had died right after the order was final.
    site.redis.cli(&["DEL", &site.key("a.test.pem"), &site.key("lock")]);
    site.redis.cli(&["SET", &site.key("a.test.order.json"), &draft]);

    let follows = site.node().await;
    assert_eq!(site.shown(&follows).await, certificate, "the same certificate, for the same key");
    assert_eq!(follows.metric(PROOFS).await, 0.0);
}

#[tokio::test]
async fn what_one_node_obtains_anew_all_show_soon_though_theirs_is_far_from_due() {
    let site = Site::open("http-01").await;
    let (renews, follows) = (site.node().await, site.node().await);
    site.lead_to(&renews);
    let first = site.shown(&renews).await;
    assert_eq!(site.shown(&follows).await, first);

    // Its certificate is to end after the first one, in whole seconds.
    pass(Duration::from_millis(1100)).await;
    site.lead_to(&follows);
    drop(renews);
    // What is not there would be put back by the other node, what is damaged is obtained anew.
    site.redis.cli(&["SET", &site.key("a.test.pem"), "damaged"]);
    let renews = site.node().await;
    let second = site.shown(&renews).await;
    assert_ne!(second, first);
    let shows = async || site.shown(&follows).await == second;
    eventually(PATIENCE, "the other node shows it, too", shows).await;
    assert_eq!(follows.metric(ISSUED).await, 0.0);
}

#[tokio::test]
async fn without_redis_what_is_in_memory_is_shown() {
    let mut site = Site::open("http-01").await;
    let node = site.node().await;
    site.lead_to(&node);
    let certificate = site.shown(&node).await;
    site.redis.kill9();
    assert_eq!(site.shown(&node).await, certificate);
}
