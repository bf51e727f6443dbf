//! Watching certificate files: what is renewed is shown to the next handshake, what is broken is not.
//!
//! Files are looked at, not subscribed to: a look sees what a subscription misses, such as a symbolic link that is
//! swapped far above the file, a bind mount, or another machine's change on a network file system.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::MissedTickBehavior;

use super::certs::Cert;
use super::edge::Edge;
use super::keyring::{Keyring, News};
use super::tls::TlsTable;
use crate::telemetry::meters::{Meters, Metric};

/// The time between two looks. A change takes two of them.
const EVERY: Duration = Duration::from_secs(1);

/// Holds the certificates in force, and keeps the listeners' up to date with the files.
pub struct CertWatch {
    edge: Arc<Edge>,
    held: Mutex<Held>,
    counts: Counts,
}

/// What is held: the certificates, and the ends that the metrics show, in seconds of Unix time by first name.
#[derive(Default)]
struct Held {
    ring: Option<Keyring>,
    shown: BTreeMap<Box<str>, i64>,
}

struct Counts {
    loaded: Counter,
    refused: Counter,
    refused_now: Gauge,
    expiry: Metric<Gauge, 1>,
}

impl CertWatch {
    /// Holds nothing yet.
    pub fn new(edge: &Arc<Edge>, meters: &Meters) -> Arc<Self> {
        let counts = Counts {
            loaded: meters.certificate_reloads.with(["loaded"]),
            refused: meters.certificate_reloads.with(["refused"]),
            refused_now: meters.certificates_refused.with([]),
            expiry: meters.certificate_expiry.clone(),
        };
        Arc::new(Self { edge: edge.clone(), held: Mutex::default(), counts })
    }

    /// Shows the certificates of `ring` from now on, and watches their files instead of those before.
    pub fn hold(&self, ring: Option<Keyring>) {
        self.hold_along(ring, || {});
    }

    /// The same, along with what rests on it: `rest` is put in force right behind it, when all work is done that takes time.
    pub fn hold_along(&self, ring: Option<Keyring>, rest: impl FnOnce()) {
        let now = SystemTime::now();
        let mut held = self.held.lock();
        let before: Vec<_> = held.ring.iter().flat_map(Keyring::certs).collect();
        let news = ring.iter().flat_map(Keyring::certs).filter(|cert| !before.iter().any(|it| it.is(cert)));
        for warning in news.flat_map(|cert| cert.warnings(now)) {
            tracing::warn!("{warning}");
        }
        let mut ring = ring;
        if let (Some(ring), Some(before)) = (&mut ring, held.ring.take()) {
            ring.take_over(before);
        }
        let table = ring.as_ref().map(Keyring::table);
        self.edge.set_tls(table);
        rest();
        held.ring = ring;
        self.show(&mut held);
    }

    /// Shows a certificate that was obtained for a host from now on, instead of the one before.
    pub fn put(&self, host: &str, cert: Cert) {
        let mut held = self.held.lock();
        let Some(ring) = &mut held.ring else { return };
        let warnings: Vec<_> = cert.warnings(SystemTime::now()).collect();
        ring.put(host, cert);
        self.edge.set_tls(Some(ring.table()));
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        self.show(&mut held);
    }

    /// Shows no longer what was obtained for other hosts than these.
    pub fn keep_only(&self, hosts: &[Box<str>]) {
        let mut held = self.held.lock();
        let Some(ring) = &mut held.ring else { return };
        ring.keep_only(hosts);
        self.edge.set_tls(Some(ring.table()));
        self.show(&mut held);
    }

    /// Whether there is a place for certificates that are obtained.
    pub fn has_place(&self) -> bool {
        self.held.lock().ring.is_some()
    }

    /// The certificates in force, with where they came from.
    pub fn held(&self) -> Option<Keyring> {
        self.held.lock().ring.clone()
    }

    /// Looks for as long as the process lives.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let watch = self.clone();
            // Away from the threads that serve: a file system may be slow to answer, or not answer at all. A panic was
            // logged and counted where it arose, and the next look begins anew.
            let _ = tokio::task::spawn_blocking(move || watch.look(SystemTime::now())).await;
        }
    }

    /// Looks once at all files, and puts in force what has changed for the good.
    pub(super) fn look(&self, now: SystemTime) {
        let mut held = self.held.lock();
        let Some(ring) = &mut held.ring else { return };
        let news = ring.look(now);
        if !news.is_empty() {
            self.edge.set_tls(Some(ring.table()));
            // Told when it is so.
            let table = self.edge.tls();
            for news in &news {
                self.tell(news, table.as_deref(), now);
            }
        }
        for reminder in ring.reminders(now) {
            tracing::warn!("{reminder}");
        }
        if !news.is_empty() {
            self.show(&mut held);
        }
    }

    fn tell(&self, news: &News, table: Option<&TlsTable>, now: SystemTime) {
        match news {
            News::Loaded { cert, before } => {
                self.counts.loaded.inc();
                let (file, names) = (cert.file.display(), cert.names.join(" "));
                tracing::info!(%file, names, until = %cert.end(), "certificate loaded");
                let is_lost = |name: &str| table.is_none_or(|table| !table.names(name));
                for warning in cert.warnings(now) {
                    tracing::warn!("{warning}");
                }
                for name in before.names.iter().filter(|name| is_lost(name)) {
                    tracing::warn!(%file, name, "the new certificate lacks a name that the one before had");
                }
            }
            News::Refused(error) => {
                self.counts.refused.inc();
                tracing::warn!(reason = %error, "certificate refused; the one before stays in force");
            }
            News::Asked(source) => {
                self.counts.loaded.inc();
                tracing::info!(file = %source.file.display(), "authorities of client certificates loaded");
            }
            News::AskedAgain(source) => {
                let file = source.file.display();
                tracing::info!(%file, "the authorities of client certificates in force are in their files again");
            }
            News::Mended(cert) => {
                tracing::info!(file = %cert.file.display(), "the certificate in force is in its files again");
            }
        }
    }

    /// Brings the metrics up to date with what is held.
    fn show(&self, held: &mut Held) {
        let refused = held.ring.as_ref().map_or(0, Keyring::refused);
        self.counts.refused_now.set(i64::try_from(refused).unwrap_or(i64::MAX));

        let mut ends = BTreeMap::new();
        for cert in held.ring.iter().flat_map(Keyring::certs) {
            let end = unix(cert.not_after);
            let first = ends.entry(label(cert)).or_insert(end);
            *first = end.min(*first);
        }
        for gone in held.shown.keys().filter(|name| !ends.contains_key(*name)) {
            self.counts.expiry.forget([gone]);
        }
        for (name, end) in &ends {
            self.counts.expiry.with([name]).set(*end);
        }
        held.shown = ends;
    }
}

impl fmt::Debug for CertWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertWatch").field("edge", &self.edge).finish_non_exhaustive()
    }
}

/// The first name of a certificate; `-` where it has none.
fn label(cert: &Cert) -> Box<str> {
    cert.names.first().map_or_else(|| "-".into(), Clone::clone)
}

fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
