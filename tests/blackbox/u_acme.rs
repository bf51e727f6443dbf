//! Certificates that are obtained from an authority: a real one, from the first order to the renewal.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::handshake::{handshake, is_served, leaf};
use crate::support::pebble::{EAB_KEY, LONG, Pebble, Relay};
use crate::support::{Certs, Gateway, Origin, PATIENCE, Raw, eventually, pass};

const ISSUED: &str = "tidegate_acme_orders_total{outcome=\"issued\"}";
const REFUSED: &str = "tidegate_acme_orders_total{outcome=\"refused\"}";
const FAILED: &str = "tidegate_acme_orders_total{outcome=\"failed\"}";
const MISSING: &str = "tidegate_acme_certificates_missing";
const NEXT: &str = "tidegate_acme_next_try_seconds{name=\"a.test\"}";

/// Listeners of both kinds, `a.test` answered by the gateway itself, and these lines of the top level.
fn config(top: &str) -> String {
    format!(
        "listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n{top}\
         [routes.a]\nhost = \"a.test\"\nrespond = {{ status = 200, body = \"fine\" }}\n"
    )
}

/// Waits until a client that trusts the authority is shown a certificate; gives it.
async fn shown(gateway: &Gateway, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let mut found = None;
    eventually(PATIENCE, "a certificate of the authority is shown", async || {
        found = handshake(gateway.https(), "a.test", client).await.ok();
        found.is_some()
    })
    .await;
    let mut stream = found.unwrap();
    is_served(&mut stream).await;
    leaf(&stream)
}

async fn counts(gateway: &Gateway, series: &str, least: f64) {
    let there = async || gateway.metric(series).await >= least;
    eventually(PATIENCE, &format!("{series} is {least}"), there).await;
}

#[tokio::test]
async fn a_certificate_is_obtained_by_a_handshake_and_outlives_a_restart_without_the_authority() {
    let relay = Relay::open().await;
    let mut pebble = Pebble::start(&relay, LONG).await;
    let client = pebble.client().await;
    let gateway = Gateway::start(&config(&pebble.acme(", challenge = \"tls-alpn-01\""))).await;

    // The authority cannot look yet: there is nothing to show, and nobody waits for it.
    gateway.ready().await;
    assert!(handshake(gateway.https(), "a.test", &client).await.is_err());
    let answer = Raw::tcp(gateway.http()).await.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(answer.status, 308);
    assert_eq!(gateway.metric(MISSING).await, 1.0);

    relay.point(gateway.http(), gateway.https());
    let first = shown(&gateway, &client).await;
    counts(&gateway, ISSUED, 1.0).await;
    assert_eq!(gateway.metric(MISSING).await, 0.0);
    assert!(gateway.metric("tidegate_acme_proofs_total{challenge=\"tls-alpn-01\"}").await >= 1.0);
    let (end, next) = (
        gateway.metric("tidegate_certificate_expiry_seconds{name=\"a.test\"}").await,
        gateway.metric(NEXT).await,
    );
    let share = (end - next) / f64::from(LONG);
    assert!((0.3..0.37).contains(&share), "renewed when {share} of its life is left");

    let folder = gateway.folder().join("acme").join(pebble.name());
    for name in ["account.json", "a.test.pem"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    pebble.go();
    let gateway = gateway.restart().await;
    let mut stream =
        handshake(gateway.https(), "a.test", &client).await.expect("shown from the first handshake on");
    is_served(&mut stream).await;
    assert_eq!(leaf(&stream), first);
    assert_eq!(gateway.metric("tidegate_acme_orders_total").await, 0.0);
}

#[tokio::test]
async fn a_certificate_is_obtained_by_a_request_before_redirects_and_whatever_is_cached() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let origin = Origin::start("origin").await;
    let top = "listen = [\"https://127.0.0.1:0\", { url = \"http://127.0.0.1:0\", redirect = false }]\nadmin = \"127.0.0.1:0\"\n";
    let route = format!(
        "[routes.a]\nhost = \"a.test\"\ncache = {{ ttl = \"1h\", ignore_origin = true }}\nupstream = \"{}\"\n",
        origin.address()
    );
    let gateway = Gateway::start(&format!("{top}{}{route}", pebble.acme(", challenge = \"http-01\""))).await;

    // A token of somebody else goes on to the server, and its answer into the cache.
    let theirs =
        "GET /.well-known/acme-challenge/a-token-that-is-of-somebody-else HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for _ in 0..2 {
        let answer = Raw::tcp(gateway.http()).await.ask(theirs).await;
        assert!(answer.text().contains("origin"), "{answer:?}");
    }
    relay.point(gateway.http(), gateway.https());
    counts(&gateway, ISSUED, 1.0).await;
    assert!(gateway.metric("tidegate_acme_proofs_total{challenge=\"http-01\"}").await >= 1.0);
    let client = pebble.client().await;
    let there = async || handshake(gateway.https(), "a.test", &client).await.is_ok();
    eventually(PATIENCE, "it is shown", there).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_and_no_handshake_fails() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, 12).await;
    let client = pebble.client().await;
    let gateway = Gateway::start(&config(&pebble.acme(""))).await;
    relay.point(gateway.http(), gateway.https());
    let first = shown(&gateway, &client).await;

    let renewed = async || {
        let mut stream =
            handshake(gateway.https(), "a.test", &client).await.expect("always a valid certificate");
        is_served(&mut stream).await;
        leaf(&stream) != first
    };
    eventually(PATIENCE, "another certificate is shown", renewed).await;
    assert!(gateway.metric(ISSUED).await >= 2.0);
    assert_eq!(gateway.metric("tidegate_certificates_refused").await, 0.0);
}

