//! The way in under TLS: which certificate, which version, which protocol, which session; and the way in without.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore};

use crate::support::handshake::{handshake, is_served, leaf};
use crate::support::{Certs, Client, Gateway, Origin, PATIENCE, Raw, eventually, https, use_tls_provider};

/// A route that takes everything and needs no origin.
const FINE: &str = "[routes.all]\nrespond = { status = 200, body = \"fine\" }\n";

/// A gateway with all of these certificates that answers everything itself; `more` are top-level keys.
async fn answering(certs: &Certs, more: &str) -> Gateway {
    Gateway::start(&format!("{}{more}\n{FINE}", https(certs))).await
}

fn certificate_in(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file).unwrap()
}

#[tokio::test]
async fn each_name_is_shown_its_certificate_and_a_wildcard_stands_for_one_label() {
    let mut certs = Certs::for_names(&["a.test"]);
    certs.add(&["b.test", "*.b.test"]);
    let gateway = answering(&certs, "").await;
    let [a, b] = [0, 1].map(|index| certificate_in(&certs.files()[index]));
    let client = certs.client(&[]);

    for (name, expected) in [("a.test", &a), ("b.test", &b), ("x.b.test", &b), ("A.TEST", &a)] {
        let mut stream = handshake(gateway.https(), name, &client).await.unwrap();
        assert_eq!(&leaf(&stream), expected, "{name}");
        is_served(&mut stream).await;
    }
    let error = handshake(gateway.https(), "x.y.b.test", &client).await.unwrap_err().to_string();
    assert!(error.contains("only valid for DnsName(\"a.test\")"), "{error}");
}

#[tokio::test]
async fn who_names_no_host_or_one_that_is_not_ours_is_shown_the_first_certificate() {
    let mut certs = Certs::for_names(&["a.test", "127.0.0.1"]);
    certs.add(&["b.test"]);
    let gateway = answering(&certs, "").await;
    let client = certs.client(&[]);

    // An address is never sent as a name.
    let mut stream = handshake(gateway.https(), "127.0.0.1", &client).await.unwrap();
    assert_eq!(leaf(&stream), certificate_in(&certs.files()[0]));
    is_served(&mut stream).await;

    let error = handshake(gateway.https(), "c.test", &client).await.unwrap_err().to_string();
    assert!(error.contains("DnsName(\"a.test\")"), "{error}");
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "").await;

    for (version, agreed) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let client = certs.client_of(&[version], &["http/1.1"]);
        let mut stream = handshake(gateway.https(), "a.test", &client).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(agreed));
        is_served(&mut stream).await;
    }
    assert_eq!(gateway.metric("tidegate_tls_handshakes_total{version=\"1.2\",resumed=\"no\"}").await, 1.0);
    assert_eq!(gateway.metric("tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"no\"}").await, 1.0);
}

#[tokio::test]
async fn an_older_version_than_the_least_is_refused_by_an_alert() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "tls.min_version = \"1.3\"").await;

    let old = certs.client_of(&[&TLS12], &[]);
    let error = handshake(gateway.https(), "a.test", &old).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    // It is counted a moment after its client has been told.
    let failed = "tidegate_tls_handshake_failures_total{reason=\"protocol\"}";
    let counted = async || gateway.count(failed).await == 1;
    eventually(PATIENCE, "it is counted", counted).await;

    let new = certs.client_of(&[&TLS13], &[]);
    is_served(&mut handshake(gateway.https(), "a.test", &new).await.unwrap()).await;
}

#[tokio::test]
async fn a_host_may_ask_for_a_newer_version_than_others_and_no_other_connection_reaches_it() {
    let certs = Certs::for_names(&["a.test", "b.test"]);
    let gateway = answering(&certs, "tls.hosts.\"b.test\".min_version = \"1.3\"").await;
    let (old, new) = (certs.client_of(&[&TLS12], &[]), certs.client_of(&[&TLS13], &[]));

    let error = handshake(gateway.https(), "b.test", &old).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    let statuses = async |name: &str, client| {
        let mut raw = Raw::over(handshake(gateway.https(), name, client).await.unwrap());
        let mut ask =
            async |host: &str| raw.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status;
        (ask("a.test").await, ask("b.test").await)
    };
    assert_eq!(statuses("a.test", &old).await, (200, 421));
    assert_eq!(statuses("a.test", &new).await, (200, 200));
    assert_eq!(statuses("b.test", &new).await, (200, 200));
}

#[tokio::test]
async fn the_protocol_is_what_alpn_agrees_on_and_http1_without_it() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "").await;

    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.1", "h2"], Some("h2")),
        (&[], None),
    ] {
        let client = certs.client(offered);
        let mut stream = handshake(gateway.https(), "a.test", &client).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol().map(String::from_utf8_lossy);
        assert_eq!(alpn.as_deref(), agreed, "{offered:?}");
        if agreed != Some("h2") {
            is_served(&mut stream).await;
        }
    }
    for client in [Client::http1(&gateway, &certs), Client::http2(&gateway, &certs)] {
        assert_eq!(client.get("https://a.test/").await.text(), "fine");
    }
    let error = handshake(gateway.https(), "a.test", &certs.client(&["spdy/3"])).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_of_the_first() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "").await;

    for (version, label) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let client = certs.client_of(&[version], &[]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = handshake(gateway.https(), "a.test", &client).await.unwrap();
            is_served(&mut stream).await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "TLS {label}");
        }
        let resumed = format!("tidegate_tls_handshakes_total{{version=\"{label}\",resumed=\"yes\"}}");
        assert_eq!(gateway.metric(&resumed).await, 1.0);
    }
}

