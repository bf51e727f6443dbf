//! Keeps every host with a certificate: shows what is stored, and has ordered what is missing or due.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::contact::Contact;
use super::order::{Failure, Ordering};
use super::pending::Pending;
use super::proofs::Proofs;
use super::store::{LAPSES, Lock, Record, Store, StoreError};
use super::when::{self, Kind};
use super::{Counts, Settings};
use crate::listen::{Cert, CertWatch};

/// How often storage is looked at for a host that is due: another node may order for it, or have ordered.
const POLL: Duration = Duration::from_secs(2);
/// How often it is looked at for one that is not: somebody may have put another certificate there, or lost the one.
const GLANCE: Duration = Duration::from_secs(60 * 60);
/// How often a fleet's storage is asked whether any node has obtained something, and at most as long again by chance.
const NEWS: Duration = Duration::from_secs(2);
/// How long a start waits for storage.
const LOADING: Duration = Duration::from_secs(2);
/// The longest that one order may take. Its requests and waits have bounds of their own.
const ORDERING: Duration = Duration::from_secs(4 * 60);

pub(super) struct Keeper {
    settings: Arc<Settings>,
    store: Store,
    certs: Arc<CertWatch>,
    proofs: Arc<Proofs>,
    counts: Counts,
    hosts: Vec<Host>,
    contact: Contact,
    /// The version of the storage that was seen last.
    version: Option<Vec<u8>>,
    /// Whether storage has failed last, so that it is told once.
    away: bool,
}

/// A host, and what is known of its certificate.
struct Host {
    name: Box<str>,
    held: Option<Held>,
    /// When it is due.
    due: SystemTime,
    /// Until when it is left alone although it is due, after a failure.
    paused: Option<SystemTime>,
    /// What became of its tries, where storage did not take that.
    unwritten: Option<Pending>,
    /// Its certificate in force, where storage did not take that.
    unstored: Option<Unstored>,
    /// When it is looked at next.
    next: Instant,
    /// What was last told of its orders.
    told: Option<String>,
}

impl Host {
    /// What is stored is of no use; another one will be ordered.
    fn cannot_use(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::warn!(host = &*self.name, reason = why, "the stored certificate cannot be used");
            self.told = Some(why);
        }
    }
}

/// A certificate in force that is in no storage yet.
struct Unstored {
    /// How often storage did not take it.
    failures: u32,
    /// When it is offered again.
    next: Instant,
}

/// A certificate in force.
struct Held {
    cert: Cert,
    /// As it is stored.
    text: Vec<u8>,
}

impl Keeper {
    pub(super) fn new(
        settings: Arc<Settings>,
        store: Store,
        certs: Arc<CertWatch>,
        proofs: Arc<Proofs>,
        counts: Counts,
    ) -> Self {
        let host = |name: Box<str>| Host {
            name,
            held: None,
            due: SystemTime::now(),
            paused: None,
            unwritten: None,
            unstored: None,
            next: Instant::now(),
            told: None,
        };
        let hosts = settings.hosts.iter().cloned().map(host).collect();
        Self {
            settings,
            store,
            certs,
            proofs,
            counts,
            hosts,
            contact: Contact::new(),
            version: None,
            away: false,
        }
    }

    /// Shows what is stored. Where storage cannot be reached, it is waited for a little.
    pub(super) async fn load(&mut self) {
        let end = Instant::now() + LOADING;
        for at in 0..self.hosts.len() {
            while self.look(at).await.is_err() && Instant::now() < end {
                sleep(LOADING / 20).await;
            }
        }
        self.show();
    }

    /// Obtains and renews for as long as it is waited for.
    pub(super) async fn run(&mut self) {
        self.load().await;
        let mut news = Instant::now();
        loop {
            if news <= Instant::now() {
                self.hear().await;
                news = Instant::now() + NEWS.mul_f64(1.0 + fastrand::f64());
            }
            for at in 0..self.hosts.len() {
                if self.hosts[at].next <= Instant::now() {
                    self.tend(at).await;
                    self.show();
                }
            }
            self.contact.keep(&self.settings, &self.store).await;
            let hosts = self.hosts.iter().map(|host| host.next);
            let next = hosts.chain(self.contact.next()).chain([news]).min();
            sleep_until(next.unwrap_or(news)).await;
        }
    }

