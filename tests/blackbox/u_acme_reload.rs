//! Certificates from an authority while the configuration changes: what is new is obtained, what was obtained stays.

use std::fs;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::support::handshake::{handshake, leaf};
use crate::support::pebble::{LONG, Pebble, Relay};
use crate::support::redis::Redis;
use crate::support::{Certs, Gateway, PATIENCE, Raw, eventually, https, must};

const ISSUED: &str = "tidegate_acme_orders_total{outcome=\"issued\"}";
const FAILED: &str = "tidegate_acme_orders_total{outcome=\"failed\"}";
const MISSING: &str = "tidegate_acme_certificates_missing";

/// These lines of the top level, and a route for each of these hosts. Others are shown a certificate of no authority's.
fn config(top: &str, hosts: &[&str]) -> String {
    let route = |(number, host): (usize, &&str)| {
        format!("[routes.r{number}]\nhost = \"{host}\"\nrespond = {{ status = 200, body = \"fine\" }}\n")
    };
    let routes: String = hosts.iter().enumerate().map(route).collect();
    format!(
        "listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\nwatch = false\n\
         tls.certs = [\"dev\"]\n{top}{routes}"
    )
}

/// Puts this configuration in force; what the command printed.
async fn reload(gateway: &Gateway, config: &str) -> String {
    gateway.rewrite(config);
    let (code, printed) = Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await;
    assert_eq!(code, Some(0), "{printed}");
    printed
}

/// What a client that trusts the authority is shown, if it is one of the authority's.
async fn shown(gateway: &Gateway, host: &str, client: &Arc<ClientConfig>) -> Option<CertificateDer<'static>> {
    handshake(gateway.https(), host, client).await.ok().map(|stream| leaf(&stream))
}

/// Waits until it is.
async fn comes(gateway: &Gateway, host: &str, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let mut found = None;
    eventually(PATIENCE, &format!("a certificate for {host} is shown"), async || {
        found = shown(gateway, host, client).await;
        found.is_some()
    })
    .await;
    found.unwrap()
}

async fn counts(gateway: &Gateway, series: &str, value: f64) {
    let there = async || gateway.metric(series).await == value;
    eventually(PATIENCE, &format!("{series} is {value}"), there).await;
}

#[tokio::test]
async fn a_name_that_comes_is_obtained_and_one_that_goes_is_shown_no_more() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let client = pebble.client().await;
    let acme = pebble.acme("");
    let gateway = Gateway::start(&config(&acme, &["a.test"])).await;
    relay.is_asked().await;
    // In the middle of the first order, which goes on.
    let stored = gateway.folder().join("acme").join(pebble.name());
    let draft = fs::read_to_string(stored.join("a.test.order.json")).unwrap();
    let draft: serde_json::Value = serde_json::from_str(&draft).unwrap();
    let printed = reload(&gateway, &config(&acme, &["a.test", "b.test"])).await;
    assert!(printed.contains("routes added: `r1`"), "{printed}");

    relay.point(gateway.http(), gateway.https());
    let first = comes(&gateway, "a.test", &client).await;
    comes(&gateway, "b.test", &client).await;
    counts(&gateway, ISSUED, 2.0).await;
    let pem = fs::read_to_string(stored.join("a.test.pem")).unwrap();
    assert!(pem.starts_with(draft["order"]["key"].as_str().unwrap()), "it was the same order");

    reload(&gateway, &config(&acme, &["a.test"])).await;
    assert_eq!(shown(&gateway, "b.test", &client).await, None);
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first));
    reload(&gateway, &config(&acme, &["b.test", "a.test"])).await;
    assert!(shown(&gateway, "b.test", &client).await.is_some(), "it was kept");
    assert_eq!((gateway.metric(ISSUED).await, gateway.metric(MISSING).await), (2.0, 0.0));
}

