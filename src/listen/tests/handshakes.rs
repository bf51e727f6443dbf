//! Which certificate, which version, which protocol, which session.

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::room::{REQUEST, Room, SHORT, ask, client, ended, wide};
use crate::listen::certs::tests::{load, make};
use crate::listen::{Bounds, MinVersion, TlsTable};

#[tokio::test]
async fn http1_and_http2_are_served_under_tls() {
    let room = Room::open(wide());
    let url = room.url();

    let h2 = room.browser().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(h2.version(), http::Version::HTTP_2);
    let text = h2.text().await.unwrap();
    assert!(text.contains("secure: true") && text.contains("alpn: Some(\"h2\")"), "{text}");
    assert!(text.contains("sni: Some(\"localhost\")") && text.contains("version: \"1.3\""), "{text}");

    let h1 = room.browser().http1_only().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(h1.version(), http::Version::HTTP_11);
    assert!(h1.text().await.unwrap().contains("redirects: false"));
}

#[tokio::test]
async fn the_development_certificate_is_good_for_the_address_too() {
    let room = Room::open(wide());
    let mut stream = room.connect("127.0.0.1", &room.client(&[])).await.unwrap();
    assert!(ask(&mut stream, REQUEST).await.contains("sni: None"));
}

#[tokio::test]
async fn a_plain_listener_says_that_it_redirects() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.http).await.unwrap();
    let local = tcp.local_addr().unwrap();
    let text = ask(&mut tcp, REQUEST).await;
    assert!(text.contains("secure: false, redirects: true, tls: None"), "{text}");
    assert!(text.contains(&format!("peer: {local}, local: {}", room.http)), "{text}");
}

#[tokio::test]
async fn each_name_is_shown_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let a = make(dir.path(), "a", &["a.test"]);
    let b = make(dir.path(), "b", &["b.test", "*.b.test"]);
    let room = Room::with_certs(&[&a, &b], MinVersion::Tls12);
    let config = client(&[&a, &b], rustls::ALL_VERSIONS, &[]);

    for (name, expected) in [("a.test", &a), ("b.test", &b), ("x.b.test", &b)] {
        let stream = room.connect(name, &config).await.unwrap();
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], expected.leaf, "{name}");
    }
    // The fallback is shown; that it does not fit is for the client to find.
    let error = room.connect("c.test", &config).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name \"c.test\"") && error.contains("a.test"), "{error}");
}

#[tokio::test]
async fn certificates_are_replaced_under_running_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (make(dir.path(), "old", &["a.test"]), make(dir.path(), "new", &["a.test"]));
    let room = Room::with_certs(&[&old], MinVersion::Tls12);
    let config = client(&[&old, &new], rustls::ALL_VERSIONS, &[]);

    let mut before = room.connect("a.test", &config).await.unwrap();
    room.edge.set_tls(Some(TlsTable::new(&load(&[&new]), MinVersion::Tls12, &room.ticketing)));
    let fresh = client(&[&new], rustls::ALL_VERSIONS, &[]);
    let after = room.connect("a.test", &fresh).await.unwrap();

    assert_eq!(after.get_ref().1.peer_certificates().unwrap()[0], new.leaf);
    assert!(ask(&mut before, REQUEST).await.starts_with("HTTP/1.1 200"), "an open connection goes on");
}

#[tokio::test]
async fn a_session_is_resumed_across_a_reload_in_both_versions() {
    for versions in [&[&TLS13], &[&TLS12]] {
        let dir = tempfile::tempdir().unwrap();
        let made = make(dir.path(), "a", &["a.test"]);
        let room = Room::with_certs(&[&made], MinVersion::Tls12);
        let config = client(&[&made], versions, &[]);

        let mut first = room.connect("a.test", &config).await.unwrap();
        assert_eq!(first.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert!(ask(&mut first, REQUEST).await.contains("resumed: false"));

        room.edge.set_tls(Some(TlsTable::new(&load(&[&made]), MinVersion::Tls12, &room.ticketing)));
        let mut second = room.connect("a.test", &config).await.unwrap();
        assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{versions:?}");
        assert!(ask(&mut second, REQUEST).await.contains("resumed: true"));
    }
}

#[tokio::test]
async fn handshakes_are_counted_by_version_and_resumption() {
    let room = Room::open(wide());
    let config = room.client(&[]);
    for _ in 0..2 {
        let mut stream = room.connect("localhost", &config).await.unwrap();
        ask(&mut stream, REQUEST).await;
    }
    room.shows("tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"no\"} 1").await;
    room.shows("tidegate_tls_handshakes_total{version=\"1.3\",resumed=\"yes\"} 1").await;
    room.shows("tidegate_tls_handshake_seconds_count{} 2").await;
}

#[tokio::test]
async fn an_old_version_is_refused_with_an_alert() {
    let dir = tempfile::tempdir().unwrap();
    let made = make(dir.path(), "a", &["a.test"]);
    let room = Room::with_certs(&[&made], MinVersion::Tls13);

    let old = client(&[&made], &[&TLS12], &[]);
    let error = room.connect("a.test", &old).await.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
    room.shows("tidegate_tls_handshake_failures_total{reason=\"protocol\"} 1").await;

    let new = client(&[&made], &[&TLS13], &[]);
    room.connect("a.test", &new).await.unwrap();
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let room = Room::open(wide());
    let mut tcp = TcpStream::connect(room.https).await.unwrap();
    tcp.write_all(REQUEST.as_bytes()).await.unwrap();
    ended(&mut tcp).await;
    room.shows("tidegate_tls_handshake_failures_total{reason=\"protocol\"} 1").await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_handshake_is_counted() {
    let room = Room::open(wide());
    drop(TcpStream::connect(room.https).await.unwrap());
    room.shows("tidegate_tls_handshake_failures_total{reason=\"closed\"} 1").await;
}

#[tokio::test]
async fn a_silent_client_does_not_hold_the_handshake() {
    let room = Room::open(Bounds { handshake_timeout: SHORT, ..wide() });
    let mut silent = TcpStream::connect(room.https).await.unwrap();
    assert!(ended(&mut silent).await >= SHORT / 2);
    room.shows("tidegate_tls_handshake_failures_total{reason=\"timeout\"} 1").await;
    room.shows("tidegate_connections_open{listener=\"https\"} 0").await;
}

#[tokio::test]
async fn without_a_certificate_there_is_no_handshake() {
    let room = Room::open(wide());
    room.edge.set_tls(None);
    room.connect("localhost", &room.client(&[])).await.unwrap_err();
    room.shows("tidegate_tls_handshake_failures_total{reason=\"no_certificate\"} 1").await;
}