    /// Has all hosts looked at if a certificate was stored since the last time: by another node, mostly.
    async fn hear(&mut self) {
        // Whoever is due finds out, and tells, that storage is away.
        let Ok(version) = self.store.version().await else { return };
        if version != self.version {
            self.version = version;
            self.hosts.iter_mut().for_each(|host| host.next = Instant::now());
        }
    }

    /// Looks after one host, and says when it is to be looked after again.
    async fn tend(&mut self, at: usize) {
        let rest = match self.step(at).await {
            Ok(rest) => {
                if std::mem::take(&mut self.away) {
                    tracing::info!("the storage of certificates is back");
                }
                rest
            }
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(%error, "the storage of certificates fails; those in force stay, and none is ordered");
                }
                POLL
            }
        };
        self.hosts[at].next = Instant::now() + rest;
    }

    /// One look at a host, and an order if it is due and nobody else orders; gives how long to rest.
    async fn step(&mut self, at: usize) -> Result<Duration, StoreError> {
        self.look(at).await?;
        let now = SystemTime::now();
        if let Ok(left) = self.hosts[at].due.duration_since(now).map(|left| left.min(GLANCE))
            && !left.is_zero()
        {
            let again = self.hosts[at].unstored.as_ref().map(|unstored| unstored.next);
            return Ok(again.map_or(left, |again| left.min(again.saturating_duration_since(Instant::now()))));
        }
        if let Some(left) = self.pausing(at, now).await? {
            return Ok(left);
        }
        let Some(lock) = self.store.lock(self.lapses(at, now)).await? else { return Ok(POLL) };
        let outcome = self.step_alone(at, &lock).await;
        lock.release().await;
        outcome
    }

    /// How long the right to order is to outlive this node: others have time for an order of their own before the certificate
    /// ends.
    fn lapses(&self, at: usize, now: SystemTime) -> Duration {
        let held = self.hosts[at].held.as_ref();
        let left = held.and_then(|held| held.cert.not_after.duration_since(now).ok());
        left.map_or(LAPSES, |left| (left / 4).clamp(LAPSES / 5, LAPSES))
    }

    /// What became of the last tries.
    async fn pending(&self, at: usize) -> Result<Pending, StoreError> {
        match &self.hosts[at].unwritten {
            Some(pending) => Ok(pending.clone()),
            None => Pending::read(&self.store, &self.hosts[at].name).await,
        }
    }

    /// How long there is to be no try yet; looked at more often, as another node may come to have what this one lacks.
    async fn pausing(&mut self, at: usize, now: SystemTime) -> Result<Option<Duration>, StoreError> {
        let not_before = self.pending(at).await?.not_before();
        let left = not_before.duration_since(now).unwrap_or_default();
        if left.is_zero() {
            self.hosts[at].paused = None;
            return Ok(None);
        }
        self.hosts[at].paused = Some(not_before);
        Ok(Some(left.min(POLL)))
    }

    /// The same, with the right to order: whoever had it before may have left a certificate.
    async fn step_alone(&mut self, at: usize, lock: &Lock) -> Result<Duration, StoreError> {
        self.look(at).await?;
        let now = SystemTime::now();
        if self.hosts[at].due > now || self.pausing(at, now).await?.is_some() {
            return Ok(Duration::ZERO);
        }
        let mut pending = self.pending(at).await?;
        // Where storage takes nothing, the authority is asked for nothing: what it gives could be lost.
        pending.reserve(&self.store, &self.hosts[at].name).await?;
        self.hosts[at].unwritten = None;
        let outcome = tokio::select! {
            outcome = timeout(ORDERING, self.order(at, &mut pending)) => {
                outcome.unwrap_or_else(|_| Err(Failure::passing("the order took too long")))
            }
            () = lock.lost() => Err(Failure::passing("the right to order was lost to another node")),
        };
        match outcome {
            Ok((held, stored)) => self.issued(at, held, stored).await?,
            Err(failure) => self.failed(at, &failure, pending).await?,
        }
        Ok(Duration::ZERO)
    }

    /// A certificate that was looked through, and whether it is stored.
    async fn order(
        &self,
        at: usize,
        pending: &mut Pending,
    ) -> Result<(Held, Result<(), StoreError>), Failure> {
        let host = &*self.hosts[at].name;
        let is_taken_up = pending.order.is_some();
        let ordering = Ordering { settings: &self.settings, store: &self.store, proofs: &self.proofs, host };
        let text = ordering.obtain(pending).await?.into_bytes();
        let found = Cert::from_pem(&self.store.place(Record::Certificate(host)), &text);
        let wrong = match found {
            Ok(cert) if cert.covers(host) => {
                let stored = self.store.write(Record::Certificate(host), text.clone()).await;
                return Ok((Held { cert, text }, stored));
            }
            Ok(_) => "the authority gave a certificate for something else".to_owned(),
            Err(error) => error.to_string(),
        };
        // Whatever is wrong with it is wrong for ever: the next try begins another order. That of somebody who has died may
        // have had another key, which is nothing that the authority said.
        pending.order = None;
        Err(if is_taken_up { Failure::passing(wrong) } else { Failure::refused(wrong) })
    }

    /// Shows what was obtained. Where storage does not take it, the order is left there, by which it can be fetched again.
    async fn issued(
        &mut self,
        at: usize,
        held: Held,
        stored: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.counts.issued.inc();
        self.hosts[at].told = None;
        let host = self.hosts[at].name.clone();
        tracing::info!(host = &*host, "certificate obtained");
        self.take(at, held);
        if let Err(error) = stored {
            tracing::warn!(host = &*host, %error, "the certificate is shown and not stored; that is tried again");
            self.hosts[at].unstored = Some(Unstored { failures: 0, next: Instant::now() + POLL });
            return Ok(());
        }
        self.store.remove(Record::Pending(&host)).await
    }

    /// Offers storage what it did not take before, if it is time.
    async fn store_again(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let (Some(unstored), Some(held)) = (&mut host.unstored, &host.held) else { return };
        if unstored.next > Instant::now() {
            return;
        }
        if self.store.write(Record::Certificate(&host.name), held.text.clone()).await.is_err() {
            unstored.failures = unstored.failures.saturating_add(1);
            unstored.next = Instant::now() + when::pause(Kind::Passing, unstored.failures);
            return;
        }
        host.unstored = None;
        tracing::info!(host = &*host.name, "the certificate is stored");
        // An order that is left is found, and done, by whoever orders next.
        let _ = self.store.remove(Record::Pending(&host.name)).await;
    }

    async fn failed(&mut self, at: usize, failure: &Failure, mut pending: Pending) -> Result<(), StoreError> {
        match failure.kind {
            Kind::Passing => self.counts.failed.inc(),
            Kind::Refused | Kind::TooMany => self.counts.refused.inc(),
        };
        let now = SystemTime::now();
        let life = self.hosts[at].held.as_ref().map(|held| held.cert.life());
        pending.failed(failure.kind, now, life);
        let host = &mut self.hosts[at];
        host.paused = Some(pending.not_before());
        let what = failure.to_string();
        if host.told.as_ref() != Some(&what) {
            let next = httpdate::fmt_http_date(pending.not_before());
            tracing::warn!(host = &*host.name, reason = what, next, "no certificate obtained");
            host.told = Some(what);
        }
        let written = pending.write(&self.store, &host.name).await;
        host.unwritten = written.is_err().then_some(pending);
        written
    }

    /// Shows what is stored of a host where it is better than what is shown; puts back what storage has lost.
    async fn look(&mut self, at: usize) -> Result<(), StoreError> {
        let host = &mut self.hosts[at];
        let record = Record::Certificate(&host.name);
        let stored = self.store.read(record).await?;
        let Some(text) = stored else {
            if host.unstored.is_some() {
                self.store_again(at).await;
            } else if let Some(held) = &host.held {
                tracing::warn!(
                    host = &*host.name,
                    "the certificate in force was not in the storage; it is put back"
                );
                self.store.restore(record, held.text.clone()).await?;
            }
            return Ok(());
        };
        if host.held.as_ref().is_some_and(|held| held.text == text) {
            host.unstored = None;
            return Ok(());
        }
        let cert = match Cert::from_pem(&self.store.place(record), &text) {
            Ok(cert) if cert.covers(&host.name) => cert,
            found => {
                let why =
                    found.map_or_else(|error| error.to_string(), |_| "it is for another host".to_owned());
                host.cannot_use(why);
                // Where there is none in force another one is ordered.
                if let Some(held) = host.held.as_ref().filter(|_| host.unstored.is_none()) {
                    self.store.write(Record::Certificate(&host.name), held.text.clone()).await?;
                }
                self.store_again(at).await;
                return Ok(());
            }
        };
        if host.held.as_ref().is_none_or(|held| held.cert.not_after < cert.not_after) {
            self.take(at, Held { cert, text });
        }
        self.store_again(at).await;
        Ok(())
    }

    /// Shows a certificate, and settles when it is to be renewed.
    fn take(&mut self, at: usize, held: Held) {
        let host = &mut self.hosts[at];
        (host.paused, host.unstored) = (None, None);
        host.due = when::renewal(held.cert.not_before, held.cert.not_after);
        self.certs.put(&host.name, held.cert.clone());
        host.held = Some(held);
    }

    fn show(&self) {
        let count = |is_it: fn(&&Host) -> bool| {
            i64::try_from(self.hosts.iter().filter(is_it).count()).unwrap_or(i64::MAX)
        };
        self.counts.missing.set(count(|host| host.held.is_none()));
        self.counts.unstored.set(count(|host| host.unstored.is_some()));
        for host in &self.hosts {
            let next = host.paused.unwrap_or(host.due).duration_since(UNIX_EPOCH).unwrap_or_default();
            self.counts.next.with([&host.name]).set(i64::try_from(next.as_secs()).unwrap_or(i64::MAX));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.counts.missing.set(0);
        self.counts.unstored.set(0);
        for host in &self.hosts {
            self.counts.next.forget([&host.name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::acme::{Challenge, Files, Keep};
    use crate::listen::{Bounds, Edge, Keyring, MinVersion, Ticketing, tls};
    use crate::telemetry::Meters;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A keeper of `a.test` over a folder; it orders nothing here.
    struct Desk {
        folder: TempDir,
        edge: Arc<Edge>,
        keeper: Keeper,
    }

    impl Desk {
        fn new() -> Self {
            tls::install_provider();
            let folder = tempfile::tempdir().unwrap();
            let meters = Meters::new();
            let second = Duration::from_secs(1);
            let bounds = Bounds {
                max_connections: 1,
                max_connections_per_ip: 1,
                handshake_timeout: second,
                header_timeout: second,
                body_timeout: second,
                send_timeout: second,
                idle_timeout: second,
                min_body_rate: 0,
                min_send_rate: 0,
                max_header_size: 1,
                max_headers: 1,
            };
            let edge = Edge::new(None, bounds, &meters);
            let certs = CertWatch::new(&edge, &meters);
            let ring =
                Keyring::load(Vec::new(), MinVersion::Tls12, &Ticketing::new().unwrap(), None).unwrap();
            certs.hold(Some(ring));
            let settings = Arc::new(Settings {
                email: "ops@a.test".to_owned(),
                directory: "https://ca.test/dir".to_owned(),
                keep: Keep::Files(Files::at(folder.path().to_owned())),
                hosts: vec!["a.test".into()],
                challenges: vec![Challenge::Http01],
                roots: None,
                eab: None,
            });
            let store = Store::new(&settings, None).unwrap();
            let (issued, missing) = (meters.acme_orders.with(["issued"]), meters.acme_missing.with([]));
            let counts = Counts {
                issued: issued.clone(),
                refused: issued.clone(),
                failed: issued,
                missing,
                unstored: meters.acme_unstored.with([]),
                next: meters.acme_next.clone(),
            };
            let keeper = Keeper::new(settings, store, certs, Proofs::new(None, &meters), counts);
            Self { folder, edge, keeper }
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("ca.test_dir/a.test.pem")
        }

        /// Stores a certificate for this host that is a day old and has so many days left.
        fn store(&self, host: &str, days: u32) -> String {
            let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
            params.not_before = (SystemTime::now() - DAY).into();
            params.not_after = (SystemTime::now() + DAY * days).into();
            let key = KeyPair::generate().unwrap();
            let text = key.serialize_pem() + &params.self_signed(&key).unwrap().pem();
            fs::create_dir_all(self.file().parent().unwrap()).unwrap();
            fs::write(self.file(), &text).unwrap();
            text
        }

        async fn look(&mut self) {
            self.keeper.look(0).await.unwrap();
        }

        fn held(&self) -> Option<&[u8]> {
            self.keeper.hosts[0].held.as_ref().map(|held| &*held.text)
        }

        /// In how many days it is due, rounded down.
        fn due(&self) -> u64 {
            self.keeper.hosts[0].due.duration_since(SystemTime::now()).unwrap_or_default().as_secs()
                / DAY.as_secs()
        }
    }

    #[tokio::test]
    async fn what_is_stored_is_shown_and_what_is_stored_later_too() {
        let mut desk = Desk::new();
        desk.look().await;
        assert!(desk.held().is_none() && desk.edge.tls().unwrap().for_name(Some("a.test")).is_none());
        desk.store("a.test", 89);
        desk.look().await;
        assert!(desk.edge.tls().unwrap().for_name(Some("a.test")).is_some());
        // Two thirds of ninety days after yesterday, and two days to either side.
        assert!((56..=61).contains(&desk.due()), "{}", desk.due());

        let longer = desk.store("a.test", 179);
        desk.look().await;
        assert_eq!(desk.held(), Some(longer.as_bytes()));
        desk.store("a.test", 10);
        desk.look().await;
        assert_eq!(desk.held(), Some(longer.as_bytes()), "what lasts longer stays");
    }

    #[tokio::test]
    async fn what_storage_loses_is_put_back() {
        let mut desk = Desk::new();
        let text = desk.store("a.test", 89);
        desk.look().await;
        fs::remove_file(desk.file()).unwrap();
        desk.look().await;
        assert_eq!(fs::read_to_string(desk.file()).unwrap(), text);
    }

    #[tokio::test]
    async fn what_is_for_something_else_or_no_certificate_is_not_shown() {
        let mut desk = Desk::new();
        desk.store("b.test", 89);
        desk.look().await;
        assert!(desk.held().is_none());
        fs::write(desk.file(), "garbage").unwrap();
        desk.look().await;
        assert!(desk.held().is_none());
        assert_eq!(desk.due(), 0, "another one is to be ordered");
    }

    #[tokio::test]
    async fn what_is_in_force_takes_the_place_of_what_cannot_be_used() {
        let mut desk = Desk::new();
        let text = desk.store("a.test", 89);
        desk.look().await;
        let (key, chain) = text.split_once("-----BEGIN CERTIFICATE").unwrap();
        let other = KeyPair::generate().unwrap().serialize_pem();
        let cases = [
            format!("{other}-----BEGIN CERTIFICATE{chain}"),
            format!("{key}-----BEGIN CERTIFICATE{}", &chain[..chain.len() / 2]),
            String::new(),
        ];
        for unusable in cases {
            fs::write(desk.file(), &unusable).unwrap();
            desk.look().await;
            assert_eq!(fs::read_to_string(desk.file()).unwrap(), text, "{unusable:?}");
        }
    }

    #[tokio::test]
    async fn what_storage_did_not_take_is_shown_and_offered_again() {
        let mut desk = Desk::new();
        let text = desk.store("a.test", 89).into_bytes();
        let cert = Cert::from_pem(&desk.file(), &text).unwrap();
        fs::remove_file(desk.file()).unwrap();
        // In the way of the file that is written first.
        let obstacle = desk.file().with_extension(format!("{}.new", std::process::id()));
        fs::create_dir(&obstacle).unwrap();
        let stored = desk.keeper.store.write(Record::Certificate("a.test"), text.clone()).await;
        assert!(stored.is_err());
        desk.keeper.issued(0, Held { cert, text: text.clone() }, stored).await.unwrap();
        desk.keeper.show();
        assert_eq!((desk.held(), desk.keeper.counts.unstored.get()), (Some(&*text), 1));
        assert!(desk.edge.tls().unwrap().for_name(Some("a.test")).is_some());

        let offer = async |desk: &mut Desk| {
            desk.keeper.hosts[0].unstored.as_mut().unwrap().next = Instant::now();
            desk.look().await;
            desk.keeper.hosts[0].unstored.as_ref().map(|unstored| unstored.failures)
        };
        assert_eq!([offer(&mut desk).await, offer(&mut desk).await], [Some(1), Some(2)]);
        fs::remove_dir(obstacle).unwrap();
        assert_eq!(offer(&mut desk).await, None);
        assert_eq!(fs::read(desk.file()).unwrap(), text);
    }

    #[tokio::test]
    async fn the_right_to_order_does_not_outlive_a_short_certificate() {
        let mut desk = Desk::new();
        let now = SystemTime::now();
        assert_eq!(desk.keeper.lapses(0, now), LAPSES, "there is no certificate to outlive");
        desk.store("a.test", 89);
        desk.look().await;
        assert_eq!(desk.keeper.lapses(0, now), LAPSES);
        let end = desk.keeper.hosts[0].held.as_ref().unwrap().cert.not_after;
        for (left, lapses) in [(20, 5_000), (12, 3_000), (1, 2_000)] {
            let lapses = Duration::from_millis(lapses);
            assert_eq!(desk.keeper.lapses(0, end - Duration::from_secs(left)), lapses, "{left} s are left");
        }
    }
}