#[tokio::test]
async fn another_authority_is_asked_and_what_the_first_gave_is_shown_until_it_has_given() {
    let relay = Relay::open().await;
    let (one, mut other) = (Pebble::start(&relay, LONG).await, Pebble::absent(LONG));
    let client = one.client().await;
    let gateway = Gateway::start(&config(&one.acme(""), &["a.test"])).await;
    relay.point(gateway.http(), gateway.https());
    let first = comes(&gateway, "a.test", &client).await;

    let printed = reload(&gateway, &config(&other.acme(""), &["a.test"])).await;
    assert!(printed.contains("`tls.acme.directory`"), "{printed}");
    counts(&gateway, FAILED, 1.0).await;
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first.clone()));
    other.come(&relay).await;
    comes(&gateway, "a.test", &other.client().await).await;
    counts(&gateway, ISSUED, 2.0).await;

    reload(&gateway, &config(&one.acme(""), &["a.test"])).await;
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first), "what it gave is still there");
    assert_eq!(gateway.metric(ISSUED).await, 2.0);
}

#[tokio::test]
async fn it_is_switched_off_and_on_again() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let client = pebble.client().await;
    let (off, on) = (config("", &["a.test"]), config(&pebble.acme(""), &["a.test"]));
    let gateway = Gateway::start(&off).await;
    relay.point(gateway.http(), gateway.https());
    assert_eq!(shown(&gateway, "a.test", &client).await, None);

    let printed = reload(&gateway, &on).await;
    assert!(printed.contains("`tls.acme.email`") && !printed.contains("restart"), "{printed}");
    let first = comes(&gateway, "a.test", &client).await;
    counts(&gateway, ISSUED, 1.0).await;
    let next = "tidegate_acme_next_try_seconds{name=\"a.test\"}";
    assert!(gateway.metric(next).await > 0.0);

    reload(&gateway, &off).await;
    assert_eq!(shown(&gateway, "a.test", &client).await, None);
    counts(&gateway, next, 0.0).await;
    reload(&gateway, &on).await;
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first), "without another order");
    assert_eq!((gateway.metric(ISSUED).await, gateway.metric(MISSING).await), (1.0, 0.0));
}

#[tokio::test]
async fn the_authority_is_told_at_once_whom_to_write_to() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let client = pebble.client().await;
    let acme = pebble.acme("");
    let gateway = Gateway::start(&config(&acme, &["a.test"])).await;
    relay.point(gateway.http(), gateway.https());
    let first = comes(&gateway, "a.test", &client).await;
    counts(&gateway, ISSUED, 1.0).await;

    let account = gateway.folder().join("acme").join(pebble.name()).join("account.json");
    let written = || fs::read_to_string(&account).unwrap();
    assert!(written().contains("\"ops@a.test\""), "{}", written());
    let told = "the authority was told whom to write to";
    assert!(!gateway.wrote().contains(told), "it knows");
    assert_eq!(pebble.wrote().matches("POST /my-account/").count(), 0);
    reload(&gateway, &config(&acme.replace("ops@a.test", "edge@a.test"), &["a.test"])).await;
    let stored = async || written().contains("\"edge@a.test\"");
    eventually(PATIENCE, "it is told, and noted", stored).await;
    assert_eq!(pebble.wrote().matches("POST /my-account/").count(), 1, "{}", pebble.wrote());
    eventually(PATIENCE, "the log says so", async || gateway.wrote().contains(told)).await;
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first));
    assert_eq!(gateway.metric(ISSUED).await, 1.0);
}