#[tokio::test]
async fn an_authority_that_comes_late_is_asked_again() {
    let relay = Relay::open().await;
    let mut pebble = Pebble::absent(LONG);
    let gateway = Gateway::start(&config(&pebble.acme(""))).await;
    relay.point(gateway.http(), gateway.https());
    gateway.ready().await;
    counts(&gateway, FAILED, 2.0).await;
    assert_eq!(gateway.wrote().matches("no certificate obtained").count(), 1, "told once");

    pebble.come(&relay).await;
    shown(&gateway, &pebble.client().await).await;
    assert_eq!(gateway.metric(REFUSED).await, 0.0);
}

#[tokio::test]
async fn an_authority_may_want_accounts_bound_and_refuse_nonces() {
    let relay = Relay::open().await;
    let pebble = Pebble::demanding(&relay).await;
    let eab = ", eab = { key_id = \"kid-1\", key = { file = \"eab-key\" } }";
    let gateway = Gateway::start_with(&config(&pebble.acme(eab)), &[("eab-key", EAB_KEY)]).await;
    relay.point(gateway.http(), gateway.https());
    shown(&gateway, &pebble.client().await).await;
    assert!(!gateway.wrote().contains(EAB_KEY));
}

#[tokio::test]
async fn where_the_authority_refuses_the_old_certificate_stays_and_it_is_asked_rarely() {
    let relay = Relay::open().await;
    let nowhere = "127.0.0.1:1".parse().unwrap();
    relay.point(nowhere, nowhere);
    let mut pebble = Pebble::absent(LONG);
    // One that is due.
    let certs = Certs::for_names(&["b.test"]);
    let (old, key) = {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = (std::time::SystemTime::now() - LONG_AGO).into();
        params.not_after = (std::time::SystemTime::now() + SOON).into();
        let key = KeyPair::generate().unwrap();
        (certs.sign(&params, &key), key.serialize_pem())
    };
    let client = certs.client(&[]);
    let gateway = Gateway::start(&config(&pebble.acme(""))).await;
    let folder = gateway.folder().join("acme").join(pebble.name());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.test.pem"), format!("{key}{old}")).unwrap();
    let old = CertificateDer::from_pem_slice(old.as_bytes()).unwrap();
    assert_eq!(shown(&gateway, &client).await, old);

    pebble.come(&relay).await;
    counts(&gateway, REFUSED, 1.0).await;
    assert_eq!(shown(&gateway, &client).await, old);
    let said = async || gateway.wrote().contains("no certificate obtained");
    eventually(PATIENCE, "the log says so", said).await;
    // Rarely, also after a restart.
    let soon =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64() + 60.0;
    counts(&gateway, NEXT, soon).await;
    let next = gateway.metric(NEXT).await;
    let gateway = gateway.restart().await;
    let same = async || gateway.metric(NEXT).await == next;
    eventually(PATIENCE, "the pause goes on", same).await;
    assert_eq!(gateway.metric("tidegate_acme_orders_total").await, 0.0);
    assert_eq!(shown(&gateway, &client).await, old);
}

const UNSTORED: &str = "tidegate_acme_certificates_unstored";

