//! Certificates that are replaced while clients come: each handshake succeeds, and is shown one of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustls::HandshakeKind;

use super::room::{REQUEST, Room, ask, client};
use crate::listen::certs::tests::{Made, make};
use crate::listen::{CertSource, CertWatch, Keyring, MinVersion};

const SWAPS: usize = 20;

/// A watch over one pair, `live.pem` and `live.key`, that the room shows.
fn watch(room: &Room, live: &Made) -> Arc<CertWatch> {
    let source = CertSource::Pair { cert: live.cert.clone(), key: live.key.clone() };
    let ring = Keyring::load(vec![source], MinVersion::Tls12, &room.ticketing, None).unwrap();
    let watch = CertWatch::new(&room.edge, &room.meters);
    watch.hold(Some(ring));
    watch
}

/// Puts `next` in place of `live` by two renames, and looks until it is in force.
fn renew(watch: &CertWatch, live: &Made, next: &Made) {
    let now = SystemTime::now();
    let put = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    put(&next.cert, &live.cert);
    watch.look(now);
    put(&next.key, &live.key);
    watch.look(now);
    watch.look(now);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_handshake_fails_while_certificates_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let live = make(dir.path(), "live", &["a.test"]);
    let nexts: Vec<Made> =
        (0..SWAPS).map(|index| make(dir.path(), &format!("next{index}"), &["a.test"])).collect();
    let room = Arc::new(Room::with_certs(&[&live], MinVersion::Tls12));
    let watch = watch(&room, &live);

    let trusted: Vec<&Made> = nexts.iter().chain([&live]).collect();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (room, over) = (room.clone(), over.clone());
            let config = client(&trusted, rustls::ALL_VERSIONS, &[]);
            tokio::spawn(async move {
                let mut handshakes = 0;
                while !over.load(Ordering::Relaxed) {
                    let mut stream = room.connect("a.test", &config).await.unwrap();
                    assert!(ask(&mut stream, REQUEST).await.starts_with("HTTP/1.1 200"));
                    handshakes += 1;
                }
                handshakes
            })
        })
        .collect();
    for next in &nexts {
        renew(&watch, &live, next);
        let fresh = client(&[next], rustls::ALL_VERSIONS, &[]);
        let mut stream = room.connect("a.test", &fresh).await.expect("the new certificate is shown");
        assert!(ask(&mut stream, REQUEST).await.starts_with("HTTP/1.1 200"));
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
    room.shows(&format!("tidegate_certificate_reloads_total{{result=\"loaded\"}} {SWAPS}")).await;
}

#[tokio::test]
async fn a_session_is_resumed_across_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let (live, next) = (make(dir.path(), "live", &["a.test"]), make(dir.path(), "next", &["a.test"]));
    let room = Room::with_certs(&[&live], MinVersion::Tls12);
    let watch = watch(&room, &live);
    let config = client(&[&live], rustls::ALL_VERSIONS, &[]);
    ask(&mut room.connect("a.test", &config).await.unwrap(), REQUEST).await;

    renew(&watch, &live, &next);
    let second = room.connect("a.test", &config).await.unwrap();
    assert_eq!(second.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn the_metrics_say_what_is_in_force_until_when_and_what_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (live, next) = (make(dir.path(), "live", &["a.test"]), make(dir.path(), "next", &["b.test"]));
    let room = Room::with_certs(&[&live], MinVersion::Tls12);
    let watch = watch(&room, &live);
    // The first day of 4096.
    let ends = |name: &str| format!("tidegate_certificate_expiry_seconds{{name=\"{name}\"}} 67090118400");
    room.shows(&ends("a.test")).await;
    room.shows("tidegate_certificates_refused{} 0").await;

    let key = dir.path().join("key");
    fs::copy(&next.key, &key).unwrap();
    fs::rename(&next.key, &live.key).unwrap();
    (0..6).for_each(|_| watch.look(SystemTime::now()));
    room.shows("tidegate_certificates_refused{} 1").await;
    room.shows("tidegate_certificate_reloads_total{result=\"refused\"} 1").await;

    fs::rename(&next.cert, &live.cert).unwrap();
    (0..2).for_each(|_| watch.look(SystemTime::now()));
    room.shows("tidegate_certificates_refused{} 0").await;
    room.shows(&ends("b.test")).await;
    assert!(!room.meters.render().contains("name=\"a.test\""), "what is not in force is not shown");
}