#[tokio::test]
async fn a_key_is_found_in_the_file_beside_it_or_where_the_table_says() {
    let mut certs = Certs::for_names(&["a.test"]);
    certs.add(&["b.test"]);
    certs.add(&["c.test"]);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Chain and key in one file is what `certs` makes.
    let both = certs.files()[0].display().to_string();
    for (index, chain, key) in [(1, "beside.pem", "beside.key"), (2, "chain.crt", "secret.pem")] {
        let text = std::fs::read_to_string(&certs.files()[index]).unwrap();
        let split = text.find("-----BEGIN PRIVATE KEY").unwrap();
        std::fs::write(at(chain), &text[..split]).unwrap();
        std::fs::write(at(key), &text[split..]).unwrap();
    }
    let (beside, chain, key) = (at("beside.pem"), at("chain.crt"), at("secret.pem"));
    let gateway = Gateway::start(&format!(
        "listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\
         tls.certs = [{both:?}, {beside:?}, {{ cert = {chain:?}, key = {key:?} }}]\n{FINE}"
    ))
    .await;

    for (index, name) in ["a.test", "b.test", "c.test"].into_iter().enumerate() {
        let mut stream = handshake(gateway.https(), name, &certs.client(&[])).await.unwrap();
        assert_eq!(leaf(&stream), certificate_in(&certs.files()[index]), "{name}");
        is_served(&mut stream).await;
    }
}

#[tokio::test]
async fn the_development_certificate_is_made_on_first_use_and_kept() {
    let config =
        format!("listen = [\"https://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\ntls.certs = [\"dev\"]\n{FINE}");
    let gateway = Gateway::start(&config).await;
    let made = gateway.folder().join("certs");
    let mut roots = RootCertStore::empty();
    roots.add(certificate_in(&made.join("ca.pem"))).unwrap();
    use_tls_provider();
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());

    for name in ["localhost", "127.0.0.1"] {
        let mut stream = handshake(gateway.https(), name, &client).await.unwrap();
        assert_eq!(leaf(&stream), certificate_in(&made.join("localhost.pem")));
        is_served(&mut stream).await;
    }
    let before = std::fs::read(made.join("localhost.pem")).unwrap();
    let gateway = gateway.restart().await;
    is_served(&mut handshake(gateway.https(), "localhost", &client).await.unwrap()).await;
    assert_eq!(std::fs::read(made.join("localhost.pem")).unwrap(), before);
}

#[tokio::test]
async fn a_silent_client_does_not_hold_its_handshake_for_long() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "downstream.handshake_timeout = \"200ms\"").await;

    let mut silent = Raw::tcp(gateway.https()).await;
    assert_eq!(silent.rest().await, b"");
    let mut halting = Raw::tcp(gateway.https()).await;
    halting.send(b"\x16\x03\x01\x02\x00").await;
    halting.rest().await;

    // They are counted a moment after their clients are let go.
    let failed = "tidegate_tls_handshake_failures_total{reason=\"timeout\"}";
    let counted =
        async || gateway.count(failed).await == 2 && gateway.count("tidegate_connections_open").await == 0;
    eventually(PATIENCE, "both are counted, and gone", counted).await;
}

#[tokio::test]
async fn what_is_not_tls_is_refused_and_harms_nobody() {
    let certs = Certs::for_names(&["a.test"]);
    let gateway = answering(&certs, "").await;

    let mut plain = Raw::tcp(gateway.https()).await;
    plain.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(!plain.rest().await.starts_with(b"HTTP"));

    let failed = "tidegate_tls_handshake_failures_total{reason=\"protocol\"}";
    eventually(PATIENCE, "it is counted", async || gateway.count(failed).await == 1).await;
    assert_eq!(Client::http1(&gateway, &certs).get("https://a.test/").await.text(), "fine");
}

#[tokio::test]
async fn beside_https_the_plain_listener_redirects_and_keeps_path_and_query() {
    let certs = Certs::for_names(&["a.test"]);
    let top = https(&certs).replace("127.0.0.1:0\"]", "127.0.0.1:0\", \"http://127.0.0.1:0\"]");
    let gateway = Gateway::start(&format!("{top}{FINE}")).await;
    let port = gateway.https().port();

    let mut client = Raw::tcp(gateway.http()).await;
    for (request, location) in [
        ("GET /a/b?c=d&e=%20f HTTP/1.1\r\nHost: a.test\r\n\r\n", "/a/b?c=d&e=%20f"),
        ("GET / HTTP/1.1\r\nHost: a.test:8080\r\n\r\n", "/"),
        ("POST /form HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\na=b", "/form"),
    ] {
        client.send(request).await;
        let (head, _) = client.answer().await;
        assert!(head.starts_with("HTTP/1.1 308 "), "{head}");
        let field = format!("location: https://a.test:{port}{location}\r\n");
        assert!(head.to_ascii_lowercase().contains(&field.to_ascii_lowercase()), "{head}");
    }
}

#[tokio::test]
async fn without_https_the_plain_listener_serves() {
    let origin = Origin::start("one").await;
    let gateway = Gateway::start(&format!(
        "listen = [\"http://127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n[routes.all]\nupstream = \"{}\"\n",
        origin.address()
    ))
    .await;

    let mut client = Raw::tcp(gateway.http()).await;
    client.send("GET /users HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let (head, body) = client.answer().await;

    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, b"one answers");
    assert_eq!(origin.seen()[0].field("x-forwarded-proto"), Some("http"));
}