/// A gateway that has obtained a certificate which storage did not take, and what stands in the way of that.
async fn unstored(relay: &Relay, pebble: &Pebble) -> (Gateway, std::path::PathBuf) {
    let mut gateway = Gateway::start(&config(&pebble.acme(""))).await;
    // The order is under way, and stored.
    relay.is_asked().await;
    let obstacle = format!("a.test.{}.new", gateway.process().id());
    let obstacle = gateway.folder().join("acme").join(pebble.name()).join(obstacle);
    fs::create_dir(&obstacle).unwrap();
    relay.point(gateway.http(), gateway.https());
    counts(&gateway, UNSTORED, 1.0).await;
    (gateway, obstacle)
}

#[tokio::test]
async fn what_storage_does_not_take_is_shown_and_stored_later() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let (gateway, obstacle) = unstored(&relay, &pebble).await;
    shown(&gateway, &pebble.client().await).await;
    let stored = gateway.folder().join("acme").join(pebble.name());
    assert!(!stored.join("a.test.pem").exists());
    assert!(stored.join("a.test.order.json").exists(), "by which it can be fetched again");

    fs::remove_dir(obstacle).unwrap();
    let there = async || stored.join("a.test.pem").exists();
    eventually(PATIENCE, "it is stored", there).await;
    let none = async || gateway.metric(UNSTORED).await == 0.0;
    eventually(PATIENCE, "nothing is left to be stored", none).await;
    assert_eq!(gateway.metric(ISSUED).await, 1.0);
    assert_eq!(gateway.metric(FAILED).await, 0.0);
    assert_eq!(gateway.wrote().matches("shown and not stored").count(), 1, "told once");
}

#[tokio::test]
async fn an_order_whose_certificate_is_for_another_key_is_made_anew() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let (gateway, _) = unstored(&relay, &pebble).await;
    let client = pebble.client().await;
    let first = shown(&gateway, &client).await;
    let file = gateway.folder().join("acme").join(pebble.name()).join("a.test.order.json");
    let mut order: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    order["order"]["key"] = KeyPair::generate().unwrap().serialize_pem().into();
    fs::write(&file, order.to_string()).unwrap();

    let gateway = gateway.restart().await;
    relay.point(gateway.http(), gateway.https());
    assert_ne!(shown(&gateway, &client).await, first);
    assert_eq!(gateway.metric(REFUSED).await, 0.0, "the authority has said nothing against it");
}

#[tokio::test]
async fn where_storage_takes_nothing_the_authority_is_asked_for_nothing() {
    let relay = Relay::open().await;
    let mut pebble = Pebble::absent(LONG);
    let mut gateway = Gateway::start(&config(&pebble.acme(""))).await;
    relay.point(gateway.http(), gateway.https());
    counts(&gateway, FAILED, 1.0).await;
    let obstacle = format!("a.test.order.{}.new", gateway.process().id());
    let obstacle = gateway.folder().join("acme").join(pebble.name()).join(obstacle);
    fs::create_dir(&obstacle).unwrap();
    pebble.come(&relay).await;
    let said = async || gateway.wrote().contains("the storage of certificates fails");
    eventually(PATIENCE, "it fails", said).await;
    // Long enough for some tries.
    pass(Duration::from_secs(5)).await;
    assert!(!pebble.wrote().contains("order-plz"), "{}", pebble.wrote());

    fs::remove_dir(obstacle).unwrap();
    shown(&gateway, &pebble.client().await).await;
    assert_eq!(pebble.wrote().matches("POST /order-plz").count(), 1);
}

#[tokio::test]
async fn a_stored_certificate_that_cannot_be_used_is_ordered_anew() {
    let relay = Relay::open().await;
    let mut pebble = Pebble::absent(LONG);
    let gateway = Gateway::start(&config(&pebble.acme(""))).await;
    relay.point(gateway.http(), gateway.https());
    counts(&gateway, FAILED, 1.0).await;
    let file = gateway.folder().join("acme").join(pebble.name()).join("a.test.pem");
    // The key of another.
    let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    let cert = Certs::for_names(&["b.test"]).sign(&params, &KeyPair::generate().unwrap());
    let bad = KeyPair::generate().unwrap().serialize_pem() + &cert;
    fs::write(&file, &bad).unwrap();
    let said = async || gateway.wrote().contains("the stored certificate cannot be used");
    eventually(PATIENCE, "it says so", said).await;
    pebble.come(&relay).await;
    shown(&gateway, &pebble.client().await).await;
    let replaced = async || fs::read_to_string(&file).is_ok_and(|text| text != bad);
    eventually(PATIENCE, "it is replaced", replaced).await;
}

const LONG_AGO: std::time::Duration = std::time::Duration::from_secs(80 * 24 * 60 * 60);
const SOON: std::time::Duration = std::time::Duration::from_secs(10 * 24 * 60 * 60);