#[tokio::test]
async fn storage_in_a_redis_that_waits_for_a_restart_waits_with_it() {
    let relay = Relay::open().await;
    let (pebble, redis) = (Pebble::start(&relay, LONG).await, Redis::start().await);
    let client = pebble.client().await;
    let gateway = Gateway::start(&config(&pebble.acme(""), &["a.test"])).await;
    relay.point(gateway.http(), gateway.https());
    let first = comes(&gateway, "a.test", &client).await;

    let shared = format!("redis = {:?}\n{}", redis.url(), pebble.acme(", storage = \"redis\""));
    let printed = reload(&gateway, &config(&shared, &["a.test"])).await;
    assert!(printed.contains("options that wait for a restart: `redis`, `tls.acme`"), "{printed}");
    assert_eq!(gateway.admin_get("/config").await.json()["tls"]["acme"]["storage"], "acme");
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first));

    relay.hold();
    let gateway = gateway.restart().await;
    relay.point(gateway.http(), gateway.https());
    comes(&gateway, "a.test", &client).await;
    assert!(!redis.cli(&["GET", &format!("tidegate:acme:{}:a.test.pem", pebble.name())]).is_empty());
}

#[tokio::test]
async fn storage_that_cannot_be_written_to_is_refused_and_nothing_changes() {
    let relay = Relay::open().await;
    let pebble = Pebble::start(&relay, LONG).await;
    let client = pebble.client().await;
    let gateway = Gateway::start(&config(&pebble.acme(""), &["a.test"])).await;
    relay.point(gateway.http(), gateway.https());
    let first = comes(&gateway, "a.test", &client).await;

    gateway.rewrite(&config(&pebble.acme(", storage = \"tidegate.toml/acme\""), &["a.test", "b.test"]));
    let (code, printed) = Gateway::run(&["reload", "--admin", &gateway.admin().to_string()]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("tidegate.toml/acme cannot be read or written"), "{printed}");
    assert_eq!(shown(&gateway, "a.test", &client).await, Some(first));
    assert_eq!(gateway.metric("tidegate_config_generation").await, 1.0);
}

/// While storage is slow, nothing of a new configuration is in force, and then all of it is: no connection is made by the one
/// and asked over by the other.
#[tokio::test]
async fn a_reload_that_waits_for_storage_changes_nothing_until_it_changes_all() {
    let certs = Certs::for_names(&["a.test"]);
    let pebble = Pebble::absent(LONG);
    let config = |top: &str, hosts: &str, more: &str| {
        let route = "[routes.a]\nhost = \"a.test\"\nrespond = { status = 200, body = \"fine\" }\n";
        format!("{}watch = false\n{top}{hosts}{route}{more}", https(&certs))
    };
    let before = config("", "", "");
    let gateway = Gateway::start_with(&before, &[("ca.pem", &certs.authority_pem())]).await;
    let stored = gateway.folder().join("acme").join(pebble.name());
    fs::create_dir_all(&stored).unwrap();
    let slow = stored.join("b.test.pem");
    assert!(std::process::Command::new("mkfifo").arg(&slow).status().unwrap().success());

    let hosts = "[tls.hosts.\"a.test\"]\nclient_ca = { file = \"ca.pem\", mode = \"optional\" }\n";
    let more = "[routes.b]\nhost = \"b.test\"\nrespond = { status = 200, body = \"fine\" }\n";
    gateway.rewrite(&config(&pebble.acme(""), hosts, more));
    // Whoever opens it to write waits until it is read.
    let reading = slow.clone();
    let opened = tokio::task::spawn_blocking(move || fs::File::options().write(true).open(reading).unwrap());
    let asks = async || {
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
        Raw::tls(gateway.https(), "a.test", &certs).await.ask(request).await.status
    };
    let meanwhile = async {
        let opened = must("storage is read", opened).await.unwrap();
        for _ in 0..5 {
            assert_eq!(asks().await, 200, "by what was in force, all of it");
        }
        fs::remove_file(&slow).unwrap();
        drop(opened);
    };
    let admin = gateway.admin().to_string();
    let words = ["reload", "--admin", &admin];
    let ((code, printed), ()) = tokio::join!(Gateway::run(&words), meanwhile);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("routes added: `b`"), "{printed}");
    assert_eq!(asks().await, 200);
}
