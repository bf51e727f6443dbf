//! Certificates that are obtained from an authority by ACME (RFC 8555), and renewed before they end.
//!
//! ```text
//! keeper ─┬─ when             who is due, and when to try again
//!         ├─ store            what was obtained, and who may order: in files, or in Redis for a fleet
//!         ├─ order ── account ── https
//!         ├─ contact ── account     whom the authority writes to
//!         └─ proofs           what the authority wants to see; any node shows it
//! ```
//!
//! Each host has a certificate of its own, so that one host that cannot be proved keeps no other from being renewed.
//! What is obtained is stored before it is shown, and an order before it is made final: whoever dies in between leaves a
//! place to go on from.

mod account;
mod contact;
mod https;
mod keeper;
mod order;
mod pending;
mod proofs;
mod store;
mod when;

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::listen::{CertWatch, Edge};
use crate::redis::Redis;
use crate::telemetry::meters::{Meters, Metric};

use keeper::Keeper;
use proofs::Proofs;
use store::Store;

pub use store::{Files, StoreError};

/// What is obtained, where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whom the authority writes to.
    pub email: String,
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where account and certificates are kept.
    pub keep: Keep,
    /// The hosts, in lower case; each gets a certificate of its own.
    pub hosts: Vec<Box<str>>,
    /// How hosts are proved; the next one in turn after a failure. At least one.
    pub challenges: Vec<Challenge>,
    /// Who signs the authority's own certificate; the system's authorities where absent.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// What binds the account to one that the authority knows.
    pub eab: Option<Eab>,
}

impl Settings {
    /// Makes the place where things are kept, if it is one of files.
    ///
    /// # Errors
    /// It cannot be made, or not be written to.
    pub fn prepare(&self) -> Result<(), StoreError> {
        match &self.keep {
            Keep::Files(files) => files.prepare(),
            Keep::Redis => Ok(()),
        }
    }
}

/// Where account and certificates are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In files of this machine.
    Files(Files),
    /// In the fleet's Redis.
    Redis,
}

/// How a host is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By a handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// By a request on port 80 (RFC 8555 section 8.3).
    Http01,
}

/// A key of an account that the authority knows (RFC 8555 section 7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    /// The name of the key.
    pub key_id: String,
    /// The key. Never printed.
    pub key: Vec<u8>,
}

impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Obtains certificates for as long as the process lives, by the settings in force.
pub struct Acme {
    settings: watch::Sender<Option<Arc<Settings>>>,
    certs: Arc<CertWatch>,
    proofs: Arc<Proofs>,
    redis: Option<Redis>,
    counts: Counts,
}

#[derive(Clone)]
struct Counts {
    issued: Counter,
    refused: Counter,
    failed: Counter,
    missing: Gauge,
    unstored: Gauge,
    next: Metric<Gauge, 1>,
}

impl Acme {
    /// Obtains nothing yet. What is obtained is given to `certs`, and what is to be proved is shown at `edge`.
    pub fn new(edge: &Arc<Edge>, certs: &Arc<CertWatch>, redis: Option<Redis>, meters: &Meters) -> Arc<Self> {
        let counts = Counts {
            issued: meters.acme_orders.with(["issued"]),
            refused: meters.acme_orders.with(["refused"]),
            failed: meters.acme_orders.with(["failed"]),
            missing: meters.acme_missing.with([]),
            unstored: meters.acme_unstored.with([]),
            next: meters.acme_next.clone(),
        };
        let proofs = Proofs::new(redis.clone(), meters);
        edge.set_prover(Some(proofs.clone()));
        Arc::new(Self { settings: watch::Sender::new(None), certs: certs.clone(), proofs, redis, counts })
    }

    /// Obtains by these settings from now on, instead of those before, and shows what is stored already; an order that is
    /// under way is left, to be found again. Waits for storage, no longer than a few seconds, and never for an authority.
    ///
    /// What is to be in force with them, `rest` puts there: behind all waiting, with what is stored for new hosts shown and
    /// nothing taken away yet.
    pub async fn follow(&self, settings: Option<Settings>, rest: impl FnOnce()) {
        let settings = settings.map(Arc::new);
        if *self.settings.borrow() == settings {
            return rest();
        }
        let had_place = self.certs.has_place();
        self.load(settings.as_ref()).await;
        rest();
        if !had_place {
            // There was nowhere to show it before.
            self.load(settings.as_ref()).await;
        }
        self.certs.keep_only(settings.as_ref().map_or(&[], |settings| &settings.hosts));
        self.proofs.share(settings.as_ref().is_some_and(|settings| settings.keep == Keep::Redis));
        self.settings.send_replace(settings);
    }

    async fn load(&self, settings: Option<&Arc<Settings>>) {
        if let Some(mut keeper) = settings.cloned().and_then(|settings| self.keeper(settings)) {
            keeper.load().await;
        }
    }

    /// Obtains and renews for as long as the process lives.
    pub async fn run(self: Arc<Self>) {
        let mut changes = self.settings.subscribe();
        loop {
            let settings = changes.borrow_and_update().clone();
            let keeper = settings.and_then(|settings| self.keeper(settings));
            let keep = async {
                match keeper {
                    Some(mut keeper) => keeper.run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = keep => {}
                still = changes.changed() => if still.is_err() { return },
            }
        }
    }

    fn keeper(&self, settings: Arc<Settings>) -> Option<Keeper> {
        let store = Store::new(&settings, self.redis.as_ref())?;
        Some(Keeper::new(settings, store, self.certs.clone(), self.proofs.clone(), self.counts.clone()))
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("settings", &self.settings.borrow()).finish_non_exhaustive()
    }
}
